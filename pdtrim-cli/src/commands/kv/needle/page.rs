//! The page, whose charts bring their numbers, and the table for stdout.

use pdtrim_core::Bytes;
use pdtrim_eval::page::{
    Axis, BarChart, BarSeries, Cell, Column, HeatMap, Item, Page, Section, Table, Unit,
};
use serde_json::Value;

use super::report::{ModeReport, Report, Row};
use crate::tables::{removed_in_words, text};

pub(super) fn page(report: &Report) -> Page {
    Page {
        title: format!("What {} finds in a prompt", text(&report.settings["model"])),
        subtitle: "a fact at every depth of prompts of several lengths, asked for at the end"
            .to_owned(),
        sections: vec![summary(report), heat_maps(report), bytes(report)],
    }
}

/// A line for each mode and length: the share of right answers at each depth, and over all.
pub(super) fn table(report: &Report) -> Table {
    let mut columns = vec![Column::text("mode"), Column::number("tokens")];
    let depths = depths(report);
    columns.extend(depths.into_iter().map(Column::number));
    columns.extend(["all depths", "against dense", "KV per prompt"].map(Column::number));
    let mut table = Table::new(
        "Right answers in percent, by the depth of the fact, with one standard error over prompts. Against dense: on \
            the same prompts, in points. Tokens: of prompt and answer, at most.",
        columns,
    );
    for mode in &report.modes {
        table
            .rows
            .extend(mode.lengths.iter().map(|row| line(mode, row)));
    }
    table
}

fn line(mode: &ModeReport, row: &Row) -> Vec<Cell> {
    let length = row.length.map(|length| length.to_string());
    let cells = mode.cells.iter().filter(|cell| cell.length == row.length);
    let shares = cells.map(|cell| Cell::number(Some(100.0 * cell.score.exact_match), 0));
    let against = row.difference_to_dense;
    let against =
        against.map(|found| with_error(format!("{:+.1}", 100.0 * found.value), found.stderr));
    let share = format!("{:.1}", 100.0 * row.score.exact_match);
    [mode.mode.to_string().into(), length.into()]
        .into_iter()
        .chain(shares)
        .chain([
            with_error(share, row.score.exact_match_stderr).into(),
            against.into(),
            Bytes(row.score.kv_bytes.round() as u64).to_string().into(),
        ])
        .collect()
}

fn with_error(percent: String, error: Option<f64>) -> String {
    match error {
        Some(error) => format!("{percent} ± {:.1}", 100.0 * error),
        None => percent,
    }
}

fn summary(report: &Report) -> Section {
    let settings = &report.settings;
    let number = |name: &str| settings[name].to_string();
    let facts = [
        ("Model", text(&settings["model"])),
        ("Model hash", text(&settings["model_sha256"])),
        (
            "Run in",
            format!(
                "{} on {}",
                text(&settings["dtype"]),
                text(&settings["device"])
            ),
        ),
        ("Plan", or_nothing(&settings["plan"])),
        ("Removed", removed_in_words(&settings["removed"])),
        ("What crosses", text(&settings["sends"])),
        ("Boundary", text(&settings["boundary"])),
        ("Prompts in a cell", number("items")),
        ("Seed", number("seed")),
        ("PDTrim", text(&settings["pdtrim_version"])),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let explained = "A sentence such as \"The code word of Oslo is velvet.\" stands somewhere in prose that has nothing \
        to do with it. Prefill reads the prompt, the plan says what of its keys and values crosses, and decode \
        generates the answer to the question at the prompt's end. Dense is the whole model with everything sent.";
    let section = Section::new("Summary", explained)
        .with(Item::Facts(facts))
        .with(Item::Table(table(report)));
    match &report.note {
        Some(note) => section.with(Item::Note(note.clone())),
        None => section,
    }
}

fn or_nothing(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn heat_maps(report: &Report) -> Section {
    let explained = "At depth 0 % the fact is the prompt's beginning, at 100 % it stands right before the question.";
    let section = Section::new("By depth and length", explained);
    let maps = report.modes.iter().map(|mode| heat_map(report, mode));
    maps.fold(section, |section, map| section.with(Item::Heat(map)))
}

fn heat_map(report: &Report, mode: &ModeReport) -> HeatMap {
    let lengths = &mode.lengths;
    let depths = depths(report);
    // Cells are by length, then by depth; rows of the map are depths.
    let share = |depth: usize, length: usize| {
        let cell = mode.cells.get(length * depths.len() + depth);
        cell.map(|cell| cell.score.exact_match)
    };
    let row = |depth: usize| {
        (0..lengths.len())
            .map(|length| share(depth, length))
            .collect()
    };
    HeatMap {
        title: format!("Right answers, {}", mode.mode),
        description: format!(
            "Percent of {} prompts in each cell; the stronger the shade, the better.",
            report.settings["items"]
        ),
        column_label: "Length in tokens".to_owned(),
        columns: names(lengths),
        row_label: "Depth of the fact".to_owned(),
        cells: (0..depths.len()).map(row).collect(),
        rows: depths,
        values: Axis::new("Right answers").with_unit(Unit::Percent),
        range: (0.0, 1.0),
    }
}

fn bytes(report: &Report) -> Section {
    let series = report.modes.iter().map(|mode| {
        let sent = mode.lengths.iter().map(|row| row.score.kv_bytes);
        BarSeries::new(mode.mode.to_string(), sent)
    });
    let chart = BarChart {
        title: "KV per prompt".to_owned(),
        description: "Bytes of a prompt's keys and values that decode received; lower is better."
            .to_owned(),
        group_label: "Length in tokens".to_owned(),
        groups: report
            .modes
            .first()
            .map_or_else(Vec::new, |mode| names(&mode.lengths)),
        axis: Axis::new("KV per prompt").with_unit(Unit::Bytes),
        series: series.collect(),
        ..BarChart::default()
    };
    Section::new("What crossed", "").with(Item::Bars(chart))
}

/// The lengths of rows.
fn names(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .filter_map(|row| Some(row.length?.to_string()))
        .collect()
}

fn depths(report: &Report) -> Vec<String> {
    let depths = report.settings["depths"].as_array();
    let depths = depths.into_iter().flatten().filter_map(Value::as_f64);
    depths.map(|depth| format!("{depth} %")).collect()
}
