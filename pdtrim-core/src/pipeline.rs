//! The PD forward pass: prefill reads the prompt, a [`CacheTransfer`] hands its KV cache over, decode
//! goes on. After arXiv:2509.04467v3, with the boundary policies of the engines in use.
//!
//! With no block removed and all KV sent, the pass equals one plain forward pass, to rounding.

mod greedy;
mod handover;
mod row;
mod sample;
mod score;

pub use handover::Handover;
pub use row::DecodeRow;
pub use sample::Temperature;
pub use score::ScoreRequest;

use burn::tensor::{Int, Tensor};

use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, KvCache, TokenPosition};
use crate::error::{Error, Result};
use crate::kernels::{TokenScore, on_pool};
use crate::model::{BlockModel, check_groups, stage_dims, token_tensor};
use crate::plan::check_removed;
use crate::stage::{Boundary, KvFill, PerStage, Stage};
use crate::units::Bytes;
use handover::Handing;

/// Hands prefill's KV cache to decode, block by block, each as soon as prefill has computed it; may drop
/// positions, never a block.
///
/// ```
/// use pdtrim_core::cache::BlockCache;
/// use pdtrim_core::pipeline::{CacheTransfer, PdModel, Received};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, BlockSet, Boundary, KvFill, PerStage, Result};
///
/// /// Hands over the last two positions of each block.
/// struct LastTwo;
///
/// impl CacheTransfer for LastTwo {
///     fn transfer(&self, _: BlockId, mut cache: BlockCache) -> Result<Received> {
///         let from = cache.len().saturating_sub(2);
///         cache.retain_places(&(from..cache.len()).collect::<Vec<_>>());
///         Ok(cache.into())
///     }
/// }
///
/// let model = TinyModel::default().build();
/// let removed = PerStage::both(BlockSet::empty(5));
/// let (fill, boundary) = (KvFill::Nested, Boundary::Decode);
/// let stages = PdModel::new(&model, removed, fill, boundary, &LastTwo)?;
/// let handover = stages.prefill(&[[1, 2, 3, 4, 5]])?;
/// assert_eq!(handover.kv_positions(), 5 * 2);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub trait CacheTransfer: Send + Sync {
    /// Of how many last prompt positions it wants the [queries](BlockCache::observed) beside the cache;
    /// `usize::MAX` = all.
    fn observes(&self) -> usize {
        0
    }

    /// Returns what decode receives of the cache of block `id`, which decode runs. Blocks come in order.
    ///
    /// # Errors
    ///
    /// [`Error::Transfer`] if the cache could not be handed over: prefill stops then.
    fn transfer(&self, id: BlockId, cache: BlockCache) -> Result<Received>;
}

/// What decode receives of a block.
///
/// ```
/// use pdtrim_core::Bytes;
/// use pdtrim_core::cache::BlockCache;
/// use pdtrim_core::pipeline::Received;
///
/// // A cache that crosses as it is costs its own size; one that was packed says what it took.
/// let sent = Received::from(BlockCache::with_capacity(0));
/// assert_eq!(sent.bytes, Bytes(0));
/// let packed = Received { bytes: Bytes(16), ..sent };
/// assert_eq!(packed.bytes, Bytes(16));
/// ```
#[derive(Clone, Debug)]
pub struct Received {
    /// Keys and values as decode attends to them.
    pub cache: BlockCache,
    /// What crossed for that, for each prompt of the batch.
    pub bytes: Bytes,
}

impl From<BlockCache> for Received {
    /// The cache crossed as it is.
    fn from(cache: BlockCache) -> Self {
        let bytes = cache.bytes_per_row();
        let cache = cache.unobserved();
        Self { cache, bytes }
    }
}

/// Hands over everything.
///
/// ```
/// use pdtrim_core::pipeline::{PdModel, SendAll};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{Boundary, KvFill, PerStage};
///
/// // The dense model, in so many words.
/// let model = TinyModel::default().build();
/// let removed = PerStage::dense(5);
/// let dense = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &SendAll)?;
/// assert!(!dense.prefill(&[[1, 2, 3]])?.trimmed());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SendAll;

impl CacheTransfer for SendAll {
    fn transfer(&self, _: BlockId, cache: BlockCache) -> Result<Received> {
        Ok(cache.into())
    }
}

/// Scores of one continuation.
///
/// ```
/// use pdtrim_core::TokenScore;
/// use pdtrim_core::pipeline::ContinuationScores;
///
/// let token = |logprob| TokenScore { logprob, greedy: false };
/// let scores = ContinuationScores { tokens: vec![token(-0.5), token(-1.5)] };
/// assert_eq!(scores.sum(), -2.0);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ContinuationScores {
    /// One entry for each token of the continuation.
    pub tokens: Vec<TokenScore>,
}

