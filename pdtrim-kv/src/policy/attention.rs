//! Where a prompt's last queries look in the prompt.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Tensor};

/// Query rows at a time: the scores of all of a long prompt's would fill the memory.
const ROWS: usize = 256;

/// Attention `[batch][n_kv_heads][place]` that `queries` `[batch, rows, n_heads, head_dim]`, those of the last
/// positions, put on each place of `keys` `[batch, places, n_kv_heads, head_dim]`: summed over the queries and
/// the heads that share a key, causal.
pub(super) fn mass(queries: &Tensor<4>, keys: &Tensor<4>) -> Vec<Vec<Vec<f32>>> {
    let [batch, rows, n_heads, width] = queries.dims();
    let [_, places, n_kv_heads, _] = keys.dims();
    let group = n_heads / n_kv_heads;
    // [batch, n_kv_heads, width, places]
    let keys = keys.clone().cast(DType::F32).permute([0, 2, 3, 1]);
    let mut sum: Option<Tensor<4>> = None;
    for first in (0..rows).step_by(ROWS) {
        let seq = ROWS.min(rows - first);
        let queries = queries.clone().narrow(1, first, seq).cast(DType::F32);
        // A key head's query heads one below the other: [batch, n_kv_heads, group * seq, width]
        let queries =
            queries
                .permute([0, 2, 1, 3])
                .reshape([batch, n_kv_heads, group * seq, width]);
        let scores = queries.matmul(keys.clone()) / (width as f64).sqrt();
        let scores = scores.reshape([batch, n_heads, seq, places]);
        // Query r of these is at place `places - rows + first + r`, and sees that and all before.
        let offset = (places - rows + first) as i64;
        let unseen = Tensor::<2, Bool>::tril_mask([seq, places], offset, &scores.device());
        let unseen = unseen
            .reshape([1, 1, seq, places])
            .expand([batch, n_heads, seq, places]);
        let weights = softmax(scores.mask_fill(unseen, f32::NEG_INFINITY), 3);
        let weights = weights
            .reshape([batch, n_kv_heads, group * seq, places])
            .sum_dim(2);
        sum = Some(match sum {
            Some(sum) => sum + weights,
            None => weights,
        });
    }
    let flat: Vec<f32> = sum.map_or_else(
        || vec![0.0; batch * n_kv_heads * places],
        |sum| {
            sum.into_data()
                .convert::<f32>()
                .try_into_vec()
                .expect("just converted")
        },
    );
    let row = |row: &[f32]| row.chunks(places).map(<[f32]>::to_vec).collect();
    flat.chunks(n_kv_heads * places).map(row).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Numbers in about -1..1 that depend on nothing but their place.
    fn numbers(shape: [usize; 4], seed: f32) -> (Vec<f32>, Tensor<4>) {
        let n: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..n).map(|n| (n as f32 * 0.7 + seed).sin()).collect();
        let data = TensorData::new(numbers.clone(), shape);
        (numbers, Tensor::from_data(data, &Device::flex()))
    }

    #[test]
    fn mass_is_that_of_causal_attention_summed_over_queries_and_shared_heads() {
        let (batch, places, kv, group, width) = (2, 300, 2, 2, 4);
        // More rows than are computed at a time, and fewer than there are places.
        let rows = 270;
        let (q, queries) = numbers([batch, rows, kv * group, width], 0.3);
        let (k, keys) = numbers([batch, places, kv, width], 1.9);
        let found = mass(&queries, &keys);
        for b in 0..batch {
            for head in 0..kv {
                let mut expected = vec![0.0_f64; places];
                for query in (0..group).map(|shared| head * group + shared) {
                    for row in 0..rows {
                        let seen = places - rows + row + 1;
                        let dot = |place: usize| -> f64 {
                            let q = &q[((b * rows + row) * kv * group + query) * width..];
                            let k = &k[((b * places + place) * kv + head) * width..];
                            let dot: f64 =
                                (0..width).map(|c| f64::from(q[c]) * f64::from(k[c])).sum();
                            (dot / (width as f64).sqrt()).exp()
                        };
                        let all: f64 = (0..seen).map(dot).sum();
                        for (place, expected) in expected.iter_mut().enumerate().take(seen) {
                            *expected += dot(place) / all;
                        }
                    }
                }
                for (found, expected) in found[b][head].iter().zip(expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 1e-3,
                        "{found} {expected}"
                    );
                }
            }
        }
    }
}
