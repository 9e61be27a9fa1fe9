//! Models whose blocks can be run one at a time.
//!
//! [`BlockModel`] is the seam: the stage-aware parts of PDTrim (the PD forward pass, the calibration
//! loss, KV selection) see a model only through it, so a Burn model that is not ours can take part by
//! implementing it. [`Llama`] is the built-in implementation. The alternative, a forward pass with
//! hooks, would have to know every model's inside.

mod attention;
mod block;
mod block_modules;
mod gradients;
mod llama;
mod mlp_output;
mod rope;
mod width;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

pub use attention::Attention;
pub use block::Block;
pub use block::Mlp;
pub use block_modules::{BlockModules, BlockWeights, block_weights, with_weights};
pub use gradients::{BlockGradients, FollowedBlock};
#[cfg(feature = "onnx")]
pub(crate) use llama::onnx;
pub use llama::{Llama, LlamaWeights, Projection, RmsNorm};
pub use mlp_output::{DownProjs, MlpOutput, MlpStep};
pub(crate) use rope::{Angles, frequency_divisors, llama3_from_factors};
pub use width::{OutputInputs, OutputLayers, WidthModel};
pub(crate) use width::{check_groups, hand_groups};

use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};
use crate::error::{Error, Result};
use crate::kernels::{TokenScore, token_scores};
use crate::stage::PerStage;

/// The sizes of a model that the stages need to know.
///
/// ```
/// use pdtrim_core::model::BlockModel;
/// use pdtrim_core::testing::TinyModel;
///
/// let dims = TinyModel::default().build().dims();
/// // Elements of keys and values that one position takes in all blocks.
/// assert_eq!(2 * dims.n_blocks * dims.n_kv_heads * dims.head_dim, 160);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelDims {
    /// Number of transformer blocks.
    pub n_blocks: usize,
    /// Key and value heads; a block may keep fewer ([`BlockModel::kept_groups`]).
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub context_length: usize,
}

/// New positions of one text among those that go through a block together.
///
/// ```
/// use burn::tensor::Tensor;
/// use pdtrim_core::BlockId;
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// use pdtrim_core::model::{BlockModel, Segment};
/// use pdtrim_core::testing::TinyModel;
///
/// // Three tokens of one text and one of another, in one pass through a block.
/// let model = TinyModel::default().build();
/// let mut caches = [3, 1].map(BlockCache::with_capacity);
/// let segments = caches.iter_mut().zip([3, 1]);
/// let mut segments: Vec<_> = segments
///     .map(|(cache, tokens)| Segment { tokens, start: TokenPosition(0), cache })
///     .collect();
/// let rows = Tensor::ones([4, 32], model.device());
/// let out = model.run_segments(BlockId::new(0), rows, &mut segments);
/// assert_eq!(out.dims(), [4, 32]);
/// assert_eq!(caches[0].len(), 3);
/// ```
#[derive(Debug)]
pub struct Segment<'c> {
    /// Number of new positions.
    pub tokens: usize,
    /// The first of them.
    pub start: TokenPosition,
    /// The text's cache of this block, for a batch of one.
    pub cache: &'c mut BlockCache,
}

