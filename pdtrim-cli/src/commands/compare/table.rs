//! The table, on the page and on stdout.

use pdtrim_eval::page::{Cell, Column, Table};

use super::config::name;
use super::report::{Report, Summary};
use crate::statistics::Spread;

/// A line for the dense model and one for each row.
pub(super) fn table(report: &Report) -> Table {
    let shown = Shown::of(report);
    let mut columns = ["strategy", "target"].map(Column::text).to_vec();
    columns.extend(shown.repair.then(|| Column::text("repair")));
    let numbers = [
        "P",
        "D",
        "held-out NLL",
        "rise",
        "FLOPs saved",
        "bytes saved",
    ];
    columns.extend(numbers.map(Column::number));
    let tasks = report.measured.dense.tasks.iter();
    columns.extend(tasks.map(|score| Column::number(&*score.task)));
    columns.extend(shown.average.then(|| Column::number("average %")));
    columns.extend(shown.paper.then(|| Column::number("paper %")));
    columns.push(Column::number("search s"));
    columns.extend(shown.repair.then(|| Column::number("repair s")));
    columns.extend(["evaluations", "on windows"].map(Column::number));
    let mut table = Table::new("", columns);
    table.rows.push(dense(report, shown));
    table
        .rows
        .extend(report.rows.iter().map(|row| cells(row, shown)));
    table
}

/// Columns that only some tables have.
#[derive(Clone, Copy)]
struct Shown {
    /// Where a row is repaired.
    repair: bool,
    /// Where a task has an accuracy.
    average: bool,
    /// Where the paper has a figure.
    paper: bool,
}

impl Shown {
    fn of(report: &Report) -> Self {
        let is_repaired = |row: &Summary| !row.row.repair.is_none();
        Self {
            repair: report.rows.iter().any(is_repaired),
            average: report.average_dense().is_some(),
            paper: report.paper_dense().is_some()
                || report.rows.iter().any(|row| row.paper.is_some()),
        }
    }
}

fn dense(report: &Report, shown: Shown) -> Vec<Cell> {
    let dense = &report.measured.dense;
    let mut cells = ["dense", ""].map(Cell::from).to_vec();
    cells.extend(shown.repair.then(|| Cell::from("")));
    cells.extend(["0", "0"].map(Cell::from));
    cells.push(Cell::number(Some(dense.held_out_loss), 3));
    cells.extend([""; 3].map(Cell::from));
    let tasks = dense.tasks.iter();
    cells.extend(tasks.map(|score| Cell::number(Some(score.metric.value), 4)));
    cells.extend(
        shown
            .average
            .then(|| Cell::number(report.average_dense(), 2)),
    );
    cells.extend(shown.paper.then(|| Cell::number(report.paper_dense(), 2)));
    let last = if shown.repair { 4 } else { 3 };
    cells.extend((0..last).map(|_| Cell::from("")));
    cells
}

fn cells(row: &Summary, shown: Shown) -> Vec<Cell> {
    let counts = row.row.counts;
    let mut cells = vec![
        Cell::from(name(row.row.strategy)),
        Cell::from(name(row.row.target)),
    ];
    let repair = row.row.repair.to_string();
    cells.extend(shown.repair.then(|| Cell::from(repair)));
    cells.push(Cell::from(counts.prefill.to_string()));
    cells.push(Cell::from(counts.decode.to_string()));
    cells.push(if row.runs == 0 {
        Cell::from("failed")
    } else {
        spread(row.held_out_loss, 3)
    });
    cells.push(spread(row.held_out_rise, 3));
    let percent = |spread: Option<Spread>| {
        Cell::from(spread.map(|spread| format!("{:.1} %", spread.mean * 100.0)))
    };
    cells.push(percent(row.prefill_flops_saved));
    cells.push(percent(row.decode_weight_bytes_saved));
    cells.extend(row.tasks.iter().map(|&task| spread(task, 4)));
    cells.extend(shown.average.then(|| spread(row.average, 2)));
    cells.extend(shown.paper.then(|| Cell::number(row.paper, 2)));
    cells.push(spread(row.search_seconds, 1));
    cells.extend(shown.repair.then(|| spread(row.repair_seconds, 1)));
    let mean = |spread: Option<Spread>| Cell::number(spread.map(|spread| spread.mean), 0);
    cells.push(mean(row.evaluations));
    cells.push(mean(row.window_evaluations));
    cells
}

/// Mean and, over several seeds, standard deviation.
fn spread(spread: Option<Spread>, decimals: usize) -> Cell {
    Cell::from(spread.map(|spread| {
        let error = spread.standard_deviation;
        let error = error.map_or_else(String::new, |error| format!(" ± {error:.decimals$}"));
        format!("{:.decimals$}{error}", spread.mean)
    }))
}

/// What the table's columns mean, and what failed.
pub(super) fn explained(report: &Report) -> String {
    let mut lines = vec![columns_explained(report)];
    let failed = report.rows.iter().flat_map(|row| &row.failed);
    lines.extend(failed.map(|why| format!("failed: {why}")));
    lines.join("\n")
}

/// What the table's columns mean.
pub(super) fn columns_explained(report: &Report) -> String {
    let configuration = &report.measured.configuration;
    let held_out = &configuration.held_out;
    let mut text = format!(
        "P and D: blocks out of prefill and decode. Held-out NLL: in nats, {} windows of {} tokens of {}; \
         mean over seeds ± standard deviation. FLOPs saved: of prefill, for a prompt of {} tokens; bytes \
         saved: of the weights that a step of decode reads. Evaluations: candidates, and candidates on \
         windows, in a search.",
        held_out.windows, held_out.window_tokens, held_out.source, held_out.prompt_tokens
    );
    if configuration.validation_windows > 0 {
        let more = configuration.validation_windows;
        let line = format!(" pdtrim decides on {more} windows beside the calibration windows.");
        text.push_str(&line);
    }
    if !configuration.pairs.is_none() {
        let line = format!(
            " Where pdtrim's rows are repaired, it searches with one block, repaired by {}, in the place of two of \
             joint redundancy {} or more.",
            configuration.pairs, configuration.distill_threshold
        );
        text.push_str(&line);
    }
    if Shown::of(report).paper {
        text.push_str(" The paper's averages (arXiv:2509.04467) are quoted, at its own counts.");
    }
    text
}
