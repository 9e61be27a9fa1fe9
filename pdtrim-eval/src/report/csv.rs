//! One row per task, mode, boundary and metric.

use std::io::{Error as IoError, Write};

use super::{EvalReport, ReportRow};
use crate::error::{Error, Result};
use crate::metric::Metric;

const HEADER: [&str; 21] = [
    "task",
    "version",
    "mode",
    "boundary",
    "metric",
    "value",
    "stderr",
    "higher_is_better",
    "difference_to_dense",
    "difference_stderr",
    "fewshot",
    "items",
    "items_total",
    "one_token_items",
    "truncated_items",
    "scored_tokens",
    "kv_bytes",
    "kv_bytes_per_item",
    "kv_positions",
    "trimmed_items",
    "trimmed_share",
];

pub(super) fn write(report: &EvalReport, out: impl Write) -> Result<()> {
    let failed = |error| Error::Write(IoError::from(error));
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(HEADER).map_err(failed)?;
    for row in &report.rows {
        for metric in &row.result.summary.metrics {
            writer
                .write_record(record(report, row, metric))
                .map_err(failed)?;
        }
    }
    writer.flush().map_err(Error::Write)
}

fn record(report: &EvalReport, row: &ReportRow, metric: &Metric) -> [String; 21] {
    let or_empty = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    let summary = &row.result.summary;
    let kv = &summary.kv;
    let difference = report.difference_to_dense(row, metric.name);
    [
        summary.task.clone(),
        summary.version.to_string(),
        row.mode.to_string(),
        row.boundary
            .map(|boundary| boundary.to_string())
            .unwrap_or_default(),
        metric.name.to_string(),
        metric.value.to_string(),
        or_empty(metric.stderr),
        metric.name.higher_is_better().to_string(),
        or_empty(difference.map(|difference| difference.value)),
        or_empty(difference.and_then(|difference| difference.stderr)),
        summary.fewshot.to_string(),
        summary.items.to_string(),
        summary.items_total.to_string(),
        summary.one_token_items.to_string(),
        summary.truncated_items.to_string(),
        summary.scored_tokens.to_string(),
        kv.bytes.0.to_string(),
        kv.bytes_per_item.to_string(),
        kv.positions.to_string(),
        kv.trimmed_items.to_string(),
        kv.trimmed_share.to_string(),
    ]
}
