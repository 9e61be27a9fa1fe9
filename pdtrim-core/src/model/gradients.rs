//! Models whose weights Burn's autodiff can follow, block by block.

use burn::tensor::Tensor;

use super::BlockModel;
use crate::block::BlockId;

/// A model in which the weights of one block are variables and all others constants.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::BlockGradients;
/// use pdtrim_core::testing::TinyModel;
///
/// let followed = TinyModel::default().build().follow(BlockId::new(1));
/// // Four matrices of attention, three of the MLP, and two norms.
/// assert_eq!((followed.matrices.len(), followed.scales.len()), (7, 2));
/// ```
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
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// use pdtrim_core::model::{BlockGradients, token_tensor};
/// use pdtrim_core::testing::TinyModel;
///
/// let id = BlockId::new(1);
/// let followed = TinyModel::default().build().follow(id);
/// let model = followed.model.as_ref();
/// let hidden = model.embed(token_tensor(model, &[[1, 2, 3]])?, TokenPosition(0));
/// let mut cache = BlockCache::with_capacity(3);
/// let out = model.run_block(id, hidden, TokenPosition(0), &mut cache);
/// // How the sum of all outputs depends on the query projection.
/// let gradients = out.sum().backward();
/// let slope = followed.matrices[0].grad(&gradients).expect("followed");
/// assert_eq!(slope.dims(), [32, 32]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub trait BlockGradients: BlockModel {
    /// The same model with variables in block `id`, new ones on each call.
    fn follow(&self, id: BlockId) -> FollowedBlock;
}
