//! Pairs a run with a baseline.

use super::baseline::{Baseline, BaselineRun, Measured, TaskBaseline};
use super::error::{Error, Result};
use super::gate::{Check, Gate, Paired, Side, Status};
use super::limit::MaxDrop;
use super::limits::Limits;
use super::paired::p_worse;
use crate::metric::Samples;
use crate::report::EvalReport;
use crate::result::DataFile;

/// By how much, relative to a metric, a drop may exceed its limit through rounding alone.
const ROUNDING: f64 = 1e-12;

/// Holds the headline row of each of the report's tasks against the baseline. The
/// [module](crate::regression) tells when a metric fails and what `alpha` means.
///
/// The modes may differ: a trimmed model can be held against the dense one.
///
/// # Errors
///
/// [`Error::Mismatch`] and [`Error::Weight`] where the items are not those of the baseline,
/// [`Error::NoTasks`], [`Error::Items`] and [`Error::NotFinite`] as in [`Baseline::of`],
/// [`Error::LimitUnused`] and [`Error::LimitRepeated`] for a limit that checks nothing, and
/// [`Error::Alpha`] for an alpha outside (0, 1].
///
/// ```
/// use pdtrim_eval::regression::{Baseline, Error, compare};
/// use pdtrim_eval::{EvalReport, Execution, Mode, Options, RunInfo, Task, Uniform, evaluate};
///
/// let task = Task::bundled("everyday")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// let mut report = EvalReport::new(RunInfo::default());
/// report.push(Mode::Dense, None, result);
/// let baseline = Baseline::of(&report)?;
/// // A limit that checks nothing must not pass.
/// let refused = compare(&report, &baseline, &["piqa:acc=0.01".parse()?], 0.05).unwrap_err();
/// assert!(matches!(refused, Error::LimitUnused { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compare(
    report: &EvalReport,
    baseline: &Baseline,
    limits: &[MaxDrop],
    alpha: f64,
) -> Result<Gate> {
    if !(alpha > 0.0 && alpha <= 1.0) {
        return Err(Error::Alpha { found: alpha });
    }
    let limits = Limits::new(limits)?;
    let current = Baseline::of(report)?;
    let judge = Judge { limits, alpha };
    let mut checks = Vec::new();
    for old in baseline.all() {
        let new = current.task(&old.task);
        if let Some(new) = new {
            same_items(old, new)?;
        }
        for measured in &old.metrics {
            let new = new.and_then(|new| Some((new, new.metric(measured.metric.name)?)));
            checks.push(judge.check((old, measured), new)?);
        }
    }
    for new in current.all() {
        let old = baseline.task(&new.task);
        let known = |name| old.is_some_and(|old| old.metric(name).is_some());
        let unknown = new.metrics.iter().filter(|m| !known(m.metric.name));
        checks.extend(unknown.map(|measured| judge.new_metric(new, measured)));
    }
    judge.limits.refuse_unused(&checks)?;
    Ok(Gate {
        alpha,
        baseline: baseline.run().clone(),
        current: BaselineRun::from(&report.run),
        checks,
    })
}

struct Judge<'l> {
    limits: Limits<'l>,
    alpha: f64,
}

impl Judge<'_> {
    fn check(
        &self,
        old: (&TaskBaseline, &Measured),
        new: Option<(&TaskBaseline, &Measured)>,
    ) -> Result<Check> {
        let (task, measured) = old;
        let name = measured.metric.name;
        let limit = self.limits.of(&task.task, name);
        let paired = new
            .map(|new| pair(&task.task, &measured.samples, &new.1.samples))
            .transpose()?;
        let status = match (&new, paired, &limit) {
            (Some(new), Some(paired), Some(limit)) => self.status(measured, new.1, paired, limit),
            (Some(_), _, _) => Status::Unlimited,
            (None, _, _) => Status::Missing,
        };
        Ok(Check {
            task: task.task.clone(),
            metric: name,
            status,
            limit,
            baseline: Some(side(task, measured)),
            current: new.map(|(task, measured)| side(task, measured)),
            paired,
        })
    }

    fn status(&self, old: &Measured, new: &Measured, paired: Paired, limit: &MaxDrop) -> Status {
        let slack = ROUNDING * old.metric.value.abs().max(1.0);
        let beyond = paired.drop > limit.amount().of(old.metric.value) + slack;
        match (beyond, paired.p < self.alpha) {
            (true, true) => Status::Worse,
            (true, false) => Status::WithinNoise,
            (false, _) if p_worse(&new.samples, &old.samples) < self.alpha => Status::Improved,
            (false, _) => Status::Ok,
        }
    }

    fn new_metric(&self, task: &TaskBaseline, measured: &Measured) -> Check {
        Check {
            task: task.task.clone(),
            metric: measured.metric.name,
            status: Status::New,
            limit: self.limits.of(&task.task, measured.metric.name),
            baseline: None,
            current: Some(side(task, measured)),
            paired: None,
        }
    }
}

fn side(task: &TaskBaseline, measured: &Measured) -> Side {
    Side {
        value: measured.metric.value,
        stderr: measured.metric.stderr,
        mode: task.mode,
        boundary: task.boundary,
    }
}

fn pair(task: &str, old: &Samples, new: &Samples) -> Result<Paired> {
    let metric = old.metric;
    let mut weights = old.weights.iter().zip(&new.weights);
    #[expect(
        clippy::float_cmp,
        reason = "weights are counts, and the same text has the same ones"
    )]
    if let Some(item) = weights.position(|(old, new)| old != new) {
        return Err(Error::Weight {
            task: task.to_owned(),
            metric,
            item,
            expected: old.weights[item],
            found: new.weights[item],
        });
    }
    let difference = new.difference(old).ok_or_else(|| Error::Items {
        task: task.to_owned(),
        metric,
        expected: old.values.len(),
        found: new.values.len(),
    })?;
    let sign = if metric.higher_is_better() { -1.0 } else { 1.0 };
    Ok(Paired {
        items: old.values.len(),
        // Not -0 where nothing changed.
        drop: sign * difference.value + 0.0,
        stderr: difference.stderr,
        p: p_worse(old, new),
    })
}

/// Refuses a task whose items are not those that the baseline was measured on.
fn same_items(old: &TaskBaseline, new: &TaskBaseline) -> Result<()> {
    let same = |field, expected: String, found: String| {
        if expected == found {
            return Ok(());
        }
        Err(Error::Mismatch {
            task: old.task.clone(),
            field,
            expected,
            found,
        })
    };
    same("version", old.version.to_string(), new.version.to_string())?;
    same(
        "task file",
        old.task_sha256.clone(),
        new.task_sha256.clone(),
    )?;
    same("data", files(&old.data), files(&new.data))?;
    same(
        "few-shot examples",
        old.fewshot.to_string(),
        new.fewshot.to_string(),
    )?;
    same("items", old.items.to_string(), new.items.to_string())
}

fn files(data: &[DataFile]) -> String {
    let file = |file: &DataFile| format!("{} with sha256 {}", file.path, file.sha256);
    data.iter().map(file).collect::<Vec<String>>().join(", ")
}
