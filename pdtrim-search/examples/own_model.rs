//! Finds the blocks that a small GPT-style Burn model, which PDTrim does not know, can do without.
//!
//! The model takes part by implementing [`BlockModel`]: embedding, one block, vocabulary head.
//!
//! ```text
//! cargo run --release -p pdtrim-search --example own_model
//! ```

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Int, Tensor, activation, module};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::model::{BlockModel, ModelDims};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
use pdtrim_core::{BlockId, BlockSet, Boundary};
use pdtrim_search::{Ledger, Problem, Result, Sleb, Strategy, Target};

const WIDTH: usize = 32;
const HEADS: usize = 4;
const BLOCKS: usize = 6;
const CONTEXT: usize = 64;
const VOCABULARY: usize = 50;

/// GPT-2's block: `LayerNorm`, attention with one projection for q, k and v, and a GELU MLP.
#[derive(Module, Debug)]
struct GptBlock {
    norm: LayerNorm,
    qkv: Linear,
    out: Linear,
    mlp_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

#[derive(Module, Debug)]
struct Gpt {
    tokens: Embedding,
    /// Learned position embedding, `[context, hidden]`.
    positions: Param<Tensor<2>>,
    blocks: Vec<GptBlock>,
    norm: LayerNorm,
    head: Linear,
}

/// The module and what it has to know to run.
struct GptModel {
    gpt: Gpt,
    device: Device,
}

impl GptModel {
    fn new(device: Device) -> Self {
        device.seed(3);
        let linear = |from, to| LinearConfig::new(from, to).init(&device);
        let norm = || LayerNormConfig::new(WIDTH).init(&device);
        let block = |_| GptBlock {
            norm: norm(),
            qkv: linear(WIDTH, 3 * WIDTH),
            out: linear(WIDTH, WIDTH),
            mlp_norm: norm(),
            up: linear(WIDTH, 4 * WIDTH),
            down: linear(4 * WIDTH, WIDTH),
        };
        let positions = EmbeddingConfig::new(CONTEXT, WIDTH).init(&device).weight;
        let gpt = Gpt {
            tokens: EmbeddingConfig::new(VOCABULARY, WIDTH).init(&device),
            positions,
            blocks: (0..BLOCKS).map(block).collect(),
            norm: norm(),
            head: linear(WIDTH, VOCABULARY),
        };
        Self { gpt, device }
    }

    /// Queries, keys and values of `hidden`, each `[batch, seq, heads, head size]`.
    fn qkv(&self, id: BlockId, hidden: Tensor<3>) -> [Tensor<4>; 3] {
        let [batch, seq, _] = hidden.dims();
        let block = &self.gpt.blocks[id.index()];
        let joined = block.qkv.forward(block.norm.forward(hidden));
        [0, 1, 2].map(|part| {
            let part = joined.clone().narrow(2, part * WIDTH, WIDTH);
            part.reshape([batch, seq, HEADS, WIDTH / HEADS])
        })
    }
}

impl BlockModel for GptModel {
    fn dims(&self) -> ModelDims {
        ModelDims {
            n_blocks: BLOCKS,
            n_kv_heads: HEADS,
            head_dim: WIDTH / HEADS,
            vocab_size: VOCABULARY,
            context_length: CONTEXT,
        }
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn embed(&self, tokens: Tensor<2, Int>, start: TokenPosition) -> Tensor<3> {
        let seq = tokens.dims()[1];
        let positions = self.gpt.positions.val().narrow(0, start.0, seq);
        self.gpt.tokens.forward(tokens) + positions.unsqueeze()
    }

    fn run_block(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> Tensor<3> {
        let [batch, seq, width] = hidden.dims();
        let [queries, keys, values] = self.qkv(id, hidden.clone());
        cache.append(keys, values, start);
        let heads_first = |heads: Tensor<4>| heads.swap_dims(1, 2);
        let options = AttentionModuleOptions {
            is_causal: seq > 1,
            ..Default::default()
        };
        let (keys, values) = (heads_first(cache.keys()), heads_first(cache.values()));
        let mixed = module::attention(heads_first(queries), keys, values, None, None, options);
        let block = &self.gpt.blocks[id.index()];
        let hidden = hidden
            + block
                .out
                .forward(heads_first(mixed).reshape([batch, seq, width]));
        let up = activation::gelu(block.up.forward(block.mlp_norm.forward(hidden.clone())));
        hidden + block.down.forward(up)
    }

    fn project_kv(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) {
        let [_, keys, values] = self.qkv(id, hidden);
        cache.append(keys, values, start);
    }

    fn queries(&self, id: BlockId, hidden: Tensor<3>, _start: TokenPosition) -> Tensor<4> {
        let [queries, _, _] = self.qkv(id, hidden);
        queries
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.gpt.head.forward(self.gpt.norm.forward(hidden))
    }
}

/// Two blocks out of prefill, three out of decode.
fn search(model: &GptModel) -> Result<(BlockSet, BlockSet)> {
    let window = |seed: u32| {
        (0..32)
            .map(|n| (n * n + seed * 7) % VOCABULARY as u32)
            .collect()
    };
    let calibration = Calibration::new((0..4).map(window).collect(), 24)?;
    let loss = CalibrationLoss::new(model, &calibration, Rows::Continuation, Boundary::Prefill);
    let redundancy = loss.redundancy()?.0;
    let mut ledger = Ledger::in_memory(&loss);
    let problem = Problem::new(Target::Prefill, &redundancy.prefill, 2, true)?;
    let prefill = Sleb::default().search(&problem, &mut ledger, &mut |_| {})?;
    let target = Target::Decode {
        prefill: prefill.clone(),
        nested: true,
    };
    let problem = Problem::new(target, &redundancy.decode, 3, true)?;
    let decode = Sleb::default().search(&problem, &mut ledger, &mut |_| {})?;
    debug_assert_eq!(loss.depth(), BLOCKS);
    Ok((prefill, decode))
}

#[expect(clippy::print_stdout, reason = "an example prints what it found")]
fn main() -> Result<()> {
    let (prefill, decode) = search(&GptModel::new(Device::flex()))?;
    println!("prefill can do without blocks {prefill}, decode without {decode}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use pdtrim_core::pipeline::PdModel;

    use super::*;

    #[test]
    fn a_model_that_pdtrim_does_not_know_is_searched_and_split_like_any_other() {
        let model = GptModel::new(Device::flex());
        let (prefill, decode) = search(&model).unwrap();
        assert_eq!((prefill.len(), decode.len()), (2, 3));
        assert!(prefill.is_subset(&decode));
        // Prefill and decode of the dense model are one forward pass, whichever stage has the boundary.
        let prompt: Vec<u32> = (0..20).collect();
        let score = |boundary| {
            PdModel::dense(&model, boundary)
                .score(&prompt, &[[3, 4, 5]])
                .unwrap()
        };
        let sums = [Boundary::Prefill, Boundary::Decode]
            .map(|boundary| score(boundary).continuations[0].sum());
        assert!((sums[0] - sums[1]).abs() < 1e-4, "{sums:?}");
    }
}
