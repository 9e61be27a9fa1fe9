//! The modes side by side.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use pdtrim_core::{Boundary, Bytes};

use super::group::GroupMetric;
use super::{EvalReport, GroupRow, ReportRow};
use crate::metric::{Difference, MetricName};
use crate::mode::Mode;

pub(super) fn render(report: &EvalReport) -> String {
    let mut modes: Vec<Mode> = report.rows.iter().map(|row| row.mode).collect();
    modes.sort_unstable();
    modes.dedup();
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Disabled);
    let header = ["task", "items", "boundary", "metric"].map(str::to_owned);
    table.set_header(header.into_iter().chain(modes.iter().map(Mode::to_string)));
    for task in report.tasks() {
        for block in blocks(report, task) {
            let lines = lines(report, &block, &modes);
            // One table row with several lines, so that the rules separate tasks and not lines.
            table.add_row(aligned(
                lines.into_iter().map(|lines| lines.join("\n")).collect(),
            ));
        }
    }
    add_groups(&mut table, report, &modes);
    table.trim_fmt()
}

/// The rows of one task with one boundary; a row without boundary belongs to all of them.
struct Block<'r> {
    boundary: Option<Boundary>,
    rows: Vec<&'r ReportRow>,
}

fn blocks<'r>(report: &'r EvalReport, task: &str) -> Vec<Block<'r>> {
    let rows: Vec<&ReportRow> = report
        .rows
        .iter()
        .filter(|row| row.task() == task)
        .collect();
    let mut boundaries: Vec<Option<Boundary>> = rows.iter().map(|row| row.boundary).collect();
    boundaries.sort_unstable();
    boundaries.dedup();
    if boundaries.len() > 1 {
        boundaries.retain(Option::is_some);
    }
    let rows_of = |boundary| {
        let rows = rows
            .iter()
            .filter(|row| row.boundary.is_none() || row.boundary == boundary);
        rows.copied().collect()
    };
    boundaries
        .into_iter()
        .map(|boundary| Block {
            boundary,
            rows: rows_of(boundary),
        })
        .collect()
}

/// The block's columns, each a list of lines of equal number.
fn lines(report: &EvalReport, block: &Block<'_>, modes: &[Mode]) -> Vec<Vec<String>> {
    let mut metrics: Vec<MetricName> = Vec::new();
    for metric in block
        .rows
        .iter()
        .flat_map(|row| &row.result.summary.metrics)
    {
        if !metrics.contains(&metric.name) {
            metrics.push(metric.name);
        }
    }
    let first = &block.rows[0].result.summary;
    let boundary = block
        .boundary
        .map_or_else(|| "-".to_owned(), |boundary| boundary.to_string());
    let mut names: Vec<String> = metrics.iter().map(MetricName::to_string).collect();
    names.extend(["KV per item".to_owned(), "items trimmed".to_owned()]);
    let mut columns = vec![
        vec![first.task.clone()],
        vec![first.items.to_string()],
        vec![boundary],
        names,
    ];
    for mode in modes {
        let row = block.rows.iter().find(|row| row.mode == *mode);
        columns.push(row.map_or_else(Vec::new, |row| {
            let mut lines: Vec<String> = metrics
                .iter()
                .map(|&name| value(report, row, name))
                .collect();
            let kv = &row.result.summary.kv;
            lines.push(Bytes(kv.bytes_per_item.round() as u64).to_string());
            lines.push(format!("{:.0} %", 100.0 * kv.trimmed_share));
            lines
        }));
    }
    columns
}

/// `value ± standard error (difference to dense)`, as far as they are known.
fn value(report: &EvalReport, row: &ReportRow, name: MetricName) -> String {
    let Some(metric) = row.result.summary.metric(name) else {
        return String::new();
    };
    let digits = name.digits();
    let stderr = metric
        .stderr
        .map(|stderr| format!(" ± {stderr:.digits$}"))
        .unwrap_or_default();
    let difference = report.difference_to_dense(row, name);
    let difference = difference.map(|difference| shown(difference, digits));
    format!(
        "{:.digits$}{stderr}{}",
        metric.value,
        difference.unwrap_or_default()
    )
}

/// ` (difference to dense ± its standard error)`.
fn shown(difference: Difference, digits: usize) -> String {
    let stderr = difference
        .stderr
        .map(|stderr| format!(" ± {stderr:.digits$}"))
        .unwrap_or_default();
    format!(" ({:+.digits$}{stderr})", difference.value)
}

/// The groups, each as a block of its own.
fn add_groups(table: &mut Table, report: &EvalReport, modes: &[Mode]) {
    let rows = report.groups();
    let mut keys: Vec<(&str, Option<Boundary>)> = Vec::new();
    for row in &rows {
        let key = (row.group.as_str(), row.boundary);
        let of_stages = |other: &&GroupRow| other.group == row.group && other.boundary.is_some();
        if !keys.contains(&key) && (key.1.is_some() || !rows.iter().any(|row| of_stages(&row))) {
            keys.push(key);
        }
    }
    for (group, boundary) in keys {
        let of = |mode: Mode| {
            let mut own = rows
                .iter()
                .filter(|row| row.group == group && row.mode == mode);
            own.find(|row| row.boundary.is_none() || row.boundary == boundary)
        };
        let Some(first) = modes.iter().find_map(|&mode| of(mode)) else {
            continue;
        };
        let lines = |cells: Vec<String>| cells.join("\n");
        let mut cells = vec![
            format!("{group}\n({})", count(first.members.len())),
            first.items.to_string(),
            boundary.map_or_else(|| "-".to_owned(), |boundary| boundary.to_string()),
            lines(
                first
                    .metrics
                    .iter()
                    .map(|metric| metric.metric.name.to_string())
                    .collect(),
            ),
        ];
        for &mode in modes {
            let metrics = of(mode).map_or(&[][..], |row| &row.metrics);
            cells.push(lines(metrics.iter().map(group_value).collect()));
        }
        table.add_row(aligned(cells));
    }
}

fn count(tasks: usize) -> String {
    if tasks == 1 {
        "1 task".to_owned()
    } else {
        format!("{tasks} tasks")
    }
}

fn group_value(metric: &GroupMetric) -> String {
    let digits = metric.metric.name.digits();
    let stderr = metric
        .metric
        .stderr
        .map(|stderr| format!(" ± {stderr:.digits$}"));
    let difference = metric
        .difference_to_dense
        .map(|difference| shown(difference, digits));
    format!(
        "{:.digits$}{}{}",
        metric.metric.value,
        stderr.unwrap_or_default(),
        difference.unwrap_or_default()
    )
}

/// Words from the left, numbers from the right.
fn aligned(cells: Vec<String>) -> impl Iterator<Item = Cell> {
    cells.into_iter().enumerate().map(|(column, text)| {
        let alignment = if column < 4 {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        };
        Cell::new(text).set_alignment(alignment)
    })
}
