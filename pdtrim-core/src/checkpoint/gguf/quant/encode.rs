//! The other direction: values to the types that files are written in.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{GgmlType, MIN_TASK_VALUES, QK};

/// The element types that weights are written in.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::OutputType;
///
/// // Vectors stay in f32, and rows that do not fill blocks of 32 are written in f16.
/// assert_eq!(OutputType::Q8_0.of_weight(&[64, 32]), OutputType::Q8_0);
/// assert_eq!(OutputType::Q8_0.of_weight(&[64, 48]), OutputType::F16);
/// assert_eq!(OutputType::Q8_0.of_weight(&[64]), OutputType::F32);
/// assert_eq!(OutputType::F16.encode(&[1.0]), Ok(vec![0x00, 0x3c]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OutputType {
    F32,
    F16,
    BF16,
    Q8_0,
}

impl OutputType {
    /// The type in the file.
    #[must_use]
    pub fn ggml_type(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::BF16 => GgmlType::BF16,
            Self::Q8_0 => GgmlType::Q8_0,
        }
    }

    /// llama.cpp's number for a file whose weights are mostly of this type (`general.file_type`).
    pub(in crate::checkpoint) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::BF16 => 32,
        }
    }

    /// The type of one weight, as llama.cpp's converter chooses it: vectors stay in f32, and rows that do
    /// not fill blocks of 32 are written in f16.
    #[must_use]
    pub fn of_weight(self, shape: &[usize]) -> Self {
        let row = shape.last().copied().unwrap_or(1);
        match self {
            _ if shape.len() < 2 => Self::F32,
            Self::Q8_0 if !row.is_multiple_of(QK) => Self::F16,
            other => other,
        }
    }

    /// The bytes of `values`, in order.
    ///
    /// # Errors
    ///
    /// The first value that is no finite number in this type.
    ///
    /// # Panics
    ///
    /// If the values do not fill blocks.
    pub fn encode(self, values: &[f32]) -> Result<Vec<u8>, f32> {
        let largest = match self {
            // A block's scale is an f16.
            Self::F16 => f16::MAX.to_f32(),
            Self::Q8_0 => f16::MAX.to_f32() * 127.0,
            Self::F32 | Self::BF16 => f32::MAX,
        };
        let fits = |value: &f32| value.is_finite() && value.abs() <= largest;
        if let Some(&refused) = values.par_iter().find_first(|value| !fits(value)) {
            return Err(refused);
        }
        Ok(match self {
            Self::F32 => bytes(values, f32::to_le_bytes),
            Self::F16 => bytes(values, |value| f16::from_f32(value).to_le_bytes()),
            Self::BF16 => bytes(values, |value| bf16::from_f32(value).to_le_bytes()),
            Self::Q8_0 => {
                let (blocks, rest) = values.as_chunks::<QK>();
                assert!(rest.is_empty(), "values fill blocks");
                let blocks = blocks.par_iter().with_min_len(MIN_TASK_VALUES / QK);
                blocks.flat_map_iter(encode_q8_0).collect()
            }
        })
    }
}

fn bytes<const N: usize>(values: &[f32], one: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let values = values.par_iter().with_min_len(MIN_TASK_VALUES);
    values.flat_map_iter(|&value| one(value)).collect()
}

/// `[d: f16, q: 32 x i8]`, d = the largest magnitude / 127, q = value / d rounded, halves away from zero:
/// the reference code of `ggml-quants.c`.
fn encode_q8_0(values: &[f32; QK]) -> [u8; 2 + QK] {
    let largest = values
        .iter()
        .fold(0.0_f32, |max, value| max.max(value.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut block = [0; 2 + QK];
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = ((value * inverse).round() as i8).cast_unsigned();
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(kind: OutputType, values: &[f32]) -> Vec<f32> {
        let mut back = vec![0.0; values.len()];
        let bytes = kind.encode(values).unwrap();
        kind.ggml_type().dequantize(&bytes, &mut back);
        back
    }

    /// 96 values of very different sizes.
    fn values() -> Vec<f32> {
        let value = |n: u32| (n as f32 * 0.7).sin() * 10.0_f32.powi(n as i32 % 7 - 3);
        (0..96).map(value).collect()
    }

    #[test]
    fn wide_types_come_back_rounded_once() {
        let values = values();
        assert_eq!(decoded(OutputType::F32, &values), values);
        let halves: Vec<f32> = values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        assert_eq!(decoded(OutputType::F16, &values), halves);
        let brains: Vec<f32> = values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
        assert_eq!(decoded(OutputType::BF16, &values), brains);
    }

    #[test]
    fn a_q8_0_value_is_half_a_step_away_at_most() {
        let values = values();
        let back = decoded(OutputType::Q8_0, &values);
        for (block, back) in values.chunks(QK).zip(back.chunks(QK)) {
            let largest = block
                .iter()
                .fold(0.0_f32, |max, value| max.max(value.abs()));
            // Half a step, and 127 steps of a scale that f16 rounds by 2^-11 of itself.
            let bound = largest / 127.0 * (0.5 + 127.0 / 2048.0);
            for (value, back) in block.iter().zip(back) {
                assert!((value - back).abs() <= bound, "{value} {back} {bound}");
            }
        }
    }

    #[test]
    fn a_q8_0_block_is_the_one_worked_by_hand() {
        let mut values = [0.0; QK];
        values[0] = 254.0;
        values[1] = -1.0;
        values[2] = 3.1;
        let block = OutputType::Q8_0.encode(&values).unwrap();
        // d = 2; -1 / 2 is rounded away from zero; 3.1 / 2 = 1.55.
        assert_eq!(block[..2], f16::from_f32(2.0).to_le_bytes());
        assert_eq!(block[2..6], [127, 0xff, 2, 0]);
        assert_eq!(OutputType::Q8_0.encode(&[0.0; QK]).unwrap(), [0; 34]);
    }

    #[test]
    fn what_has_no_finite_value_in_the_type_is_named() {
        assert_eq!(OutputType::F16.encode(&[1.0, 70_000.0]), Err(70_000.0));
        assert!(OutputType::BF16.encode(&[70_000.0]).is_ok());
        assert!(OutputType::F32.encode(&[f32::NAN]).unwrap_err().is_nan());
        let mut block = [0.0; QK];
        block[7] = 1e7;
        assert_eq!(OutputType::Q8_0.encode(&block), Err(1e7));
    }

    #[test]
    fn vectors_and_odd_rows_are_not_quantised() {
        let of = |shape: &[usize]| OutputType::Q8_0.of_weight(shape);
        assert_eq!(of(&[64, 32]), OutputType::Q8_0);
        assert_eq!(of(&[32, 48]), OutputType::F16);
        assert_eq!(of(&[64]), OutputType::F32);
        assert_eq!(OutputType::BF16.of_weight(&[3, 5]), OutputType::BF16);
    }
}
