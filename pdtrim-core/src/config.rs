//! The checked form of a checkpoint's configuration.

use serde::{Deserialize, Serialize};

/// The architectures that this crate runs; they differ in biases and tensor permutations only.
///
/// ```
/// use pdtrim_core::config::Architecture;
///
/// let known = Architecture::ALL.map(Architecture::class_name);
/// assert_eq!(known, ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"]);
/// assert!(Architecture::Qwen2.has_qkv_bias());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// `LlamaForCausalLM`: Llama 2, 3, 3.1, 3.2, SmolLM2, TinyLlama.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
    /// `Qwen2ForCausalLM`: Qwen2 and Qwen2.5, with biases on q, k and v.
    Qwen2,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Mistral, Self::Qwen2];

    /// Class name in a Hugging Face `config.json`.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
        }
    }

    /// `model_type` in a Hugging Face `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
        }
    }

    /// Whether the q, k and v projections have biases.
    pub fn has_qkv_bias(self) -> bool {
        matches!(self, Self::Qwen2)
    }
}

/// How rotary frequencies are stretched for contexts longer than the model was first trained on.
///
/// ```
/// use pdtrim_core::config::{Architecture, RopeScaling};
/// use pdtrim_core::testing::{TinyModel, tiny_config};
///
/// // Positions twice as close together, for a context twice as long.
/// let mut config = tiny_config(Architecture::Llama);
/// config.rope.scaling = RopeScaling::Linear { factor: 2.0 };
/// config.context_length *= 2;
/// let model = TinyModel { config, ..TinyModel::default() }.build();
/// assert_eq!(model.config().context_length, 256);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's scheme: long wavelengths divided by `factor`, short ones kept, a blend between.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f32,
        /// Context of the first training.
        original_context: usize,
    },
    /// A divisor for each of the `head_dim / 2` frequencies, as GGUF's `rope_freqs.weight` stores them.
    Factors(Vec<f32>),
}

/// Rotary position embedding; the halves of a head are rotated (not interleaved pairs).
///
/// ```
/// use pdtrim_core::checkpoint::seeded::shape;
///
/// // Models for long contexts turn more slowly.
/// assert!(shape("llama-3.1-8b")?.rope.theta > shape("llama-2-13b")?.rope.theta);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// Their scaling.
    pub scaling: RopeScaling,
}

/// A model that this crate can run. Made by a [`Checkpoint`](crate::checkpoint::Checkpoint), which checks it.
///
/// ```
/// use pdtrim_core::checkpoint::seeded::shape;
///
/// let config = shape("smollm2-135m")?;
/// assert_eq!((config.n_blocks, config.n_heads, config.n_kv_heads), (30, 9, 3));
/// assert_eq!(config.kv_size(), 3 * config.head_dim);
/// assert_eq!(config.parameters(), 134_515_008);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Architecture.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of transformer blocks (`num_hidden_layers`).
    pub n_blocks: usize,
    /// Query heads (`num_attention_heads`).
    pub n_heads: usize,
    /// Key and value heads (`num_key_value_heads`); divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence (`max_position_embeddings`, or the sliding window where one is set and shorter).
    pub context_length: usize,
    /// Added to the mean square in each norm.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: RopeConfig,
    /// Whether the vocabulary head is the embedding.
    pub tied_embeddings: bool,
    /// Whether the q, k, v and o projections have biases although the architecture says nothing of them.
    pub attention_bias: bool,
    /// Whether the gate, up and down projections have biases.
    pub mlp_bias: bool,
    /// Beginning-of-sequence token, if the model has one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
}

impl ModelConfig {
    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Whether the q, k and v projections have biases.
    pub fn has_qkv_bias(&self) -> bool {
        self.architecture.has_qkv_bias() || self.attention_bias
    }

    /// Parameters of one transformer block.
    pub fn block_parameters(&self) -> usize {
        let attention = self.hidden_size * (2 * self.q_size() + 2 * self.kv_size());
        let biases = [
            (self.has_qkv_bias(), self.q_size() + 2 * self.kv_size()),
            (self.attention_bias, self.hidden_size),
            (self.mlp_bias, 2 * self.intermediate_size + self.hidden_size),
        ];
        let biases: usize = biases.iter().filter(|(has, _)| *has).map(|(_, n)| n).sum();
        attention + biases + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
    }

    /// Parameters of the whole model; tied embeddings count once.
    pub fn parameters(&self) -> usize {
        let embeddings =
            self.vocab_size * self.hidden_size * if self.tied_embeddings { 1 } else { 2 };
        embeddings + self.n_blocks * self.block_parameters() + self.hidden_size
    }
}
