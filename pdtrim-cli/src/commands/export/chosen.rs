//! What the named stage of a plan consists of.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use pdtrim_core::checkpoint::{ExportForm, StageWeights};
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::width::Widths;
use pdtrim_core::{BlockSet, KvFill, ModelConfig, Plan, Stage};

use crate::args::StageArg;

/// A stage, or both of a plan in which they are the same.
pub(super) struct Chosen {
    /// `prefill`, `decode` or `unified`.
    pub(super) name: &'static str,
    /// Whose sets and weights they are; decode's where both are the same.
    pub(super) stage: Stage,
    pub(super) removed: BlockSet,
    pub(super) weights: StageWeights,
}

impl Chosen {
    pub(super) fn of_plan(
        plan: &Plan,
        plan_path: &Path,
        config: &ModelConfig,
        asked: Option<StageArg>,
    ) -> Result<Self> {
        let Some(asked) = asked else {
            bail!(
                "a plan has two stages: name one with --stage prefill or --stage decode, or --stage unified \
                 where they are the same"
            )
        };
        let repair = RepairWeights::of_plan(plan, plan_path, config)?;
        let widths = Widths::of_plan(plan, plan_path, config)?;
        let (name, stage) = match asked {
            StageArg::Prefill => ("prefill", Stage::Prefill),
            StageArg::Decode => ("decode", Stage::Decode),
            StageArg::Unified => {
                check_same(plan, &repair, &widths)?;
                ("unified", Stage::Decode)
            }
        };
        // A plan with widths has no repair.
        let weights = if plan.file().width.is_some() {
            StageWeights::Narrow(
                widths.removed.of(stage).clone(),
                widths.biases.of(stage).clone(),
            )
        } else if repair.of(stage).is_empty() {
            StageWeights::Own
        } else {
            StageWeights::Repaired(repair.of(stage).clone())
        };
        Ok(Self {
            name,
            stage,
            removed: plan.removed().of(stage).clone(),
            weights,
        })
    }

    /// Refuses a form without what the other stage needs of this one.
    pub(super) fn check_form(&self, plan: &Plan, form: ExportForm) -> Result<()> {
        let removed = plan.removed();
        let only_prefill = removed.prefill.difference(&removed.decode);
        ensure!(
            self.stage == Stage::Decode
                || form == ExportForm::Identity
                || plan.kv_fill() == KvFill::Nested
                || only_prefill.is_empty(),
            "decode runs blocks that prefill does without ({only_prefill}) on keys and values that prefill \
             still projects (kv_fill = \"project\"), for which the form {} has no weights; the form identity has",
            form.name()
        );
        Ok(())
    }
}

/// One folder can stand for both stages only if they are the same.
fn check_same(plan: &Plan, repair: &RepairWeights, widths: &Widths) -> Result<()> {
    let removed = plan.removed();
    let differ = if removed.prefill != removed.decode {
        format!(
            "prefill is without the blocks {}, decode without {}",
            shown(&removed.prefill),
            shown(&removed.decode)
        )
    } else if widths.removed.prefill != widths.removed.decode
        || widths.biases.prefill != widths.biases.decode
    {
        "their blocks are not equally narrow".to_owned()
    } else if repair.of(Stage::Prefill) != repair.of(Stage::Decode) {
        "their repaired weights are not the same".to_owned()
    } else {
        return Ok(());
    };
    bail!("the stages differ ({differ}): name one with --stage prefill or --stage decode")
}

fn shown(set: &BlockSet) -> String {
    if set.is_empty() {
        "none".to_owned()
    } else {
        set.to_string()
    }
}
