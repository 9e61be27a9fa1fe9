//! Elements between the lowest and the highest of their group, in steps of equal size.
//!
//! First the groups' headers, lowest and step as bf16 each, then the codes in the elements' order, two
//! to a byte in 4 bits, the earlier one in the lower half. Loops run along a position's channels, which
//! lie side by side.

use half::bf16;

use super::{KvShape, Part};

/// Elements of a group, or fewer where the axis ends.
const GROUP: usize = 64;
/// Bytes of a header.
const HEADER: usize = 4;

/// Bytes of the headers of a tensor.
pub(super) fn header(shape: KvShape, part: Part) -> usize {
    HEADER * count(shape, part)
}

fn count(shape: KvShape, part: Part) -> usize {
    match part {
        Part::Keys => shape.positions.div_ceil(GROUP) * shape.row(),
        Part::Values => shape.positions * shape.heads * shape.width.div_ceil(GROUP),
    }
}

/// Lowest element and step of each group, as the other side will read them.
struct Scales {
    lowest: Vec<f32>,
    step: Vec<f32>,
}

impl Scales {
    fn with_capacity(groups: usize) -> Self {
        Self {
            lowest: Vec::with_capacity(groups),
            step: Vec::with_capacity(groups),
        }
    }

    fn push(&mut self, lowest: f32, highest: f32, codes: f32) {
        // Not above the lowest, so that no element is before the first code.
        let nearest = bf16::from_f32(lowest).to_f32();
        let lowest = if nearest > lowest {
            bf16::from_f32(lowest - lowest.abs() / 256.0).to_f32()
        } else {
            nearest
        };
        self.lowest.push(lowest);
        let step = (highest - lowest) / codes;
        self.step.push(bf16::from_f32(step).to_f32());
    }

    fn of(elements: &[f32], shape: KvShape, part: Part, codes: f32) -> Self {
        let mut scales = Self::with_capacity(count(shape, part));
        match part {
            Part::Keys => {
                for rows in elements.chunks(GROUP * shape.row()) {
                    let mut lowest = vec![f32::INFINITY; shape.row()];
                    let mut highest = vec![f32::NEG_INFINITY; shape.row()];
                    for row in rows.chunks(shape.row()) {
                        for ((lowest, highest), &element) in
                            lowest.iter_mut().zip(&mut highest).zip(row)
                        {
                            *lowest = lowest.min(element);
                            *highest = highest.max(element);
                        }
                    }
                    for (lowest, highest) in lowest.into_iter().zip(highest) {
                        scales.push(lowest, highest, codes);
                    }
                }
            }
            Part::Values => {
                for group in elements
                    .chunks(shape.width)
                    .flat_map(|head| head.chunks(GROUP))
                {
                    let lowest = group.iter().copied().fold(f32::INFINITY, f32::min);
                    let highest = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    scales.push(lowest, highest, codes);
                }
            }
        }
        scales
    }

    fn read(headers: &[u8]) -> Self {
        let (headers, _) = headers.as_chunks::<HEADER>();
        let mut scales = Self::with_capacity(headers.len());
        for &[a, b, c, d] in headers {
            scales.lowest.push(bf16::from_le_bytes([a, b]).to_f32());
            scales.step.push(bf16::from_le_bytes([c, d]).to_f32());
        }
        scales
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        for (lowest, step) in self.lowest.iter().zip(&self.step) {
            bytes.extend(bf16::from_f32(*lowest).to_le_bytes());
            bytes.extend(bf16::from_f32(*step).to_le_bytes());
        }
    }

    /// Calls `at` for each stretch of elements, given where it starts, with the lowest elements and the
    /// steps of its groups: one for each element of it, or one for all.
    fn stretches(
        &self,
        shape: KvShape,
        part: Part,
        mut at: impl FnMut(std::ops::Range<usize>, &[f32], &[f32]),
    ) {
        match part {
            Part::Keys => {
                let row = shape.row();
                for position in 0..shape.positions {
                    let groups = position / GROUP * row..(position / GROUP + 1) * row;
                    let (lowest, step) = (&self.lowest[groups.clone()], &self.step[groups]);
                    at(position * row..(position + 1) * row, lowest, step);
                }
            }
            Part::Values => {
                let mut group = 0;
                for head in 0..shape.positions * shape.heads {
                    for channel in (0..shape.width).step_by(GROUP) {
                        let start = head * shape.width + channel;
                        let end = start + GROUP.min(shape.width - channel);
                        let one = group..group + 1;
                        at(start..end, &self.lowest[one.clone()], &self.step[one]);
                        group += 1;
                    }
                }
            }
        }
    }
}

/// The larger of the codes of so many bits.
fn largest<const BITS: u32>() -> f32 {
    ((1_u32 << BITS) - 1) as f32
}

pub(super) fn encode<const BITS: u32>(
    elements: &[f32],
    shape: KvShape,
    part: Part,
    bytes: &mut Vec<u8>,
) {
    let largest = largest::<BITS>();
    let scales = Scales::of(elements, shape, part, largest);
    scales.write(bytes);
    let mut codes = vec![0_u8; elements.len()];
    let code = |element: f32, lowest: f32, inverse: f32| {
        // Rounds to the nearest: nothing is below 0.
        ((element - lowest) * inverse + 0.5).min(largest) as u8
    };
    let inverse = |step: f32| if step > 0.0 { step.recip() } else { 0.0 };
    scales.stretches(shape, part, |range, lowest, step| {
        let places = codes[range.clone()].iter_mut().zip(&elements[range]);
        if let ([lowest], [step]) = (lowest, step) {
            let inverse = inverse(*step);
            places.for_each(|(place, element)| *place = code(*element, *lowest, inverse));
        } else {
            let scales = lowest.iter().zip(step);
            for ((place, element), (lowest, step)) in places.zip(scales) {
                *place = code(*element, *lowest, inverse(*step));
            }
        }
    });
    if BITS == 4 {
        let byte = |pair: &[u8]| pair[0] | pair.get(1).copied().unwrap_or(0) << 4;
        bytes.extend(codes.chunks(2).map(byte));
    } else {
        bytes.extend(codes);
    }
}

pub(super) fn decode<const BITS: u32>(bytes: &[u8], shape: KvShape, part: Part) -> Vec<f32> {
    let (headers, packed) = bytes.split_at(header(shape, part));
    let scales = Scales::read(headers);
    let unpacked: Vec<u8>;
    let codes = if BITS == 4 {
        unpacked = packed
            .iter()
            .flat_map(|byte| [byte & 0xf, byte >> 4])
            .collect();
        &unpacked[..]
    } else {
        packed
    };
    let mut elements = vec![0.0; shape.elements()];
    scales.stretches(shape, part, |range, lowest, step| {
        let places = elements[range.clone()].iter_mut().zip(&codes[range]);
        if let ([lowest], [step]) = (lowest, step) {
            places.for_each(|(place, code)| *place = lowest + step * f32::from(*code));
        } else {
            for ((place, code), (lowest, step)) in places.zip(lowest.iter().zip(step)) {
                *place = lowest + step * f32::from(*code);
            }
        }
    });
    elements
}
