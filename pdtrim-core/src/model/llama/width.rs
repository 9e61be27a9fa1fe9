//! Narrower blocks of a Llama.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::{BlockStream, Llama, LlamaWeights};
use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};
use crate::kernels;
use crate::model::{Block, OutputInputs, OutputLayers, WidthModel};
use crate::width::{StageBiases, StageWidths};

impl WidthModel for Llama {
    fn run_observed(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> (Tensor<3>, OutputInputs) {
        let angles = self.rope.angles(start, hidden.dims()[1]);
        self.block(id)
            .forward_observed(hidden, start, &angles, cache)
    }

    fn output_layers(&self, id: BlockId) -> OutputLayers {
        let block = self.block(id);
        OutputLayers {
            attention: block.self_attn.o_proj.weight.val(),
            mlp: block.mlp.down_proj.weight.val(),
        }
    }

    fn narrowed(&self, removed: &StageWidths, biases: &StageBiases) -> Self {
        let mut layers = self.weights.layers.clone();
        for (id, layer) in layers.iter_mut().enumerate() {
            narrow(layer, BlockId::new(id), removed, biases);
        }
        let stream = self.stream.as_ref().map(|stream| {
            let (stream, removed, biases) = (Arc::clone(stream), removed.clone(), biases.clone());
            Arc::new(BlockStream::new(move |id| {
                let mut block = stream.block(id).as_ref().clone();
                narrow(&mut block, id, &removed, &biases);
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
            widths: Arc::new(removed.clone()),
            rope: Arc::clone(&self.rope),
            device: self.device.clone(),
            dtype: self.dtype,
        }
    }
}

fn narrow(block: &mut Block, id: BlockId, removed: &StageWidths, biases: &StageBiases) {
    if let Some(removed) = removed.get(&id) {
        let none = crate::width::BlockBiases::default();
        block.narrow(removed, biases.get(&id).unwrap_or(&none));
        // Memory of its own anyway: better in large pages.
        *block = kernels::pages::in_large_pages(block.clone());
    }
}
