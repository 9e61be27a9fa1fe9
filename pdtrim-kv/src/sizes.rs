//! What keys and values take on the wire.

use pdtrim_core::model::BlockModel;
use pdtrim_core::{BlockId, BlockKv, BlockSet, KvEncoding, KvPlan};

use crate::encoding::{Codec, Held, KvShape, Part};
use crate::error::Result;
use crate::planned::choice_bytes;

/// Bytes of plans for prompts of given lengths: what [`PlannedTransfer`](crate::PlannedTransfer) counts,
/// without running anything.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, KvEncoding, KvPlan};
/// use pdtrim_kv::KvSizes;
///
/// let sizes = KvSizes::new(&TinyModel::default().build(), vec![100])?;
/// let plan = KvPlan::send_all(5).encoded_everywhere(KvEncoding::Fp8E4m3);
/// // Keys and values of 5 blocks, 100 positions, 2 heads of width 8: 8 bits instead of 16.
/// assert_eq!(sizes.plan_bytes(&plan, &BlockSet::empty(5)), 16_000.0);
/// assert_eq!(sizes.dense_bf16_bytes(), 32_000.0);
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct KvSizes {
    /// Key and value heads of each block.
    heads: Vec<usize>,
    width: usize,
    held: Held,
    lengths: Vec<usize>,
}

impl KvSizes {
    /// For `model`, as decode runs it, and prompts of which prefill reads `lengths` positions each.
    ///
    /// # Errors
    ///
    /// [`Error::HeldIn`](crate::Error::HeldIn) for a model in a type that no cache is held in.
    pub fn new(model: &dyn BlockModel, lengths: Vec<usize>) -> Result<Self> {
        let dims = model.dims();
        let heads = |id| {
            let kept = model.kept_groups(BlockId::new(id));
            kept.map_or(dims.n_kv_heads, |kept| kept.len())
        };
        Ok(Self {
            heads: (0..dims.n_blocks).map(heads).collect(),
            width: dims.head_dim,
            held: Held::of(model.dtype())?,
            lengths,
        })
    }

    /// Number of blocks.
    pub fn depth(&self) -> usize {
        self.heads.len()
    }

    /// Mean bytes of a prompt's keys and values in block `id`.
    pub fn block_bytes(&self, id: BlockId, sends: BlockKv) -> f64 {
        let codec = Codec {
            encoding: sends.encoding,
            held: self.held,
        };
        let bytes = |&length: &usize| {
            let shape = KvShape {
                positions: sends.kept(length),
                heads: self.heads[id.index()],
                width: self.width,
            };
            let choice = choice_bytes(sends, length, shape.heads);
            choice + codec.bytes(shape, Part::Keys) + codec.bytes(shape, Part::Values)
        };
        let all: usize = self.lengths.iter().map(bytes).sum();
        all as f64 / self.lengths.len().max(1) as f64
    }

    /// Mean bytes of a prompt with `plan`, where decode is without the blocks in `removed`.
    pub fn plan_bytes(&self, plan: &KvPlan, removed: &BlockSet) -> f64 {
        let kept = removed.complement();
        kept.iter()
            .map(|id| self.block_bytes(id, plan.block(id)))
            .sum()
    }

    /// Mean bytes of a prompt of the dense model in bf16: what published figures are held against.
    pub fn dense_bf16_bytes(&self) -> f64 {
        let sends = BlockKv {
            encoding: KvEncoding::Bf16,
            ..BlockKv::default()
        };
        let blocks = (0..self.depth()).map(BlockId::new);
        blocks.map(|id| self.block_bytes(id, sends)).sum()
    }
}
