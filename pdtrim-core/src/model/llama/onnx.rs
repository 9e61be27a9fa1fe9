//! A Llama's forward pass of those operations of Burn that `burn-onnx` 0.22 can write.
//!
//! Its exporter runs a module on a device that records operations. Of the ones that the model itself is
//! made of it writes no transposition, expansion, cast, mean, reciprocal, maximum, softmax, embedding or attention
//! (`src/export/lower` there), and our CPU kernels record nothing. Here matrices are stored as they are
//! multiplied, a mean is a sum, a softmax is spelt out, grouped heads are broadcast, and axes change places by
//! selecting from a flat view. Those selections and the causal mask depend on the number of tokens, so it is fixed.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_onnx::export::{ExportError, OnnxExporter, OnnxModel};

use super::{Llama, Projection, RmsNorm};
use crate::block::BlockSet;
use crate::cache::TokenPosition;
use crate::model::{Angles, Block, BlockModules};

/// `[rows, in] -> [rows, out]`.
#[derive(Module, Debug)]
struct Product {
    /// `[in, out]`.
    weight: Param<Tensor<2>>,
    /// `[1, out]`.
    bias: Option<Param<Tensor<2>>>,
}

impl Product {
    fn new(layer: &Projection) -> Self {
        let (weight, bias) = layer.layer();
        Self {
            weight: constant(weight.transpose()),
            bias: bias.map(|bias| constant(bias.unsqueeze())),
        }
    }

    fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        let product = rows.matmul(self.weight.val());
        match &self.bias {
            Some(bias) => product + bias.val(),
            None => product,
        }
    }
}

/// Root mean square norm of rows.
#[derive(Module, Debug)]
struct Norm {
    /// `[1, hidden]`.
    weight: Param<Tensor<2>>,
    eps: f64,
}

impl Norm {
    fn new(norm: &RmsNorm) -> Self {
        Self {
            weight: constant(norm.weight.val().unsqueeze()),
            eps: norm.eps,
        }
    }

    fn forward(&self, rows: &Tensor<2>) -> Tensor<2> {
        let [_, width] = rows.dims();
        let squares = rows.clone().square().sum_dim(1);
        let mean = squares.div_scalar(width as f64);
        rows.clone() / mean.add_scalar(self.eps).sqrt() * self.weight.val()
    }
}

/// One block.
#[derive(Module, Debug)]
struct BlockGraph {
    input_layernorm: Norm,
    q_proj: Product,
    k_proj: Product,
    v_proj: Product,
    o_proj: Product,
    post_attention_layernorm: Norm,
    gate_proj: Product,
    up_proj: Product,
    down_proj: Product,
    n_kv_heads: usize,
    /// Query heads that share a key head.
    group: usize,
}

impl BlockGraph {
    fn new(block: &Block) -> Self {
        let (attention, mlp) = (&block.self_attn, &block.mlp);
        Self {
            input_layernorm: Norm::new(&block.input_layernorm),
            q_proj: Product::new(&attention.q_proj),
            k_proj: Product::new(&attention.k_proj),
            v_proj: Product::new(&attention.v_proj),
            o_proj: Product::new(&attention.o_proj),
            post_attention_layernorm: Norm::new(&block.post_attention_layernorm),
            gate_proj: Product::new(&mlp.gate_proj),
            up_proj: Product::new(&mlp.up_proj),
            down_proj: Product::new(&mlp.down_proj),
            n_kv_heads: attention.n_kv_heads,
            group: attention.n_heads / attention.n_kv_heads,
        }
    }

    /// `[seq, hidden] -> [seq, hidden]`.
    fn forward(&self, rows: Tensor<2>, positions: &mut Positions) -> Tensor<2> {
        let normed = self.input_layernorm.forward(&rows);
        let rows = self.o_proj.forward(self.attention(&normed, positions)) + rows;
        let normed = self.post_attention_layernorm.forward(&rows);
        let gate = silu(self.gate_proj.forward(normed.clone()));
        self.down_proj.forward(gate * self.up_proj.forward(normed)) + rows
    }

