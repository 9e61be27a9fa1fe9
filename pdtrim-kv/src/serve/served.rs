//! A model and its plan, as both processes hold them.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::DType;
use pdtrim_core::cache::TokenPosition;
use pdtrim_core::hash::sha256;
use pdtrim_core::model::{BlockModel, token_tensor};
use pdtrim_core::pipeline::{CacheTransfer, PdModel, SendAll};
use pdtrim_core::{BlockId, BlockSet, Boundary, KvEncoding, KvFill, KvPlan, PerStage};
use serde::Serialize;

use super::error::ServeResult;
use super::proto;
use crate::encoding::{Codec, Held, KvShape, Part};

/// What a [`Served`] model is made of.
///
/// ```
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, KvPlan, PerStage, TokenSpan};
/// use pdtrim_kv::serve::{Served, ServedParts};
///
/// let trimmed = BlockSet::from_indices(5, [1, 3])?;
/// let parts = ServedParts {
///     removed: PerStage { prefill: BlockSet::empty(5), decode: BlockSet::from_indices(5, [2])? },
///     kv: KvPlan::uniform(&trimmed, TokenSpan { first: 4, last: 28 }),
///     ..ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00")
/// };
/// let served = Served::new(parts)?;
/// // Two blocks send 32 of 64 positions, two all; one is gone.
/// assert_eq!(served.kv_bytes(64), (2 * 32 + 2 * 64) * 2 * 2 * 8 * 4);
/// # Ok::<(), pdtrim_kv::serve::ServeError>(())
/// ```
pub struct ServedParts {
    /// Each stage's model; a process that runs one stage may have the same for both.
    pub models: PerStage<Arc<dyn BlockModel>>,
    /// Blocks removed from each stage.
    pub removed: PerStage<BlockSet>,
    /// What happens to a block that only prefill removes.
    pub kv_fill: KvFill,
    /// Who computes the first new token's logits.
    pub boundary: Boundary,
    /// What each block sends.
    pub kv: KvPlan,
    /// Hash of the checkpoint.
    pub model_hash: String,
    /// Hash of what a repair, or widths, made of the weights.
    pub weights_hash: Option<String>,
}

impl ServedParts {
    /// The dense model of the checkpoint with this hash: no block is removed and all KV is sent.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use pdtrim_core::testing::TinyModel;
    /// use pdtrim_kv::serve::ServedParts;
    ///
    /// let parts = ServedParts::dense(Arc::new(TinyModel::default().build()), "sha256:00");
    /// assert!(parts.removed.is_dense() && parts.kv.sends_all());
    /// ```
    pub fn dense(model: Arc<dyn BlockModel>, model_hash: &str) -> Self {
        let depth = model.dims().n_blocks;
        Self {
            models: PerStage::both(model),
            removed: PerStage::dense(depth),
            kv_fill: KvFill::default(),
            boundary: Boundary::default(),
            kv: KvPlan::send_all(depth),
            model_hash: model_hash.to_owned(),
            weights_hash: None,
        }
    }
}

/// A model and what a plan makes of it.
///
/// ```
/// use std::sync::Arc;
///
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_kv::serve::{Served, ServedParts};
///
/// let model = Arc::new(TinyModel::default().build());
/// let served = Served::new(ServedParts::dense(model, "sha256:00"))?;
/// // The tiny model is held in f32.
/// assert_eq!(served.kv_bytes(100), 2 * served.dense_bf16_bytes(100));
/// # Ok::<(), pdtrim_kv::serve::ServeError>(())
/// ```
pub struct Served {
    parts: ServedParts,
    identity: proto::Identity,
    held: Held,
    /// Width of hidden states, and the type that decode computes them in.
    hidden: (usize, DType),
}

/// What the hash of a plan is of: two plans that do the same have the same.
#[derive(Serialize)]
struct Effect<'a> {
    prefill: Vec<usize>,
    decode: Vec<usize>,
    kv_fill: KvFill,
    boundary: Boundary,
    kv: Vec<pdtrim_core::KvGroup>,
    weights: Option<&'a str>,
}

/// One block's keys and values on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockOnWire {
    pub(super) id: BlockId,
    /// Token positions of every head, ascending and apart.
    pub(super) ranges: Vec<(usize, usize)>,
    /// Between the ranges, the positions among which attention chose in each head, and how many of them cross.
    pub(super) heavy: Option<(Range<usize>, usize)>,
    pub(super) shape: KvShape,
    pub(super) codec: Codec,
}

impl BlockOnWire {
    /// Bytes that say what attention chose in each head: a bit for each position, from the lowest of a byte on.
    pub(super) fn choice_bytes(&self) -> usize {
        self.shape.heads * self.head_choice_bytes()
    }

    /// The same for one head.
    pub(super) fn head_choice_bytes(&self) -> usize {
        let between = self.heavy.as_ref().map(|(between, _)| between.len());
        between.map_or(0, |places| places.div_ceil(8))
    }

