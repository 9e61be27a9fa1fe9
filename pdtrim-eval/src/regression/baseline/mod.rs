//! The results that later runs are held against.

mod file;
mod layout;
mod metric;

use std::path::Path;

use pdtrim_core::Boundary;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use crate::metric::{Metric, MetricName, Samples};
use crate::mode::Mode;
use crate::report::{EvalReport, ReportRow, RunInfo};
use crate::result::DataFile;

/// Every item's result of a run, as `pdtrim baseline` keeps it.
///
/// It has at least one task, each task at least one item, and each metric a finite value and a weight for
/// each item; the weights are not negative and do not sum to 0. There is no date in it: equal runs give
/// equal bytes.
///
/// ```
/// use std::path::Path;
///
/// use pdtrim_eval::regression::Baseline;
/// use pdtrim_eval::{EvalReport, Execution, Mode, Options, RunInfo, Task, Uniform, evaluate};
///
/// let task = Task::bundled("everyday")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// let mut report = EvalReport::new(RunInfo::default());
/// report.push(Mode::Dense, None, result);
///
/// let baseline = Baseline::of(&report)?;
/// let read = Baseline::parse(&baseline.to_json(), Path::new("baseline.json"))?;
/// assert_eq!(read, baseline);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    run: BaselineRun,
    tasks: Vec<TaskBaseline>,
}

/// The run that a baseline was made from.
///
/// ```
/// use pdtrim_eval::RunInfo;
/// use pdtrim_eval::regression::BaselineRun;
///
/// let run = RunInfo { model: "tiny".to_owned(), date: Some(1.7e9), ..RunInfo::default() };
/// // Without its date: equal runs give equal files.
/// assert_eq!(BaselineRun::from(&run).model, "tiny");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineRun {
    /// Version of the tool.
    pub pdtrim_version: String,
    /// The model as the user named it.
    pub model: String,
    /// Hash of the model's weights.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model_sha256: Option<String>,
    /// The plan file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan: Option<String>,
    /// Hash of the plan.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan_sha256: Option<String>,
    /// The number type of the run.
    pub dtype: String,
}

impl From<&RunInfo> for BaselineRun {
    fn from(run: &RunInfo) -> Self {
        Self {
            pdtrim_version: run.pdtrim_version.clone(),
            model: run.model.clone(),
            model_sha256: run.model_sha256.clone(),
            plan: run.plan.clone(),
            plan_sha256: run.plan_sha256.clone(),
            dtype: run.dtype.clone(),
        }
    }
}

/// A task's headline row: what its items are, and what came out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TaskBaseline {
    pub(super) task: String,
    pub(super) version: u32,
    pub(super) task_sha256: String,
    pub(super) data: Vec<DataFile>,
    pub(super) fewshot: usize,
    pub(super) items: usize,
    pub(super) mode: Mode,
    pub(super) boundary: Option<Boundary>,
    pub(super) metrics: Vec<Measured>,
}

/// A metric with what it is reduced from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) metric: Metric,
    pub(super) samples: Samples,
}

impl Baseline {
    /// The [headline](EvalReport::headline) row of each of the report's tasks.
    ///
    /// A metric that is too large for a number is left out, as if it had not been measured: a perplexity
    /// per word of a text without spaces, say.
    ///
    /// # Errors
    ///
    /// [`Error::NoTasks`] for an empty report, [`Error::NotFinite`] where an item's log-likelihood is
    /// infinite, and [`Error::Items`] where a metric lacks an item.
    pub fn of(report: &EvalReport) -> Result<Self> {
        let rows = report
            .tasks()
            .into_iter()
            .filter_map(|task| report.headline(task));
        let tasks = rows
            .map(TaskBaseline::of)
            .collect::<Result<Vec<TaskBaseline>>>()?;
        if tasks.is_empty() {
            return Err(Error::NoTasks);
        }
        Ok(Self {
            run: BaselineRun::from(&report.run),
            tasks,
        })
    }

    /// The run that it was made from.
    pub fn run(&self) -> &BaselineRun {
        &self.run
    }

    /// The names of its tasks, in the order of the report that it was made from.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks.iter().map(|task| task.task.as_str())
    }

    /// Reads the file that [`write`](Self::write) wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], or as [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self> {
        let text = pdtrim_core::read_text(path, pdtrim_core::limits::RESULTS);
        let text = text.map_err(|source| Error::Read {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Self::parse(&text, path)
    }

    /// The baseline that `text` describes; errors name `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Json`] for what is not JSON or has other fields, [`Error::Field`] for a value that
    /// cannot be.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        file::parse(text, path)
    }

    /// The file's text: JSON with a metric per line.
    pub fn to_json(&self) -> String {
        file::text(self)
    }

    /// Writes the file; a reader sees the old one or the whole new one.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        pdtrim_core::write_atomically(path, self.to_json().as_bytes())
            .map_err(|error| Error::Write(Box::new(error)))
    }

    pub(super) fn all(&self) -> &[TaskBaseline] {
        &self.tasks
    }

    pub(super) fn task(&self, name: &str) -> Option<&TaskBaseline> {
        self.tasks.iter().find(|task| task.task == name)
    }
}

impl TaskBaseline {
    fn of(row: &ReportRow) -> Result<Self> {
        let summary = &row.result.summary;
        let names = summary.metrics.iter().map(|metric| metric.name);
        let metrics = names.filter_map(|name| Measured::of(row, name).transpose());
        Ok(Self {
            task: summary.task.clone(),
            version: summary.version,
            task_sha256: summary.task_sha256.clone(),
            data: summary.data.clone(),
            fewshot: summary.fewshot,
            items: summary.items,
            mode: row.mode,
            boundary: row.boundary,
            metrics: metrics.collect::<Result<Vec<Measured>>>()?,
        })
    }

    pub(super) fn metric(&self, name: MetricName) -> Option<&Measured> {
        self.metrics
            .iter()
            .find(|measured| measured.metric.name == name)
    }
}

impl Measured {
    /// None where the metric's value or its standard error is too large for a number.
    fn of(row: &ReportRow, name: MetricName) -> Result<Option<Self>> {
        let summary = &row.result.summary;
        let samples = row.result.samples(name);
        let not_finite = samples.values.iter().position(|value| !value.is_finite());
        if let Some(item) = not_finite {
            return Err(Error::NotFinite {
                task: summary.task.clone(),
                metric: name,
                item,
                found: samples.values[item],
            });
        }
        if samples.values.len() != summary.items {
            return Err(Error::Items {
                task: summary.task.clone(),
                metric: name,
                expected: summary.items,
                found: samples.values.len(),
            });
        }
        let metric = samples
            .metric()
            .filter(|metric| metric.value.is_finite() && metric.stderr.is_none_or(f64::is_finite));
        Ok(metric.map(|metric| Self { metric, samples }))
    }
}
