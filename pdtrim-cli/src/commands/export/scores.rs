//! The scores in the results file beside a plan.

use std::path::Path;

use anyhow::{Context, Result};
use pdtrim_core::{limits, read_text};
use serde::Deserialize;

/// A metric of a task in one mode.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Score {
    pub(super) task: String,
    /// `dense`, `unified`, `pd` or `pd+kv`.
    pub(super) mode: String,
    pub(super) boundary: Option<String>,
    pub(super) metric: String,
    pub(super) value: f64,
    pub(super) stderr: Option<f64>,
    pub(super) items: usize,
}

#[derive(Deserialize)]
struct File {
    pdtrim: Own,
}

#[derive(Deserialize)]
struct Own {
    run: Run,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Run {
    model_sha256: String,
}

#[derive(Deserialize)]
struct Row {
    mode: String,
    boundary: Option<String>,
    task: String,
    items: usize,
    metrics: Vec<Metric>,
}

#[derive(Deserialize)]
struct Metric {
    name: String,
    value: f64,
    stderr: Option<f64>,
}

/// Those of `results.json` in the plan's folder; none if there is no such file, or it is about another model
/// than the one with hash `model`.
pub(super) fn beside(plan: &Path, model: &str) -> Result<Vec<Score>> {
    let path = plan.with_file_name("results.json");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = read_text(&path, limits::RESULTS)?;
    let file: File = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not the results file of `pdtrim trim` or `pdtrim eval`; move it elsewhere, or the plan",
            path.display()
        )
    })?;
    if file.pdtrim.run.model_sha256 != model {
        return Ok(Vec::new());
    }
    let scores = file.pdtrim.rows.into_iter().flat_map(|row| {
        let metrics = row.metrics.into_iter();
        let score = move |metric: Metric| Score {
            task: row.task.clone(),
            mode: row.mode.clone(),
            boundary: row.boundary.clone(),
            metric: metric.name,
            value: metric.value,
            stderr: metric.stderr,
            items: row.items,
        };
        metrics.map(score).collect::<Vec<_>>()
    });
    Ok(scores.collect())
}
