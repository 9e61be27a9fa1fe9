//! Results by task, mode and boundary, with everything needed to repeat them.

mod csv;
mod group;
mod json;
mod page;
mod table;

use std::io::Write;

use pdtrim_core::Boundary;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::metric::{Difference, MetricName};
use crate::mode::Mode;
use crate::result::TaskResult;

pub use group::{GroupMetric, GroupRow};

/// The results of a run. One struct behind the JSON, the CSV and the table.
///
/// ```
/// use pdtrim_eval::{EvalReport, Execution, Mode, Options, RunInfo, Task, Uniform, evaluate};
///
/// let task = Task::bundled("everyday")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// let mut report = EvalReport::new(RunInfo { model: "none".to_owned(), ..RunInfo::default() });
/// report.push(Mode::Dense, None, result);
/// assert_eq!(report.tasks(), ["everyday"]);
/// assert!(report.to_json()["results"]["everyday"].is_object());
/// assert!(report.table().contains("acc_norm"));
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// What was run.
    pub run: RunInfo,
    /// The results, in the order in which they are reported.
    pub rows: Vec<ReportRow>,
}

/// What has to be known to repeat a run. What is not known stays out of the files.
///
/// ```
/// use pdtrim_eval::RunInfo;
///
/// let run = RunInfo {
///     pdtrim_version: "0.1.0".to_owned(),
///     model: "org/name".to_owned(),
///     device: "cpu".to_owned(),
///     dtype: "f32".to_owned(),
///     ..RunInfo::default()
/// };
/// // What is not known stays out of the files.
/// assert!(!serde_json::to_string(&run)?.contains("plan"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// Version of the tool.
    pub pdtrim_version: String,
    /// The model as the user named it.
    pub model: String,
    /// Hash of the model's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_sha256: Option<String>,
    /// The plan file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Hash of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_sha256: Option<String>,
    /// The device, as the user names it.
    pub device: String,
    /// The number type of the run.
    pub dtype: String,
    /// Items per task that were asked for; none for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Requests scored together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Seed of whatever was drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// When the run began, in seconds since 1970. Left out where two runs are to give equal files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<f64>,
    /// How long the evaluation took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The rest of the effective configuration.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
}

/// A task's result in one mode with one boundary.
///
/// ```
/// use pdtrim_core::Boundary;
/// use pdtrim_eval::{EvalReport, Execution, Mode, Options, Task, Uniform, evaluate};
///
/// let task = Task::bundled("oneword")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// let mut report = EvalReport::default();
/// for boundary in [Boundary::Prefill, Boundary::Decode] {
///     report.push(Mode::Pd, Some(boundary), result.clone());
/// }
/// // The row that stands for the task where only one number fits.
/// let row = report.headline("oneword").expect("measured");
/// assert_eq!((row.mode, row.boundary), (Mode::Pd, Some(Boundary::Decode)));
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportRow {
    /// How much of the plan was in force.
    pub mode: Mode,
    /// Which stage computed the first new token; none where that makes no difference (one machine).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boundary: Option<Boundary>,
    /// The result.
    pub result: TaskResult,
}

impl ReportRow {
    fn task(&self) -> &str {
        &self.result.summary.task
    }
}

impl EvalReport {
    /// An empty report of `run`.
    pub fn new(run: RunInfo) -> Self {
        Self {
            run,
            rows: Vec::new(),
        }
    }

    /// Adds a result.
    pub fn push(&mut self, mode: Mode, boundary: Option<Boundary>, result: TaskResult) {
        self.rows.push(ReportRow {
            mode,
            boundary,
            result,
        });
    }

    /// The tasks, in the order of their first rows.
    pub fn tasks(&self) -> Vec<&str> {
        let mut tasks = Vec::new();
        for row in &self.rows {
            if !tasks.contains(&row.task()) {
                tasks.push(row.task());
            }
        }
        tasks
    }

    /// The row that stands for `task` where only one number fits: the one with the most of the plan
    /// in force, and the boundary `decode` if it was measured (with `prefill`, one-token answers do
    /// not see decode at all).
    pub fn headline(&self, task: &str) -> Option<&ReportRow> {
        self.rows
            .iter()
            .filter(|row| row.task() == task)
            .max_by_key(|row| (row.mode, row.boundary))
    }

    /// A row's metric minus the dense model's on the same items, with the standard error of the paired
    /// comparison. None for dense rows, and where the dense model was not measured on the same items.
    pub fn difference_to_dense(&self, row: &ReportRow, metric: MetricName) -> Option<Difference> {
        let dense = self.dense_of(row)?;
        let own = row.result.samples(metric);
        own.difference(&dense.result.samples(metric))
    }

    /// The dense row of the same items; none for dense rows.
    fn dense_of(&self, row: &ReportRow) -> Option<&ReportRow> {
        let same = |other: &ReportRow| {
            let (one, two) = (&other.result.summary, &row.result.summary);
            one.task == two.task
                && one.task_sha256 == two.task_sha256
                && one.data == two.data
                && one.fewshot == two.fewshot
                && one.items == two.items
        };
        if row.mode == Mode::Dense {
            return None;
        }
        let dense = self
            .rows
            .iter()
            .filter(|other| other.mode == Mode::Dense && same(other));
        // The dense model is the same with both boundaries; where both were measured, like is
        // compared with like.
        dense.max_by_key(|other| other.boundary == row.boundary)
    }

    /// Every group of tasks in every mode with every boundary: metrics that are shares of items, over the
    /// items of all its members.
    pub fn groups(&self) -> Vec<GroupRow> {
        group::rows(self)
    }

    /// The results as lm-evaluation-harness 0.4 writes them, with our extra object `pdtrim`.
    ///
    /// `results` holds each task's [headline](Self::headline) row; `pdtrim` holds all rows.
    pub fn to_json(&self) -> Value {
        json::report(self)
    }

    /// One row per task, mode, boundary and metric.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written to.
    pub fn write_csv(&self, out: impl Write) -> Result<()> {
        csv::write(self, out)
    }

    /// The per-item records, one JSON object a line.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written to.
    pub fn write_items(&self, mut out: impl Write) -> Result<()> {
        for row in &self.rows {
            for item in &row.result.items {
                let line = json::item(row, item);
                writeln!(out, "{line}").map_err(Error::Write)?;
            }
        }
        out.flush().map_err(Error::Write)
    }

    /// The modes side by side, with the difference to dense.
    pub fn table(&self) -> String {
        table::render(self)
    }
}
