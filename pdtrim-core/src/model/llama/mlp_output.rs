//! The output of a block's MLP, and models that share all weights but some output layers.

use burn::module::Param;
use burn::tensor::Tensor;

use super::Llama;
use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};
use crate::model::{Block, DownProjs, MlpOutput, MlpStep};

impl MlpOutput for Llama {
    fn run_to_mlp(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> MlpStep {
        let angles = self.rope.angles(start, hidden.dims()[1]);
        self.block(id).forward_to_mlp(hidden, start, &angles, cache)
    }

    fn down_proj(&self, id: BlockId) -> Tensor<2> {
        self.block(id).mlp.down_proj.weight.val()
    }

    fn with_down_projs(&self, weights: &DownProjs) -> Self {
        let weights = weights.clone();
        self.with_changed_blocks(move |id, mut block| {
            replace_down_proj(&mut block, id, &weights);
            block
        })
    }
}

fn replace_down_proj(block: &mut Block, id: BlockId, weights: &DownProjs) {
    if let Some(weight) = weights.get(&id) {
        let old = &mut block.mlp.down_proj.weight;
        *old = Param::initialized(old.id, weight.clone());
    }
}