    /// Bytes of all keys.
    pub(super) fn key_bytes(&self) -> usize {
        self.codec.bytes(self.shape, Part::Keys)
    }

    /// Bytes of everything.
    pub(super) fn bytes(&self) -> usize {
        self.choice_bytes() + self.key_bytes() + self.codec.bytes(self.shape, Part::Values)
    }
}

impl Served {
    /// Checks that the parts fit together.
    ///
    /// # Errors
    ///
    /// As [`PdModel::per_stage`], and for a model in a type that no cache is held in.
    pub fn new(parts: ServedParts) -> ServeResult<Self> {
        let held = Held::of(parts.models.decode.dtype())?;
        let indices = |set: &BlockSet| set.iter().map(BlockId::index).collect();
        let effect = Effect {
            prefill: indices(&parts.removed.prefill),
            decode: indices(&parts.removed.decode),
            kv_fill: parts.kv_fill,
            boundary: parts.boundary,
            kv: parts.kv.to_groups(),
            weights: parts.weights_hash.as_deref(),
        };
        let effect = serde_json::to_vec(&effect).unwrap_or_default();
        let identity = proto::Identity {
            model: parts.model_hash.clone(),
            plan: format!("sha256:{}", sha256(&effect)),
        };
        let model = &*parts.models.decode;
        let embedded = model.embed(token_tensor(model, &[[0]])?, TokenPosition(0));
        let hidden = (embedded.dims()[2], embedded.dtype());
        let served = Self {
            parts,
            identity,
            held,
            hidden,
        };
        served.try_pd(&SendAll)?;
        Ok(served)
    }

    fn try_pd<'a>(&'a self, transfer: &'a dyn CacheTransfer) -> ServeResult<PdModel<'a>> {
        let parts = &self.parts;
        let models = PerStage {
            prefill: &*parts.models.prefill,
            decode: &*parts.models.decode,
        };
        let removed = parts.removed.clone();
        let pd = PdModel::per_stage(models, removed, parts.kv_fill, parts.boundary, transfer);
        Ok(pd?)
    }

    /// The PD pass with this transfer.
    pub(super) fn pd<'a>(&'a self, transfer: &'a dyn CacheTransfer) -> PdModel<'a> {
        self.try_pd(transfer).expect("checked when it was made")
    }

    pub(super) fn identity(&self) -> &proto::Identity {
        &self.identity
    }

    pub(super) fn parts(&self) -> &ServedParts {
        &self.parts
    }

    /// The form that keys and values are held in.
    pub(super) fn held(&self) -> Held {
        self.held
    }

    pub(super) fn hidden(&self) -> (usize, DType) {
        self.hidden
    }

    /// Whether the first new token follows from what prefill sends.
    pub(super) fn sends_last_hidden(&self) -> bool {
        self.parts.boundary == Boundary::Prefill
    }

    /// Decode's model.
    pub(super) fn model(&self) -> &dyn BlockModel {
        &*self.parts.models.decode
    }

    /// What crosses of a prompt of `length` tokens, block by block in order.
    pub(super) fn on_wire(&self, length: usize) -> Vec<BlockOnWire> {
        let read = self.parts.boundary.prompt_positions(length);
        let kept = self.parts.removed.decode.complement();
        kept.iter().map(|id| self.block_on_wire(id, read)).collect()
    }

    pub(super) fn block_on_wire(&self, id: BlockId, read: usize) -> BlockOnWire {
        let sends = self.parts.kv.block(id);
        let dims = self.model().dims();
        let groups = self.model().kept_groups(id);
        let positions = sends.kept(read);
        let ranges = match sends.span.filter(|_| positions < read) {
            Some(span) => vec![(0, span.first), (read - span.last, read)],
            None => vec![(0, read)],
        };
        let ranges: Vec<_> = ranges
            .into_iter()
            .filter(|(start, end)| start < end)
            .collect();
        BlockOnWire {
            id,
            heavy: sends
                .chosen_among(read)
                .map(|between| (between, sends.heavy)),
            shape: KvShape {
                positions,
                heads: groups.map_or(dims.n_kv_heads, |groups| groups.len()),
                width: dims.head_dim,
            },
            ranges,
            codec: Codec {
                encoding: sends.encoding,
                held: self.held,
            },
        }
    }

    /// Bytes of keys and values that cross for a prompt of `length` tokens: the plan's formula.
    pub fn kv_bytes(&self, length: usize) -> u64 {
        let blocks = self.on_wire(length);
        blocks.iter().map(|block| block.bytes() as u64).sum()
    }

    /// Bytes that the dense model would send in bf16: what published figures are held against.
    pub fn dense_bf16_bytes(&self, length: usize) -> u64 {
        let dims = self.model().dims();
        let shape = KvShape {
            positions: self.parts.boundary.prompt_positions(length),
            heads: dims.n_kv_heads,
            width: dims.head_dim,
        };
        let codec = Codec {
            encoding: KvEncoding::Bf16,
            held: self.held,
        };
        (2 * dims.n_blocks * codec.bytes(shape, Part::Values)) as u64
    }
}
