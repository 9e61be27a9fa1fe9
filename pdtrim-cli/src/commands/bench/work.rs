//! What a pass through the model has to compute and to read, from the model's sizes alone.
//!
//! Multiplications and additions count one each. For `r` rows through `b` blocks, each row seeing
//! the positions before it and itself:
//!
//! - matrices: `2 · r · b · (hidden · (2 · q + 2 · kv) + 3 · hidden · intermediate)`;
//! - attention: `4 · heads · head_dim` for each row, block and position seen (scores and mixture);
//! - vocabulary head: `2 · hidden · vocabulary` for each row whose logits are computed;
//! - a block whose keys and values alone are computed: `2 · r · hidden · 2 · kv`.
//!
//! Norms, rotations and the activation are left out (below 1 %). Read are the weights of the blocks,
//! of the last norm and of the head, each once a pass in the element type of the run, and the keys and
//! values that earlier passes left.

use std::ops::{Add, Div, Mul};

use pdtrim_core::pipeline::PdModel;
use pdtrim_core::{Boundary, ModelConfig};
use serde::Serialize;

use crate::session::Session;

/// What is computed and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Work {
    pub(crate) flops: f64,
    pub(crate) weight_bytes: f64,
    pub(crate) kv_bytes: f64,
}

impl Work {
    pub(super) fn bytes(self) -> f64 {
        self.weight_bytes + self.kv_bytes
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            flops: self.flops + other.flops,
            weight_bytes: self.weight_bytes + other.weight_bytes,
            kv_bytes: self.kv_bytes + other.kv_bytes,
        }
    }
}

impl Mul<usize> for Work {
    type Output = Self;

    fn mul(self, times: usize) -> Self {
        let times = times as f64;
        Self {
            flops: self.flops * times,
            weight_bytes: self.weight_bytes * times,
            kv_bytes: self.kv_bytes * times,
        }
    }
}

impl Div<usize> for Work {
    type Output = Self;

    fn div(self, parts: usize) -> Self {
        let parts = parts as f64;
        Self {
            flops: self.flops / parts,
            weight_bytes: self.weight_bytes / parts,
            kv_bytes: self.kv_bytes / parts,
        }
    }
}

/// Rows that go through the model together, reading its weights once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pass {
    /// Blocks that run.
    pub(super) blocks: usize,
    /// Blocks whose keys and values alone are computed.
    pub(super) projected: usize,
    /// Tokens.
    pub(super) rows: usize,
    /// Positions seen, summed over rows and blocks.
    pub(super) seen: usize,
    /// Positions whose keys and values were there before, summed over batch and blocks.
    pub(super) held: usize,
    /// Rows whose logits are computed.
    pub(super) head_rows: usize,
}

impl Pass {
    /// The work of the pass in a model of this shape, with elements of `element_bytes` bytes.
    pub(super) fn work(self, config: &ModelConfig, element_bytes: usize) -> Work {
        let projections = config.hidden_size * 2 * config.kv_size();
        let matrices = config.hidden_size * 2 * config.q_size()
            + projections
            + 3 * config.hidden_size * config.intermediate_size;
        let head = config.hidden_size * config.vocab_size;
        let flops = 2 * self.rows * (self.blocks * matrices + self.projected * projections)
            + 4 * config.q_size() * self.seen
            + 2 * head * self.head_rows;
        let mut weights = self.blocks * config.block_parameters() + self.projected * projections;
        if self.head_rows > 0 {
            weights += head + config.hidden_size;
        }
        Work {
            flops: flops as f64,
            weight_bytes: (weights * element_bytes) as f64,
            kv_bytes: (2 * config.kv_size() * self.held * element_bytes) as f64,
        }
    }
}

/// The passes of a model's two stages.
#[derive(Clone, Copy)]
pub(crate) struct Stages<'a> {
    config: &'a ModelConfig,
    element_bytes: usize,
    boundary: Boundary,
    prefill_blocks: usize,
    decode_blocks: usize,
    projected: usize,
}

impl<'a> Stages<'a> {
    pub(crate) fn new(session: &'a Session, pd: &PdModel<'_>) -> Self {
        let removed = pd.removed();
        let depth = pd.model().dims().n_blocks;
        Self {
            config: session.model.config(),
            element_bytes: session.dtype.size(),
            boundary: pd.boundary(),
            prefill_blocks: depth - removed.prefill.len(),
            decode_blocks: depth - removed.decode.len(),
            projected: removed.prefill.difference(&removed.decode).len(),
        }
    }

    /// Reading `batch` prompts of `tokens` tokens, to the first new token. `sent` positions cross,
    /// summed over blocks, for each prompt.
    pub(crate) fn first_token(self, tokens: usize, batch: usize, sent: usize) -> Work {
        match self.boundary {
            Boundary::Prefill => self.prompt(tokens, batch),
            Boundary::Decode => self.prompt(tokens - 1, batch) + self.step(batch, sent, 0),
        }
    }

    /// A mean step of decode among `steps` after the first new token.
    pub(crate) fn later_token(self, batch: usize, sent: usize, steps: usize) -> Work {
        let own = usize::from(self.boundary == Boundary::Decode);
        let step = |number| self.step(batch, sent, own + number);
        (0..steps).map(step).fold(Work::default(), Work::add) / steps.max(1)
    }

