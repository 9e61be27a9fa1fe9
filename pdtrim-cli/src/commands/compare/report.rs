//! What was found: the runs, and the table's rows over their seeds.

use pdtrim_core::PerStage;
use pdtrim_core::plan::PlanCalibration;
use pdtrim_eval::{Mode, paper};
use pdtrim_search::CostChange;
use serde::{Deserialize, Serialize};

use super::config::{Configuration, Job, Row};
use super::repair::RepairCost;
use crate::scoring::TaskScore;
use crate::statistics::Spread;

/// Everything that a comparison found. Losses are mean NLL in nats; lower is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) configuration: Configuration,
    pub(super) dense: Dense,
    pub(super) runs: Vec<Run>,
}

/// The dense model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Dense {
    pub(super) held_out_loss: f64,
    pub(super) tasks: Vec<TaskScore>,
}

/// A run and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Run {
    #[serde(flatten)]
    pub(super) job: Job,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Found(Box<Found>),
    /// Why not.
    Failed(String),
}

/// What a run chose and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) removed: PerStage<Vec<usize>>,
    pub(super) calibration: PlanCalibration,
    /// On the windows that were searched on.
    pub(super) on_calibration: CostChange,
    /// On held-out windows.
    pub(super) held_out: CostChange,
    pub(super) saved: Saved,
    pub(super) search: SearchCost,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) repair: Option<RepairCost>,
    /// Parameters that each stage's narrower blocks do without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) width: Option<PerStage<usize>>,
    pub(super) tasks: Vec<TaskScore>,
}

/// What removing the blocks spares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// Of the FLOPs that prefill needs for a prompt as long as a window's.
    pub(super) prefill_flops: Saving,
    /// Of the bytes of weights that a step of decode reads, head included.
    pub(super) decode_weight_bytes: Saving,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Saving {
    pub(super) amount: f64,
    /// Of the dense model's.
    pub(super) share: f64,
}

/// What the search took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SearchCost {
    /// With the pass that measures redundancy, and with evaluations that an earlier search had made.
    pub(super) seconds: f64,
    /// Candidates whose cost the search asked for.
    pub(super) evaluations: usize,
    /// The same, counted for each window.
    pub(super) window_evaluations: usize,
}

/// A row of the table: a strategy, target and count over the seeds that were run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    pub(super) row: Row,
    /// Runs that gave a result.
    pub(super) runs: usize,
    pub(super) held_out_loss: Option<Spread>,
    pub(super) held_out_rise: Option<Spread>,
    pub(super) prefill_flops_saved: Option<Spread>,
    pub(super) decode_weight_bytes_saved: Option<Spread>,
    pub(super) search_seconds: Option<Spread>,
    pub(super) repair_seconds: Option<Spread>,
    pub(super) evaluations: Option<Spread>,
    pub(super) window_evaluations: Option<Spread>,
    /// In the order of the dense model's.
    pub(super) tasks: Vec<Option<Spread>>,
    /// Mean of the tasks' accuracies, in percent.
    pub(super) average: Option<Spread>,
    /// The paper's average for the same model, strategy and mode, in percent; quoted, not measured.
    pub(super) paper: Option<f64>,
    /// Why runs failed.
    pub(super) failed: Vec<String>,
}

/// The object, with the rows that follow from the runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) measured: Measured,
    pub(super) rows: Vec<Summary>,
}

impl Report {
    pub(super) fn new(measured: Measured) -> Self {
        let rows = measured.configuration.rows().into_iter();
        let rows = rows.filter_map(|row| summary(&measured, row)).collect();
        Self { measured, rows }
    }

    pub(super) fn failed(&self) -> usize {
        let outcomes = self.measured.runs.iter().map(|run| &run.outcome);
        outcomes
            .filter(|outcome| matches!(outcome, Outcome::Failed(_)))
            .count()
    }

    /// The dense model's mean accuracy in percent.
    pub(super) fn average_dense(&self) -> Option<f64> {
        average(&self.measured.dense.tasks)
    }

    /// The paper's figure for the dense model.
    pub(super) fn paper_dense(&self) -> Option<f64> {
        let quoted = paper::of(&self.measured.configuration.model)?;
        quoted.average_of("", Mode::Dense)
    }
}

/// `None` without a run of the row.
fn summary(measured: &Measured, row: Row) -> Option<Summary> {
    let runs = measured.runs.iter().filter(|run| run.job.row == row);
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for run in runs {
        match &run.outcome {
            Outcome::Found(one) => found.push(&**one),
            Outcome::Failed(why) => failed.push(format!("{}: {why}", run.job)),
        }
    }
    if found.is_empty() && failed.is_empty() {
        return None;
    }
    let spread = |value: &dyn Fn(&Found) -> Option<f64>| {
        let values: Vec<f64> = found.iter().filter_map(|found| value(found)).collect();
        Spread::of(&values)
    };
    let task = |n: usize| spread(&|found| Some(found.tasks.get(n)?.metric.value));
    let quoted = paper::of(&measured.configuration.model);
    let strategy = super::config::name(row.strategy);
    Some(Summary {
        row,
        runs: found.len(),
        held_out_loss: spread(&|found| Some(found.held_out.cost)),
        held_out_rise: spread(&|found| Some(found.held_out.rise)),
        prefill_flops_saved: spread(&|found| Some(found.saved.prefill_flops.share)),
        decode_weight_bytes_saved: spread(&|found| Some(found.saved.decode_weight_bytes.share)),
        search_seconds: spread(&|found| Some(found.search.seconds)),
        repair_seconds: spread(&|found| Some(found.repair.as_ref()?.seconds)),
        evaluations: spread(&|found| Some(found.search.evaluations as f64)),
        window_evaluations: spread(&|found| Some(found.search.window_evaluations as f64)),
        tasks: (0..measured.dense.tasks.len()).map(task).collect(),
        average: spread(&|found| average(&found.tasks)),
        paper: quoted.and_then(|quoted| quoted.average_of(&strategy, row.mode())),
        failed,
    })
}

/// Mean over the tasks that have an accuracy, in percent.
fn average(tasks: &[TaskScore]) -> Option<f64> {
    let accuracies = tasks
        .iter()
        .filter(|score| score.metric.name.higher_is_better());
    let values: Vec<f64> = accuracies.map(|score| score.metric.value).collect();
    Spread::of(&values).map(|spread| spread.mean * 100.0)
}
