//! Small seeded models, so that tests and benchmarks need no download.

use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Float, Tensor, TensorData};
use serde_json::Value;

use crate::block::BlockSet;
use crate::checkpoint::gguf::{GgufFile, OutputType};
use crate::checkpoint::{Checkpoint, seeded};
use crate::config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::model::{Llama, LlamaWeights};
use crate::repair::StageRepair;

/// A config with five narrow blocks and two query heads for each key head.
///
/// ```
/// use pdtrim_core::config::Architecture;
/// use pdtrim_core::testing::tiny_config;
///
/// let config = tiny_config(Architecture::Qwen2);
/// assert_eq!((config.n_blocks, config.n_heads, config.n_kv_heads), (5, 4, 2));
/// assert!(config.has_qkv_bias());
/// ```
pub fn tiny_config(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        hidden_size: 32,
        intermediate_size: 48,
        n_blocks: 5,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        vocab_size: 96,
        context_length: 128,
        rms_norm_eps: 1e-5,
        rope: RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        },
        tied_embeddings: architecture == Architecture::Llama,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: vec![0],
    }
}

/// Writes a Hugging Face folder of a tiny Llama whose 256 tokens are bytes, and opens it.
///
/// # Errors
///
/// As [`seeded::write`] and [`Checkpoint::open`].
///
/// ```
/// use pdtrim_core::testing::tiny_checkpoint;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let checkpoint = tiny_checkpoint(folder.path())?;
/// assert_eq!(checkpoint.config().n_blocks, 5);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn tiny_checkpoint(folder: &Path) -> Result<Checkpoint> {
    let config = ModelConfig {
        vocab_size: 256,
        ..tiny_config(Architecture::Llama)
    };
    seeded::write(&config, 7, DType::F32, folder)?;
    Checkpoint::open(folder)
}

/// Writes the same model and, beside its files, `tiny.gguf` with matrices in `weights`; opens that.
///
/// # Errors
///
/// As [`tiny_checkpoint`], [`Checkpoint::export_gguf`] and [`GgufFile::open`].
///
/// ```
/// use pdtrim_core::checkpoint::gguf::OutputType;
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::F16)?;
/// assert!(file.tensor("blk.4.ffn_down.weight").is_some());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn tiny_gguf(folder: &Path, weights: OutputType) -> Result<GgufFile> {
    let checkpoint = tiny_checkpoint(folder)?;
    let all = BlockSet::empty(checkpoint.config().n_blocks);
    let path = folder.join("tiny.gguf");
    checkpoint.export_gguf(&all, &StageRepair::new(), weights, &Value::Null, &path)?;
    GgufFile::open(&path).map_err(|source| Error::Gguf { path, source })
}

/// Builds a [`Llama`] whose weights depend on nothing but its config and a seed.
///
/// ```
/// use pdtrim_core::model::BlockModel;
/// use pdtrim_core::testing::TinyModel;
///
/// let tiny = TinyModel::default();
/// let model = TinyModel { seed: 8, ..tiny }.build();
/// assert_eq!(model.dims().n_blocks, 5);
/// ```
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// Shape of the model.
    pub config: ModelConfig,
    /// Seed of the weights.
    pub seed: u64,
    /// Element type of the weights.
    pub dtype: DType,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            config: tiny_config(Architecture::Llama),
            seed: 7,
            dtype: DType::F32,
        }
    }
}

impl TinyModel {
    /// The model, on the CPU.
    pub fn build(&self) -> Llama {
        self.build_on(&Device::flex())
    }

    /// The model, on `device`. Draws on the host, so every device gets the same weights.
    pub fn build_on(&self, device: &Device) -> Llama {
        let mut draw = Draw {
            state: self.seed,
            dtype: self.dtype,
        };
        let weights = LlamaWeights::init(&self.config, device).map(&mut draw);
        Llama::new(self.config.clone(), weights, device)
    }
}

/// Replaces every parameter: norms by values near 1, the rest by values of standard deviation 0.15.
struct Draw {
    state: u64,
    dtype: DType,
}

impl Draw {
    /// `SplitMix64` (Steele, Lea and Flood 2014); the sum of four uniform values stands for a normal one.
    fn next(&mut self) -> f32 {
        let uniform = |bits: u64| (bits >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let mut sum = 0.0;
        for _ in 0..4 {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            sum += uniform(z ^ (z >> 31));
        }
        sum * 1.732_050_8
    }
}

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape();
        let (mean, spread) = if D == 1 { (1.0, 0.1) } else { (0.0, 0.15) };
        let values: Vec<f32> = (0..shape.num_elements())
            .map(|_| mean + spread * self.next())
            .collect();
        let drawn: Tensor<D> = Tensor::from_data(
            TensorData::new(values, shape),
            (&param.lazy_device(), DType::F32),
        );
        Param::initialized(param.id, Tensor::<D, Float>::cast(drawn, self.dtype))
    }
}