/// A decoder-only transformer whose blocks can be run one at a time.
///
/// A block is addressed by its depth in the dense model. Hidden states are `[batch, seq, hidden]`,
/// keys and values `[batch, seq, n_kv_heads, head_dim]`.
///
/// ```
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// use pdtrim_core::model::{BlockModel, token_tensor};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, Result, greedy_tokens};
///
/// /// The likeliest token after `prompt`, without one of the blocks.
/// fn next(model: &dyn BlockModel, prompt: &[u32], without: BlockId) -> Result<u32> {
///     let start = TokenPosition(0);
///     let mut hidden = model.embed(token_tensor(model, &[prompt])?, start);
///     for id in (0..model.dims().n_blocks).map(BlockId::new).filter(|&id| id != without) {
///         let mut cache = BlockCache::with_capacity(prompt.len());
///         hidden = model.run_block(id, hidden, start, &mut cache);
///     }
///     let [_, seq, width] = hidden.dims();
///     let last = hidden.narrow(1, seq - 1, 1).reshape([1, width]);
///     Ok(greedy_tokens(model.logits(last))[0])
/// }
///
/// let model = TinyModel::default().build();
/// assert!(next(&model, &[1, 2, 3], BlockId::new(2))? < 96);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub trait BlockModel: Send + Sync {
    /// Sizes.
    fn dims(&self) -> ModelDims;

    /// Where the weights are.
    fn device(&self) -> &Device;

    /// Element type of weights, keys and values.
    fn dtype(&self) -> DType;

    /// Whether going to another block costs reading its weights: callers that have the choice then run
    /// everything through a block before they go on to the next.
    fn holds_one_block(&self) -> bool {
        false
    }

    /// The head groups, by their key and value head in the dense model, that block `id` has; `None` = all.
    fn kept_groups(&self, id: BlockId) -> Option<Vec<usize>> {
        let _ = id;
        None
    }

    /// Hidden states that enter the first block for `tokens` `[batch, seq]`, whose first column is at `start`.
    fn embed(&self, tokens: Tensor<2, Int>, start: TokenPosition) -> Tensor<3>;

    /// Runs block `id`: appends the keys and values of `hidden` to `cache` and attends to all of it,
    /// causally among the new positions.
    fn run_block(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> Tensor<3>;

    /// As [`run_block`](Self::run_block) for texts of different lengths at once: `rows`
    /// `[Σ segment.tokens, hidden]` are the segments' hidden states one after the other. Layers that
    /// look at one position only then run on all of them together.
    fn run_segments(
        &self,
        id: BlockId,
        rows: Tensor<2>,
        segments: &mut [Segment<'_>],
    ) -> Tensor<2> {
        let [_, width] = rows.dims();
        let mut first = 0;
        let mut outs = Vec::with_capacity(segments.len());
        for segment in segments {
            let hidden = rows.clone().narrow(0, first, segment.tokens);
            first += segment.tokens;
            let hidden = hidden.reshape([1, segment.tokens, width]);
            let out = self.run_block(id, hidden, segment.start, segment.cache);
            outs.push(out.reshape([segment.tokens, width]));
        }
        Tensor::cat(outs, 0)
    }

    /// Appends block `id`'s keys and values of `hidden` to `cache` without running the block.
    fn project_kv(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    );

    /// Log-probability of `targets[row]` after each of the hidden states `[rows, hidden]` that left the
    /// last block.
    fn token_scores(&self, hidden: Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
        token_scores(self.logits(hidden), targets)
    }

    /// Block `id`'s queries for `hidden`, after position embedding: `[batch, seq, n_heads, head_dim]`.
    fn queries(&self, id: BlockId, hidden: Tensor<3>, start: TokenPosition) -> Tensor<4>;

    /// Logits `[rows, vocab_size]` of hidden states `[rows, hidden]` that leave the last block.
    fn logits(&self, hidden: Tensor<2>) -> Tensor<2>;
}

/// The sizes that both stages' models have.
///
/// # Errors
///
/// [`Error::StageModels`] if they differ in one.
pub(crate) fn stage_dims(models: PerStage<&dyn BlockModel>) -> Result<ModelDims> {
    let (prefill, decode) = (models.prefill.dims(), models.decode.dims());
    if prefill == decode {
        Ok(decode)
    } else {
        Err(Error::StageModels { prefill, decode })
    }
}

/// Rows of token ids as an index tensor `[batch, seq]` on the model's device.
///
/// # Errors
///
/// [`Error::RaggedBatch`], [`Error::NoTokens`] or [`Error::TokenOutOfRange`].
///
/// ```
/// use pdtrim_core::Error;
/// use pdtrim_core::model::token_tensor;
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// assert_eq!(token_tensor(&model, &[[1, 2, 3], [4, 5, 6]])?.dims(), [2, 3]);
/// let refused = token_tensor(&model, &[[1, 96]]).unwrap_err();
/// assert!(matches!(refused, Error::TokenOutOfRange { token: 96, vocab_size: 96 }));
/// # Ok::<(), Error>(())
/// ```
pub fn token_tensor<R: AsRef<[u32]>>(model: &dyn BlockModel, rows: &[R]) -> Result<Tensor<2, Int>> {
    let Some(seq) = rows
        .first()
        .map(|row| row.as_ref().len())
        .filter(|&seq| seq > 0)
    else {
        return Err(Error::NoTokens { what: "the batch" });
    };
    let vocab_size = model.dims().vocab_size;
    let mut ids = Vec::with_capacity(rows.len() * seq);
    for row in rows {
        let row = row.as_ref();
        if row.len() != seq {
            return Err(Error::RaggedBatch {
                expected: seq,
                found: row.len(),
            });
        }
        if let Some(&token) = row.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        ids.extend(row.iter().map(|&token| token as i32));
    }
    Ok(Tensor::from_data(
        TensorData::new(ids, [rows.len(), seq]),
        model.device(),
    ))
}
