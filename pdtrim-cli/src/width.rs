//! Chooses what blocks do without inside, for every command that asks for it.

use anyhow::{Context, Result};
use pdtrim_core::model::Llama;
use pdtrim_core::objective::{
    Calibration, InputMoments, InputScores, StageMoments, WidthPass, compensation,
    coupled_importance, fluctuation,
};
use pdtrim_core::width::{BlockSize, StageWidths, Widths};
use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage, Stage};
use pdtrim_search::width::{BlockScores, WidthProblem, WidthStrategy};

use crate::args::WidthArg;

/// How much each stage is to do without, as a share of the parameters of its blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WidthTarget {
    /// One choice for both stages.
    Unified(f64),
    /// A choice for each.
    Stages(PerStage<f64>),
}

/// What is to be narrower, and on which windows that is measured.
pub(crate) struct WidthJob<'a> {
    pub(crate) model: &'a Llama,
    pub(crate) calibration: &'a Calibration,
    /// Blocks that are not there at all.
    pub(crate) removed: &'a PerStage<BlockSet>,
    pub(crate) boundary: Boundary,
    pub(crate) method: WidthArg,
    pub(crate) target: WidthTarget,
    /// Whether `flap`'s biases make up for the mean of what is removed.
    pub(crate) compensated: bool,
}

impl WidthJob<'_> {
    /// The widths that `strategy` chooses.
    pub(crate) fn choose(&self, strategy: &dyn WidthStrategy) -> Result<Widths> {
        let model = self.model;
        let size = BlockSize::of(model.config());
        let pass = WidthPass::new(model, self.calibration, self.boundary);
        let moments = pass.moments(self.removed)?;
        let (moments, ratios) = match self.target {
            WidthTarget::Unified(ratio) => {
                (PerStage::both(of_both(moments)), PerStage::both(ratio))
            }
            WidthTarget::Stages(ratios) => (moments, ratios),
        };
        let scores = if self.method == WidthArg::LlmPruner {
            self.importances()?
        } else {
            PerStage {
                prefill: fluctuations(model, &moments.prefill),
                decode: fluctuations(model, &moments.decode),
            }
        };
        let one = |stage: Stage, given: &StageWidths| {
            strategy.choose(&WidthProblem {
                scores: scores.of(stage),
                size,
                ratio: *ratios.of(stage),
                given,
            })
        };
        let prefill = one(Stage::Prefill, &StageWidths::new()).context("width of prefill")?;
        let decode = if self.is_unified() {
            prefill.clone()
        } else {
            one(Stage::Decode, &prefill).context("width of decode")?
        };
        let chosen = PerStage { prefill, decode };
        let biases = |stage| compensation(model, size, moments.of(stage), chosen.of(stage));
        let compensated = self.method == WidthArg::Flap && self.compensated;
        Ok(Widths {
            biases: if compensated {
                PerStage {
                    prefill: biases(Stage::Prefill),
                    decode: biases(Stage::Decode),
                }
            } else {
                PerStage::default()
            },
            removed: chosen,
        })
    }

    fn importances(&self) -> Result<PerStage<Vec<BlockScores>>> {
        let table = |stages: &[Stage]| -> Result<Vec<BlockScores>> {
            let (model, windows) = (self.model, self.calibration);
            let scores = coupled_importance(model, windows, self.boundary, self.removed, stages)?;
            Ok(scores.into_iter().map(row).collect())
        };
        if self.is_unified() {
            return Ok(PerStage::both(table(&[Stage::Prefill, Stage::Decode])?));
        }
        Ok(PerStage {
            prefill: table(&[Stage::Prefill])?,
            decode: table(&[Stage::Decode])?,
        })
    }

    fn is_unified(&self) -> bool {
        matches!(self.target, WidthTarget::Unified(_))
    }
}

/// The moments over the tokens of both stages.
fn of_both(moments: PerStage<StageMoments>) -> StageMoments {
    let PerStage { prefill, decode } = moments;
    let mut both = decode;
    for (id, prefill) in prefill {
        let block = both.entry(id).or_insert_with(InputMoments::default);
        *block = prefill.merged(block);
    }
    both
}

fn fluctuations(model: &Llama, moments: &StageMoments) -> Vec<BlockScores> {
    let rows = moments.iter();
    rows.map(|(&block, moments)| row((block, fluctuation(model, block, moments))))
        .collect()
}

fn row((block, scores): (BlockId, InputScores)) -> BlockScores {
    BlockScores {
        block,
        attention: scores.attention,
        mlp: scores.mlp,
    }
}
