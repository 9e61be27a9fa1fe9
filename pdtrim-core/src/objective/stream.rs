//! The calibration windows on their way through the blocks, both stages side by side.
//!
//! Decode at block l needs nothing of prefill but block l's keys and values, so the two stages can
//! move through the stack together, block by block. That is what makes a candidate cheap: everything
//! before the first block in which it differs from the others is shared.

use burn::tensor::Tensor;

use super::Rows;
use super::{Calibration, DistilledPairs};
use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, TokenPosition};
use crate::error::Result;
use crate::kernels::select_rows;
use crate::model::{BlockModel, hand_groups, token_tensor};
use crate::stage::{Boundary, PerStage, Stage};

/// Tokens that run through a block as one batch; more would only cost memory.
const GROUP_TOKENS: usize = 4096;
/// Rows that are scored at a time: where logits have to be written, 512 rows of 49152 take 100 MB.
const HEAD_ROWS: usize = 512;

/// What the windows' tokens are to the two stages: prefill reads `[0, read)`, decode is fed
/// `[read, fed)` and predicts from `first_target` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) read: usize,
    pub(super) fed: usize,
    /// First token whose prediction counts.
    first_target: usize,
}

impl Split {
    pub(super) fn new(calibration: &Calibration, rows: Rows, boundary: Boundary) -> Self {
        let (length, prompt) = (calibration.window_tokens(), calibration.prompt_tokens());
        let (read, first_target) = match (rows, boundary) {
            (Rows::All, _) => (0, 1),
            (Rows::Continuation, Boundary::Prefill) => (prompt, prompt),
            (Rows::Continuation, Boundary::Decode) => (prompt - 1, prompt),
        };
        Self {
            read,
            fed: length - 1,
            first_target,
        }
    }

    /// Whether the first prediction that counts is prefill's.
    pub(super) fn prefill_predicts(self) -> bool {
        self.first_target == self.read && self.read > 0
    }

    /// Predictions of a window that count.
    pub(super) fn targets(self) -> usize {
        self.fed - self.read + usize::from(self.prefill_predicts())
    }

    /// What the last prompt position of each window predicts.
    pub(super) fn prefill_targets(self, windows: &[&[u32]]) -> Vec<u32> {
        windows
            .iter()
            .map(|window| window[self.first_target])
            .collect()
    }

    /// What the positions that decode is fed predict, window by window.
    pub(super) fn decode_targets(self, windows: &[&[u32]]) -> Vec<u32> {
        let targets = windows
            .iter()
            .flat_map(|window| &window[self.read + 1..=self.fed]);
        targets.copied().collect()
    }

    /// The same, but decode is also fed the last token, whose prediction nobody knows.
    pub(super) fn with_last_token(self) -> Self {
        Self {
            fed: self.fed + 1,
            ..self
        }
    }
}

/// Hidden states of a group of windows between two blocks.
#[derive(Clone)]
pub(super) struct Stream {
    /// `[batch, read, hidden]`; `None` if prefill reads nothing or its KV is known.
    pub(super) prompt: Option<Tensor<3>>,
    /// `[batch, fed - read, hidden]`; `None` if decode is fed nothing.
    pub(super) continuation: Option<Tensor<3>>,
}

impl Stream {
    /// Memory that the hidden states take.
    pub(super) fn bytes(&self) -> usize {
        let hidden = [&self.prompt, &self.continuation].into_iter().flatten();
        let bytes =
            |hidden: &Tensor<3>| hidden.dims().iter().product::<usize>() * hidden.dtype().size();
        hidden.map(bytes).sum()
    }
}

/// Everything that is the same for all candidates.
pub(super) struct Passage<'a> {
    pub(super) models: PerStage<&'a dyn BlockModel>,
    pub(super) split: Split,
    /// Last prompt positions whose queries stay with the prompt's cache.
    pub(super) observes: usize,
    /// Blocks that stand for pairs.
    pub(super) pairs: Option<PerStage<DistilledPairs<'a>>>,
}

impl<'a> Passage<'a> {
    pub(super) fn new(models: PerStage<&'a dyn BlockModel>, split: Split) -> Self {
        Self {
            models,
            split,
            observes: 0,
            pairs: None,
        }
    }

