//! Models whose weights Burn's autodiff can follow, block by block.

use burn::tensor::Tensor;

use super::BlockModel;
use crate::block::BlockId;

/// A model in which the weights of one block are variables and all others constants.
pub struct FollowedBlock {
    /// The model. What runs through the block has gradients.
    pub model: Box<dyn BlockModel>,
    /// The block's weight matrices: leaves that require gradients.
    pub matrices: Vec<Tensor<2>>,
    /// The scales of its norms: leaves that require gradients. Biases are in neither list.
    pub scales: Vec<Tensor<1>>,
}

/// A model that can tell how its outputs depend on the weights of a block.
///
/// Importances made of derivatives ask for this; everything else is content with [`BlockModel`].
pub trait BlockGradients: BlockModel {
    /// The same model with variables in block `id`, new ones on each call.
    fn follow(&self, id: BlockId) -> FollowedBlock;
}
