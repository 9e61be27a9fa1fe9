//! What a repair won back, for the closing lines, the report and the plan.

use pdtrim_core::Boundary;
use pdtrim_core::plan::{PlanCalibration, PlanScore, Repair as Method, RepairFile};
use pdtrim_eval::Mode;
use pdtrim_eval::page::{Item, Section};
use pdtrim_search::repair::DistillLoss;
use serde::{Deserialize, Serialize};

use crate::repair::RepairSettings;

/// What is known of a repaired model.
pub(crate) struct Repair {
    pub(crate) file: RepairFile,
    /// Windows that it was fitted on.
    pub(crate) about: PlanCalibration,
    /// Windows that the figures are measured on.
    pub(crate) held_out: PlanCalibration,
    pub(crate) found: Figures,
    pub(crate) kind: RepairSettings,
    pub(crate) losses: Vec<DistillLoss>,
    /// What fitting took, in the run that finished it.
    pub(crate) seconds: f64,
}

/// Mean NLL with the same blocks removed, before and after the repair.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gain {
    pub(crate) dense: f64,
    pub(crate) trimmed: f64,
    pub(crate) repaired: f64,
}

/// What was measured of a repair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// J on the search's own windows, with both stages repaired.
    pub(crate) cost: f64,
    /// On held-out windows: prefill alone, and both stages.
    pub(crate) prefill: Gain,
    pub(crate) both: Gain,
}

impl Gain {
    /// In words, with the share of the rise that was won back.
    pub(crate) fn text(&self) -> String {
        let Self {
            dense,
            trimmed,
            repaired,
        } = self;
        let rise = trimmed - dense;
        let share = if rise > 0.0 {
            let percent = (trimmed - repaired) / rise * 100.0;
            format!("{percent:.1} % of the rise won back")
        } else {
            "no rise to win back".to_owned()
        };
        format!("dense {dense:.3}, trimmed {trimmed:.3}, repaired {repaired:.3}: {share}")
    }
}

impl Repair {
    /// The line that a run ends with.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} repair, fitted on {} windows of {}; mean NLL on {} held-out windows: {}",
            self.name(),
            self.about.windows,
            self.about.source,
            self.held_out.windows,
            self.found.both.text()
        )
    }

    fn name(&self) -> &'static str {
        match self.kind {
            RepairSettings::Linear => "linear",
            RepairSettings::Distill(_) => "distill",
        }
    }

    /// What the plan calls it.
    pub(crate) fn method(&self) -> Method {
        match self.kind {
            RepairSettings::Linear => Method::Linear,
            RepairSettings::Distill(_) => Method::Distill,
        }
    }

    /// What the report says of it.
    pub(crate) fn section(&self) -> Section {
        let how = match self.kind {
            RepairSettings::Linear => "In the block before each removed run the MLP's output layer was \
                multiplied by a matrix, fitted by ridge regression so that the hidden state after the run \
                is the dense model's."
                .to_owned(),
            RepairSettings::Distill(repair) => format!(
                "The block before each removed run was trained with AdamW, from a linear repair on: {} \
                    steps (largest learning rate {}) towards the dense model's hidden state after the \
                    run, then all blocks of a stage together {} steps (largest learning rate {}) \
                    towards the dense model's predictions, {} windows each, seed {}. What makes keys and \
                    values stayed as it was.",
                repair.run_steps,
                repair.run_learning_rate,
                repair.steps,
                repair.learning_rate,
                repair.batch,
                repair.seed
            ),
        };
        let text = format!(
            "{how} Each stage has weights of its own, from {} windows of {} tokens ({}). They cost nothing \
                at run time; to fit them took {:.0} s. Mean NLL below is on {} held-out windows ({}); no \
                window serves two purposes.",
            self.about.windows,
            self.about.window_tokens,
            self.about.source,
            self.seconds,
            self.held_out.windows,
            self.held_out.source
        );
        let facts = [
            ("Prefill alone", self.found.prefill.text()),
            ("Both stages", self.found.both.text()),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value));
        let losses = self.losses.iter().map(|loss| {
            let DistillLoss {
                stage, first, last, ..
            } = loss;
            let name = match loss.block {
                Some(block) => format!("Training of {stage}, block {block}"),
                None => format!("Training of {stage}, predictions"),
            };
            let what = loss.block.map_or("KL divergence", |_| "squared error");
            (name, format!("{what} {first:.4}, at the end {last:.4}"))
        });
        let facts = facts.into_iter().chain(losses).collect();
        Section::new("Repair", text).with(Item::Facts(facts))
    }

    /// The figures that a plan keeps of it.
    pub(crate) fn scores(&self, boundary: Boundary) -> Vec<PlanScore> {
        let score = |mode: Mode, metric: &str, value| PlanScore {
            task: "repair held-out".to_owned(),
            mode: mode.to_string(),
            boundary: (mode != Mode::Dense).then_some(boundary),
            metric: metric.to_owned(),
            value,
        };
        let Gain {
            dense,
            trimmed,
            repaired,
        } = self.found.both;
        vec![
            score(Mode::Dense, "mean_nll", dense),
            score(Mode::Pd, "mean_nll_unrepaired", trimmed),
            score(Mode::Pd, "mean_nll", repaired),
        ]
    }
}