impl ContinuationScores {
    /// Sum of the log-probabilities, in f64.
    pub fn sum(&self) -> f64 {
        self.tokens
            .iter()
            .map(|token| f64::from(token.logprob))
            .sum()
    }
}

/// Scores of all continuations of one prompt.
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{Boundary, Bytes};
///
/// let model = TinyModel::default().build();
/// let dense = PdModel::dense(&model, Boundary::Prefill);
/// // Which of two answers is likelier after the prompt?
/// let scores = dense.score(&[1, 2, 3], &[[4, 5], [6, 7]])?;
/// let [first, second] = [0, 1].map(|n| scores.continuations[n].sum());
/// assert!(first != second);
/// // 5 blocks, 3 positions, keys and values, 2 heads of width 8 in f32.
/// assert_eq!(scores.kv_bytes, Bytes(5 * 3 * 2 * 2 * 8 * 4));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PromptScores {
    /// In the order asked for.
    pub continuations: Vec<ContinuationScores>,
    /// Bytes of keys and values that crossed to decode.
    pub kv_bytes: Bytes,
    /// Positions that crossed, summed over blocks.
    pub kv_positions: u64,
    /// Whether the transfer dropped prompt positions of a block that decode runs.
    pub trimmed: bool,
}

/// What was generated after a prompt.
///
/// ```
/// use pdtrim_core::Boundary;
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let dense = PdModel::dense(&model, Boundary::Decode);
/// let mut heard = Vec::new();
/// let generation = dense.generate_greedy(&[1, 2, 3], 4, &[], |token| heard.push(token))?;
/// assert_eq!(generation.tokens, heard);
/// // Two of the three prompt positions crossed, in each of five blocks.
/// assert_eq!(generation.kv_positions, 10);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Bytes of keys and values that crossed to decode.
    pub kv_bytes: Bytes,
    /// Positions that crossed, summed over blocks.
    pub kv_positions: u64,
    /// Whether the transfer dropped prompt positions of a block that decode runs.
    pub trimmed: bool,
}

/// A model with its two stages.
///
/// ```
/// use pdtrim_core::pipeline::{PdModel, SendAll};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, KvFill, PerStage};
///
/// let model = TinyModel::default().build();
/// let removed = PerStage {
///     prefill: BlockSet::from_indices(5, [2])?,
///     decode: BlockSet::from_indices(5, [2, 3])?,
/// };
/// let trimmed = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &SendAll)?;
/// let dense = PdModel::dense(&model, Boundary::Prefill);
/// let likely = |stages: &PdModel<'_>| {
///     Ok::<_, pdtrim_core::Error>(stages.score(&[1, 2, 3], &[[4, 5]])?.continuations[0].sum())
/// };
/// assert_ne!(likely(&trimmed)?, likely(&dense)?);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone)]
pub struct PdModel<'a> {
    models: PerStage<&'a dyn BlockModel>,
    removed: PerStage<BlockSet>,
    kv_fill: KvFill,
    boundary: Boundary,
    transfer: &'a dyn CacheTransfer,
}

impl<'a> PdModel<'a> {
    /// The dense model: both stages keep every block and all KV is sent.
    pub fn dense(model: &'a dyn BlockModel, boundary: Boundary) -> Self {
        let removed = PerStage::dense(model.dims().n_blocks);
        Self {
            models: PerStage::both(model),
            removed,
            kv_fill: KvFill::Nested,
            boundary,
            transfer: &SendAll,
        }
    }

    /// A model whose stages run without the blocks in `removed`.
    ///
    /// # Errors
    ///
    /// [`Error::Depth`], [`Error::AllBlocksRemoved`] or [`Error::NotNested`].
    pub fn new(
        model: &'a dyn BlockModel,
        removed: PerStage<BlockSet>,
        kv_fill: KvFill,
        boundary: Boundary,
        transfer: &'a dyn CacheTransfer,
    ) -> Result<Self> {
        Self::per_stage(PerStage::both(model), removed, kv_fill, boundary, transfer)
    }

    /// As [`new`](Self::new) with weights of its own for each stage, as a repair makes them.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), [`Error::StageModels`] for models of different sizes, and [`Error::Width`]
    /// if decode has a head group that prefill is without.
    pub fn per_stage(
        models: PerStage<&'a dyn BlockModel>,
        removed: PerStage<BlockSet>,
        kv_fill: KvFill,
        boundary: Boundary,
        transfer: &'a dyn CacheTransfer,
    ) -> Result<Self> {
        let depth = stage_dims(models)?.n_blocks;
        for (field, set) in [
            ("removed.prefill", &removed.prefill),
            ("removed.decode", &removed.decode),
        ] {
            if set.depth() != depth {
                return Err(Error::Depth {
                    field,
                    expected: depth,
                    found: set.depth(),
                });
            }
        }
        check_removed(&removed, kv_fill)?;
        check_groups(models, &removed.decode)?;
        Ok(Self {
            models,
            removed,
            kv_fill,
            boundary,
            transfer,
        })
    }

