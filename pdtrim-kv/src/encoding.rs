//! Keys and values as bytes, in fewer bits if the plan says so.

mod groups;

use burn::tensor::DType;
use float8::F8E4M3;
use half::{bf16, f16};
use pdtrim_core::KvEncoding;

use crate::error::{Error, Result};

/// `[positions, heads, width]` of the keys, and of the values, of one prompt in one block.
///
/// ```
/// use pdtrim_kv::KvShape;
///
/// let shape = KvShape { positions: 100, heads: 3, width: 64 };
/// assert_eq!(shape.elements(), 19_200);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Prompt positions.
    pub positions: usize,
    /// Key and value heads.
    pub heads: usize,
    /// Channels of a head.
    pub width: usize,
}

impl KvShape {
    /// Elements of the keys, and as many of the values.
    pub fn elements(self) -> usize {
        self.positions * self.heads * self.width
    }

    /// Channels of all heads.
    fn row(self) -> usize {
        self.heads * self.width
    }
}

/// The form in which elements are held: what [`KvEncoding::Held`] writes.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_kv::Held;
///
/// assert_eq!(Held::of(DType::BF16)?, Held::Bf16);
/// let error = Held::of(DType::I32).unwrap_err();
/// assert_eq!(error.to_string(), "keys and values are held in f32, bf16 or f16, found I32");
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// 32 bits.
    F32,
    /// The upper half of 32 bits.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Held {
    /// The form of tensors of `dtype`.
    ///
    /// # Errors
    ///
    /// [`Error::HeldIn`] for one that no cache is held in.
    pub fn of(dtype: DType) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::F32),
            DType::BF16 => Ok(Self::Bf16),
            DType::F16 => Ok(Self::F16),
            other => Err(Error::HeldIn {
                found: format!("{other:?}"),
            }),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// Whether a tensor's groups lie along positions or along channels.
///
/// ```
/// use pdtrim_core::KvEncoding;
/// use pdtrim_kv::{Codec, Held, KvShape, Part};
///
/// // Keys have a group, and its two numbers, for each channel; values for each head and position.
/// let codec = Codec { encoding: KvEncoding::Int4, held: Held::F32 };
/// let shape = KvShape { positions: 3, heads: 2, width: 64 };
/// assert!(codec.bytes(shape, Part::Keys) > codec.bytes(shape, Part::Values));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Keys: outliers sit in channels, so a group is one channel at some positions.
    Keys,
    /// Values: a group is some channels of one head at one position.
    Values,
}

/// How the elements of a tensor become bytes and back.
///
/// ```
/// use pdtrim_core::KvEncoding;
/// use pdtrim_kv::{Codec, Held, KvShape, Part};
///
/// let codec = Codec { encoding: KvEncoding::Int8, held: Held::F32 };
/// let shape = KvShape { positions: 1, heads: 1, width: 4 };
/// let mut bytes = Vec::new();
/// codec.encode(&[0.0, 0.2, 0.7, 1.0], shape, Part::Values, &mut bytes)?;
/// assert_eq!(bytes.len(), codec.bytes(shape, Part::Values));
/// let back = codec.decode(&bytes, shape, Part::Values)?;
/// assert!((back[1] - 0.2).abs() < 1.0 / 255.0);
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    /// How they cross.
    pub encoding: KvEncoding,
    /// How they are held on both sides.
    pub held: Held,
}

impl Codec {
    /// Bytes that a tensor of `shape` takes, without any framing.
    pub fn bytes(self, shape: KvShape, part: Part) -> usize {
        let elements = shape.elements();
        match self.encoding {
            KvEncoding::Held => elements * self.held.bytes(),
            KvEncoding::Bf16 => 2 * elements,
            KvEncoding::Fp8E4m3 => elements,
            KvEncoding::Int8 => elements + groups::header(shape, part),
            KvEncoding::Int4 => elements.div_ceil(2) + groups::header(shape, part),
        }
    }

