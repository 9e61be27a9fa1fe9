//! Groups of tasks, weighted by size.

use pdtrim_core::Boundary;
use serde::{Deserialize, Serialize};

use super::{EvalReport, ReportRow};
use crate::metric::{Difference, Metric, MetricName, Samples, pooled_stderr};
use crate::mode::Mode;

/// A group in one mode with one boundary.
///
/// ```
/// use pdtrim_eval::{GroupRow, Mode};
///
/// let row = GroupRow {
///     group: "race".to_owned(),
///     mode: Mode::Dense,
///     boundary: None,
///     members: ["race_high", "race_middle"].map(String::from).to_vec(),
///     items: 400,
///     metrics: Vec::new(),
/// };
/// let said = format!("{} of {} tasks, {} items", row.group, row.members.len(), row.items);
/// assert_eq!(said, "race of 2 tasks, 400 items");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// The group's name.
    pub group: String,
    /// How much of the plan was in force.
    pub mode: Mode,
    /// Which stage computed the first new token; none where that makes no difference.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boundary: Option<Boundary>,
    /// The tasks that were measured, in the order of their rows.
    pub members: Vec<String>,
    /// Their items.
    pub items: usize,
    /// Shares over all items, with standard errors pooled over the members.
    pub metrics: Vec<GroupMetric>,
}

/// A group's metric.
///
/// ```
/// use pdtrim_eval::{GroupMetric, Metric, MetricName};
///
/// let metric = Metric { name: MetricName::Acc, value: 0.27, stderr: None };
/// let group = GroupMetric { metric, difference_to_dense: None };
/// assert_eq!(serde_json::to_string(&group)?, r#"{"name":"acc","value":0.27}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupMetric {
    /// The metric.
    #[serde(flatten)]
    pub metric: Metric,
    /// Against the dense model on the same items; none where not all members were measured dense.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub difference_to_dense: Option<Difference>,
}

pub(super) fn rows(report: &EvalReport) -> Vec<GroupRow> {
    let mut keys = Vec::new();
    for row in &report.rows {
        for group in &row.result.summary.groups {
            let key = (group.as_str(), row.mode, row.boundary);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys.into_iter()
        .map(|(group, mode, boundary)| {
            let members = report.rows.iter().filter(|row| {
                row.mode == mode
                    && row.boundary == boundary
                    && row.result.summary.groups.iter().any(|name| name == group)
            });
            row(report, group, &members.collect::<Vec<_>>())
        })
        .collect()
}

/// `members` has at least one row.
fn row(report: &EvalReport, group: &str, members: &[&ReportRow]) -> GroupRow {
    let names = members[0]
        .result
        .summary
        .metrics
        .iter()
        .map(|metric| metric.name);
    let of_all = |name: &MetricName| {
        name.higher_is_better()
            && members
                .iter()
                .all(|row| row.result.summary.metric(*name).is_some())
    };
    let metrics = names
        .filter(of_all)
        .filter_map(|name| metric(report, name, members));
    GroupRow {
        group: group.to_owned(),
        mode: members[0].mode,
        boundary: members[0].boundary,
        members: members.iter().map(|row| row.task().to_owned()).collect(),
        items: members.iter().map(|row| row.result.summary.items).sum(),
        metrics: metrics.collect(),
    }
}

fn metric(report: &EvalReport, name: MetricName, members: &[&ReportRow]) -> Option<GroupMetric> {
    let samples = |rows: &[&ReportRow]| {
        Samples::concat(name, rows.iter().map(|row| row.result.samples(name)))
    };
    let own = samples(members);
    let stderrs: Vec<_> = members
        .iter()
        .map(|row| {
            let metric = row.result.summary.metric(name);
            (
                metric.and_then(|metric| metric.stderr),
                row.result.summary.items,
            )
        })
        .collect();
    let dense: Option<Vec<&ReportRow>> = members.iter().map(|row| report.dense_of(row)).collect();
    Some(GroupMetric {
        metric: Metric {
            stderr: pooled_stderr(&stderrs),
            ..own.metric()?
        },
        difference_to_dense: dense.and_then(|dense| own.difference(&samples(&dense))),
    })
}
