//! Models that share all weights but some blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BlockStream, Llama, LlamaWeights};
use crate::block::BlockId;
use crate::model::{Block, BlockModules};

impl Llama {
    /// The same model, whose blocks went through `change`.
    pub(super) fn with_changed_blocks(
        &self,
        change: impl Fn(BlockId, Block) -> Block + Send + Sync + 'static,
    ) -> Self {
        let layers = self.weights.layers.iter().cloned().enumerate();
        let layers = layers.map(|(id, block)| change(BlockId::new(id), block));
        let layers = layers.collect();
        let stream = self.stream.as_ref().map(|stream| {
            let stream = Arc::clone(stream);
            let read = move |id| change(id, stream.block(id).as_ref().clone());
            Arc::new(BlockStream::new(read))
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

impl BlockModules for Llama {
    type Block = Block;

    fn block_module(&self, id: BlockId) -> Block {
        self.block(id).clone()
    }

    fn with_block_modules(&self, blocks: &BTreeMap<BlockId, Block>) -> Self {
        let blocks = blocks.clone();
        self.with_changed_blocks(move |id, block| blocks.get(&id).cloned().unwrap_or(block))
    }

    fn makes_kv(path: &str) -> bool {
        ["input_layernorm.", "self_attn.k_proj.", "self_attn.v_proj."]
            .iter()
            .any(|part| path.starts_with(part))
    }
}
