//! The operations of a block that Burn's public operations compute with needless passes over memory.
//!
//! Each has two bodies. `plain` is built from Burn's public operations and runs on every backend and
//! element type. The others work on the CPU backend's own storage in f32, where measurements of a
//! 135M-parameter model put half of the prefill time outside the matrix products (element-wise
//! operations of `burn-flex` 0.22 are single-threaded, its attention computes masked tiles).
//! Tests hold each against `plain`. This module is the only one with `unsafe` code: calls of functions
//! compiled for wider vectors, after the CPU was asked for them, and of the `gemm` crate.

mod attention;
mod plain;
mod rows;
mod simd;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};

use crate::model::Angles;

/// Root mean square norm of rows `[rows, hidden]` with scale `weight` `[hidden]`.
pub(crate) fn rms_norm(rows: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    if !(is_flex_f32(&rows) && is_flex_f32(&weight)) {
        return plain::rms_norm(rows, weight, eps);
    }
    from_flex(rows::rms_norm(&flex(rows), &flex(weight), eps as f32))
}

/// `silu(gate) * up`, element by element, `[rows, intermediate]`.
pub(crate) fn silu_mul(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if !(is_flex_f32(&gate) && is_flex_f32(&up)) {
        return plain::silu_mul(gate, up);
    }
    from_flex(rows::silu_mul(flex(gate), &flex(up)))
}

/// Rotates the halves of each head of `heads` `[batch, seq, n_heads, head_dim]`.
pub(crate) fn rotate(heads: Tensor<4>, angles: &Angles) -> Tensor<4> {
    if !is_flex_f32(&heads) {
        return plain::rotate(heads, angles);
    }
    from_flex(rows::rotate(
        flex(heads),
        &flex(angles.cos.clone()),
        &flex(angles.sin.clone()),
    ))
}

/// Causal grouped-query attention of `queries` `[batch, seq, n_heads, head_dim]` over `keys` and
/// `values` `[batch, places, n_kv_heads, head_dim]`, the last `seq` places of which are the queries' own.
pub(crate) fn attention(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    if !is_flex_f32(&queries) {
        return plain::attention(queries, keys, values);
    }
    from_flex(attention::attention(
        &flex(queries),
        &flex(keys),
        &flex(values),
    ))
}

/// What a row of logits says of the token that came next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural log of the token's probability.
    pub logprob: f32,
    /// Whether no token has a larger logit (ties go to the lowest id, so only that one counts).
    pub greedy: bool,
}

/// Log-probability of `targets[row]` under each row of `logits` `[rows, vocab_size]`.
///
/// # Panics
///
/// Panics if there is not one target for each row.
pub fn token_scores(logits: Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
    assert_eq!(
        logits.dims()[0],
        targets.len(),
        "one target for each row of logits"
    );
    if is_flex_f32(&logits) {
        return rows::token_scores(&flex(logits), targets);
    }
    plain::token_scores(logits, targets)
}

/// The token with the largest logit in each row of `logits` `[rows, vocab_size]`; ties go to the lowest id.
pub(crate) fn greedy_tokens(logits: Tensor<2>) -> Vec<u32> {
    if is_flex_f32(&logits) {
        return rows::greedy_tokens(&flex(logits));
    }
    let ids = logits.argmax(1).into_data().convert::<i64>();
    ids.as_slice::<i64>()
        .expect("just converted")
        .iter()
        .map(|&id| id as u32)
        .collect()
}

/// The rows of `hidden` `[rows, width]` with the given indices, in that order.
pub(crate) fn select_rows(hidden: Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let indices: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    let device = hidden.device();
    hidden.select(
        0,
        Tensor::<1, Int>::from_data(TensorData::new(indices, [rows.len()]), &device),
    )
}

fn is_flex_f32<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && tensor.device() == Device::flex()
}

fn flex<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    tensor
        .try_into_primitive::<Flex>()
        .expect("the caller asked `is_flex_f32`")
}

fn from_flex<const D: usize>(tensor: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor)
}

#[cfg(test)]
mod tests;
