//! What can go wrong between a baseline and a gate.

use std::path::PathBuf;

use crate::metric::MetricName;

/// The result of this module's operations.
///
/// ```
/// use pdtrim_eval::regression::{MaxDrop, Result};
///
/// fn limits(texts: &[&str]) -> Result<Vec<MaxDrop>> {
///     texts.iter().map(|text| text.parse()).collect()
/// }
///
/// assert_eq!(limits(&["acc=0.01", "perplexity=2%"])?.len(), 2);
/// # Ok::<(), pdtrim_eval::regression::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the comparison with a baseline. That a model got worse is none: see
/// [`Gate::passed`](super::Gate::passed).
///
/// ```
/// use pdtrim_eval::regression::{Error, MaxDrop};
///
/// let error = "acc".parse::<MaxDrop>().unwrap_err();
/// assert!(matches!(error, Error::LimitSyntax { .. }));
/// assert!(error.to_string().starts_with("limit `acc`: expected"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A baseline could not be read.
    #[error("cannot read the baseline {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<pdtrim_core::Error>,
    },
    /// A baseline could not be written.
    #[error("cannot write the baseline")]
    Write(#[source] Box<pdtrim_core::Error>),
    /// A baseline is not the JSON that it should be.
    #[error("baseline {path}, line {line}, column {column}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What the parser says; it names the field.
        reason: String,
    },
    /// A field of a baseline has a value that it cannot have.
    #[error("baseline {path}, field `{field}`: expected {expected}, found {found}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with the way to it.
        field: String,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A report holds no task, so there is nothing to keep or to compare.
    #[error("expected at least one evaluated task, found none")]
    NoTasks,
    /// A task's metric has other than one value per item.
    #[error(
        "task `{task}`, metric `{metric}`: expected a value for each of {expected} items, \
            found {found}"
    )]
    Items {
        /// The task.
        task: String,
        /// The metric.
        metric: MetricName,
        /// The items.
        expected: usize,
        /// The values.
        found: usize,
    },
    /// An item's value is infinite or not a number, so that nothing can be compared with it.
    #[error(
        "task `{task}`, metric `{metric}`, item {item}: expected a finite number, found {found}"
    )]
    NotFinite {
        /// The task.
        task: String,
        /// The metric.
        metric: MetricName,
        /// The item, counted from 0.
        item: usize,
        /// Its value.
        found: f64,
    },
    /// A limit is not of the form `[TASK:]METRIC=AMOUNT[%]`.
    #[error("limit `{limit}`: expected {expected}, found {found}")]
    LimitSyntax {
        /// The limit as it was given.
        limit: String,
        /// What should stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A limit is for a metric that does not exist.
    #[error("limit `{limit}`: {reason}")]
    LimitMetric {
        /// The limit as it was given.
        limit: String,
        /// The name, and those nearest to it.
        reason: String,
    },
    /// A limit applies to nothing: a gate that checks nothing must not be green.
    #[error(
        "limit `{limit}` applies to no metric that is in both the run and the baseline; {hint}"
    )]
    LimitUnused {
        /// The limit.
        limit: String,
        /// The nearest names that there are.
        hint: String,
    },
    /// Two limits are for the same task and metric.
    #[error("limit `{limit}`: expected one limit for this task and metric, found also `{other}`")]
    LimitRepeated {
        /// The later limit.
        limit: String,
        /// The earlier one.
        other: String,
    },
    /// The probability of a false alarm is none.
    #[error("alpha must be above 0 and at most 1, found {found}")]
    Alpha {
        /// What was given.
        found: f64,
    },
    /// A task is not the one that the baseline was measured on.
    #[error(
        "task `{task}`, {field}: the baseline has {expected}, this run has {found}; \
            their items cannot be paired"
    )]
    Mismatch {
        /// The task.
        task: String,
        /// What differs.
        field: &'static str,
        /// The baseline's.
        expected: String,
        /// The run's.
        found: String,
    },
    /// An item is spread over another number of tokens, words or bytes than in the baseline.
    #[error(
        "task `{task}`, metric `{metric}`, item {item}: the baseline has weight \
            {expected}, this run has {found}; was another tokenizer used?"
    )]
    Weight {
        /// The task.
        task: String,
        /// The metric.
        metric: MetricName,
        /// The item, counted from 0.
        item: usize,
        /// The baseline's.
        expected: f64,
        /// The run's.
        found: f64,
    },
}
