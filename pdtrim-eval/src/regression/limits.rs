//! All limits of a gate: which one holds, and whether each does anything.

use super::error::{Error, Result};
use super::gate::{Check, Status};
use super::limit::MaxDrop;
use crate::metric::MetricName;
use crate::nearest;

/// Limits of which no two are for the same metric of the same tasks.
pub(super) struct Limits<'l>(&'l [MaxDrop]);

impl<'l> Limits<'l> {
    pub(super) fn new(limits: &'l [MaxDrop]) -> Result<Self> {
        for (index, limit) in limits.iter().enumerate() {
            let other = limits[..index].iter().find(|other| other.repeats(limit));
            if let Some(other) = other {
                return Err(Error::LimitRepeated {
                    limit: limit.to_string(),
                    other: other.to_string(),
                });
            }
        }
        Ok(Self(limits))
    }

    /// The most specific of those that apply.
    pub(super) fn of(&self, task: &str, metric: MetricName) -> Option<MaxDrop> {
        let applying = self.0.iter().filter(|limit| limit.applies_to(task, metric));
        applying.max_by_key(|limit| limit.specificity()).cloned()
    }

    /// Refuses a limit that is for none of the checks that could fail.
    pub(super) fn refuse_unused(&self, checks: &[Check]) -> Result<()> {
        let checks: Vec<&Check> = checks
            .iter()
            .filter(|check| check.status != Status::New)
            .collect();
        let used = |limit: &MaxDrop| {
            checks
                .iter()
                .any(|check| limit.applies_to(&check.task, check.metric))
        };
        match self.0.iter().find(|limit| !used(limit)) {
            Some(limit) => Err(Error::LimitUnused {
                limit: limit.to_string(),
                hint: hint(limit, &checks),
            }),
            None => Ok(()),
        }
    }
}

/// The tasks most like the limit's where there is none of its name, else the metrics that it could be for.
fn hint(limit: &MaxDrop, checks: &[&Check]) -> String {
    let mut tasks: Vec<&str> = checks.iter().map(|check| check.task.as_str()).collect();
    tasks.dedup();
    if let Some(task) = limit.task().filter(|task| !tasks.contains(task)) {
        return nearest::hint(task, tasks);
    }
    let own = |check: &&&Check| limit.task().is_none_or(|task| task == check.task);
    let mut metrics: Vec<MetricName> = checks
        .iter()
        .filter(own)
        .map(|check| check.metric)
        .collect();
    metrics.sort_unstable();
    metrics.dedup();
    let metrics: Vec<String> = metrics.iter().map(MetricName::to_string).collect();
    format!("the known ones are {}", metrics.join(", "))
}