    /// What enters the output layer, `[seq, n_heads * head_dim]`.
    fn attention(&self, normed: &Tensor<2>, positions: &mut Positions) -> Tensor<2> {
        let (kv, group, seq) = (self.n_kv_heads, self.group, positions.seq);
        let queries = self.q_proj.forward(normed.clone());
        let width = queries.dims()[1];
        let head_dim = width / (kv * group);
        let queries = positions.rotated(queries.reshape([seq, kv * group, head_dim]));
        let queries = positions.swapped(queries);
        let queries = queries.reshape([kv, group, seq, head_dim]);

        let keys = self.k_proj.forward(normed.clone());
        let keys = positions.rotated(keys.reshape([seq, kv, head_dim]));
        let keys = positions.swapped(keys.reshape([seq, kv * head_dim, 1]));
        let keys = keys.reshape([kv, 1, head_dim, seq]);

        let values = self.v_proj.forward(normed.clone());
        let values = positions.swapped(values.reshape([seq, kv, head_dim]));
        let values = values.reshape([kv, 1, seq, head_dim]);

        let scores = queries
            .matmul(keys)
            .mul_scalar((head_dim as f64).powf(-0.5));
        let shares = softmax(scores + positions.mask.clone());
        // [n_kv_heads, group, seq, head_dim]
        let mixed = shares.matmul(values);
        let mixed = positions.swapped(mixed.reshape([kv * group, seq, head_dim]));
        mixed.reshape([seq, width])
    }
}

/// Over the last axis.
fn softmax(scores: Tensor<4>) -> Tensor<4> {
    // `max_dim` cannot be written.
    let (largest, _) = scores.clone().max_dim_with_indices(3);
    let powers = (scores - largest).exp();
    let sums = powers.clone().sum_dim(3);
    powers / sums
}

/// Cosines and sines of the first positions, `[seq, 1, head_dim / 2]` each.
#[derive(Debug)]
struct Rotation {
    cos: TensorData,
    sin: TensorData,
}

impl Rotation {
    fn new(model: &Llama, seq: usize) -> Self {
        let Angles { cos, sin } = model.rope.angles(TokenPosition(0), seq);
        let values = |table: Tensor<2>| table.unsqueeze_dim::<3>(1).into_data();
        Self {
            cos: values(cos),
            sin: values(sin),
        }
    }
}

/// The constants that depend on the number of tokens, where the pass is run or recorded.
struct Positions {
    seq: usize,
    device: Device,
    cos: Tensor<3>,
    sin: Tensor<3>,
    /// 0 where a position is seen, `[1, 1, seq, seq]`.
    mask: Tensor<4>,
    /// What swaps two axes of these lengths; each is in the file once.
    swaps: BTreeMap<[usize; 2], Tensor<1, Int>>,
}

impl Positions {
    fn new(rotation: &Rotation, device: &Device) -> Self {
        let seq = rotation.cos.shape()[0];
        let row = |query| {
            (0..seq).map(
                move |key| {
                    if key <= query { 0.0 } else { f32::NEG_INFINITY }
                },
            )
        };
        let mask: Vec<f32> = (0..seq).flat_map(row).collect();
        Self {
            seq,
            device: device.clone(),
            cos: Tensor::from_data(rotation.cos.clone(), device),
            sin: Tensor::from_data(rotation.sin.clone(), device),
            mask: Tensor::from_data(TensorData::new(mask, [1, 1, seq, seq]), device),
            swaps: BTreeMap::new(),
        }
    }

