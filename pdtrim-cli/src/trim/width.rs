//! Narrower blocks: scores of heads and channels, the choice, and what it costs.

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use pdtrim_core::objective::{CalibrationLoss, Objective, Rows};
use pdtrim_core::width::{BlockSize, PlanWidth, StageWidths};
use pdtrim_core::{BlockId, BlockSet, Bytes, PerStage, Stage};
use pdtrim_eval::page::{Axis, BarChart, BarSeries, Item, Section};

use super::Run;
use crate::session::Repaired;
use crate::width::{WidthJob, WidthTarget};

/// What was made narrower, and what it costs.
pub(super) struct Width {
    pub(super) section: PlanWidth,
    /// J on the search's windows, with blocks and widths.
    pub(super) cost: f64,
    removed: PerStage<StageWidths>,
    size: BlockSize,
    /// Blocks that each stage keeps.
    kept: PerStage<BlockSet>,
}

/// Makes both stages narrower; `None` if that was not asked for.
pub(super) fn run(run: &Run, removed: &PerStage<BlockSet>) -> Result<Option<(Width, Repaired)>> {
    let config = &run.config;
    let Some(strategy) = config.width.strategy() else {
        return Ok(None);
    };
    let step = run.progress.step("choose widths", 0);
    let ratios = PerStage {
        prefill: config.prefill_ratio,
        decode: config.decode_ratio,
    };
    let widths = WidthJob {
        model: &run.session.model,
        calibration: &run.calibration,
        removed,
        boundary: config.boundary,
        method: config.width,
        target: if config.unified {
            WidthTarget::Unified(config.decode_ratio)
        } else {
            WidthTarget::Stages(ratios)
        },
        compensated: !config.no_compensation,
    }
    .choose(strategy.as_ref())?;
    drop(step);
    let size = BlockSize::of(run.session.model.config());
    let file = widths.write_biases(&run.config.out)?;
    let section = PlanWidth::new(strategy.name(), size, &widths.removed, file);
    let narrow = Repaired::narrow(&widths, &section, &run.session.model);
    let width = Width {
        cost: cost(run, &narrow, removed)?,
        section,
        removed: widths.removed,
        size,
        kept: PerStage {
            prefill: removed.prefill.complement(),
            decode: removed.decode.complement(),
        },
    };
    run.progress.say(&width.summary());
    Ok(Some((width, narrow)))
}

fn cost(run: &Run, narrow: &Repaired, removed: &PerStage<BlockSet>) -> Result<f64> {
    let models = narrow.models(&run.session);
    let (rows, boundary) = (Rows::Continuation, run.config.boundary);
    let loss = CalibrationLoss::per_stage(models, &run.calibration, rows, boundary)?;
    let costs = loss.costs(std::slice::from_ref(removed), &mut |_, _| {
        ControlFlow::Continue(())
    })?;
    costs.first().copied().context("no cost came back")
}

impl Width {
    /// The line that a run ends with.
    pub(super) fn summary(&self) -> String {
        let stage = |stage| {
            let removed = self.removed.of(stage).values();
            let groups: usize = removed.clone().map(|width| width.groups.len()).sum();
            let channels: usize = removed.map(|width| width.channels.len()).sum();
            let share = self.share(stage) * 100.0;
            format!(
                "{stage} without {groups} head groups and {channels} MLP channels ({share:.1} %)"
            )
        };
        format!(
            "width by {}: {}; {}",
            self.section.method,
            stage(Stage::Prefill),
            stage(Stage::Decode)
        )
    }

    /// Share of the parameters of a stage's blocks that is removed.
    fn share(&self, stage: Stage) -> f64 {
        let removed = self.removed.of(stage).values();
        let removed: usize = removed
            .map(|width| self.size.removed_parameters(width))
            .sum();
        let all = self.kept.of(stage).len() * self.size.parameters();
        removed as f64 / all.max(1) as f64
    }

    /// Share of a block's keys and values that decode receives, by its head groups.
    pub(super) fn kv_share(&self, block: BlockId) -> f64 {
        let width = self.removed.decode.get(&block);
        let gone = width.map_or(0, |width| width.groups.len());
        1.0 - gone as f64 / self.size.groups as f64
    }

    /// What the report says of it.
    pub(super) fn section(&self, element_bytes: usize) -> Section {
        let compensated = if self.section.biases.is_some() {
            " Biases in the output layers stand for the mean of what was removed."
        } else {
            ""
        };
        let saved = |stage| {
            let all = self.kept.of(stage).len() * self.size.parameters() * element_bytes;
            Bytes((all as f64 * self.share(stage)) as u64)
        };
        let text = format!(
            "Inside the blocks that stay, {}. That is {} of prefill's weights and {} of decode's. A head \
                group is a key and value head with its query heads; decode is without the groups that \
                prefill is without, and keys and values of groups that decode is without do not \
                cross.{compensated} The narrower matrices are what `pdtrim` runs; an export has zeros in \
                their place, because stock engines have one width for all blocks.",
            self.summary(),
            saved(Stage::Prefill),
            saved(Stage::Decode)
        );
        let depth = self.kept.prefill.depth();
        let series = |stage: Stage| {
            let bar = |block: usize| {
                let id = BlockId::new(block);
                if !self.kept.of(stage).contains(id) {
                    return 0.0;
                }
                let width = self.removed.of(stage).get(&id);
                let removed = width.map_or(0, |width| self.size.removed_parameters(width));
                100.0 * (1.0 - removed as f64 / self.size.parameters() as f64)
            };
            BarSeries::new(stage.to_string(), (0..depth).map(bar))
        };
        let chart = BarChart {
            title: "Width of each block".to_owned(),
            description:
                "Share of a block's attention and MLP parameters that a stage keeps; none \
                where the block is removed."
                    .to_owned(),
            group_label: "Block".to_owned(),
            groups: (0..depth).map(|block| block.to_string()).collect(),
            axis: Axis::new("Parameters kept").with_unit_name("%"),
            series: vec![series(Stage::Prefill), series(Stage::Decode)],
            ..BarChart::default()
        };
        Section::new("Width", text).with(Item::Bars(chart))
    }
}
