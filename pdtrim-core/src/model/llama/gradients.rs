//! Blocks whose weights are variables.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor};

use super::{Follow, Llama};
use crate::block::BlockId;
use crate::model::{Block, BlockGradients, FollowedBlock};

/// Makes weights elements of this type.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| Tensor::<D>::cast(weight, self.0))
    }
}

impl BlockGradients for Llama {
    /// The variables have the hidden states' element type: where narrow weights meet f32 activations,
    /// a gradient of the weights' own type would lose digits.
    fn follow(&self, id: BlockId) -> FollowedBlock {
        let block: Block = (*self.block(id)).clone();
        let block = block.map(&mut Cast(self.activations())).map(&mut Follow);
        let (attention, mlp) = (&block.self_attn, &block.mlp);
        let matrices = [
            &attention.q_proj,
            &attention.k_proj,
            &attention.v_proj,
            &attention.o_proj,
            &mlp.gate_proj,
            &mlp.up_proj,
            &mlp.down_proj,
        ];
        let scales = [&block.input_layernorm, &block.post_attention_layernorm];
        FollowedBlock {
            matrices: matrices.map(|matrix| matrix.weight.val()).into(),
            scales: scales.map(|norm| norm.weight.val()).into(),
            model: Box::new(self.with_changed_blocks(
                move |at, own| {
                    if at == id { block.clone() } else { own }
                },
            )),
        }
    }
}
