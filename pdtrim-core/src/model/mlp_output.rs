//! Models whose blocks end in an MLP with a linear output layer, which a linear repair can fold into.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::BlockModel;
use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};

/// Output layers of MLPs, `[hidden, intermediate]`, by block.
pub type DownProjs = BTreeMap<BlockId, Tensor<2>>;

/// A block's output before the MLP is added: the block leaves `residual + output`.
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