    /// The model that each stage runs: the same for both unless a repair tells them apart.
    pub fn models(&self) -> PerStage<&'a dyn BlockModel> {
        self.models
    }

    /// Decode's model; prefill's has the same sizes and is on the same device.
    pub fn model(&self) -> &'a dyn BlockModel {
        self.models.decode
    }

    /// Who computes the first new token's logits.
    pub fn boundary(&self) -> Boundary {
        self.boundary
    }

    /// Blocks removed from each stage.
    pub fn removed(&self) -> &PerStage<BlockSet> {
        &self.removed
    }

    /// Runs prefill on prompts of one length and hands its cache over, block by block.
    ///
    /// With [`Boundary::Decode`] the last token of each prompt is left to decode.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`], [`Error::RaggedBatch`], [`Error::TokenOutOfRange`],
    /// [`Error::ContextLength`] and what the transfer reports.
    pub fn prefill<R: AsRef<[u32]>>(&self, prompts: &[R]) -> Result<Handover> {
        let length = prompts.first().map_or(0, |prompt| prompt.as_ref().len());
        if length == 0 {
            return Err(Error::NoTokens { what: "the prompt" });
        }
        self.check_length(length)?;
        let read = self.boundary.prompt_positions(length);
        let mut cache = self.prompt_cache();
        let mut handing = Handing::default();
        let mut last = None;
        if read > 0 {
            let rows: Vec<&[u32]> = prompts
                .iter()
                .map(|prompt| &prompt.as_ref()[..read.min(prompt.as_ref().len())])
                .collect();
            let ids = token_tensor(self.model(), &rows)?;
            let hand = |id, block: &mut BlockCache| handing.block(self, id, block);
            let hidden =
                self.run_blocks(Stage::Prefill, ids, TokenPosition(0), &mut cache, hand)?;
            let [batch, seq, width] = hidden.dims();
            let wanted = self.boundary == Boundary::Prefill;
            last = wanted.then(|| hidden.narrow(1, seq - 1, 1).reshape([batch, width]));
        } else {
            handing.all(self, &mut cache)?;
        }
        Ok(handing.done(self, cache, read, last))
    }

    /// An empty cache for what prefill computes.
    fn prompt_cache(&self) -> KvCache {
        let idle = self.removed.prefill.intersection(&self.removed.decode);
        let empty = BlockCache::with_capacity(0).observing(self.transfer.observes());
        KvCache::of_blocks(&idle.complement(), &empty)
    }

    /// Runs token ids `[batch, seq]`, which are on the device and known to be valid, from position `start`
    /// on through the blocks that `stage` keeps; returns the hidden states `[batch, seq, hidden]` that
    /// leave the last one. Prefill also fills the caches of blocks that only decode keeps.
    fn run_ids(
        &self,
        stage: Stage,
        ids: Tensor<2, Int>,
        start: TokenPosition,
        cache: &mut KvCache,
    ) -> Tensor<3> {
        let run = self.run_blocks(stage, ids, start, cache, |_, _| Ok(()));
        run.expect("nothing is asked after a block")
    }

    /// As [`run_ids`](Self::run_ids), with `after` called on the cache of each block that has one.
    fn run_blocks(
        &self,
        stage: Stage,
        ids: Tensor<2, Int>,
        start: TokenPosition,
        cache: &mut KvCache,
        mut after: impl FnMut(BlockId, &mut BlockCache) -> Result<()> + Send,
    ) -> Result<Tensor<3>> {
        let model = *self.models.of(stage);
        on_pool(model.device(), || {
            let mut hidden = model.embed(ids, start);
            for id in (0..model.dims().n_blocks).map(BlockId::new) {
                let Some(block) = cache.block_mut(id) else {
                    continue;
                };
                if !self.removed.of(stage).contains(id) {
                    hidden = model.run_block(id, hidden, start, block);
                } else if self.kv_fill == KvFill::Project {
                    model.project_kv(id, hidden.clone(), start, block);
                }
                after(id, block)?;
            }
            Ok(hidden)
        })
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        let limit = self.model().dims().context_length;
        if tokens > limit {
            Err(Error::ContextLength { tokens, limit })
        } else {
            Ok(())
        }
    }
}
