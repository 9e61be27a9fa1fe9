//! Checkpoints of a known shape with seeded random weights: for measuring what a model of that size
//! costs without having one. Its text is noise.

use std::path::Path;

use burn::store::bridge;
use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::tensor::{Bytes, DType, Shape, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::export::{self, ExportReport};
use super::names::{Slot, slots};
use crate::config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
use crate::error::{Error, Result};

/// Names that [`shape`] knows.
pub const SHAPES: [&str; 4] = [
    "smollm2-135m",
    "llama-3.2-3b",
    "llama-3.1-8b",
    "llama-2-13b",
];

/// The sizes of a published model (from its `config.json`), without scaled position embedding.
///
/// # Errors
///
/// [`Error::Choice`] for an unknown name.
///
/// ```
/// use pdtrim_core::checkpoint::seeded::{SHAPES, shape};
///
/// for name in SHAPES {
///     println!("{name}: {} parameters", shape(name)?.parameters());
/// }
/// assert_eq!(shape("llama-2-13b")?.n_blocks, 40);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn shape(name: &str) -> Result<ModelConfig> {
    // hidden, intermediate, blocks, heads, key and value heads, vocabulary, context, tied
    let (sizes, theta, tied_embeddings) = match name {
        "smollm2-135m" => ([576, 1536, 30, 9, 3, 49_152, 8192], 100_000.0, true),
        "llama-3.2-3b" => ([3072, 8192, 28, 24, 8, 128_256, 131_072], 500_000.0, true),
        "llama-3.1-8b" => (
            [4096, 14_336, 32, 32, 8, 128_256, 131_072],
            500_000.0,
            false,
        ),
        "llama-2-13b" => ([5120, 13_824, 40, 40, 40, 32_000, 4096], 10_000.0, false),
        _ => {
            return Err(Error::Choice {
                field: "shape",
                expected: "smollm2-135m, llama-3.2-3b, llama-3.1-8b or llama-2-13b",
                found: name.to_owned(),
            });
        }
    };
    let [
        hidden_size,
        intermediate_size,
        n_blocks,
        n_heads,
        n_kv_heads,
        vocab_size,
        context_length,
    ] = sizes;
    Ok(ModelConfig {
        architecture: Architecture::Llama,
        hidden_size,
        intermediate_size,
        n_blocks,
        n_heads,
        n_kv_heads,
        head_dim: hidden_size / n_heads,
        vocab_size,
        context_length,
        rms_norm_eps: 1e-5,
        rope: RopeConfig {
            theta,
            scaling: RopeScaling::None,
        },
        tied_embeddings,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
    })
}

/// Writes a Hugging Face folder of that shape: weights of standard deviation 0.02 that depend on the
/// seed alone, norms of 1, and a tokenizer whose tokens are bytes. One tensor is held at a time.
///
/// # Errors
///
/// [`Error::Io`] or [`Error::Safetensors`] if it cannot be written.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::checkpoint::{Checkpoint, seeded};
/// use pdtrim_core::testing::TinyModel;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let config = TinyModel::default().config;
/// seeded::write(&config, 7, DType::BF16, folder.path())?;
/// assert_eq!(Checkpoint::open(folder.path())?.config().hidden_size, config.hidden_size);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn write(config: &ModelConfig, seed: u64, dtype: DType, folder: &Path) -> Result<ExportReport> {
    let tensors = slots(config).into_iter().enumerate();
    let tensors = tensors.map(|(n, slot)| tensor(slot, mix(seed.wrapping_add(n as u64)), dtype));
    export::write_folder(config, tensors.collect(), &tokenizer(), dtype, folder)
}

fn tensor(slot: Slot, seed: u64, dtype: DType) -> PackTensor {
    let shape = Shape::from(slot.shape);
    let is_norm = shape.num_dims() == 1;
    bridge::deferred(slot.hf, dtype, shape.clone(), None, move || {
        let n = shape.num_elements();
        let value = |index: usize| if is_norm { 1.0 } else { draw(seed, index) };
        let drawn = (0..n).into_par_iter().with_min_len(1 << 16).map(value);
        let bytes = match dtype {
            DType::BF16 => Bytes::from_elems(drawn.map(bf16::from_f32).collect::<Vec<_>>()),
            DType::F16 => Bytes::from_elems(drawn.map(f16::from_f32).collect::<Vec<_>>()),
            _ => Bytes::from_elems(drawn.collect::<Vec<f32>>()),
        };
        TensorData::try_from_bytes(bytes, shape.clone(), dtype)
            .map_err(|error| PackError::TensorBytesSizeMismatch(error.to_string()))
    })
}

/// The `index`th value: four uniform ones stand for a normal one.
fn draw(seed: u64, index: usize) -> f32 {
    /// The sum of four uniform values of width 1 has a standard deviation of 1 / √3.
    const SCALE: f32 = 0.02 * 1.732_050_8;
    let bits = mix(seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let uniform = |part: u32| ((bits >> (16 * part)) & 0xffff) as f32 / 65_536.0 - 0.5;
    SCALE * (uniform(0) + uniform(1) + uniform(2) + uniform(3))
}

/// `SplitMix64`'s output function (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A `tokenizer.json` whose tokens are the 256 bytes.
fn tokenizer() -> Value {
    let mut characters: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
        .into_iter()
        .collect();
    characters.sort_unstable();
    let named = characters.into_iter().enumerate();
    let vocab: Map<String, Value> = named
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}
