//! How far predictions move from the dense model's.

use burn::tensor::{DType, Tensor, TensorData};

use super::CalibrationLoss;
use super::loss::Measure;
use super::stream::last_position;
use crate::block::BlockId;
use crate::error::Result;
use crate::model::BlockModel;
use crate::stage::PerStage;

/// Rows whose logits exist at a time, the dense model's beside the candidate's: 64 of 49152 take 12.6 MB.
const DIVERGENCE_ROWS: usize = 64;

/// What leaves the dense model's last block where predictions count, window by window
/// `[rows, hidden]`. Logits are made of it again when they are compared: kept, they would be a
/// hundred times as large.
pub(super) struct DenseRows(Vec<Tensor<2>>);

impl<'a> CalibrationLoss<'a> {
    /// The same windows and rows, but what a candidate costs is the mean over the rows of
    /// KL(dense ‖ candidate) of the next token's distribution, in nats and at least 0, instead of a
    /// target's negative log-likelihood. It sees changes that happen to spare the text at hand. The
    /// dense model costs 0.
    ///
    /// The dense model, this loss's own models with every block, is run once, here. Sums are f64.
    ///
    /// # Errors
    ///
    /// As [`Objective::costs`](super::Objective::costs).
    pub fn divergence(&self) -> Result<CalibrationLoss<'a>> {
        self.check_length()?;
        let mut loss = Self::of_both(self.models, self.calibration, self.rows, self.boundary);
        loss.measure = Measure::Divergence(self.dense_rows()?);
        Ok(loss)
    }

    fn dense_rows(&self) -> Result<DenseRows> {
        let depth = self.model().dims().n_blocks;
        let dense = PerStage::dense(depth);
        let passage = self.passage();
        let mut streams = passage.enter(&self.windows(&self.all_units()))?;
        for id in (0..depth).map(BlockId::new) {
            for stream in &mut streams {
                passage.step(id, &dense, stream);
            }
        }
        let rows = streams.into_iter().flat_map(|stream| {
            let last = passage.split.prefill_predicts();
            let last = stream.prompt.as_ref().filter(|_| last).map(last_position);
            rows_by_window(last.as_ref(), stream.continuation.as_ref())
        });
        Ok(DenseRows(rows.collect()))
    }
}

impl DenseRows {
    /// Mean divergence of each of the windows `units`, whose final hidden states these are.
    pub(super) fn divergence(
        &self,
        model: &dyn BlockModel,
        units: &[usize],
        last: Option<&Tensor<2>>,
        continuation: Option<&Tensor<3>>,
    ) -> Vec<f64> {
        let rows = rows_by_window(last, continuation);
        let mean = |(&unit, rows): (&usize, Tensor<2>)| {
            let [count, _] = rows.dims();
            let chunks = (0..count).step_by(DIVERGENCE_ROWS);
            let sum: f64 = chunks
                .map(|from| {
                    let length = DIVERGENCE_ROWS.min(count - from);
                    let chunk = |rows: &Tensor<2>| rows.clone().narrow(0, from, length);
                    of_rows(model, chunk(&self.0[unit]), chunk(&rows))
                })
                .sum();
            sum / count as f64
        };
        units.iter().zip(rows).map(mean).collect()
    }
}

/// The rows of each window: the one that prefill predicts from, then decode's.
fn rows_by_window(last: Option<&Tensor<2>>, continuation: Option<&Tensor<3>>) -> Vec<Tensor<2>> {
    let windows = last
        .map(|last| last.dims()[0])
        .or(continuation.map(|hidden| hidden.dims()[0]));
    let window = |n: usize| {
        let last = last.map(|last| last.clone().narrow(0, n, 1));
        let rest = continuation.map(|hidden| {
            let [_, seq, width] = hidden.dims();
            hidden.clone().narrow(0, n, 1).reshape([seq, width])
        });
        Tensor::cat(last.into_iter().chain(rest).collect(), 0)
    };
    (0..windows.unwrap_or(0)).map(window).collect()
}

/// Sum over rows of the divergence of what `model` predicts after `other` from what it predicts after
/// `dense`, both hidden states `[rows, hidden]`.
fn of_rows(model: &dyn BlockModel, dense: Tensor<2>, other: Tensor<2>) -> f64 {
    let host = |hidden| model.logits(hidden).cast(DType::F32).into_data();
    let (dense, other) = (host(dense), host(other));
    let rows = |data| values(data).chunks_exact(model.dims().vocab_size);
    let pairs = rows(&dense).zip(rows(&other));
    pairs.map(|(dense, other)| of_logits(dense, other)).sum()
}

fn values(data: &TensorData) -> &[f32] {
    data.as_slice::<f32>().expect("cast to f32")
}

/// KL(softmax(p) ‖ softmax(q)) in nats.
fn of_logits(p: &[f32], q: &[f32]) -> f64 {
    let (p_total, q_total) = (log_sum_exp(p), log_sum_exp(q));
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let p = f64::from(p) - p_total;
        p.exp() * (p - (f64::from(q) - q_total))
    });
    // Below 0 only by rounding.
    terms.sum::<f64>().max(0.0)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - max).exp())
        .sum();
    max + sum.ln()
}

#[cfg(test)]
mod reference_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_of_two_distributions_is_that_worked_by_hand() {
        // p = (1/4, 3/4), q = (1/2, 1/2); a constant added to logits changes nothing.
        let p = [7.0, 7.0 + 3.0_f32.ln()];
        let q = [-2.0, -2.0];
        let by_hand = 0.25 * 0.5_f64.ln() + 0.75 * 1.5_f64.ln();
        assert!((of_logits(&p, &q) - by_hand).abs() < 1e-6);
        let other_way = 0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        assert!((of_logits(&q, &p) - other_way).abs() < 1e-6);
        assert!(of_logits(&p, &p).abs() < 1e-15);
    }
}
