//! What was measured: one struct behind the object, the CSV, the table and the page.

use std::fmt::Write as _;

use anyhow::Result;
use pdtrim_core::plan::PlanCalibration;
use pdtrim_search::{CostChange, RemovedFrom, Sensitivity};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::SensitivityArgs;
use crate::scoring::TaskScore;
use crate::session::Session;
use crate::tables::or_empty;

/// Everything that one `pdtrim sensitivity` found. Losses are mean NLL in nats; lower is better.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) settings: Value,
    pub(super) loss_dense: f64,
    /// Empty without `--tasks`.
    pub(super) tasks_dense: Vec<TaskScore>,
    /// For each block: removed from prefill, from decode, from both.
    pub(super) rows: Vec<Row>,
}

/// One removal.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) block: usize,
    pub(super) removed_from: RemovedFrom,
    pub(super) loss: f64,
    pub(super) loss_rise: Estimate,
    /// KL(dense ‖ trimmed) in nats.
    pub(super) divergence: Estimate,
    pub(super) tasks: Vec<TaskScore>,
}

/// A mean over windows.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Estimate {
    pub(super) mean: f64,
    /// Absent with one window.
    pub(super) standard_error: Option<f64>,
}

impl From<CostChange> for Estimate {
    fn from(change: CostChange) -> Self {
        Self {
            mean: change.rise,
            standard_error: change.standard_error,
        }
    }
}

impl Report {
    /// `tasks`: the dense model's scores, and those of each row.
    pub(super) fn new(
        settings: Value,
        by_loss: &Sensitivity,
        by_divergence: &Sensitivity,
        tasks: (Vec<TaskScore>, Vec<Vec<TaskScore>>),
    ) -> Self {
        let (tasks_dense, tasks) = tasks;
        let blocks = by_loss.blocks.iter().zip(&by_divergence.blocks).enumerate();
        let removals = blocks.flat_map(|(block, (loss, divergence))| {
            RemovedFrom::ALL.map(|from| (block, from, loss.of(from), divergence.of(from)))
        });
        let rows = removals.zip(tasks).map(|(removal, tasks)| {
            let (block, removed_from, loss, divergence) = removal;
            Row {
                block,
                removed_from,
                loss: loss.cost,
                loss_rise: loss.into(),
                divergence: divergence.into(),
                tasks,
            }
        });
        Self {
            settings,
            loss_dense: by_loss.cost_dense,
            tasks_dense,
            rows: rows.collect(),
        }
    }

    /// The rows of one kind of removal, by block.
    pub(super) fn of(&self, from: RemovedFrom) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.removed_from == from)
    }

    /// The blocks that each stage misses least, and what the dense model's loss is.
    pub(super) fn in_words(&self) -> String {
        const NAMED: usize = 5;
        let mut text = format!(
            "mean NLL of the continuations, dense {:.4}; missed least:",
            self.loss_dense
        );
        for from in RemovedFrom::ALL {
            let mut rows: Vec<&Row> = self.of(from).collect();
            rows.sort_by(|a, b| a.loss_rise.mean.total_cmp(&b.loss_rise.mean));
            let blocks: Vec<String> = rows
                .iter()
                .take(NAMED)
                .map(|row| row.block.to_string())
                .collect();
            // Writing to a String cannot fail.
            let _ = write!(text, " {} {};", from.name(), blocks.join(", "));
        }
        text.truncate(text.len() - 1);
        text
    }

    /// One line for the dense model and one for each row.
    pub(super) fn to_csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let first = [
            "block",
            "removed_from",
            "loss",
            "loss_rise",
            "loss_rise_stderr",
        ];
        let header = first.into_iter().chain(["kl", "kl_stderr"]);
        let tasks = self.tasks_dense.iter().flat_map(|score| {
            let name = format!("{}_{}", score.task, score.metric.name);
            ["", "_stderr", "_difference", "_difference_stderr"].map(|end| format!("{name}{end}"))
        });
        writer.write_record(header.map(str::to_owned).chain(tasks))?;
        let number = |value: f64| value.to_string();
        let dense = [String::new(), "none".to_owned(), number(self.loss_dense)];
        let zeros = ["0", "", "0", ""].map(str::to_owned);
        let scores = scores(&self.tasks_dense);
        writer.write_record(dense.into_iter().chain(zeros).chain(scores))?;
        for row in &self.rows {
            let error = |estimate: Estimate| or_empty(estimate.standard_error);
            let measured = [
                row.block.to_string(),
                row.removed_from.name().to_owned(),
                number(row.loss),
                number(row.loss_rise.mean),
                error(row.loss_rise),
                number(row.divergence.mean),
                error(row.divergence),
            ];
            writer.write_record(measured.into_iter().chain(self::scores(&row.tasks)))?;
        }
        Ok(writer.into_inner()?)
    }
}

fn scores(scores: &[TaskScore]) -> impl Iterator<Item = String> {
    scores.iter().flat_map(|score| {
        let difference = score.difference_to_dense;
        [
            score.metric.value.to_string(),
            or_empty(score.metric.stderr),
            or_empty(difference.map(|difference| difference.value)),
            or_empty(difference.and_then(|difference| difference.stderr)),
        ]
    })
}

/// What has to be known to repeat the run.
pub(super) fn settings(
    args: &SensitivityArgs,
    session: &Session,
    calibration: &PlanCalibration,
) -> Result<Value> {
    Ok(json!({
        "pdtrim_version": env!("CARGO_PKG_VERSION"),
        "model": session.name,
        "model_sha256": session.checkpoint.hash()?,
        "dtype": format!("{:?}", session.dtype).to_lowercase(),
        "device": session.device.to_string(),
        "calibration": calibration,
        "boundary": args.boundary,
        "tasks": args.tasks,
        "limit": args.limit,
    }))
}
