//! The block layouts of ggml and their decoding to `f32`.
//!
//! A row of weights is cut into blocks of 32 or 256 values; a block holds small integers `q`, a
//! scale `d` and, in some types, a minimum `m`, so that a value is `d * q + m`. In the K types a
//! block of 256 has eight or sixteen parts whose own scales are integers, scaled once more.
//! Layouts and the order of operations are those of `ggml-quants.c` and of the Python package
//! `gguf`, so results agree bit for bit.

mod encode;

use std::fmt;

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

pub use encode::OutputType;

/// Values in a block of the plain quantised types.
const QK: usize = 32;
/// Values in a block of the K types.
const QK_K: usize = 256;
/// Values that one parallel task decodes at least: about 0.1 ms, far above the cost of a task.
const MIN_TASK_VALUES: usize = 1 << 16;

/// A tensor element type of ggml that can be decoded.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::GgmlType;
///
/// let q4_0 = GgmlType::try_from(2)?;
/// assert_eq!(q4_0, GgmlType::Q4_0);
/// // A 16-bit scale and 32 values of 4 bits: 4.5 bits a value.
/// assert_eq!((q4_0.block_len(), q4_0.block_bytes()), (32, 18));
/// # Ok::<(), pdtrim_core::checkpoint::gguf::UnsupportedGgmlType>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    non_camel_case_types,
    reason = "the names that ggml and its users know"
)]
#[expect(
    missing_docs,
    reason = "the names say it; layouts stand at the decoders"
)]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

/// A type number of ggml that [`GgmlType`] does not cover.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::GgmlType;
///
/// let refused = GgmlType::try_from(10).unwrap_err();
/// assert_eq!(refused.to_string(), "ggml type 10 (Q2_K)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ggml type {number} ({})", self.name().unwrap_or("unknown"))]
pub struct UnsupportedGgmlType {
    number: u32,
}

impl UnsupportedGgmlType {
    /// The number as it stands in the file.
    #[must_use]
    pub fn number(self) -> u32 {
        self.number
    }

    /// ggml's name for the type, if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Some(match self.number {
            4 => "Q4_2",
            5 => "Q4_3",
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            40 => "NVFP4",
            41 => "Q1_0",
            _ => return None,
        })
    }
}

impl TryFrom<u32> for GgmlType {
    type Error = UnsupportedGgmlType;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        Ok(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            30 => Self::BF16,
            _ => return Err(UnsupportedGgmlType { number }),
        })
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl GgmlType {
    /// ggml's number for the type.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Values per block.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => QK,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => QK_K,
        }
    }

    /// Bytes per block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4_K => 2 + 2 + 12 + 128,
            Self::Q5_K => 2 + 2 + 12 + 32 + 128,
            Self::Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// Decodes whole blocks in parallel.
    ///
    /// # Panics
    ///
    /// If `data` is not as many blocks as `values` takes.
    pub(super) fn dequantize(self, data: &[u8], values: &mut [f32]) {
        let n_blocks = values.len() / self.block_len();
        assert_eq!(values.len() % self.block_len(), 0, "values fill blocks");
        assert_eq!(data.len(), n_blocks * self.block_bytes(), "one block each");
        match self {
            Self::F32 => decode(data, values, |bytes, [value]| {
                *value = f32::from_le_bytes(*bytes);
            }),
            Self::F16 => decode_f16(data, values),
            Self::BF16 => decode(data, values, |&[low, high], [value]| {
                *value = f32::from_le_bytes([0, 0, low, high]);
            }),
            Self::Q4_0 => decode(data, values, decode_q4_0),
            Self::Q4_1 => decode(data, values, decode_q4_1),
            Self::Q5_0 => decode(data, values, decode_q5_0),
            Self::Q5_1 => decode(data, values, decode_q5_1),
            Self::Q8_0 => decode(data, values, decode_q8_0),
            Self::Q4_K => decode(data, values, decode_q4_k),
            Self::Q5_K => decode(data, values, decode_q5_k),
            Self::Q6_K => decode(data, values, decode_q6_k),
        }
    }
}

/// Runs a decoder of single blocks over all of them.
fn decode<const BYTES: usize, const LEN: usize>(
    data: &[u8],
    values: &mut [f32],
    decode_block: impl Fn(&[u8; BYTES], &mut [f32; LEN]) + Sync,
) {
    let (blocks, _) = data.as_chunks::<BYTES>();
    let (values, _) = values.as_chunks_mut::<LEN>();
    blocks
        .par_iter()
        .zip(values)
        .with_min_len(MIN_TASK_VALUES / LEN)
        .for_each(|(block, values)| decode_block(block, values));
}

/// Converts in runs, since `half` has vector code for slices only.
fn decode_f16(data: &[u8], values: &mut [f32]) {
    const RUN: usize = 256;
    data.par_chunks(2 * RUN)
        .zip(values.par_chunks_mut(RUN))
        .with_min_len(MIN_TASK_VALUES / RUN)
        .for_each(|(data, values)| {
            let mut halves = [f16::ZERO; RUN];
            for (half, bytes) in halves.iter_mut().zip(data.as_chunks().0) {
                *half = f16::from_le_bytes(*bytes);
            }
            halves[..values.len()].convert_to_f32_slice(values);
        });
}