    /// What `stage` runs as block `id` without the blocks in `removed`.
    fn model(&self, stage: Stage, id: BlockId, removed: &BlockSet) -> &'a dyn BlockModel {
        let pairs = self.pairs.as_ref().map(|pairs| pairs.of(stage));
        let pairs = pairs.filter(|pairs| pairs.stands(id, removed));
        pairs.map_or(*self.models.of(stage), DistilledPairs::model)
    }

    /// Embeds the windows, in groups.
    pub(super) fn enter(&self, windows: &[&[u32]]) -> Result<Vec<Stream>> {
        let group = (GROUP_TOKENS / windows[0].len()).max(1);
        windows
            .chunks(group)
            .map(|group| self.enter_group(group))
            .collect()
    }

    fn enter_group(&self, windows: &[&[u32]]) -> Result<Stream> {
        let embed = |model: &dyn BlockModel, from: usize, to: usize| {
            let rows: Vec<&[u32]> = windows.iter().map(|window| &window[from..to]).collect();
            let embedded =
                |rows: &[&[u32]]| Ok(model.embed(token_tensor(model, rows)?, TokenPosition(from)));
            (from < to).then(|| embedded(&rows)).transpose()
        };
        let Split { read, fed, .. } = self.split;
        Ok(Stream {
            prompt: embed(self.models.prefill, 0, read)?,
            continuation: embed(self.models.decode, read, fed)?,
        })
    }

    /// Runs block `id` in the stages that keep it. A block that only prefill removes still gives its
    /// keys and values (`kv_fill = "project"`).
    pub(super) fn step(&self, id: BlockId, removed: &PerStage<BlockSet>, stream: &mut Stream) {
        let decode_keeps = !removed.decode.contains(id);
        if removed.prefill.contains(id) && !decode_keeps {
            return;
        }
        let cache = self.step_prompt(id, &removed.prefill, &mut stream.prompt);
        let Some(continuation) = stream.continuation.take_if(|_| decode_keeps) else {
            return;
        };
        let cache = cache.unwrap_or_else(|| BlockCache::with_capacity(0));
        let continuation = self.step_continuation(id, &removed.decode, continuation, cache);
        stream.continuation = Some(continuation);
    }

    /// Runs the prompt through block `id`, or, if prefill is without it, only projects it; returns the keys
    /// and values of the head groups that decode has there.
    pub(super) fn step_prompt(
        &self,
        id: BlockId,
        removed: &BlockSet,
        prompt: &mut Option<Tensor<3>>,
    ) -> Option<BlockCache> {
        let hidden = prompt.take()?;
        let model = self.model(Stage::Prefill, id, removed);
        let start = TokenPosition(0);
        let mut cache = BlockCache::with_capacity(0).observing(self.observes);
        if removed.contains(id) {
            model.project_kv(id, hidden.clone(), start, &mut cache);
            *prompt = Some(hidden);
        } else {
            *prompt = Some(model.run_block(id, hidden, start, &mut cache));
        }
        hand_groups(self.models, id, &mut cache);
        Some(cache)
    }

    /// Runs the continuation through block `id`, which decode keeps without those in `removed`.
    pub(super) fn step_continuation(
        &self,
        id: BlockId,
        removed: &BlockSet,
        hidden: Tensor<3>,
        mut cache: BlockCache,
    ) -> Tensor<3> {
        let model = self.model(Stage::Decode, id, removed);
        let start = TokenPosition(self.split.read);
        model.run_block(id, hidden, start, &mut cache)
    }

    /// Mean negative log-likelihood of each window's targets, in nats.
    ///
    /// `last` are the prompt's final hidden states `[batch, hidden]`, wanted when prefill predicts.
    pub(super) fn leave(
        &self,
        windows: &[&[u32]],
        last: Option<Tensor<2>>,
        continuation: Option<Tensor<3>>,
    ) -> Vec<f64> {
        let mut sums = vec![0.0; windows.len()];
        let mut add = |model: &dyn BlockModel, hidden: Tensor<2>, targets: &[u32]| {
            let per_window = targets.len() / windows.len();
            for (n, targets) in targets.chunks(HEAD_ROWS).enumerate() {
                let rows = hidden.clone().narrow(0, n * HEAD_ROWS, targets.len());
                let scores = model.token_scores(rows, targets);
                for (row, score) in (n * HEAD_ROWS..).zip(scores) {
                    sums[row / per_window] -= f64::from(score.logprob);
                }
            }
        };
        if self.split.prefill_predicts() {
            let last = last.expect("a prompt that predicts was run");
            add(
                self.models.prefill,
                last,
                &self.split.prefill_targets(windows),
            );
        }
        if let Some(continuation) = continuation {
            let [batch, seq, width] = continuation.dims();
            let Split { read, fed, .. } = self.split;
            debug_assert_eq!(seq, fed - read, "decode was fed this many tokens");
            let rows = continuation.reshape([batch * seq, width]);
            add(
                self.models.decode,
                rows,
                &self.split.decode_targets(windows),
            );
        }
        let count = self.split.targets();
        sums.into_iter().map(|sum| sum / count as f64).collect()
    }
}

/// The last position's rows `[batch, hidden]` of hidden states `[batch, seq, hidden]`.
pub(super) fn last_position(hidden: &Tensor<3>) -> Tensor<2> {
    let [batch, seq, width] = hidden.dims();
    let rows: Vec<usize> = (0..batch).map(|row| row * seq + seq - 1).collect();
    select_rows(hidden.clone().reshape([batch * seq, width]), &rows)
}