    /// Rotates the halves of each head of `heads` `[seq, heads, head_dim]`.
    fn rotated(&self, heads: Tensor<3>) -> Tensor<3> {
        let half = heads.dims()[2] / 2;
        let (low, high) = (
            heads.clone().narrow(2, 0, half),
            heads.narrow(2, half, half),
        );
        let (cos, sin) = (&self.cos, &self.sin);
        let rotated_low = low.clone() * cos.clone() - high.clone() * sin.clone();
        let rotated_high = high * cos.clone() + low * sin.clone();
        Tensor::cat(vec![rotated_low, rotated_high], 2)
    }

    /// `[a, b, width] -> [b, a, width]`.
    fn swapped(&mut self, tensor: Tensor<3>) -> Tensor<3> {
        let [a, b, width] = tensor.dims();
        let (swaps, device) = (&mut self.swaps, &self.device);
        let places = swaps.entry([a, b]).or_insert_with(|| {
            let of = |new| (0..a).map(move |old| (old * b + new) as i64);
            let places: Vec<i64> = (0..b).flat_map(of).collect();
            Tensor::from_data(TensorData::new(places, [a * b]), (device, DType::I64))
        });
        let flat = tensor.reshape([a * b, width]);
        flat.select(0, places.clone()).reshape([b, a, width])
    }
}

/// The pass from token ids to logits.
#[derive(Module, Debug)]
struct Graph {
    /// `[vocab_size, hidden]`; absent where the head's columns are the embedding.
    embed_tokens: Option<Param<Tensor<2>>>,
    layers: Vec<BlockGraph>,
    norm: Norm,
    /// `[hidden, vocab_size]`.
    lm_head: Param<Tensor<2>>,
}

impl Graph {
    fn new(model: &Llama, removed: &BlockSet) -> Self {
        let weights = model.weights();
        let embedding = &weights.embed_tokens;
        let head = weights.lm_head.as_ref();
        let blocks = removed.complement();
        let layers = blocks
            .iter()
            .map(|id| BlockGraph::new(&model.block_module(id)));
        Self {
            embed_tokens: head.map(|_| constant(embedding.val())),
            layers: layers.collect(),
            norm: Norm::new(&weights.norm),
            lm_head: constant(head.unwrap_or(embedding).val().transpose()),
        }
    }

    /// `[1, seq] -> [1, seq, vocab_size]`.
    fn forward(&self, tokens: Tensor<2, Int>, rotation: &Rotation) -> Tensor<3> {
        let mut positions = Positions::new(rotation, &tokens.device());
        let [_, seq] = tokens.dims();
        let tokens = tokens.reshape([seq]);
        let head = self.lm_head.val();
        let [hidden, vocab_size] = head.dims();
        let mut rows = if let Some(table) = &self.embed_tokens {
            table.val().select(0, tokens)
        } else {
            let columns = head.clone().select(1, tokens).reshape([hidden, seq, 1]);
            positions.swapped(columns).reshape([seq, hidden])
        };
        for layer in &self.layers {
            rows = layer.forward(rows, &mut positions);
        }
        let logits = self.norm.forward(&rows).matmul(head);
        logits.reshape([1, seq, vocab_size])
    }
}

fn constant(weight: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(weight)
}

/// An ONNX file in memory.
pub(crate) struct Written {
    /// The file.
    pub(crate) model: OnnxModel,
    /// Size of the weights in it.
    pub(crate) weight_bytes: u64,
}

