//! The Llama family: Llama, Mistral, Qwen2 and SmolLM2 differ in their config only.

mod block_modules;
mod gradients;
mod mlp_output;
#[cfg(feature = "onnx")]
pub(crate) mod onnx;
mod width;

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Initializer, Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Int, Tensor};

use super::block::Block;
use super::rope::RopeTable;
use super::{BlockModel, ModelDims, Segment};
use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, TokenPosition};
use crate::config::ModelConfig;
use crate::kernels::{self, Layer, TokenScore};
use crate::width::StageWidths;

/// Root mean square norm: `x / sqrt(mean(x²) + eps) * weight`, over the last axis.
///
/// Burn's own `nn::RmsNorm` computes the same; this one keeps the checkpoint's parameter name and
/// reaches the fused CPU kernel.
///
/// ```
/// use burn::tensor::Tensor;
/// use pdtrim_core::model::BlockModel;
/// use pdtrim_core::testing::TinyModel;
///
/// // A norm takes away the scale of its rows.
/// let model = TinyModel::default().build();
/// let norm = &model.weights().norm;
/// let rows = Tensor::<2>::ones([1, 32], model.device());
/// let apart = norm.forward(rows.clone() * 50) - norm.forward(rows);
/// assert!(apart.abs().max().into_scalar::<f32>() < 1e-4);
/// ```
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
///
/// Burn's own `nn::Linear` holds `[in, out]`. Here weights stay as a checkpoint has them, so that a
/// mapped file is used where it lies, and so that a single row is multiplied by reading them once in
/// order.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
///
/// // From the MLP's 48 channels to the 32 of the residual stream, without a bias.
/// let model = TinyModel::default().build();
/// let down = &model.weights().layers[0].mlp.down_proj;
/// assert_eq!(down.weight.val().dims(), [32, 48]);
/// assert!(down.bias.is_none());
/// ```
#[derive(Module, Debug)]
pub struct Projection {
    /// `[out, in]`, as in a Hugging Face checkpoint.
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
            bias: bias.then(|| Initializer::Zeros.init([size[0]], device)),
        }
    }

    pub(crate) fn layer(&self) -> Layer {
        (self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// `residual` `[rows, out]` plus the product of `rows` `[rows, in]`.
    pub(super) fn added_to(&self, rows: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        kernels::linear_add(rows, self.weight.val(), self.biased(residual))
    }

    /// `residual` `[rows, out]` plus the bias, if there is one.
    pub(super) fn biased(&self, residual: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => residual + bias.val().unsqueeze(),
            None => residual,
        }
    }
}

/// The weights of a Llama-family model as a Burn module; its parameter paths are the checkpoint's
/// tensor names without `model.`.
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::Device;
/// use pdtrim_core::config::Architecture;
/// use pdtrim_core::model::{Llama, LlamaWeights};
/// use pdtrim_core::testing::tiny_config;
///
/// let (config, device) = (tiny_config(Architecture::Mistral), Device::flex());
/// let weights = LlamaWeights::init(&config, &device);
/// assert_eq!(weights.num_params(), config.parameters());
/// let model = Llama::new(config, weights, &device);
/// # let _ = model;
/// ```
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
///
/// ```
/// use burn::tensor::{DType, Device};
/// use pdtrim_core::model::BlockModel;
/// use pdtrim_core::testing::tiny_checkpoint;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let model = tiny_checkpoint(folder.path())?.load(DType::BF16, &Device::flex())?;
/// assert_eq!(model.dtype(), DType::BF16);
/// assert_eq!(model.weights().layers.len(), model.config().n_blocks);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Llama {
    config: ModelConfig,
    weights: LlamaWeights,
    stream: Option<Arc<BlockStream>>,
    /// What the blocks do without; the config is the dense model's.
    widths: Arc<StageWidths>,
    rope: Arc<RopeTable>,
    device: Device,
    dtype: DType,
}

/// Blocks that are read when they are run; the last one is kept, the one before it is let go first.
struct BlockStream {
    read: Box<ReadBlock>,
    held: Mutex<Option<(BlockId, Arc<Block>)>>,
}

type ReadBlock = dyn Fn(BlockId) -> Block + Send + Sync;

impl BlockStream {
    fn new(read: impl Fn(BlockId) -> Block + Send + Sync + 'static) -> Self {
        Self {
            read: Box::new(read),
            held: Mutex::new(None),
        }
    }

    fn block(&self, id: BlockId) -> Arc<Block> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = held.as_ref().filter(|(held, _)| *held == id) {
            return Arc::clone(block);
        }
        *held = None;
        Arc::clone(&held.insert((id, Arc::new((self.read)(id)))).1)
    }
}