    /// Appends `elements`, `[positions, heads, width]`, to `bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`] for a number that the encoding has no code for.
    pub fn encode(
        self,
        elements: &[f32],
        shape: KvShape,
        part: Part,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        debug_assert_eq!(elements.len(), shape.elements());
        bytes.reserve(self.bytes(shape, part));
        if self.encoding != KvEncoding::Held {
            self.check_finite(elements)?;
        }
        match (self.encoding, self.held) {
            (KvEncoding::Held, Held::F32) => put(elements, bytes, f32::to_le_bytes),
            (KvEncoding::Held, Held::F16) => {
                put(elements, bytes, |x| f16::from_f32(x).to_le_bytes());
            }
            (KvEncoding::Held, Held::Bf16) | (KvEncoding::Bf16, _) => {
                put(elements, bytes, |x| bf16::from_f32(x).to_le_bytes());
            }
            (KvEncoding::Fp8E4m3, _) => put(elements, bytes, |x| [fp8(x)]),
            (KvEncoding::Int8, _) => groups::encode::<8>(elements, shape, part, bytes),
            (KvEncoding::Int4, _) => groups::encode::<4>(elements, shape, part, bytes),
        }
        Ok(())
    }

    /// The elements `[positions, heads, width]` that `bytes` stand for.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] unless there are exactly [`bytes`](Self::bytes) of them.
    pub fn decode(self, bytes: &[u8], shape: KvShape, part: Part) -> Result<Vec<f32>> {
        let expected = self.bytes(shape, part);
        if bytes.len() != expected {
            return Err(Error::Length {
                expected,
                found: bytes.len(),
            });
        }
        Ok(match (self.encoding, self.held) {
            (KvEncoding::Held, Held::F32) => get(bytes, f32::from_le_bytes),
            (KvEncoding::Held, Held::F16) => get(bytes, |x| f16::from_le_bytes(x).to_f32()),
            (KvEncoding::Held, Held::Bf16) | (KvEncoding::Bf16, _) => {
                get(bytes, |x| bf16::from_le_bytes(x).to_f32())
            }
            (KvEncoding::Fp8E4m3, _) => get(bytes, |[x]| F8E4M3::from_bits(x).to_f32()),
            (KvEncoding::Int8, _) => groups::decode::<8>(bytes, shape, part),
            (KvEncoding::Int4, _) => groups::decode::<4>(bytes, shape, part),
        })
    }

    fn check_finite(self, elements: &[f32]) -> Result<()> {
        match elements.iter().find(|element| !element.is_finite()) {
            Some(&found) => Err(Error::NotFinite {
                encoding: self.encoding,
                found,
            }),
            None => Ok(()),
        }
    }
}

/// The nearest code; what is beyond the largest one, 448, becomes that.
fn fp8(element: f32) -> u8 {
    F8E4M3::from_f32(element.clamp(-448.0, 448.0)).to_bits()
}

fn put<const N: usize>(elements: &[f32], bytes: &mut Vec<u8>, code: impl Fn(f32) -> [u8; N]) {
    bytes.extend(elements.iter().flat_map(|&element| code(element)));
}

