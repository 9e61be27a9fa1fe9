//! Where a prompt's queries look in the prompt.

use burn::tensor::{DType, Int, Tensor, TensorData};
use rayon::prelude::*;

/// Query rows at a time: the scores of all of a long prompt's would fill the memory.
const ROWS: usize = 256;

/// Attention `[batch][n_kv_heads][place]` that `queries` `[batch, rows, n_heads, head_dim]`, those of the last
/// positions, put on each place of `keys` `[batch, places, n_kv_heads, head_dim]`: summed over the queries and
/// the heads that share a key, causal. Of more than `most` queries as many as that, in equal steps, speak for all.
pub(crate) fn mass(queries: &Tensor<4>, keys: &Tensor<4>, most: usize) -> Vec<Vec<Vec<f32>>> {
    let [batch, rows, n_heads, width] = queries.dims();
    let [_, places, n_kv_heads, _] = keys.dims();
    let group = n_heads / n_kv_heads;
    // [batch, n_kv_heads, width, places]
    let keys = keys.clone().cast(DType::F32).permute([0, 2, 3, 1]);
    let device = keys.device();
    let mut asked: Vec<usize> = (0..rows)
        .rev()
        .step_by(rows.div_ceil(most.max(1)).max(1))
        .collect();
    asked.reverse();
    let mut sums = vec![vec![0.0_f32; places]; batch * n_kv_heads];
    for asked in asked.chunks(ROWS) {
        let seq = asked.len();
        // The query of row r is at place `places - rows + r`, and sees that and all before.
        let seen: Vec<usize> = asked.iter().map(|row| places - rows + row + 1).collect();
        let visible = seen[seq - 1];
        let indices: Vec<i32> = asked.iter().map(|&row| row as i32).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [seq]), &device);
        let queries = queries.clone().select(1, indices).cast(DType::F32) / (width as f64).sqrt();
        // A key head's query heads one below the other: [batch, n_kv_heads, group * seq, width]
        let queries = queries.permute([0, 2, 1, 3]);
        let queries = queries.reshape([batch, n_kv_heads, group * seq, width]);
        let scores = queries
            .matmul(keys.clone().narrow(3, 0, visible))
            .into_data();
        let mut scores: Vec<f32> = scores
            .convert::<f32>()
            .try_into_vec()
            .expect("just converted");
        let heads = scores.par_chunks_exact_mut(group * seq * visible);
        heads.zip(&mut sums).for_each(|(scores, sum)| {
            let rows = scores.chunks_exact_mut(visible);
            for (scores, &seen) in rows.zip(seen.iter().cycle()) {
                add_softmax(&mut scores[..seen], sum);
            }
        });
    }
    let rows = sums.chunks_exact(n_kv_heads);
    rows.map(<[Vec<f32>]>::to_vec).collect()
}

/// Adds the softmax of `scores`.
fn add_softmax(scores: &mut [f32], sum: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut all = 0.0;
    for score in &mut *scores {
        *score = (*score - highest).exp();
        all += *score;
    }
    let scale = 1.0 / all;
    for (sum, score) in sum.iter_mut().zip(scores) {
        *sum += *score * scale;
    }
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
    fn fewer_queries_speak_for_all_and_the_last_is_one_of_them() {
        let (_, queries) = numbers([1, 10, 2, 4], 0.3);
        let (_, keys) = numbers([1, 12, 1, 4], 1.9);
        let some = mass(&queries, &keys, 4);
        let of_row = |row: usize| {
            mass(
                &queries.clone().narrow(1, 0, row + 1),
                &keys.clone().narrow(1, 0, row + 3),
                1,
            )
        };
        // Every third, from the last: 0, 3, 6 and 9.
        let rows = [0, 3, 6, 9].map(of_row);
        for (place, found) in some[0][0].iter().enumerate() {
            let of_row = |row: &Vec<Vec<Vec<f32>>>| row[0][0].get(place).copied().unwrap_or(0.0);
            let expected: f32 = rows.iter().map(of_row).sum();
            assert!(
                (found - expected).abs() < 1e-5,
                "{place}: {found} {expected}"
            );
        }
    }

    #[test]
    fn mass_is_that_of_causal_attention_summed_over_queries_and_shared_heads() {
        let (batch, places, kv, group, width) = (2, 300, 2, 2, 4);
        // More rows than are computed at a time, and fewer than there are places.
        let rows = 270;
        let (q, queries) = numbers([batch, rows, kv * group, width], 0.3);
        let (k, keys) = numbers([batch, places, kv, width], 1.9);
        let found = mass(&queries, &keys, usize::MAX);
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
