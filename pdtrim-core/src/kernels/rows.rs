//! Row-wise operations on the CPU backend's storage, rows shared out over the thread pool.

use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{TokenScore, simd};

/// Rows below this many elements in all are not worth a second thread (about 10 µs of work).
const PARALLEL_FROM: usize = 1 << 15;

pub(super) fn rms_norm(rows: &FlexTensor, weight: &FlexTensor, eps: f32) -> FlexTensor {
    let rows = rows.to_contiguous();
    let weight = weight.to_contiguous();
    let (x, weight) = (contiguous(&rows), contiguous(&weight));
    let width = weight.len();
    let mut out = vec![0.0_f32; x.len()];
    for_each_row(&mut out, width, |row, out| {
        simd::rms_norm(out, &x[row * width..][..width], weight, eps);
    });
    FlexTensor::from_data(TensorData::new(out, rows.layout().shape().clone()))
}

/// As bf16.
pub(super) fn to_bf16(heads: &FlexTensor) -> FlexTensor {
    let heads = heads.to_contiguous();
    let x = contiguous(&heads);
    let mut out = vec![bf16::ZERO; x.len()];
    simd::round(&mut out, x);
    FlexTensor::from_data(TensorData::new(out, heads.layout().shape().clone()))
}

/// As f16.
pub(super) fn to_f16(heads: &FlexTensor) -> FlexTensor {
    let heads = heads.to_contiguous();
    let out: Vec<f16> = contiguous(&heads)
        .iter()
        .map(|&x| f16::from_f32(x))
        .collect();
    FlexTensor::from_data(TensorData::new(out, heads.layout().shape().clone()))
}

pub(super) fn rotate(heads: FlexTensor, cos: &FlexTensor, sin: &FlexTensor) -> FlexTensor {
    let mut heads = owned(heads);
    let [seq, n_heads, width] = [1, 2, 3].map(|axis| heads.layout().shape()[axis]);
    let (cos, sin) = (cos.to_contiguous(), sin.to_contiguous());
    let (cos, sin) = (contiguous(&cos), contiguous(&sin));
    let half = width / 2;
    for_each_row(
        heads.storage_mut::<f32>(),
        n_heads * width,
        |row, position| {
            let angle = row % seq * half;
            for head in position.chunks_exact_mut(width) {
                simd::rotate(head, &cos[angle..angle + half], &sin[angle..angle + half]);
            }
        },
    );
    heads
}

pub(super) fn token_scores(logits: &FlexTensor, targets: &[u32]) -> Vec<TokenScore> {
    let logits = logits.to_contiguous();
    let vocab_size = logits.layout().shape()[1];
    let rows = contiguous(&logits).par_chunks_exact(vocab_size);
    rows.zip(targets)
        .map(|(row, &target)| simd::token_score(row, target as usize))
        .collect()
}

pub(super) fn greedy_tokens(logits: &FlexTensor) -> Vec<u32> {
    let logits = logits.to_contiguous();
    let vocab_size = logits.layout().shape()[1];
    let rows = contiguous(&logits).par_chunks_exact(vocab_size);
    rows.map(|row| simd::argmax(row) as u32).collect()
}

/// The elements of a contiguous tensor, which may be a part of a larger storage.
pub(super) fn contiguous(tensor: &FlexTensor) -> &[f32] {
    let (start, end) = tensor
        .layout()
        .contiguous_offsets()
        .expect("made contiguous by the caller");
    &tensor.storage::<f32>()[start..end]
}

/// A tensor that fills its whole storage, so that writing to the storage writes the tensor and nothing else.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    let n_elements = tensor.layout().num_elements();
    let fills = tensor.is_contiguous()
        && tensor.layout().start_offset() == 0
        && tensor.bytes().len() == n_elements * 4;
    if fills {
        tensor
    } else {
        FlexTensor::from_data(tensor.into_data())
    }
}

fn for_each_row(out: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < PARALLEL_FROM {
        out.chunks_mut(width)
            .enumerate()
            .for_each(|(n, row)| body(n, row));
    } else {
        let rows_per_task = (PARALLEL_FROM / 2 / width).max(1);
        out.par_chunks_mut(rows_per_task * width)
            .enumerate()
            .for_each(|(task, rows)| {
                for (n, row) in rows.chunks_mut(width).enumerate() {
                    body(task * rows_per_task + n, row);
                }
            });
    }
}
