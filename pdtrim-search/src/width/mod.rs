//! What is removed inside the blocks that stay: head groups of the attention and channels of the MLP.
//!
//! A [`WidthStrategy`] sees tables of scores and sizes, no model. It answers with what one stage does
//! without; the groups that prefill is without are given to decode, since decode cannot have them.

mod flap;
mod llm_pruner;

pub use flap::Flap;
pub use llm_pruner::LlmPruner;

use pdtrim_core::BlockId;
use pdtrim_core::width::{BlockSize, RemovedWidth, StageWidths};

use crate::error::{Error, Result};

/// Of every this many MLP channels of a block, one stays at least.
const CHANNELS_OF_ONE: usize = 16;

/// Scores of what may be removed from one block; higher = more worth keeping.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_search::width::BlockScores;
///
/// // Two head groups, of which the second is worth more, and three channels.
/// let (attention, mlp) = (vec![0.5, 2.0], vec![1.0, 0.1, 3.0]);
/// let scores = BlockScores { block: BlockId::new(1), attention, mlp };
/// assert_eq!(scores.mlp.len(), 3);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BlockScores {
    /// The block.
    pub block: BlockId,
    /// Scores of the attention's inputs or groups, equally many for each group, group by group.
    pub attention: Vec<f64>,
    /// A score for each MLP channel.
    pub mlp: Vec<f64>,
}

/// What is asked for one stage.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{BlockSize, StageWidths};
/// use pdtrim_search::width::{BlockScores, Flap, WidthProblem, WidthStrategy};
///
/// let scores = [1, 2].map(|block| BlockScores {
///     block: BlockId::new(block),
///     attention: vec![1.0, 2.0],
///     mlp: (0..48).map(f64::from).collect(),
/// });
/// let size = BlockSize::of(&TinyModel::default().config);
/// let problem = WidthProblem { scores: &scores, size, ratio: 0.2, given: &StageWidths::new() };
/// let removed = Flap.choose(&problem)?;
/// let gone: usize = removed.values().map(|width| size.removed_parameters(width)).sum();
/// let share = gone as f64 / (2 * size.parameters()) as f64;
/// assert!((share - 0.2).abs() < 0.01);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WidthProblem<'s> {
    /// Scores of the blocks that the stage keeps, ascending.
    pub scores: &'s [BlockScores],
    /// What each block consists of.
    pub size: BlockSize,
    /// Share of the parameters of these blocks' groups and channels to remove.
    pub ratio: f64,
    /// What prefill is without: decode is without those groups too. Channels are not looked at.
    pub given: &'s StageWidths,
}

/// A way to choose widths.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{BlockSize, RemovedWidth, StageWidths};
/// use pdtrim_search::Result;
/// use pdtrim_search::width::{BlockScores, WidthProblem, WidthStrategy};
///
/// /// The first channels of every block, whatever they score.
/// struct FirstChannels;
///
/// impl WidthStrategy for FirstChannels {
///     fn name(&self) -> &'static str {
///         "first-channels"
///     }
///
///     fn choose(&self, problem: &WidthProblem<'_>) -> Result<StageWidths> {
///         let share = problem.ratio * problem.size.parameters() as f64;
///         let count = (share / problem.size.channel_parameters as f64).round() as usize;
///         let narrow = |block: &BlockScores| {
///             let groups = problem.given.get(&block.block).map(|given| given.groups.clone());
///             let groups = groups.unwrap_or_default();
///             (block.block, RemovedWidth { groups, channels: (0..count).collect() })
///         };
///         Ok(problem.scores.iter().map(narrow).collect())
///     }
/// }
///
/// let id = BlockId::new(1);
/// let scores = [BlockScores { block: id, attention: vec![1.0; 2], mlp: vec![1.0; 48] }];
/// let size = BlockSize::of(&TinyModel::default().config);
/// let given = StageWidths::new();
/// let problem = WidthProblem { scores: &scores, size, ratio: 0.1, given: &given };
/// assert_eq!(FirstChannels.choose(&problem)?[&id].channels.to_string(), "0-7");
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
pub trait WidthStrategy: Sync {
    /// Its name in plans and reports.
    fn name(&self) -> &'static str;

    /// What the stage does without: as near to the ratio as whole groups and channels come. Each block
    /// keeps a group and a sixteenth of its channels.
    ///
    /// # Errors
    ///
    /// [`Error::WidthRatio`] for a ratio that cannot be reached, [`Error::WidthScores`] for a table of
    /// another size or with a score that is no number.
    fn choose(&self, problem: &WidthProblem<'_>) -> Result<StageWidths>;
}

impl WidthProblem<'_> {
    /// Refuses tables that do not fit the sizes, and shares that are none.
    fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.ratio) {
            return Err(self.unreachable(1.0));
        }
        for scores in self.scores {
            let finite = |scores: &[f64]| scores.iter().all(|score| score.is_finite());
            let fits = scores.mlp.len() == self.size.channels
                && !scores.attention.is_empty()
                && scores.attention.len().is_multiple_of(self.size.groups);
            if !(fits && finite(&scores.attention) && finite(&scores.mlp)) {
                return Err(Error::WidthScores {
                    block: scores.block.index(),
                });
            }
        }
        Ok(())
    }

    /// Parameters to remove.
    fn target(&self) -> f64 {
        self.ratio * self.parameters()
    }

    fn parameters(&self) -> f64 {
        (self.scores.len() * self.size.parameters()) as f64
    }

    /// The mean score of each group of a block.
    fn group_scores(&self, attention: &[f64]) -> Vec<f64> {
        let in_group = attention.len() / self.size.groups;
        let groups = attention.chunks(in_group);
        groups
            .map(|scores| scores.iter().sum::<f64>() / in_group as f64)
            .collect()
    }

    /// The blocks with the groups that are gone already.
    fn begun(&self) -> StageWidths {
        let block = |scores: &BlockScores| {
            let given = self.given.get(&scores.block);
            let groups = given.map(|given| given.groups.clone()).unwrap_or_default();
            let width = RemovedWidth {
                groups,
                ..RemovedWidth::default()
            };
            (scores.block, width)
        };
        self.scores.iter().map(block).collect()
    }

    /// Parameters that `removed` is without.
    fn removed(&self, removed: &StageWidths) -> f64 {
        let widths = removed.values();
        let sum: usize = widths
            .map(|width| self.size.removed_parameters(width))
            .sum();
        sum as f64
    }

    /// Groups and channels that may be removed from a block.
    fn most(&self) -> [usize; 2] {
        [
            self.size.groups - 1,
            self.size.channels - self.size.channels.div_ceil(CHANNELS_OF_ONE),
        ]
    }

    /// Refuses an answer that is further from the target than a group.
    fn finished(&self, mut removed: StageWidths) -> Result<StageWidths> {
        let reached = self.removed(&removed);
        let tolerance = self.size.group_parameters.max(self.size.channel_parameters) as f64;
        if (reached - self.target()).abs() > tolerance {
            return Err(self.unreachable(reached / self.parameters()));
        }
        removed.retain(|_, width| !width.is_empty());
        Ok(removed)
    }

    fn unreachable(&self, reached: f64) -> Error {
        Error::WidthRatio {
            ratio: self.ratio,
            reached,
        }
    }
}

#[cfg(test)]
mod tests;