fn get<const N: usize>(bytes: &[u8], element: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (codes, _) = bytes.as_chunks::<N>();
    codes.iter().map(|&code| element(code)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARTS: [Part; 2] = [Part::Keys, Part::Values];

    fn round_trip(codec: Codec, elements: &[f32], shape: KvShape, part: Part) -> Vec<f32> {
        let mut bytes = vec![7];
        codec.encode(elements, shape, part, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 1 + codec.bytes(shape, part));
        codec.decode(&bytes[1..], shape, part).unwrap()
    }

    fn codec(encoding: KvEncoding) -> Codec {
        let held = Held::F32;
        Codec { encoding, held }
    }

    prop_compose! {
        fn tensors()(positions in 0_usize..150, heads in 1_usize..4, width in 1_usize..80)
            (elements in proptest::collection::vec(-30.0_f32..30.0, positions * heads * width), heads in Just(heads), width in Just(width), positions in Just(positions))
            -> (KvShape, Vec<f32>) {
            (KvShape { positions, heads, width }, elements)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_element_comes_back_within_the_encodings_rounding((shape, elements) in tensors()) {
            for part in PARTS {
                let held = |held| Codec { encoding: KvEncoding::Held, held };
                prop_assert_eq!(&round_trip(held(Held::F32), &elements, shape, part), &elements);
                for (encoding, relative, absolute) in [
                    (KvEncoding::Bf16, 0.004, 0.0),
                    (KvEncoding::Fp8E4m3, 0.0626, 0.001),
                    // Half a step of what spans at most 60, and what the group's header is rounded by.
                    (KvEncoding::Int8, 0.0, 60.0 / 255.0 * 0.5 + 0.04),
                    (KvEncoding::Int4, 0.0, 60.0 / 15.0 * 0.5 + 0.04),
                ] {
                    let back = round_trip(codec(encoding), &elements, shape, part);
                    for (was, is) in elements.iter().zip(back) {
                        let bound = relative * was.abs() + absolute;
                        prop_assert!((was - is).abs() <= bound, "{encoding}: {was} became {is}");
                    }
                }
            }
        }

        #[test]
        fn what_was_rounded_once_is_not_rounded_again((shape, elements) in tensors()) {
            for part in PARTS {
                for encoding in [KvEncoding::Bf16, KvEncoding::Fp8E4m3] {
                    let once = round_trip(codec(encoding), &elements, shape, part);
                    prop_assert_eq!(&round_trip(codec(encoding), &once, shape, part), &once);
                }
            }
        }

        #[test]
        fn bytes_of_another_length_are_refused((shape, elements) in tensors(), cut in 1_usize..9) {
            for encoding in KvEncoding::ALL {
                let mut bytes = Vec::new();
                codec(encoding).encode(&elements, shape, Part::Keys, &mut bytes).unwrap();
                let longer = [&bytes[..], &[0][..]].concat();
                let refused = |bytes: &[u8]| matches!(codec(encoding).decode(bytes, shape, Part::Keys), Err(Error::Length { .. }));
                prop_assert!(refused(&longer));
                prop_assert!(bytes.is_empty() || refused(&bytes[..bytes.len().saturating_sub(cut)]));
            }
        }
    }

    #[test]
    fn fp8_saturates_and_keeps_every_code() {
        assert!((F8E4M3::from_bits(fp8(1e6)).to_f32() - 448.0).abs() < f32::EPSILON);
        assert!((F8E4M3::from_bits(fp8(-1e6)).to_f32() + 448.0).abs() < f32::EPSILON);
        for code in 0..=u8::MAX {
            let element = F8E4M3::from_bits(code).to_f32();
            assert!(element.is_nan() || fp8(element) == code, "{code}");
        }
    }

    #[test]
    fn numbers_without_a_code_are_refused() {
        let shape = KvShape {
            positions: 1,
            heads: 1,
            width: 2,
        };
        for encoding in &KvEncoding::ALL[1..] {
            for bad in [f32::NAN, f32::INFINITY] {
                let refused =
                    codec(*encoding).encode(&[1.0, bad], shape, Part::Keys, &mut Vec::new());
                assert!(
                    matches!(refused, Err(Error::NotFinite { .. })),
                    "{encoding}"
                );
            }
        }
    }

    #[test]
    fn four_bits_and_their_headers_are_what_a_plan_counts() {
        // 128 positions, 3 heads of 64: two groups of positions for each of 192 channels, and a group
        // for each head at each position; 4 bytes a group.
        let shape = KvShape {
            positions: 128,
            heads: 3,
            width: 64,
        };
        let int4 = codec(KvEncoding::Int4);
        assert_eq!(int4.bytes(shape, Part::Keys), 128 * 192 / 2 + 2 * 192 * 4);
        assert_eq!(int4.bytes(shape, Part::Values), 128 * 192 / 2 + 128 * 3 * 4);
        assert_eq!(
            codec(KvEncoding::Held).bytes(shape, Part::Keys),
            128 * 192 * 4
        );
    }
}