/// The half-precision number at `at`.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Gives each value its 4-bit `q`: the low halves of sixteen bytes are the first sixteen values of
/// a block, the high halves the last sixteen.
fn for_each_nibble(quants: &[u8], values: &mut [f32; QK], value: impl Fn(usize, u8) -> f32) {
    let (low, high) = values.split_at_mut(QK / 2);
    for (i, ((byte, low), high)) in quants.iter().zip(low).zip(high).enumerate() {
        *low = value(i, byte & 0x0f);
        *high = value(i + QK / 2, byte >> 4);
    }
}

/// `[d: f16, q: 16 x u8]`, value = d (q - 8).
fn decode_q4_0(block: &[u8; 18], values: &mut [f32; QK]) {
    let d = half_at(block, 0);
    for_each_nibble(&block[2..], values, |_, q| d * (f32::from(q) - 8.0));
}

/// `[d: f16, m: f16, q: 16 x u8]`, value = d q + m.
fn decode_q4_1(block: &[u8; 20], values: &mut [f32; QK]) {
    let d = half_at(block, 0);
    let m = half_at(block, 2);
    for_each_nibble(&block[4..], values, |_, q| d * f32::from(q) + m);
}

/// The fifth bit of value `i`, from the four bytes at `at`, moved to its place.
fn fifth_bit(block: &[u8], at: usize, i: usize) -> u8 {
    (block[at + i / 8] >> (i % 8) & 1) << 4
}

/// `[d: f16, fifth bits: 4 x u8, q: 16 x u8]`, value = d (q - 16).
fn decode_q5_0(block: &[u8; 22], values: &mut [f32; QK]) {
    let d = half_at(block, 0);
    for_each_nibble(&block[6..], values, |i, q| {
        d * (f32::from(q | fifth_bit(block, 2, i)) - 16.0)
    });
}

/// `[d: f16, m: f16, fifth bits: 4 x u8, q: 16 x u8]`, value = d q + m.
fn decode_q5_1(block: &[u8; 24], values: &mut [f32; QK]) {
    let d = half_at(block, 0);
    let m = half_at(block, 2);
    for_each_nibble(&block[8..], values, |i, q| {
        d * f32::from(q | fifth_bit(block, 4, i)) + m
    });
}

/// `[d: f16, q: 32 x i8]`, value = d q.
fn decode_q8_0(block: &[u8; 34], values: &mut [f32; QK]) {
    let d = half_at(block, 0);
    for (value, byte) in values.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(byte.cast_signed());
    }
}

/// The 6-bit scale and minimum of part `part` of a `Q4_K` or `Q5_K` block, from its twelve packed
/// bytes: parts 0 to 3 have theirs in the low six bits of bytes 0 to 7, parts 4 to 7 have four bits
/// in bytes 8 to 11 and the upper two bits on top of bytes 0 to 7.
fn scale_and_min(packed: &[u8], part: usize) -> (f32, f32) {
    let (scale, min) = if part < 4 {
        (packed[part] & 0x3f, packed[part + 4] & 0x3f)
    } else {
        (
            packed[part + 4] & 0x0f | packed[part - 4] >> 2 & 0x30,
            packed[part + 4] >> 4 | packed[part] >> 2 & 0x30,
        )
    };
    (f32::from(scale), f32::from(min))
}

/// `[d: f16, dmin: f16, scales: 12 x u8, q: 128 x u8]`, value = d scale q - dmin min in eight parts
/// of 32; two neighbouring parts share 32 bytes of q.
fn decode_q4_k(block: &[u8; 144], values: &mut [f32; QK_K]) {
    let (header, quants) = block.split_at(16);
    decode_k_parts(header, values, |part, i| {
        quants[part / 2 * 32 + i] >> (part % 2 * 4) & 0x0f
    });
}

/// As [`decode_q4_k`], with bit `part` of 32 more bytes before q as the fifth bit.
fn decode_q5_k(block: &[u8; 176], values: &mut [f32; QK_K]) {
    let (header, rest) = block.split_at(16);
    let (fifth_bits, quants) = rest.split_at(32);
    decode_k_parts(header, values, |part, i| {
        let low = quants[part / 2 * 32 + i] >> (part % 2 * 4) & 0x0f;
        low | (fifth_bits[i] >> part & 1) << 4
    });
}

fn decode_k_parts(header: &[u8], values: &mut [f32; QK_K], quant: impl Fn(usize, usize) -> u8) {
    let d = half_at(header, 0);
    let dmin = half_at(header, 2);
    for (part, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(&header[4..], part);
        let (scale, min) = (d * scale, dmin * min);
        for (i, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(quant(part, i)) - min;
        }
    }
}

/// `[low: 128 x u8, high: 64 x u8, scales: 16 x i8, d: f16]`, value = d scale (q - 32) in sixteen
/// parts of 16. Each half of the block has 64 bytes of low and 32 bytes of high bits: its value
/// `32 r + i` takes nibble `r / 2` of low byte `32 (r % 2) + i` and bits `2 r` of high byte `i`.
fn decode_q6_k(block: &[u8; 210], values: &mut [f32; QK_K]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, _) = rest.split_at(16);
    let d = half_at(block, 208);
    for (part, values) in values.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[part].cast_signed());
        let (half, run, offset) = (part / 8, part % 8 / 2, part % 2 * 16);
        let low = &low[64 * half + 32 * (run % 2) + offset..];
        let high = &high[32 * half + offset..];
        for ((value, low), high) in values.iter_mut().zip(low).zip(high) {
            let q = low >> (run / 2 * 4) & 0x0f | (high >> (run * 2) & 0x03) << 4;
            *value = scale * (f32::from(q) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests;
