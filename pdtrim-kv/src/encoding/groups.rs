//! Elements between the lowest and the highest of their group, in steps of equal size.
//!
//! First the groups' headers, lowest and step as bf16 each, then the codes in the elements' order, two
//! to a byte in 4 bits, the earlier one in the lower half.

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

/// The group of the element at `index`.
fn group_of(index: usize, shape: KvShape, part: Part) -> usize {
    let (position, channel) = (index / shape.row(), index % shape.row());
    match part {
        Part::Keys => position / GROUP * shape.row() + channel,
        Part::Values => {
            let (head, channel) = (channel / shape.width, channel % shape.width);
            let of_head = shape.width.div_ceil(GROUP);
            (position * shape.heads + head) * of_head + channel / GROUP
        }
    }
}

/// A group's lowest element and the step between its codes, as they cross.
#[derive(Clone, Copy)]
struct Scale {
    lowest: bf16,
    step: bf16,
}

impl Scale {
    fn new(lowest: f32, highest: f32, codes: f32) -> Self {
        // Below the lowest, so that the codes begin before it; the step then reaches the highest.
        let rounded = bf16::from_f32(lowest);
        let below = if rounded.to_f32() > lowest {
            bf16::from_f32(lowest - lowest.abs() / 256.0)
        } else {
            rounded
        };
        let step = (highest - below.to_f32()) / codes;
        Self {
            lowest: below,
            step: bf16::from_f32(step),
        }
    }

    fn code(self, element: f32, codes: f32) -> u8 {
        let step = self.step.to_f32();
        if step <= 0.0 {
            return 0;
        }
        let code = (element - self.lowest.to_f32()) / step;
        code.round().clamp(0.0, codes) as u8
    }

    fn element(self, code: u8) -> f32 {
        self.lowest.to_f32() + self.step.to_f32() * f32::from(code)
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let ([a, b], [c, d]) = (self.lowest.to_le_bytes(), self.step.to_le_bytes());
        [a, b, c, d]
    }

    fn from_bytes([a, b, c, d]: [u8; HEADER]) -> Self {
        Self {
            lowest: bf16::from_le_bytes([a, b]),
            step: bf16::from_le_bytes([c, d]),
        }
    }
}

fn codes<const BITS: u32>() -> f32 {
    ((1_u32 << BITS) - 1) as f32
}

pub(super) fn encode<const BITS: u32>(
    elements: &[f32],
    shape: KvShape,
    part: Part,
    bytes: &mut Vec<u8>,
) {
    let mut bounds = vec![(f32::INFINITY, f32::NEG_INFINITY); count(shape, part)];
    for (index, &element) in elements.iter().enumerate() {
        let (lowest, highest) = &mut bounds[group_of(index, shape, part)];
        (*lowest, *highest) = (lowest.min(element), highest.max(element));
    }
    let scale = |(lowest, highest)| Scale::new(lowest, highest, codes::<BITS>());
    let scales: Vec<Scale> = bounds.into_iter().map(scale).collect();
    bytes.extend(scales.iter().flat_map(|scale| scale.to_bytes()));
    let code = |(index, &element): (usize, &f32)| {
        scales[group_of(index, shape, part)].code(element, codes::<BITS>())
    };
    let mut coded = elements.iter().enumerate().map(code);
    if BITS == 4 {
        while let Some(low) = coded.next() {
            bytes.push(low | coded.next().unwrap_or(0) << 4);
        }
    } else {
        bytes.extend(coded);
    }
}

pub(super) fn decode<const BITS: u32>(bytes: &[u8], shape: KvShape, part: Part) -> Vec<f32> {
    let (headers, coded) = bytes.split_at(header(shape, part));
    let (headers, _) = headers.as_chunks::<HEADER>();
    let scales: Vec<Scale> = headers
        .iter()
        .map(|&bytes| Scale::from_bytes(bytes))
        .collect();
    let element = |index: usize| {
        let code = if BITS == 4 {
            coded[index / 2] >> (index % 2 * 4) & 0xf
        } else {
            coded[index]
        };
        scales[group_of(index, shape, part)].element(code)
    };
    (0..shape.elements()).map(element).collect()
}
