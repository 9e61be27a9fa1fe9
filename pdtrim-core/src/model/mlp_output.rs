//! Models whose blocks end in an MLP with a linear output layer, which a linear repair can fold into.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::BlockModel;
use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};

/// Output layers of MLPs, `[hidden, intermediate]`, by block.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::{DownProjs, MlpOutput};
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let id = BlockId::new(1);
/// let weights = DownProjs::from([(id, model.down_proj(id) * 2)]);
/// let changed = model.with_down_projs(&weights);
/// let apart = changed.down_proj(id) - model.down_proj(id) * 2;
/// assert_eq!(apart.abs().max().into_scalar::<f32>(), 0.0);
/// ```
pub type DownProjs = BTreeMap<BlockId, Tensor<2>>;

/// A block's output before the MLP is added: the block leaves `residual + output`.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// use pdtrim_core::model::{BlockModel, MlpOutput, token_tensor};
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let hidden = model.embed(token_tensor(&model, &[[1, 2, 3]])?, TokenPosition(0));
/// let (id, start) = (BlockId::new(0), TokenPosition(0));
/// let empty = || BlockCache::with_capacity(3);
/// let step = model.run_to_mlp(id, hidden.clone(), start, &mut empty());
/// let out = model.run_block(id, hidden, start, &mut empty());
/// let apart = out - (step.residual + step.output);
/// assert!(apart.abs().max().into_scalar::<f32>() < 1e-5);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MlpStep {
    /// The residual stream after attention, `[batch, seq, hidden]`.
    pub residual: Tensor<3>,
    /// What the MLP adds to it, `[batch, seq, hidden]`.
    pub output: Tensor<3>,
}

/// A model whose blocks add the output of an MLP last, and that MLP ends in a matrix without a bias.
///
/// A repair asks for this; everything else is content with [`BlockModel`].
///
/// ```
/// use pdtrim_core::model::{BlockModel, DownProjs, MlpOutput};
/// use pdtrim_core::{BlockId, BlockSet};
///
/// /// The model whose MLPs add half as much in these blocks.
/// fn halved<M: MlpOutput>(model: &M, blocks: &BlockSet) -> M {
///     let half = |id: BlockId| (id, model.down_proj(id) * 0.5);
///     model.with_down_projs(&blocks.iter().map(half).collect::<DownProjs>())
/// }
///
/// let model = pdtrim_core::testing::TinyModel::default().build();
/// let changed = halved(&model, &BlockSet::from_indices(5, [1, 2])?);
/// assert_eq!(changed.dims(), model.dims());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub trait MlpOutput: BlockModel {
    /// As [`run_block`](BlockModel::run_block), up to the sum at its end.
    fn run_to_mlp(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> MlpStep;

    /// The output layer of block `id`'s MLP, `[hidden, intermediate]`.
    fn down_proj(&self, id: BlockId) -> Tensor<2>;

    /// The same model with other output layers, of the same shapes, in some blocks; it shares all its
    /// other weights with this one.
    #[must_use]
    fn with_down_projs(&self, weights: &DownProjs) -> Self
    where
        Self: Sized;
}
