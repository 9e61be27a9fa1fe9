//! What a vocabulary head says of single tokens, without its logits in memory.

use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Activations, COLUMNS, Packed, Product, ROWS_AT_A_TIME};
use crate::kernels::{TokenScore, simd};

/// Parts of the vocabulary whose scores are summed apart. Not a number of threads: a sum of other parts is
/// rounded otherwise, and one model would have other scores on another machine.
const VOCABULARY_PARTS: usize = 32;

/// Scores of `targets[row]` under the logits `rows * weightᵀ`, which never exist as a whole.
pub(in crate::kernels) fn scored(
    rows: &FlexTensor,
    weight: &FlexTensor,
    targets: &[u32],
) -> Vec<TokenScore> {
    match weight.dtype() {
        DType::BF16 => scored_of::<bf16>(rows, weight, targets),
        DType::F16 => scored_of::<f16>(rows, weight, targets),
        _ => scored_of::<f32>(rows, weight, targets),
    }
}

fn scored_of<W: Packed>(
    rows: &FlexTensor,
    weight: &FlexTensor,
    targets: &[u32],
) -> Vec<TokenScore> {
    let (rows, weight) = (rows.to_contiguous(), weight.to_contiguous());
    let x = Activations::new(&rows);
    let count = x.count;
    let product = Product::<W>::of(&weight, None);
    x.check(&product);
    assert_eq!(targets.len(), count, "one target for each row");
    let rounded = W::rounded(x.vectors, &x);
    let zeros = vec![W::zeroed(); x.width];
    let group = product.panels().div_ceil(VOCABULARY_PARTS);
    let groups: Vec<usize> = (0..product.panels()).step_by(group).collect();
    let score = |first_row: usize| {
        let targets = &targets[first_row..count.min(first_row + ROWS_AT_A_TIME)];
        let one = |&first: &usize| {
            let mut seen = vec![LogitsSeen::default(); targets.len()];
            for panel in first..(first + group).min(product.panels()) {
                let weights = product.rows(panel, &zeros);
                let ids = panel * COLUMNS..((panel + 1) * COLUMNS).min(product.outputs);
                x.tile(
                    rounded.as_deref(),
                    &weights,
                    first_row,
                    targets.len(),
                    |tile| {
                        simd::see_logits(tile, ids.start, ids.len(), targets, &mut seen);
                    },
                );
            }
            seen
        };
        let parts: Vec<Vec<LogitsSeen>> = groups.par_iter().with_max_len(1).map(one).collect();
        let row = |row: usize| {
            parts
                .iter()
                .map(|part| part[row])
                .fold(LogitsSeen::default(), LogitsSeen::and)
        };
        let scores = targets.iter().enumerate();
        scores
            .map(|(n, &target)| row(n).score(target))
            .collect::<Vec<TokenScore>>()
    };
    (0..count).step_by(ROWS_AT_A_TIME).flat_map(score).collect()
}

/// What is known of a row of logits after a part of the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct LogitsSeen {
    pub(in crate::kernels) max: f32,
    /// First id that has it.
    pub(in crate::kernels) best: u32,
    /// Σ e^(logit - max).
    pub(in crate::kernels) sum: f32,
    /// The target's logit, once seen.
    pub(in crate::kernels) chosen: f32,
}

impl Default for LogitsSeen {
    fn default() -> Self {
        Self {
            max: f32::NEG_INFINITY,
            best: u32::MAX,
            sum: 0.0,
            chosen: f32::NEG_INFINITY,
        }
    }
}

impl LogitsSeen {
    /// Both parts; `other`'s ids are the higher ones.
    fn and(self, other: Self) -> Self {
        let (max, best) = if other.max > self.max {
            (other.max, other.best)
        } else {
            (self.max, self.best)
        };
        let scaled = |part: &Self| {
            if part.sum > 0.0 {
                part.sum * (part.max - max).exp()
            } else {
                part.sum
            }
        };
        Self {
            max,
            best,
            sum: scaled(&self) + scaled(&other),
            chosen: self.chosen.max(other.chosen),
        }
    }

    fn score(self, target: u32) -> TokenScore {
        TokenScore {
            logprob: self.chosen - self.max - self.sum.ln(),
            greedy: self.best == target,
        }
    }
}
