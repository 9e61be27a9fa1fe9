//! The outcome of a comparison.

use std::fmt;

use pdtrim_core::Boundary;
use serde::Serialize;
use serde_json::{Value, json};

use super::baseline::BaselineRun;
use super::limit::MaxDrop;
use super::{github, junit, table};
use crate::metric::MetricName;
use crate::mode::Mode;

/// What [`compare`](super::compare) found: a [`Check`] for each metric of each task.
///
/// ```
/// use pdtrim_eval::regression::{Baseline, compare};
/// use pdtrim_eval::{EvalReport, Execution, Mode, Options, RunInfo, Task, Uniform, evaluate};
///
/// let task = Task::bundled("everyday")?;
/// let result = evaluate(&Uniform, &task, &Options::default(), &Execution::default())?;
/// let mut report = EvalReport::new(RunInfo::default());
/// report.push(Mode::Dense, None, result);
///
/// // A run against itself: nothing got worse.
/// let gate = compare(&report, &Baseline::of(&report)?, &["acc=0.01".parse()?], 0.05)?;
/// assert!(gate.passed());
/// assert!(gate.table().contains("everyday"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// The probability of a false alarm that is put up with.
    pub alpha: f64,
    /// The run that the baseline was made from.
    pub baseline: BaselineRun,
    /// The run that is held against it.
    pub current: BaselineRun,
    /// The checks: the baseline's tasks and metrics in its order, then those that only the run has.
    pub checks: Vec<Check>,
}

/// A metric of a task, now and in the baseline.
///
/// ```
/// use pdtrim_eval::MetricName;
/// use pdtrim_eval::regression::{Check, Status};
///
/// let check = Check {
///     task: "everyday".to_owned(),
///     metric: MetricName::Acc,
///     status: Status::New,
///     limit: Some("acc=0.01".parse()?),
///     baseline: None,
///     current: None,
///     paired: None,
/// };
/// // There is nothing to hold it against.
/// assert!(!check.fails() && check.max_drop().is_none());
/// # Ok::<(), pdtrim_eval::regression::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The task.
    pub task: String,
    /// The metric.
    pub metric: MetricName,
    /// How it ended.
    pub status: Status,
    /// The limit that holds for it; in JSON as the user gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<MaxDrop>,
    /// In the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Side>,
    /// In this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Side>,
    /// The two, item by item; none where one of them is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paired: Option<Paired>,
}

/// A metric's value and how it was measured.
///
/// ```
/// use pdtrim_core::Boundary;
/// use pdtrim_eval::Mode;
/// use pdtrim_eval::regression::Side;
///
/// let boundary = Some(Boundary::Decode);
/// let side = Side { value: 0.575, stderr: Some(0.079), mode: Mode::Pd, boundary };
/// assert_eq!(format!("{}: {:.3}", side.mode, side.value), "pd: 0.575");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Side {
    /// The value.
    pub value: f64,
    /// Its standard error; none for a single item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// How much of a plan was in force.
    pub mode: Mode,
    /// Which stage computed the first new token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
}

/// A comparison item by item.
///
/// ```
/// use pdtrim_eval::regression::Paired;
///
/// // A drop by 0.02 that chance explains well enough.
/// let paired = Paired { items: 200, drop: 0.02, stderr: Some(0.021), p: 0.19 };
/// assert!(paired.p >= 0.05);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Items compared.
    pub items: usize,
    /// By how much the metric got worse, in its unit; negative where it got better.
    pub drop: f64,
    /// The standard error of `drop`; none for a single item.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<f64>,
    /// The probability of such results, if the model in truth did not get worse.
    pub p: f64,
}

/// How a check ended.
///
/// ```
/// use pdtrim_eval::regression::Status;
///
/// assert_eq!(Status::WithinNoise.to_string(), "within noise");
/// assert_eq!(serde_json::to_string(&Status::WithinNoise)?, "\"within_noise\"");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It dropped by more than its limit, and the test says that it got worse. Fails.
    Worse,
    /// The baseline has it, the run has not. Fails if it has a limit.
    Missing,
    /// It dropped by more than its limit, but noise explains that well enough. Passes.
    WithinNoise,
    /// The run has it, the baseline has not: there is nothing to hold it against. Passes.
    New,
    /// It dropped by no more than its limit. Passes.
    Ok,
    /// It has a limit, and the test says that it got better. Passes.
    Improved,
    /// No limit is for it. Passes.
    Unlimited,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worse => "worse",
            Self::Missing => "missing",
            Self::WithinNoise => "within noise",
            Self::New => "new",
            Self::Ok => "ok",
            Self::Improved => "improved",
            Self::Unlimited => "no limit",
        })
    }
}

impl Check {
    /// The largest drop that passes, in the metric's unit; none without a limit or a baseline.
    pub fn max_drop(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        Some(limit.amount().of(self.baseline?.value))
    }

    /// Its place in a list that begins with the worst.
    fn rank(&self) -> usize {
        match self.status {
            Status::Worse => 0,
            Status::Missing if self.fails() => 1,
            Status::WithinNoise => 2,
            Status::Ok => 3,
            Status::Improved => 4,
            Status::New => 5,
            Status::Missing => 6,
            Status::Unlimited => 7,
        }
    }

    /// Whether it fails the gate.
    pub fn fails(&self) -> bool {
        match self.status {
            Status::Worse => true,
            Status::Missing => self.limit.is_some(),
            _ => false,
        }
    }
}

impl Gate {
    /// Whether no check fails.
    pub fn passed(&self) -> bool {
        !self.checks.iter().any(Check::fails)
    }

    /// The checks, worst first; those of equal status by their drop in units of the baseline's value.
    pub fn worst_first(&self) -> Vec<&Check> {
        let mut checks: Vec<&Check> = self.checks.iter().collect();
        let relative_drop = |check: &Check| {
            let (paired, baseline) = (check.paired?, check.baseline?);
            Some(paired.drop / baseline.value.abs().max(f64::MIN_POSITIVE))
        };
        let order = |check: &Check| relative_drop(check).unwrap_or(f64::NEG_INFINITY);
        checks.sort_by(|one, two| {
            let by_status = one.rank().cmp(&two.rank());
            by_status.then(order(two).total_cmp(&order(one)))
        });
        checks
    }

    /// The checks as a table, worst first.
    pub fn table(&self) -> String {
        table::render(self)
    }

    /// Everything, with `passed` in front.
    pub fn to_json(&self) -> Value {
        json!({
            "passed": self.passed(),
            "alpha": self.alpha,
            "baseline": self.baseline,
            "current": self.current,
            "checks": self.checks,
        })
    }

    /// A `JUnit` file: a test suite per task, a test case per metric. Without dates and durations, so that
    /// equal gates give equal files.
    pub fn junit(&self) -> String {
        junit::render(self)
    }

    /// Annotations of a GitHub workflow, one a line: an error for each check that fails, a warning for
    /// each that noise explains or that has a limit and nothing to hold it against. Worst first, since
    /// GitHub shows ten errors and ten warnings a step.
    pub fn github_annotations(&self) -> String {
        github::render(self)
    }
}