    /// A prompt and one continuation of it, scored, if all of its KV crosses.
    pub(super) fn scored(self, prompt: usize, continuations: &[Vec<u32>]) -> Work {
        let (read, lead) = match self.boundary {
            Boundary::Prefill => (prompt, 0),
            Boundary::Decode => (prompt - 1, 1),
        };
        let mut rows = 0;
        let mut seen = 0;
        for tokens in continuations {
            let fed = tokens.len() - 1 + lead;
            rows += fed;
            seen += fed * read + triangle(fed);
        }
        let pass = Pass {
            blocks: self.decode_blocks,
            rows,
            seen: self.decode_blocks * seen,
            held: self.decode_blocks * read,
            head_rows: rows,
            ..Pass::default()
        };
        let scored = self.prompt(read, 1);
        if rows == 0 {
            return scored;
        }
        scored + pass.work(self.config, self.element_bytes)
    }

    /// `windows` windows of `tokens` tokens in one pass through decode's blocks, each token but the
    /// first predicted.
    pub(super) fn windows(self, tokens: usize, windows: usize) -> Work {
        let rows = tokens - 1;
        let pass = Pass {
            blocks: self.decode_blocks,
            rows: rows * windows,
            seen: self.decode_blocks * windows * triangle(rows),
            head_rows: rows * windows,
            ..Pass::default()
        };
        pass.work(self.config, self.element_bytes)
    }

    fn prompt(self, read: usize, batch: usize) -> Work {
        let pass = Pass {
            blocks: self.prefill_blocks,
            projected: self.projected,
            rows: read * batch,
            seen: self.prefill_blocks * batch * triangle(read),
            held: 0,
            head_rows: if self.boundary == Boundary::Prefill {
                batch
            } else {
                0
            },
        };
        pass.work(self.config, self.element_bytes)
    }

    /// One token for each prompt, after `own` tokens that decode fed before.
    fn step(self, batch: usize, sent: usize, own: usize) -> Work {
        let held = batch * (sent + self.decode_blocks * own);
        let pass = Pass {
            blocks: self.decode_blocks,
            rows: batch,
            seen: held + batch * self.decode_blocks,
            held,
            head_rows: batch,
            ..Pass::default()
        };
        pass.work(self.config, self.element_bytes)
    }
}

/// `1 + 2 + … + n`.
fn triangle(n: usize) -> usize {
    n * (n + 1) / 2
}

#[cfg(test)]
mod tests {
    use pdtrim_core::config::Architecture;
    use pdtrim_core::testing::tiny_config;

    use super::*;

    // By hand, hidden 32, MLP 48, 4 heads of 8, 2 KV heads, 96 tokens: a block's matrices have
    // 32 · (64 + 32) + 3 · 32 · 48 = 7680 elements, with its norms 7744; the head has 3072.
    fn stages(config: &ModelConfig, boundary: Boundary) -> Stages<'_> {
        Stages {
            config,
            element_bytes: 4,
            boundary,
            prefill_blocks: 4,
            decode_blocks: 3,
            projected: 0,
        }
    }

    #[test]
    fn prefill_counts_matrices_attention_and_one_row_of_the_head() {
        let config = tiny_config(Architecture::Llama);
        let work = stages(&config, Boundary::Prefill).first_token(10, 2, 0);
        let matrices = 2 * 20 * 4 * 7680;
        let attention = 4 * 32 * 4 * 2 * 55;
        let head = 2 * 2 * 3072;
        assert_eq!(work.flops as u64, matrices + attention + head);
        assert_eq!(work.weight_bytes as u64, 4 * (4 * 7744 + 3072 + 32));
        assert_eq!(work.kv_bytes as u64, 0);
    }

    #[test]
    fn a_decode_step_reads_weights_once_and_the_kv_of_each_row() {
        let config = tiny_config(Architecture::Llama);
        // 3 blocks of 10 positions cross; the mean of the steps with 0 and with 1 own position.
        let work = stages(&config, Boundary::Prefill).later_token(2, 30, 2);
        let attention = 4 * 32 * 2 * ((30 + 3) + (30 + 6)) / 2;
        let flops = 2 * 2 * 3 * 7680 + attention + 2 * 2 * 3072;
        assert_eq!(work.flops as u64, flops);
        assert_eq!(work.weight_bytes as u64, 4 * (3 * 7744 + 3072 + 32));
        assert_eq!(work.kv_bytes as u64, 4 * 2 * 16 * 2 * (30 + 33) / 2);
    }

    #[test]
    fn with_the_boundary_decode_the_first_token_is_a_step_of_decode() {
        let config = tiny_config(Architecture::Llama);
        let stages = stages(&config, Boundary::Decode);
        let work = stages.first_token(10, 1, 27);
        let prompt = 2 * 9 * 4 * 7680 + 4 * 32 * 4 * 45;
        let step = 2 * 3 * 7680 + 4 * 32 * (27 + 3) + 2 * 3072;
        assert_eq!(work.flops as u64, prompt + step);
        // The second token sees the first one's keys too.
        let second = stages.later_token(1, 27, 1);
        assert_eq!(second.kv_bytes as u64, 4 * 2 * 16 * 30);
    }

    #[test]
    fn windows_and_scored_continuations_count_every_row_that_is_fed() {
        let config = tiny_config(Architecture::Llama);
        let stages = stages(&config, Boundary::Prefill);
        let windows = stages.windows(11, 2);
        let flops = 2 * 20 * 3 * 7680 + 4 * 32 * 3 * 2 * 55 + 2 * 20 * 3072;
        assert_eq!(windows.flops as u64, flops);
        // Three tokens: the first from prefill, two fed at positions 5 and 6.
        let scored = stages.scored(5, &[vec![1, 2, 3]]);
        let prompt = 2 * 5 * 4 * 7680 + 4 * 32 * 4 * 15 + 2 * 3072;
        let fed = 2 * 2 * 3 * 7680 + 4 * 32 * 3 * (6 + 7) + 2 * 2 * 3072;
        assert_eq!(scored.flops as u64, prompt + fed);
    }
}
