//! FLAP (arXiv:2312.11983): one threshold for the standardised scores of the whole stage.

use pdtrim_core::width::StageWidths;

use super::{WidthProblem, WidthStrategy};
use crate::error::Result;

/// Scores are standardised over the inputs of each layer, a group's are averaged, and the lowest go first,
/// from whatever block, until the ratio is reached; so widths differ from block to block. A structure
/// that would overshoot the target by more than half a channel is passed over.
///
/// On the fluctuation of each input (`pdtrim_core::objective::fluctuation`) this is FLAP's adaptive
/// structure search with groups in the place of heads.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{BlockSize, StageWidths};
/// use pdtrim_search::width::{BlockScores, Flap, WidthProblem, WidthStrategy};
///
/// // Half of the channels matter less than all else.
/// let mlp = (0..48).map(|channel| f64::from(channel % 2)).collect();
/// let scores = [BlockScores { block: BlockId::new(1), attention: vec![1.0, 2.0], mlp }];
/// let size = BlockSize::of(&TinyModel::default().config);
/// let given = StageWidths::new();
/// let removed = Flap.choose(&WidthProblem { scores: &scores, size, ratio: 0.1, given: &given })?;
/// let channels = &removed[&BlockId::new(1)].channels;
/// assert!(channels.iter().all(|channel| channel % 2 == 0));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Flap;

/// A group or a channel of a block.
#[derive(Clone, Copy)]
struct Structure {
    score: f64,
    /// Index in the table of scores.
    row: usize,
    is_channel: bool,
    index: usize,
}

impl WidthStrategy for Flap {
    fn name(&self) -> &'static str {
        "flap"
    }

    fn choose(&self, problem: &WidthProblem<'_>) -> Result<StageWidths> {
        problem.check()?;
        let mut structures = Vec::new();
        for (row, scores) in problem.scores.iter().enumerate() {
            let structure = |is_channel| {
                move |(index, score)| Structure {
                    score,
                    row,
                    is_channel,
                    index,
                }
            };
            let groups = problem.group_scores(&standardised(&scores.attention));
            structures.extend(groups.into_iter().enumerate().map(structure(false)));
            let channels = standardised(&scores.mlp).into_iter();
            structures.extend(channels.enumerate().map(structure(true)));
        }
        // Stable: of equal scores the first block's goes first, groups before channels.
        structures.sort_by(|a, b| a.score.total_cmp(&b.score));

        let mut removed = problem.begun();
        let mut gone = problem.removed(&removed);
        let most_gone = problem.target() + problem.size.channel_parameters as f64 / 2.0;
        let [most_groups, most_channels] = problem.most();
        for structure in structures {
            let Some(width) = removed.get_mut(&problem.scores[structure.row].block) else {
                continue;
            };
            let (set, most, parameters) = if structure.is_channel {
                let parameters = problem.size.channel_parameters;
                (&mut width.channels, most_channels, parameters)
            } else {
                let parameters = problem.size.group_parameters;
                (&mut width.groups, most_groups, parameters)
            };
            let parameters = parameters as f64;
            if set.len() < most && gone + parameters <= most_gone && set.insert(structure.index) {
                gone += parameters;
            }
        }
        problem.finished(removed)
    }
}

/// The scores less their mean, over their standard deviation; zeros where that is 0.
fn standardised(scores: &[f64]) -> Vec<f64> {
    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let squares = scores.iter().map(|score| (score - mean).powi(2));
    let deviation = (squares.sum::<f64>() / count).sqrt();
    let scale = if deviation > 0.0 {
        1.0 / deviation
    } else {
        0.0
    };
    scores.iter().map(|score| (score - mean) * scale).collect()
}
