//! The Llama family: Llama, Mistral, Qwen2 and SmolLM2 differ in their config only.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};

use super::block::Block;
use super::rope::RopeTable;
use super::{BlockModel, ModelDims};
use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};
use crate::config::ModelConfig;
use crate::kernels;

/// Root mean square norm: `x / sqrt(mean(x²) + eps) * weight`, over the last axis.
///
/// Burn's own `nn::RmsNorm` computes the same; this one keeps the checkpoint's parameter name and
/// reaches the fused CPU kernel.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Scale of each feature, `[hidden]`.
    pub weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    pub(crate) fn init(size: usize, eps: f64, device: &Device) -> Self {
        Self {
            weight: Initializer::Ones.init([size], device),
            eps,
        }
    }

    /// Normalises rows `[rows, hidden]`.
    pub fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        kernels::rms_norm(rows, self.weight.val(), self.eps)
    }
}

/// A projection without its own idea of a batch: `[rows, in] -> [rows, out]`.
#[derive(Module, Debug)]
pub struct Projection {
    /// `[in, out]`, the transpose of what a Hugging Face checkpoint stores.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Projection {
    pub(crate) fn init(size: [usize; 2], bias: bool, device: &Device) -> Self {
        let initializer = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        Self {
            weight: initializer.init(size, device),
            bias: bias.then(|| Initializer::Zeros.init([size[1]], device)),
        }
    }

    pub(crate) fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let output = rows.matmul(self.weight.val());
        match &self.bias {
            Some(bias) => output + bias.val().unsqueeze(),
            None => output,
        }
    }
}

/// The weights of a Llama-family model as a Burn module; its parameter paths are the checkpoint's
/// tensor names without `model.`.
#[derive(Module, Debug)]
pub struct LlamaWeights {
    /// Token embedding, `[vocab_size, hidden]`.
    pub embed_tokens: Param<Tensor<2>>,
    /// The transformer blocks.
    pub layers: Vec<Block>,
    /// Norm before the vocabulary head.
    pub norm: RmsNorm,
    /// Vocabulary head `[vocab_size, hidden]`; absent when it is the embedding.
    pub lm_head: Option<Param<Tensor<2>>>,
}

impl LlamaWeights {
    /// A module of the config's shape with lazily drawn random weights (standard deviation 0.02).
    pub fn init(config: &ModelConfig, device: &Device) -> Self {
        let initializer = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let table = [config.vocab_size, config.hidden_size];
        Self {
            embed_tokens: initializer.init(table, device),
            layers: (0..config.n_blocks)
                .map(|_| Block::init(config, device))
                .collect(),
            norm: RmsNorm::init(config.hidden_size, config.rms_norm_eps, device),
            lm_head: (!config.tied_embeddings).then(|| initializer.init(table, device)),
        }
    }
}

/// A Llama-family model, ready to run.
#[derive(Debug)]
pub struct Llama {
    config: ModelConfig,
    weights: LlamaWeights,
    rope: RopeTable,
    device: Device,
    dtype: DType,
}

impl Llama {
    /// Puts loaded weights and their config together.
    pub fn new(config: ModelConfig, weights: LlamaWeights, device: &Device) -> Self {
        let dtype = weights.embed_tokens.val().dtype();
        let rope = RopeTable::new(&config, device);
        Self {
            config,
            weights,
            rope,
            device: device.clone(),
            dtype,
        }
    }

    /// The config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &LlamaWeights {
        &self.weights
    }

    fn block(&self, id: BlockId) -> &Block {
        &self.weights.layers[id.index()]
    }
}

impl BlockModel for Llama {
    fn dims(&self) -> ModelDims {
        ModelDims {
            n_blocks: self.config.n_blocks,
            n_kv_heads: self.config.n_kv_heads,
            head_dim: self.config.head_dim,
            vocab_size: self.config.vocab_size,
            context_length: self.config.context_length,
        }
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn embed(&self, tokens: Tensor<2, Int>, _start: TokenPosition) -> Tensor<3> {
        burn::tensor::module::embedding(self.weights.embed_tokens.val(), tokens)
    }

    fn run_block(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> Tensor<3> {
        let angles = self.rope.angles(start, hidden.dims()[1]);
        self.block(id).forward(hidden, start, &angles, cache)
    }

    fn project_kv(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) {
        let angles = self.rope.angles(start, hidden.dims()[1]);
        self.block(id).project_kv(hidden, start, &angles, cache);
    }

    fn queries(&self, id: BlockId, hidden: Tensor<3>, start: TokenPosition) -> Tensor<4> {
        let angles = self.rope.angles(start, hidden.dims()[1]);
        self.block(id).queries(hidden, &angles)
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let normed = self.weights.norm.forward(hidden);
        let head = self
            .weights
            .lm_head
            .as_ref()
            .unwrap_or(&self.weights.embed_tokens)
            .val();
        normed.matmul(head.transpose())
    }
}
