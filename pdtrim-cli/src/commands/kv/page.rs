//! The page, whose chart brings its numbers, and the table for stdout.

use pdtrim_eval::page::{
    Axis, Cell, Column, Item, LineChart, LineSeries, LineStyle, Page, Reference, Section, Table,
    Unit,
};

use super::report::{Kind, Report, Row};
use crate::tables::{removed_in_words, text};

pub(super) fn page(report: &Report) -> Page {
    let settings = &report.settings;
    let mut sections = vec![summary(report), front(report)];
    if !report.tasks_all.is_empty() {
        sections.push(tasks(report));
    }
    Page {
        title: format!("What {} needs of a prompt's KV", text(&settings["model"])),
        subtitle: "bytes from prefill to decode against the loss that fewer of them cost"
            .to_owned(),
        sections,
    }
}

/// A line for each plan.
pub(super) fn table(report: &Report) -> Table {
    let mut columns = vec![
        Column::text("plan"),
        Column::number("fewer bytes"),
        Column::number("KiB a prompt"),
        Column::number("held-out NLL"),
        Column::number("rise"),
        Column::number("perplexity"),
        Column::number("rise of it"),
    ];
    let names = report.tasks_all.iter().map(|score| score.task.clone());
    columns.extend(names.map(Column::number));
    columns.push(Column::text("what crosses"));
    let mut table = Table::new(
        "Held-out NLL in nats, its rise with one standard error over windows; fewer bytes: than the dense \
            model's keys and values in bf16.",
        columns,
    );
    let mut all = vec![
        "everything, as held".to_owned(),
        String::new(),
        String::new(),
        format!("{:.4}", report.loss_all),
        String::new(),
        format!("{:.3}", report.perplexity_all),
        String::new(),
    ];
    all.extend(
        report
            .tasks_all
            .iter()
            .map(|score| format!("{:.3}", score.metric.value)),
    );
    let missing = |text: String| Cell::from((!text.is_empty()).then_some(text));
    table.rows.push(
        all.into_iter()
            .map(missing)
            .chain([Cell::MISSING])
            .collect(),
    );
    for row in &report.rows {
        let error = row.loss_rise_stderr;
        let error = error.map_or_else(String::new, |error| format!(" ± {error:.4}"));
        let mut cells = vec![
            row.kind.to_string(),
            format!("{:.2}x", row.factor),
            format!("{:.1}", row.bytes / 1024.0),
            format!("{:.4}", row.loss),
            format!("{:+.4}{error}", row.loss_rise),
            format!("{:.3}", row.perplexity),
            format!("{:+.2} %", 100.0 * row.perplexity_rise),
        ];
        cells.extend(
            row.tasks
                .iter()
                .map(|score| format!("{:.3}", score.metric.value)),
        );
        cells.push(row.sends.clone());
        table.rows.push(
            cells
                .into_iter()
                .map(|text| Cell::from(Some(text)))
                .collect(),
        );
    }
    table
}

fn summary(report: &Report) -> Section {
    let settings = &report.settings;
    let windows = |name: &str| {
        let set = &settings[name];
        format!(
            "{} of {} tokens, {} of them prompt, {}, seed {}",
            set["windows"],
            set["window_tokens"],
            set["prompt_tokens"],
            text(&set["source"]),
            set["seed"]
        )
    };
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
        ("Removed", removed_in_words(&settings["removed"])),
        ("Boundary", text(&settings["boundary"])),
        ("Chosen on", windows("calibration")),
        ("Reported on", windows("held_out")),
        (
            "Perplexity, everything sent",
            format!("{:.3}", report.perplexity_all),
        ),
        ("PDTrim", text(&settings["pdtrim_version"])),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let explained = "In each block decode receives all of a prompt's positions, the first and the last (4+60), or \
        with those some between them that attention chose (4+30+30), as they are held or in fewer bits. The \
        searched plans choose for each block what costs least, measured block by block, so that the whole fits \
        into the bytes; the others do the same in every block.";
    Section::new("Summary", explained)
        .with(Item::Facts(facts))
        .with(Item::Table(table(report)))
}

fn front(report: &Report) -> Section {
    let rise = |row: &Row| 100.0 * row.perplexity_rise;
    let chart = LineChart {
        title: "Bytes against perplexity".to_owned(),
        description:
            "Rise of the held-out perplexity over that with everything sent; lower is better, and \
            further right are fewer bytes."
                .to_owned(),
        x: Axis::new("times fewer bytes than dense bf16"),
        y: Axis::new("Rise of perplexity, percent").with_outliers_cut(report.rows.iter().map(rise)),
        series: series(report, rise),
        references: vec![Reference {
            label: "2 percent".to_owned(),
            value: 2.0,
        }],
        ..LineChart::default()
    };
    Section::new("Front", "").with(Item::Lines(chart))
}

fn tasks(report: &Report) -> Section {
    let mut section = Section::new("Tasks", "Boundary decode.");
    for (n, all) in report.tasks_all.iter().enumerate() {
        let value = |row: &Row| {
            row.tasks
                .get(n)
                .map_or(f64::NAN, |score| score.metric.value)
        };
        let better = all.metric.name.higher_is_better();
        let label = all.metric.name.to_string().replace('_', " ");
        section = section.with(Item::Lines(LineChart {
            title: format!("{}, {} items", all.task, all.items),
            description: format!(
                "{label} of each plan; {} is better.",
                if better { "higher" } else { "lower" }
            ),
            x: Axis::new("times fewer bytes than dense bf16"),
            y: Axis::new(label).with_unit(if better { Unit::Percent } else { Unit::None }),
            series: series(report, value),
            references: vec![Reference {
                label: "everything sent".to_owned(),
                value: all.metric.value,
            }],
            ..LineChart::default()
        }));
    }
    section
}

fn series(report: &Report, value: impl Fn(&Row) -> f64) -> Vec<LineSeries> {
    let of = |kind: Kind| {
        let points: Vec<(f64, f64)> = report
            .of(kind)
            .map(|row| (row.factor, value(row)))
            .collect();
        let style = match kind {
            Kind::SameEncoding => LineStyle::Points,
            _ => LineStyle::Line,
        };
        LineSeries::new(kind.to_string(), points).with_style(style)
    };
    let all = Kind::ALL.into_iter().map(of);
    all.filter(|series| !series.points.is_empty()).collect()
}
