//! Neighbouring blocks for which one distilled block stands.

use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};
use crate::model::BlockModel;

/// Pairs (l, l + 1) of a stage for which block l can stand, with weights of its own
/// (arXiv:2509.04467, distillation set): in a stage that keeps l and is without l + 1 it runs with these.
///
/// A pair is thus replaced by removing its second block; where the first is removed instead, or both
/// are, the distilled block is not run.
///
/// ```
/// use pdtrim_core::objective::DistilledPairs;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, BlockSet};
///
/// // A model whose block 2 was trained to stand for blocks 2 and 3.
/// let distilled = TinyModel::default().build();
/// let pairs = DistilledPairs::new(&distilled, BlockSet::from_indices(5, [2])?)?;
/// let id = BlockId::new(2);
/// assert!(pairs.stands(id, &BlockSet::from_indices(5, [3])?));
/// assert!(!pairs.stands(id, &BlockSet::empty(5)));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone)]
pub struct DistilledPairs<'a> {
    model: &'a dyn BlockModel,
    firsts: BlockSet,
}

impl<'a> DistilledPairs<'a> {
    /// `model` has the distilled weights in the blocks `firsts`; its other blocks are not run. Weights
    /// that make keys and values are the dense model's: decode attends to what prefill made.
    ///
    /// # Errors
    ///
    /// [`Error::Depth`] for a set of another model's blocks.
    pub fn new(model: &'a dyn BlockModel, firsts: BlockSet) -> Result<Self> {
        let depth = model.dims().n_blocks;
        if firsts.depth() == depth {
            return Ok(Self { model, firsts });
        }
        Err(Error::Depth {
            field: "the first blocks of distilled pairs",
            expected: depth,
            found: firsts.depth(),
        })
    }

    /// Whether blocks `id` and the one after it are a pair.
    pub fn has(&self, id: BlockId) -> bool {
        self.firsts.contains(id)
    }

    /// Whether block `id` stands for a pair in a stage without `removed`.
    pub fn stands(&self, id: BlockId, removed: &BlockSet) -> bool {
        self.has(id) && removed.starts_after(id)
    }

    pub(super) fn model(&self) -> &'a dyn BlockModel {
        self.model
    }
}