/// `model` without the blocks in `removed`, from token ids `[1, n_tokens]` to logits
/// `[1, n_tokens, vocab_size]`. Expects weights in f32 on the CPU.
///
/// # Errors
///
/// What `burn-onnx` refuses: more than 2 GiB.
pub(crate) fn write(
    model: &Llama,
    removed: &BlockSet,
    n_tokens: usize,
) -> Result<Written, ExportError> {
    let graph = Graph::new(model, removed);
    let rotation = Rotation::new(model, n_tokens);
    let ids = TensorData::new(vec![0_i64; n_tokens], [1, n_tokens]);
    let ids = Tensor::<2, Int>::from_data(ids, (&Device::flex(), DType::I64));
    let weight_bytes = (graph.num_params() * size_of::<f32>()) as u64;
    let forward = |graph: &Graph, ids| graph.forward(ids, &rotation);
    let model = OnnxExporter::new().export(&graph, ids, forward)?;
    Ok(Written {
        model,
        weight_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockId;
    use crate::cache::KvCache;
    use crate::config::Architecture;
    use crate::model::{BlockModel, WidthModel, token_tensor};
    use crate::testing::{TinyModel, tiny_config};
    use crate::width::{BlockBiases, RemovedWidth, StageBiases, StageWidths};

    const IDS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

    fn own_logits(model: &Llama, removed: &BlockSet) -> Tensor<2> {
        let kept = removed.complement();
        let start = TokenPosition(0);
        let mut cache = KvCache::with_capacity(&kept, IDS.len());
        let mut hidden = model.embed(token_tensor(model, &[IDS]).unwrap(), start);
        for id in kept.iter() {
            hidden = model.run_block(id, hidden, start, cache.block_mut(id).unwrap());
        }
        let [_, seq, width] = hidden.dims();
        model.logits(hidden.reshape([seq, width]))
    }

    /// Largest difference of a logit between the graph, run by Burn, and the model's own pass.
    fn difference(model: &Llama, removed: &BlockSet) -> f32 {
        let ids = TensorData::new(IDS.map(i64::from).to_vec(), [1, IDS.len()]);
        let ids = Tensor::<2, Int>::from_data(ids, (&Device::flex(), DType::I64));
        let rotation = Rotation::new(model, IDS.len());
        let found = Graph::new(model, removed).forward(ids, &rotation);
        assert_eq!(found.dims(), [1, IDS.len(), model.dims().vocab_size]);
        let expected = own_logits(model, removed);
        let found = found.reshape(expected.dims());
        (found - expected).abs().max().into_scalar()
    }

    #[test]
    fn the_graph_has_the_models_logits() {
        for architecture in [
            Architecture::Llama,
            Architecture::Mistral,
            Architecture::Qwen2,
        ] {
            let config = tiny_config(architecture);
            let tiny = TinyModel {
                config,
                ..TinyModel::default()
            };
            for removed in [&[][..], &[0, 3]] {
                let removed = BlockSet::from_indices(5, removed.iter().copied()).unwrap();
                let found = difference(&tiny.build(), &removed);
                assert!(found < 1e-4, "{architecture:?} without {removed}: {found}");
            }
        }
    }

    #[test]
    fn the_graph_of_narrower_blocks_has_their_logits() {
        let model = TinyModel::default().build();
        let id = BlockId::new(2);
        let width = RemovedWidth {
            groups: [1].into_iter().collect(),
            channels: "4-9".parse().unwrap(),
        };
        let bias = BlockBiases {
            attention: vec![0.5; 32],
            mlp: vec![-0.25; 32],
        };
        let narrow = model.narrowed(
            &StageWidths::from([(id, width)]),
            &StageBiases::from([(id, bias)]),
        );
        let none = BlockSet::empty(5);
        let found = difference(&narrow, &none);
        assert!(found < 1e-4, "{found}");
        let changed = own_logits(&narrow, &none) - own_logits(&model, &none);
        assert!(changed.abs().max().into_scalar::<f32>() > 1e-2);
    }

    #[test]
    fn all_of_the_graph_can_be_written() {
        let model = TinyModel::default().build();
        let all = write(&model, &BlockSet::empty(5), 6).unwrap();
        let fewer = write(&model, &BlockSet::from_indices(5, [1]).unwrap(), 6).unwrap();
        assert!(all.model.as_bytes().len() as u64 > all.weight_bytes);
        // Two norms of 32; q and o of 32 x 32, k and v of 32 x 16; three matrices of 32 x 48.
        let block = 4 * (2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48);
        assert_eq!(all.weight_bytes - fewer.weight_bytes, block);
    }
}
