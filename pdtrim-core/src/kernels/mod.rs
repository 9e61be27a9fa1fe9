//! The operations of a block that Burn's public operations compute with needless work.
//!
//! Each has two bodies. `plain` is built from Burn's public operations, runs on every backend and
//! element type, and has gradients. The others work on the CPU backend's own storage: activations in f32, weights, keys
//! and values in f32, bf16 or f16. Burn's own matrix product packs weights on every call, its bf16 one
//! converts them on every call, its element-wise operations are single-threaded and its attention
//! computes masked tiles (`burn-flex` 0.22); `benches/kernels.rs` times what is here.
//! Tests hold each against `plain`. This module is the only one with `unsafe` code beside the memory
//! map of a checkpoint: calls of functions compiled for wider vectors after the CPU was asked for
//! them, vector instructions that the compiler does not find by itself, and threads that write
//! disjoint columns of one matrix.

mod attention;
mod dot;
mod linear;
pub(crate) mod pages;
mod plain;
mod rows;
mod simd;
mod tile;
mod widths;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_flex::{Flex, FlexTensor};

use crate::model::Angles;

/// A layer's weights `[out, in]` and its bias `[out]`.
pub(crate) type Layer = (Tensor<2>, Option<Tensor<1>>);

/// Products of `rows` `[rows, in]` with layers that all take them: `[rows, out]` for each.
pub(crate) fn linear<const N: usize>(rows: &Tensor<2>, layers: [Layer; N]) -> [Tensor<2>; N] {
    let kernel = |(weight, bias): &Layer| {
        is_weight(weight) && weight.dtype() == layers[0].0.dtype() && bias.iter().all(is_flex_f32)
    };
    if !(is_flex_f32(rows) && layers.iter().all(kernel)) {
        return layers.map(|layer| plain::linear(rows.clone(), layer));
    }
    let parts = layers.map(|(weight, bias)| linear::Part {
        weight: flex(weight),
        bias: bias.map(flex),
    });
    let products = linear::linear(&flex(rows.clone()), parts.into());
    let mut products = products.into_iter().map(from_flex);
    std::array::from_fn(|_| products.next().expect("one product a layer"))
}

/// `residual` `[rows, out]` plus the product of `rows` with `weight` `[out, in]`.
pub(crate) fn linear_add(rows: Tensor<2>, weight: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
    if !(is_flex_f32(&rows) && is_weight(&weight) && is_flex_f32(&residual)) {
        return residual + plain::linear(rows, (weight, None));
    }
    from_flex(linear::linear_add(
        &flex(rows),
        &flex(weight),
        flex(residual),
    ))
}

/// The gate of an MLP: `silu(rows * gateᵀ) * (rows * upᵀ)`, weights `[intermediate, hidden]`.
pub(crate) fn gated(rows: Tensor<2>, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let same = gate.dtype() == up.dtype() && gate.dims() == up.dims();
    if !(is_flex_f32(&rows) && is_weight(&gate) && is_weight(&up) && same) {
        return plain::gated(rows, gate, up);
    }
    from_flex(linear::gated(&flex(rows), &flex(gate), &flex(up)))
}

/// Lets `work` on the CPU run on a thread of the pool, where the operations of this module share out
/// their work without waking another thread first; worth it around a whole pass through a model. An
/// accelerator's work stays on its thread: Burn has a queue for each.
pub(crate) fn on_pool<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    if *device == Device::flex() {
        rayon::scope(|_| work())
    } else {
        work()
    }
}

/// Root mean square norm of rows `[rows, hidden]` with scale `weight` `[hidden]`.
pub(crate) fn rms_norm(rows: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    if !(is_flex_f32(&rows) && is_flex_f32(&weight)) {
        return plain::rms_norm(rows, weight, eps);
    }
    from_flex(rows::rms_norm(&flex(rows), &flex(weight), eps as f32))
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
    let same = keys.dtype() == values.dtype();
    if !(is_flex_f32(&queries) && is_weight(&keys) && is_weight(&values) && same) {
        return plain::attention(queries, keys, values, None);
    }
    from_flex(attention::attention(
        &flex(queries),
        &flex(keys),
        &flex(values),
    ))
}

/// The same where nobody sees the first `empty[row][key head]` places: on Burn's operations everywhere.
pub(crate) fn attention_with_empty_places(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    empty: &[Vec<usize>],
) -> Tensor<4> {
    let dtype = queries.dtype();
    let (keys, values) = (keys.cast(dtype), values.cast(dtype));
    plain::attention(queries, keys, values, Some(empty))
}

/// What a row of logits says of the token that came next.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use pdtrim_core::token_scores;
///
/// let logits = Tensor::<2>::from_data([[0.0, 0.0], [3.0, 0.0]], &Device::flex());
/// let scores = token_scores(logits, &[1, 0]);
/// assert!((scores[0].logprob - 0.5_f32.ln()).abs() < 1e-6);
/// // Of equal logits the first is the greedy choice.
/// assert!(!scores[0].greedy && scores[1].greedy);
/// ```
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
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use pdtrim_core::token_scores;
///
/// // Three to one.
/// let logits = Tensor::<2>::from_data([[3.0_f32.ln(), 0.0]], &Device::flex());
/// let score = token_scores(logits, &[0])[0];
/// assert!((score.logprob - 0.75_f32.ln()).abs() < 1e-6 && score.greedy);
/// ```
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

/// As [`token_scores`] of the logits that `rows` `[rows, hidden]` have under the vocabulary head `head`
/// `[vocab_size, hidden]`; on the CPU those logits are never written to memory.
pub(crate) fn scored_logits(rows: Tensor<2>, head: Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
    if !(is_flex_f32(&rows) && is_weight(&head)) {
        return token_scores(plain::linear(rows, (head, None)), targets);
    }
    linear::scored(&flex(rows), &flex(head), targets)
}

/// The token with the largest logit in each row of `logits` `[rows, vocab_size]`; ties go to the lowest id.
/// Waits for the device.
///
/// # Panics
///
/// Never: ids are integers.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use pdtrim_core::greedy_tokens;
///
/// let logits = Tensor::<2>::from_data([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]], &Device::flex());
/// assert_eq!(greedy_tokens(logits), [1, 0]);
/// ```
pub fn greedy_tokens(logits: Tensor<2>) -> Vec<u32> {
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

/// Keys or values `[batch, seq, n_kv_heads, head_dim]` as elements of type `dtype`.
pub(crate) fn narrow_kv(heads: Tensor<4>, dtype: DType) -> Tensor<4> {
    if heads.dtype() == dtype {
        return heads;
    }
    match dtype {
        DType::BF16 if is_flex_f32(&heads) => from_flex(rows::to_bf16(&flex(heads))),
        DType::F16 if is_flex_f32(&heads) => from_flex(rows::to_f16(&flex(heads))),
        _ => Tensor::<4>::cast(heads, dtype),
    }
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

/// What the kernels read without converting it first.
fn is_weight<const D: usize>(tensor: &Tensor<D>) -> bool {
    let read = matches!(tensor.dtype(), DType::F32 | DType::BF16 | DType::F16);
    read && is_flex(tensor)
}

/// See [`crate::device::host_peak_flops`].
pub(crate) fn host_peak_flops(dtype: DType) -> f64 {
    rayon::broadcast(|_| tile::peak_flops(dtype == DType::BF16))
        .into_iter()
        .sum()
}

fn is_flex_f32<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && is_flex(tensor)
}

/// Whether the tensor is on the CPU and nothing follows its gradient: Burn's own operations know their
/// derivatives, those of this module do not.
fn is_flex<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    device == Device::flex() && !device.is_autodiff()
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
