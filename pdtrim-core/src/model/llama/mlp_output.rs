//! The output of a block's MLP, and models that share all weights but some output layers.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::Tensor;

use super::{BlockStream, Llama, LlamaWeights};
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
        let mut layers = self.weights.layers.clone();
        for (id, layer) in layers.iter_mut().enumerate() {
            replace_down_proj(layer, BlockId::new(id), weights);
        }
        let stream = self.stream.as_ref().map(|stream| {
            let (stream, weights) = (Arc::clone(stream), weights.clone());
            Arc::new(BlockStream::new(move |id| {
                let mut block = stream.block(id).as_ref().clone();
                replace_down_proj(&mut block, id, &weights);
                block
            }))
        });
        Self {
            config: self.config.clone(),
            weights: LlamaWeights {
                layers,
                ..self.weights.clone()
            },
            stream,
            widths: Arc::clone(&self.widths),
            rope: Arc::clone(&self.rope),
            device: self.device.clone(),
            dtype: self.dtype,
        }
    }
}

fn replace_down_proj(block: &mut Block, id: BlockId, weights: &DownProjs) {
    if let Some(weight) = weights.get(&id) {
        let old = &mut block.mlp.down_proj.weight;
        *old = Param::initialized(old.id, weight.clone());
    }
}
