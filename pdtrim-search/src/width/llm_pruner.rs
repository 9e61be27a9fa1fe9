//! LLM-Pruner (arXiv:2305.11627): the same share of every block between the first few and the last few.

use pdtrim_core::width::StageWidths;

use super::{WidthProblem, WidthStrategy};
use crate::error::Result;

/// From each block of the middle the lowest groups and the lowest channels go: groups the rounded share
/// that reaches the ratio over all blocks, channels as many as then are missing, equally many in each
/// block but for a remainder of one. The first eighth of the blocks and the last sixteenth keep everything, which for 32
/// blocks are the authors' layers 4 to 29.
///
/// Its scores are the first-order importances of coupled weights
/// (`pdtrim_core::objective::coupled_importance`).
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{BlockSize, StageWidths};
/// use pdtrim_search::width::{BlockScores, LlmPruner, WidthProblem, WidthStrategy};
///
/// let alike = |block| BlockScores {
///     block: BlockId::new(block),
///     attention: vec![1.0, 2.0],
///     mlp: (0..48).map(f64::from).collect(),
/// };
/// let scores: Vec<BlockScores> = (0..16).map(alike).collect();
/// let size = BlockSize::of(&TinyModel::default().config);
/// let given = StageWidths::new();
/// let removed = LlmPruner.choose(&WidthProblem { scores: &scores, size, ratio: 0.1, given: &given })?;
/// // The first two and the last of 16 blocks keep everything.
/// let narrow: Vec<usize> = removed.keys().map(|id| id.index()).collect();
/// assert_eq!(narrow, (2..15).collect::<Vec<_>>());
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct LlmPruner;

impl WidthStrategy for LlmPruner {
    fn name(&self) -> &'static str {
        "llm-pruner"
    }

    fn choose(&self, problem: &WidthProblem<'_>) -> Result<StageWidths> {
        problem.check()?;
        let blocks = problem.scores.len();
        let (first, last) = (nearest(blocks, 8), nearest(blocks, 16));
        let middle = &problem.scores[first..blocks - last];
        let mut removed = problem.begun();
        if middle.is_empty() {
            return problem.finished(removed);
        }
        let [most_groups, most_channels] = problem.most();
        let size = problem.size;
        let share = problem.target() / (middle.len() * size.parameters()) as f64;
        let groups = ((share * size.groups as f64).round() as usize).min(most_groups);
        for scores in middle {
            if let Some(width) = removed.get_mut(&scores.block) {
                for index in ascending(&problem.group_scores(&scores.attention)) {
                    if width.groups.len() < groups {
                        width.groups.insert(index);
                    }
                }
            }
        }
        let missing = (problem.target() - problem.removed(&removed)).max(0.0);
        let channels = (missing / size.channel_parameters as f64).round() as usize;
        let (each, more) = (channels / middle.len(), channels % middle.len());
        for (place, scores) in middle.iter().enumerate() {
            if let Some(width) = removed.get_mut(&scores.block) {
                let count = (each + usize::from(place < more)).min(most_channels);
                width.channels = ascending(&scores.mlp).into_iter().take(count).collect();
            }
        }
        problem.finished(removed)
    }
}

/// `blocks / parts`, rounded.
fn nearest(blocks: usize, parts: usize) -> usize {
    (blocks + parts / 2) / parts
}

/// Indices of the scores, the lowest first; of equal ones the lower index.
fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order
}
