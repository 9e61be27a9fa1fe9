//! KL divergence from the dense model's predictions, and its derivative.

use burn::tensor::Tensor;
use rayon::prelude::*;

/// Mean over rows of KL(dense ‖ own) in nats, and its derivative by `own`; both are logits
/// `[rows, vocab_size]` in f32.
///
/// Written out because Burn's operations on rows of this length are single-threaded on the CPU and
/// write each intermediate result: with them the head's logits take longer than the blocks.
pub(super) fn divergence(own: Tensor<2>, dense: Tensor<2>) -> (f64, Tensor<2>) {
    let ([rows, width], device) = (own.dims(), own.device());
    let (mut own, mut dense) = (own.into_data(), dense.into_data());
    let values = own.as_mut_slice::<f32>().expect("logits of an f32 model");
    let others = dense.as_mut_slice::<f32>().expect("logits of an f32 model");
    let pairs = values.par_chunks_mut(width).zip(others.par_chunks(width));
    let totals: Vec<f64> = pairs
        .map(|(own, dense)| row(own, dense, rows as f32))
        .collect();
    let total: f64 = totals.into_iter().sum();
    (total / rows as f64, Tensor::from_data(own, &device))
}

/// The divergence of one row, whose logits become the derivative of the mean over `rows` such.
fn row(own: &mut [f32], dense: &[f32], rows: f32) -> f64 {
    let (own_sum, dense_sum) = (log_sum(own), log_sum(dense));
    let mut total = 0.0;
    for (own, dense) in own.iter_mut().zip(dense) {
        let (own_log, dense_log) = (*own - own_sum, dense - dense_sum);
        let probability = dense_log.exp();
        total += probability * (dense_log - own_log);
        *own = (own_log.exp() - probability) / rows;
    }
    f64::from(total)
}

/// `ln Σ exp`.
fn log_sum(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
    max + sum.ln()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn logits(values: [[f32; 3]; 2]) -> Tensor<2> {
        Tensor::from_data(values, &Device::flex())
    }

    #[test]
    fn the_divergence_is_that_worked_by_hand() {
        // Dense (1/2, 1/4, 1/4), own (1/4, 1/4, 1/2): 1/2 ln 2 - 1/4 ln 2; the second row is the same in both.
        let (half, quarter) = (0.5_f32.ln(), 0.25_f32.ln());
        let dense = logits([[half, quarter, quarter], [1.0, 2.0, 3.0]]);
        let own = logits([[quarter + 3.0, quarter + 3.0, half + 3.0], [1.0, 2.0, 3.0]]);
        let (mean, slope) = divergence(own, dense);
        assert!((mean - 0.25 * 2.0_f64.ln() / 2.0).abs() < 1e-6, "{mean}");
        let slope = slope.into_data();
        let expected = [-0.125, 0.0, 0.125, 0.0, 0.0, 0.0];
        for (found, expected) in slope.as_slice::<f32>().unwrap().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{slope:?}");
        }
    }
}