impl fmt::Debug for BlockStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockStream").finish_non_exhaustive()
    }
}

/// A block that the model holds, or that was read for now.
enum BlockRef<'a> {
    Held(&'a Block),
    Read(Arc<Block>),
}

impl Deref for BlockRef<'_> {
    type Target = Block;

    fn deref(&self) -> &Block {
        match self {
            Self::Held(block) => block,
            Self::Read(block) => block,
        }
    }
}

impl Llama {
    /// Puts loaded weights and their config together.
    pub fn new(config: ModelConfig, weights: LlamaWeights, device: &Device) -> Self {
        let dtype = weights.embed_tokens.val().dtype();
        let rope = Arc::new(RopeTable::new(&config, device));
        Self {
            config,
            weights,
            stream: None,
            widths: Arc::default(),
            rope,
            device: device.clone(),
            dtype,
        }
    }

    /// As [`new`](Self::new) with `weights.layers` empty: `read` gives a block each time another one is
    /// run, so that memory holds one block.
    pub(crate) fn streamed(
        config: ModelConfig,
        weights: LlamaWeights,
        read: impl Fn(BlockId) -> Block + Send + Sync + 'static,
        device: &Device,
    ) -> Self {
        Self {
            stream: Some(Arc::new(BlockStream::new(read))),
            ..Self::new(config, weights, device)
        }
    }

    /// Copies the weights into memory of large pages, if they are on the CPU: in a mapped file they lie
    /// in small ones, whose addresses cost a tenth of the time of decode. The copy takes as long as
    /// reading the file, and as much memory.
    #[must_use]
    pub fn in_large_pages(self) -> Self {
        Self {
            weights: kernels::pages::in_large_pages(self.weights),
            ..self
        }
    }

    /// The same model, whose weights in `blocks` ask for gradients: what depends on them runs on Burn's own
    /// operations, which know their derivatives. All other weights are constants and shared.
    #[must_use]
    pub fn with_gradients(&self, blocks: &BlockSet) -> Self {
        let blocks = blocks.clone();
        self.with_changed_blocks(move |id, block| {
            if blocks.contains(id) {
                block.map(&mut Follow)
            } else {
                block
            }
        })
    }

    /// The config.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights; without blocks where those are read one at a time.
    pub fn weights(&self) -> &LlamaWeights {
        &self.weights
    }

    /// The vocabulary head `[vocab_size, hidden]`.
    fn head(&self) -> Tensor<2> {
        let head = self.weights.lm_head.as_ref();
        head.unwrap_or(&self.weights.embed_tokens).val()
    }

    /// Element type of hidden states: the weights', but f32 on the CPU, whose kernels read narrow
    /// weights as they are.
    fn activations(&self) -> DType {
        if self.device == Device::flex() && matches!(self.dtype, DType::BF16 | DType::F16) {
            DType::F32
        } else {
            self.dtype
        }
    }

    fn block(&self, id: BlockId) -> BlockRef<'_> {
        match &self.stream {
            None => BlockRef::Held(&self.weights.layers[id.index()]),
            Some(stream) => BlockRef::Read(stream.block(id)),
        }
    }
}

/// Makes constants into variables.
struct Follow;

impl ModuleMapper for Follow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let weight = param.val().autodiff().require_grad();
        Param::initialized(param.id, weight)
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

    fn holds_one_block(&self) -> bool {
        self.stream.is_some()
    }

    fn kept_groups(&self, id: BlockId) -> Option<Vec<usize>> {
        let groups = &self.widths.get(&id)?.groups;
        (!groups.is_empty()).then(|| groups.kept(self.config.n_kv_heads))
    }

    fn embed(&self, tokens: Tensor<2, Int>, _start: TokenPosition) -> Tensor<3> {
        let table = self.weights.embed_tokens.val();
        let dtype = self.activations();
        let hidden = burn::tensor::module::embedding(table, tokens);
        if hidden.dtype() == dtype {
            hidden
        } else {
            hidden.cast(dtype)
        }
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

    fn run_segments(
        &self,
        id: BlockId,
        rows: Tensor<2>,
        segments: &mut [Segment<'_>],
    ) -> Tensor<2> {
        let angles = |segment: &Segment<'_>| self.rope.angles(segment.start, segment.tokens);
        let angles: Vec<_> = segments.iter().map(angles).collect();
        self.block(id).forward_segments(rows, &angles, segments)
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

    fn token_scores(&self, hidden: Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
        kernels::scored_logits(self.weights.norm.forward(hidden), self.head(), targets)
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let normed = self.weights.norm.forward(hidden);
        let [logits] = kernels::linear(&normed, [(self.head(), None)]);
        logits
    }
}
