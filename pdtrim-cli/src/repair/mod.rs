//! Fits a repair, for every command that asks for one.

mod pairs;
mod settings;
mod windows;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use pdtrim_core::objective::Calibration;
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockSet, Boundary, PerStage};
use pdtrim_search::repair::{
    DistillFit, DistillLoss, DistillPart, DistillRepair, DistillResume, DistillStep, LinearRepair,
    OnStep, Run,
};
use serde_json::json;

pub(crate) use pairs::{Pairs, PairsJob};
pub(crate) use settings::{RepairSettings, default_batch, default_tokens};
pub(crate) use windows::draw_free;

use crate::progress::Progress;
use crate::session::Session;

/// How often a training is written down.
const KEPT_EVERY: Duration = Duration::from_secs(30);
/// How often its loss is told where there is no bar.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// What is to be repaired, and with what.
pub(crate) struct RepairJob<'a> {
    pub(crate) session: &'a Session,
    pub(crate) removed: &'a PerStage<BlockSet>,
    pub(crate) boundary: Boundary,
    /// Windows that serve no other purpose.
    pub(crate) windows: &'a Calibration,
    pub(crate) settings: RepairSettings,
    /// File in which a training is kept while it runs, so that a killed one goes on; its folder exists.
    pub(crate) state: &'a Path,
    /// What the file belongs to, beside the sets and settings: model, windows, boundary.
    pub(crate) fingerprint: &'a str,
}

/// Fitted weights.
pub(crate) struct FittedRepair {
    /// Empty if there is no run that a kept block is before.
    pub(crate) weights: RepairWeights,
    /// How the loss fell, where something was trained.
    pub(crate) losses: Vec<DistillLoss>,
    /// What this run of the program spent on it.
    pub(crate) seconds: f64,
}

impl RepairJob<'_> {
    /// Fits, saying what nothing makes up for.
    pub(crate) fn fit(&self, progress: Progress) -> Result<FittedRepair> {
        let start = Instant::now();
        let (weights, losses, unrepaired) = match self.settings {
            RepairSettings::Linear => {
                let _step = progress.step("fit the repair", 0);
                let fit = LinearRepair::default().fit(
                    &self.session.model,
                    self.windows,
                    self.removed,
                    self.boundary,
                )?;
                (fit.weights, Vec::new(), fit.unrepaired)
            }
            RepairSettings::Distill(repair) => {
                let fit = self.distill(&repair, progress)?;
                (fit.weights, fit.losses, fit.unrepaired)
            }
        };
        for (stage, runs) in [
            ("prefill", &unrepaired.prefill),
            ("decode", &unrepaired.decode),
        ] {
            for Run { first, last, .. } in runs {
                progress.say(&format!(
                    "repair: nothing makes up for blocks {first} to {last} of {stage}, which no kept block is before"
                ));
            }
        }
        Ok(FittedRepair {
            weights,
            losses,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn distill(&self, repair: &DistillRepair, progress: Progress) -> Result<DistillFit> {
        let fingerprint = json!([
            self.fingerprint,
            self.removed.prefill.to_indices(),
            self.removed.decode.to_indices(),
        ])
        .to_string();
        let resume = DistillResume {
            path: self.state,
            fingerprint: &fingerprint,
            every: KEPT_EVERY,
        };
        told("repair", progress, |on_step| {
            repair.fit(
                &self.session.model,
                self.windows,
                self.removed,
                self.boundary,
                Some(resume),
                on_step,
            )
        })
    }
}

/// Trains, with a bar, or a line now and then that begins with `what`.
fn told(
    what: &str,
    progress: Progress,
    train: impl FnOnce(&mut OnStep<'_>) -> pdtrim_search::Result<DistillFit>,
) -> Result<DistillFit> {
    let step = progress.step(&format!("train the {what}"), 0);
    let mut told = Instant::now();
    let mut is_first = true;
    let mut hear = |event: &DistillStep| {
        step.set_total(event.steps);
        step.set_done(event.done);
        let text = in_words(event);
        step.set_message(&text);
        let is_resumed = std::mem::take(&mut is_first) && event.done > 1;
        let is_due = told.elapsed() >= TOLD_EVERY || event.step == event.part_steps;
        if is_resumed {
            let done = event.done - 1;
            progress.say(&format!(
                "{what}: going on after {done} of {} steps",
                event.steps
            ));
        }
        if is_due && progress == Progress::Lines {
            told = Instant::now();
            progress.say(&format!("{what}: {text}"));
        }
    };
    Ok(train(&mut hear)?)
}

fn in_words(event: &DistillStep) -> String {
    let DistillStep {
        stage,
        part,
        step,
        part_steps,
        loss,
        ..
    } = event;
    match part {
        DistillPart::Run(block) => {
            format!("{stage}, block {block}, step {step}/{part_steps}: squared error {loss:.4}")
        }
        DistillPart::Predictions => {
            format!("{stage}, predictions, step {step}/{part_steps}: KL {loss:.4}")
        }
    }
}
