//! The operations from Burn's public ones: every backend, every element type, and the tests' oracle.

use burn::tensor::activation::{log_softmax, silu};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, DType, Int, Tensor, TensorData, module};

use super::{Layer, TokenScore};
use crate::model::Angles;

pub(super) fn rms_norm(rows: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let dtype = rows.dtype();
    // In f32 whatever the element type is, as transformers does: a bf16 square loses the mean.
    let wide = rows.cast(DType::F32);
    let scale = wide
        .clone()
        .square()
        .mean_dim(1)
        .add_scalar(eps)
        .sqrt()
        .recip();
    (wide * scale).cast(dtype) * weight.unsqueeze()
}

pub(super) fn linear(rows: Tensor<2>, (weight, bias): Layer) -> Tensor<2> {
    let dtype = rows.dtype();
    let weight = if weight.dtype() == dtype {
        weight
    } else {
        weight.cast(dtype)
    };
    let product = rows.matmul(weight.transpose());
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}

pub(super) fn gated(rows: Tensor<2>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    silu(linear(rows.clone(), (gate, None))) * linear(rows, (up, None))
}

pub(super) fn rotate(heads: Tensor<4>, angles: &Angles) -> Tensor<4> {
    let dtype = heads.dtype();
    let half = heads.dims()[3] / 2;
    let wide = heads.cast(DType::F32);
    let (low, high) = (wide.clone().narrow(3, 0, half), wide.narrow(3, half, half));
    // [seq, head_dim / 2] -> [1, seq, 1, head_dim / 2]
    let spread = |table: &Tensor<2>| table.clone().unsqueeze_dim::<3>(1).unsqueeze_dim::<4>(0);
    let (cos, sin) = (spread(&angles.cos), spread(&angles.sin));
    let rotated_low = low.clone() * cos.clone() - high.clone() * sin.clone();
    let rotated_high = high * cos + low * sin;
    Tensor::cat(vec![rotated_low, rotated_high], 3).cast(dtype)
}

/// `empty`: first places of each row's key heads that nobody sees.
pub(super) fn attention(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    empty: Option<&[Vec<usize>]>,
) -> Tensor<4> {
    let [batch, seq, n_heads, _] = queries.dims();
    let places = keys.dims()[1];
    let group = n_heads / keys.dims()[2];
    // Not every backend of Burn 0.22 attends with fewer key than query heads, so each is repeated.
    let spread = |heads: Tensor<4>| {
        let [batch, places, n_kv_heads, width] = heads.dims();
        let repeated = heads
            .unsqueeze_dim::<5>(3)
            .expand([batch, places, n_kv_heads, group, width]);
        repeated
            .reshape([batch, places, n_kv_heads * group, width])
            .swap_dims(1, 2)
    };
    // One query sees every place; Burn aligns the causal mask at the last key.
    let options = AttentionModuleOptions {
        is_causal: seq > 1,
        ..Default::default()
    };
    let unseen = empty.map(|empty| {
        let heads = empty.iter().flatten();
        let head = |&empty: &usize| {
            let of_head = (0..places).map(move |place| place < empty);
            std::iter::repeat_n(of_head, group).flatten()
        };
        let unseen: Vec<bool> = heads.flat_map(head).collect();
        let unseen = TensorData::new(unseen, [batch, n_heads, 1, places]);
        let unseen = Tensor::<4, Bool>::from_data(unseen, &queries.device());
        unseen.expand([batch, n_heads, seq, places])
    });
    let mixed = module::attention(
        queries.swap_dims(1, 2),
        spread(keys),
        spread(values),
        unseen,
        None,
        options,
    );
    mixed.swap_dims(1, 2)
}

pub(super) fn token_scores(logits: Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
    let logits = logits.cast(DType::F32);
    let indices: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
    let indices = TensorData::new(indices, [targets.len(), 1]);
    let indices = Tensor::<2, Int>::from_data(indices, &logits.device());
    let greedy = logits
        .clone()
        .argmax(1)
        .equal(indices.clone())
        .int()
        .into_data()
        .convert::<i64>();
    let logprobs = log_softmax(logits, 1).gather(1, indices).into_data();
    let logprobs = logprobs.as_slice::<f32>().expect("cast to f32 above");
    let greedy = greedy.as_slice::<i64>().expect("just converted");
    let scores = logprobs.iter().zip(greedy);
    scores
        .map(|(&logprob, &greedy)| TokenScore {
            logprob,
            greedy: greedy == 1,
        })
        .collect()
}
