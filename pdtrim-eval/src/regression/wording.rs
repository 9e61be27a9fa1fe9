//! A check in words and numbers, the same in every form of output.

use super::gate::{Check, Side, Status};
use crate::metric::MetricName;

/// Below this a probability is only said to be smaller.
const SMALLEST_P: f64 = 0.0001;

pub(super) fn number(metric: MetricName, value: f64) -> String {
    format!("{value:.*}", metric.digits())
}

/// A number with its standard error, where that is known.
pub(super) fn with_stderr(metric: MetricName, number: String, stderr: Option<f64>) -> String {
    match stderr {
        Some(stderr) => format!("{number} ± {stderr:.*}", metric.digits()),
        None => number,
    }
}

pub(super) fn probability(p: f64) -> String {
    if p < SMALLEST_P {
        format!("< {SMALLEST_P}")
    } else {
        format!("{p:.4}")
    }
}

pub(super) fn mode(side: &Side) -> String {
    match side.boundary {
        Some(boundary) => format!("{}, {boundary}", side.mode),
        None => side.mode.to_string(),
    }
}

/// The check in one sentence without a full stop.
pub(super) fn sentence(check: &Check, alpha: f64) -> String {
    let metric = check.metric;
    let (Some(old), Some(new), Some(paired)) = (check.baseline, check.current, check.paired) else {
        return match check.status {
            Status::New => format!("{metric} is not in the baseline"),
            _ => format!("{metric} is in the baseline, but this run has no value of it"),
        };
    };
    let number = |value| number(metric, value);
    let went = if paired.drop == 0.0 {
        format!("{metric} stayed at {}", number(new.value))
    } else {
        let (old, new) = (number(old.value), number(new.value));
        let verdict = if paired.drop > 0.0 { "worse" } else { "better" };
        let by = number(paired.drop.abs());
        format!("{metric} went from {old} to {new}, {verdict} by {by}")
    };
    let limit = match (&check.limit, check.max_drop()) {
        (Some(limit), Some(most)) => format!("limit {} ({limit})", number(most)),
        _ => "no limit".to_owned(),
    };
    let items = paired.items;
    let p = probability(paired.p);
    format!("{went}; {limit}; p {p} over {items} items, alpha {alpha}")
}
