//! The checks as a table, worst first.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::gate::{Check, Gate, Side};
use super::limit::Amount;
use super::wording::{mode, number, probability, with_stderr};

/// Columns on the left, which are words; those after them are numbers.
const WORDS: usize = 4;

pub(super) fn render(gate: &Gate) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header([
            "status", "task", "mode", "metric", "baseline", "now", "worse by", "limit", "p",
        ]);
    let checks = gate.worst_first();
    // One table row with several lines, so that the rules separate statuses and not lines.
    for alike in checks.chunk_by(|one, two| status(one) == status(two)) {
        let lines: Vec<[String; 9]> = alike.iter().map(|check| line(check)).collect();
        table.add_row((0..9).map(|column| {
            let cells: Vec<&str> = lines.iter().map(|line| line[column].as_str()).collect();
            let alignment = if column < WORDS {
                CellAlignment::Left
            } else {
                CellAlignment::Right
            };
            Cell::new(cells.join("\n")).set_alignment(alignment)
        }));
    }
    table.trim_fmt()
}

/// In capitals where it fails: no meaning hangs on colour.
fn status(check: &Check) -> String {
    let status = check.status.to_string();
    if check.fails() {
        status.to_uppercase()
    } else {
        status
    }
}

fn line(check: &Check) -> [String; 9] {
    let metric = check.metric;
    let value = |side: Option<Side>| {
        side.map_or_else(dash, |side| {
            with_stderr(metric, number(metric, side.value), side.stderr)
        })
    };
    let drop = check.paired.map_or_else(dash, |paired| {
        let drop = format!("{:+.*}", metric.digits(), paired.drop);
        with_stderr(metric, drop, paired.stderr)
    });
    let limit =
        check
            .limit
            .as_ref()
            .map_or_else(dash, |limit| match (limit.amount(), check.max_drop()) {
                (Amount::Percent(_), Some(most)) => {
                    format!("{} ({})", number(metric, most), limit.amount())
                }
                (amount, _) => amount.to_string(),
            });
    [
        status(check),
        check.task.clone(),
        modes(check),
        metric.to_string(),
        value(check.baseline),
        value(check.current),
        drop,
        limit,
        check
            .paired
            .map_or_else(dash, |paired| probability(paired.p)),
    ]
}

/// The mode, and the one of the baseline where it was another.
fn modes(check: &Check) -> String {
    let (old, new) = (
        check.baseline.as_ref().map(mode),
        check.current.as_ref().map(mode),
    );
    match (old, new) {
        (Some(old), Some(new)) if old != new => format!("{old} -> {new}"),
        (old, new) => new.or(old).unwrap_or_else(dash),
    }
}

fn dash() -> String {
    "-".to_owned()
}
