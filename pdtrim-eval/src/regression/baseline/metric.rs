//! A metric with its items, as the file has it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Measured;
use super::file::wrong;
use crate::metric::{Metric, MetricName, Samples};
use crate::regression::error::Result;

/// By how much a stored value may differ, relative to it, from what its items give: rounding only.
const ROUNDING: f64 = 1e-9;

/// `hits` where all items are 0 or 1 and count alike, `values` otherwise, and `weights` where they are
/// not all 1.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileMetric {
    pub(super) name: MetricName,
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    stderr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    hits: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    values: Option<Numbers>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    weights: Option<Numbers>,
}

/// Other programs write `null` for what is not finite; it is taken in to be refused by its place.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Numbers(Vec<Option<f64>>);

impl Numbers {
    fn of(numbers: &[f64]) -> Self {
        Self(numbers.iter().copied().map(Some).collect())
    }

    fn check(self, path: &Path, field: &str) -> Result<Vec<f64>> {
        let number = |(index, number): (usize, Option<f64>)| {
            let field = format!("{field}[{index}]");
            number.ok_or_else(|| wrong(path, field, "a finite number", "null"))
        };
        self.0.into_iter().enumerate().map(number).collect()
    }
}

impl FileMetric {
    pub(super) fn of(measured: &Measured) -> Self {
        let samples = &measured.samples;
        let alike = samples.weights.iter().all(|weight| matches!(weight, 1.0));
        let hits = hits(&samples.values).filter(|_| alike);
        Self {
            name: measured.metric.name,
            value: measured.metric.value,
            stderr: measured.metric.stderr,
            values: hits.is_none().then(|| Numbers::of(&samples.values)),
            hits,
            weights: (!alike).then(|| Numbers::of(&samples.weights)),
        }
    }

    /// The metric, if it has a value and a weight for each of `items` items and agrees with them.
    pub(super) fn check(self, path: &Path, field: &str, items: usize) -> Result<Measured> {
        let at = |name: &str| format!("{field}.{name}");
        let stored = Metric {
            name: self.name,
            value: self.value,
            stderr: self.stderr,
        };
        let (source, values) = match (self.hits, self.values) {
            (Some(hits), None) => ("hits", digits(&hits, path, &at("hits"))?),
            (None, Some(values)) => ("values", values.check(path, &at("values"))?),
            (None, None) => return Err(wrong(path, at("hits"), "`hits` or `values`", "neither")),
            (Some(_), Some(_)) => {
                return Err(wrong(path, at("hits"), "`hits` or `values`", "both"));
            }
        };
        let weights = match self.weights {
            Some(weights) => not_negative(weights, path, &at("weights"))?,
            None => vec![1.0; values.len()],
        };
        for (name, count) in [(source, values.len()), ("weights", weights.len())] {
            if count != items {
                let expected = format!("one for each of {items} items");
                return Err(wrong(path, at(name), expected, count.to_string()));
            }
        }
        let samples = Samples {
            metric: self.name,
            values,
            weights,
        };
        agree(samples.metric(), stored)
            .map_err(|(name, given, found)| wrong(path, at(name), given, found))?;
        Ok(Measured {
            metric: stored,
            samples,
        })
    }
}

/// Items that are 0 or 1, as a string of digits; none where any is something else.
fn hits(values: &[f64]) -> Option<String> {
    let digit = |&value: &f64| match value {
        0.0 => Some('0'),
        1.0 => Some('1'),
        _ => None,
    };
    values.iter().map(digit).collect()
}

fn digits(hits: &str, path: &Path, field: &str) -> Result<Vec<f64>> {
    let value = |digit| match digit {
        '0' => Ok(0.0),
        '1' => Ok(1.0),
        other => Err(wrong(path, field, "digits 0 and 1", format!("`{other}`"))),
    };
    hits.chars().map(value).collect()
}

fn not_negative(weights: Numbers, path: &Path, field: &str) -> Result<Vec<f64>> {
    let weights = weights.check(path, field)?;
    match weights.iter().position(|&weight| weight < 0.0) {
        Some(item) => {
            let field = format!("{field}[{item}]");
            Err(wrong(
                path,
                field,
                "a weight of 0 or more",
                weights[item].to_string(),
            ))
        }
        None => Ok(weights),
    }
}

/// Whether a stored metric is what its items give; else the field, what should be there, and what is.
fn agree(given: Option<Metric>, stored: Metric) -> Result<(), (&'static str, String, String)> {
    let value = given.map(|metric| metric.value);
    if !close(value, Some(stored.value)) {
        return Err(("value", as_given(value), stored.value.to_string()));
    }
    let stderr = given.and_then(|metric| metric.stderr);
    if !close(stderr, stored.stderr) {
        return Err(("stderr", as_given(stderr), number(stored.stderr)));
    }
    Ok(())
}

fn close(given: Option<f64>, stored: Option<f64>) -> bool {
    match (given, stored) {
        (Some(one), Some(two)) => (one - two).abs() <= ROUNDING * one.abs().max(1.0),
        (one, two) => one == two,
    }
}

fn as_given(value: Option<f64>) -> String {
    format!("{}, as its items give", number(value))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}
