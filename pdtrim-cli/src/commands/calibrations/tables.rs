//! The report as tables for a reader.

use comfy_table::{CellAlignment, Table, presets};

use super::report::{Agreement, Report};
use crate::statistics::Spread;

pub(super) fn render(report: &Report) -> String {
    let parts = [
        rows(report),
        "over the seeds, mean ± standard deviation:".to_owned(),
        sources(report),
        "agreement of prefill's blocks (Jaccard; within a source: between its seeds):".to_owned(),
        agreement(report, &report.agreement.prefill),
        "agreement of decode's blocks:".to_owned(),
        agreement(report, &report.agreement.decode),
        explanation(report),
    ];
    parts.join("\n")
}

/// A line for each source and seed, after one for the dense model.
fn rows(report: &Report) -> String {
    let first = ["calibration", "seed", "P", "D", "J dense", "J"];
    let mut table = table(first.map(str::to_owned), report);
    let losses = report.domains.iter().map(|domain| loss(domain.loss_dense));
    let dense = ["dense", "", "", "", "", ""].map(str::to_owned);
    table.add_row(dense.into_iter().chain(losses).chain([String::new()]));
    for row in &report.rows {
        let cost = |cost: Option<f64>| cost.map_or_else(|| "-".to_owned(), loss);
        let first = [
            row.source.clone(),
            row.seed.to_string(),
            blocks(&row.removed.prefill),
            blocks(&row.removed.decode),
            cost(row.cost_dense),
            cost(row.cost),
        ];
        let losses = row.held_out.iter().copied().map(loss);
        table.add_row(first.into_iter().chain(losses).chain([rise(row.mean_rise)]));
    }
    finished(table, 4)
}

fn sources(report: &Report) -> String {
    let first = ["calibration", "own rise"].map(str::to_owned);
    let mut table = table(first, report);
    for source in &report.sources {
        let first = [source.source.clone(), spread(source.own_rise)];
        let losses = source.held_out.iter().copied().map(spread);
        let last = [spread(source.mean_rise)];
        table.add_row(first.into_iter().chain(losses).chain(last));
    }
    finished(table, 1)
}

fn agreement(report: &Report, agreement: &Agreement) -> String {
    let mut table = Table::new();
    let names = report.sources.iter().map(|source| source.source.clone());
    table.set_header([String::new()].into_iter().chain(names));
    for (source, line) in report.sources.iter().zip(&agreement.0) {
        let cells = line
            .iter()
            .map(|cell| cell.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}")));
        table.add_row([source.source.clone()].into_iter().chain(cells));
    }
    finished(table, 1)
}

/// `first` columns, one for each domain, one for the rise.
fn table<const N: usize>(first: [String; N], report: &Report) -> Table {
    let domains = report.domains.iter();
    let domains = domains.map(|domain| format!("on {}", domain.name));
    let last = ["mean rise".to_owned()];
    let mut table = Table::new();
    table.set_header(first.into_iter().chain(domains).chain(last));
    table
}

fn finished(mut table: Table, left_columns: usize) -> String {
    table.load_style(presets::NOTHING);
    for column in table.column_iter_mut().skip(left_columns) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

fn explanation(report: &Report) -> String {
    let domains = report.domains.iter();
    let domains: Vec<&str> = domains
        .map(|domain| domain.windows.source.as_str())
        .collect();
    let windows = report
        .domains
        .first()
        .map_or(0, |domain| domain.windows.windows);
    let tokens = report
        .domains
        .first()
        .map_or(0, |domain| domain.windows.window_tokens);
    format!(
        "mean NLL in nats of the continuations, each stage without its blocks; \"on\": {windows} held-out \
         windows of {tokens} tokens of {}; mean rise: over the dense model, mean over these",
        domains.join("; ")
    )
}

fn loss(value: f64) -> String {
    format!("{value:.3}")
}

fn rise(value: f64) -> String {
    format!("{value:+.3}")
}

fn spread(value: Option<Spread>) -> String {
    value.map_or_else(|| "-".to_owned(), |spread| spread.to_string())
}

fn blocks(blocks: &[usize]) -> String {
    let blocks: Vec<String> = blocks.iter().map(usize::to_string).collect();
    blocks.join(",")
}
