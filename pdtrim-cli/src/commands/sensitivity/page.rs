//! The page, whose charts bring their numbers, and the tables for stdout.

use pdtrim_eval::page::{
    Axis, Bar, BarChart, BarSeries, Cell, Column, Item, LineChart, LineSeries, Page, Reference,
    Section, Table, Unit,
};
use pdtrim_search::RemovedFrom;

use super::report::{Estimate, Report, Row};
use crate::tables::text;

pub(super) fn page(report: &Report) -> Page {
    let settings = &report.settings;
    let mut sections = vec![summary(report), loss(report), divergence(report)];
    if !report.tasks_dense.is_empty() {
        sections.push(tasks(report));
    }
    Page {
        title: format!("What each block of {} is worth", text(&settings["model"])),
        subtitle: "one block removed at a time from prefill, from decode, from both".to_owned(),
        sections,
    }
}

/// A line for each block: the rise of the loss and the divergence, by where it is removed.
pub(super) fn table(report: &Report) -> Table {
    let mut columns = vec![Column::number("block")];
    for what in ["rise of NLL", "KL"] {
        let names = RemovedFrom::ALL.map(|from| format!("{what}, {}", from.name()));
        columns.extend(names.map(Column::number));
    }
    let mut table = Table::new("In nats, with one standard error over windows.", columns);
    for rows in report.rows.chunks(RemovedFrom::ALL.len()) {
        let rise = |row: &Row| Cell::from(shown(row.loss_rise, true));
        let divergence = |row: &Row| Cell::from(shown(row.divergence, false));
        let block = rows.first().map(|row| row.block.to_string());
        let cells = [Cell::from(block)].into_iter();
        let cells = cells.chain(rows.iter().map(rise));
        table
            .rows
            .push(cells.chain(rows.iter().map(divergence)).collect());
    }
    table
}

/// A line for each block: each task's metric, by where the block is removed.
pub(super) fn task_table(report: &Report) -> Table {
    let mut columns = vec![Column::number("block")];
    for score in &report.tasks_dense {
        let names = RemovedFrom::ALL.map(|from| format!("{}, {}", score.task, from.name()));
        columns.extend(names.map(Column::number));
    }
    let caption = "Scored with the boundary decode; in parentheses the difference to dense.";
    let mut table = Table::new(caption, columns);
    for rows in report.rows.chunks(RemovedFrom::ALL.len()) {
        let block = rows.first().map(|row| row.block.to_string());
        let mut cells = vec![Cell::from(block)];
        for task in 0..report.tasks_dense.len() {
            cells.extend(rows.iter().map(|row| Cell::from(score(row, task))));
        }
        table.rows.push(cells);
    }
    table
}

fn score(row: &Row, task: usize) -> Option<String> {
    let score = row.tasks.get(task)?;
    let difference = score.difference_to_dense?.value;
    Some(format!("{:.4} ({difference:+.4})", score.metric.value))
}

fn shown(estimate: Estimate, signed: bool) -> String {
    let Estimate {
        mean,
        standard_error,
    } = estimate;
    let error = standard_error.map_or_else(String::new, |error| format!(" ± {error:.3}"));
    if signed {
        format!("{mean:+.3}{error}")
    } else {
        format!("{mean:.3}{error}")
    }
}

fn summary(report: &Report) -> Section {
    let settings = &report.settings;
    let windows = &settings["calibration"];
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
        (
            "Windows",
            format!(
                "{} of {} tokens ({} of them prompt), {}, seed {}",
                windows["windows"],
                windows["window_tokens"],
                windows["prompt_tokens"],
                text(&windows["source"]),
                windows["seed"]
            ),
        ),
        ("Boundary", text(&settings["boundary"])),
        ("Mean NLL, dense", format!("{:.4}", report.loss_dense)),
        ("PDTrim", text(&settings["pdtrim_version"])),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let explained = "Prefill and decode run on different machines, so a block may be needed by one and \
        not by the other. Each block is removed by itself: from prefill alone (decode still runs it, on \
        the keys and values that prefill computes for it), from decode alone, and from both. After the \
        analysis of arXiv:2509.04467v4.";
    Section::new("Summary", explained)
        .with(Item::Facts(facts))
        .with(Item::Note(report.in_words()))
}

fn loss(report: &Report) -> Section {
    let chart = bars(report, |row| row.loss_rise);
    let chart = BarChart {
        title: "Rise of the loss".to_owned(),
        description:
            "Mean NLL of the continuations above the dense model's, with one standard error \
            over windows; a short bar is a block that the stage hardly misses."
                .to_owned(),
        axis: with_outliers_cut("Rise of the mean NLL", &chart),
        ..chart
    };
    Section::new("Loss", "").with(Item::Bars(chart))
}

fn divergence(report: &Report) -> Section {
    let chart = bars(report, |row| row.divergence);
    let chart = BarChart {
        title: "Divergence from the dense model".to_owned(),
        description: "KL(dense ‖ trimmed) of the next token's distribution, mean over the \
            continuations' tokens; it also sees changes that spare the text at hand."
            .to_owned(),
        axis: with_outliers_cut("KL divergence", &chart),
        ..chart
    };
    Section::new("Divergence", "").with(Item::Bars(chart))
}

/// A group for each block, a bar for each kind of removal.
fn bars(report: &Report, of: fn(&Row) -> Estimate) -> BarChart {
    let bar = |row: &Row| Bar {
        value: Some(of(row).mean),
        error: of(row).standard_error,
        marked: false,
    };
    let series = RemovedFrom::ALL.map(|from| BarSeries {
        name: in_words(from).to_owned(),
        bars: report.of(from).map(bar).collect(),
    });
    let blocks = report.of(RemovedFrom::Both);
    BarChart {
        group_label: "Block".to_owned(),
        groups: blocks.map(|row| row.block.to_string()).collect(),
        series: series.to_vec(),
        ..BarChart::default()
    }
}

fn with_outliers_cut(label: &str, chart: &BarChart) -> Axis {
    let bars = chart.series.iter().flat_map(|series| &series.bars);
    let values: Vec<f64> = bars.filter_map(|bar| bar.value).collect();
    Axis::new(label)
        .with_unit_name("nats")
        .with_outliers_cut(values)
}

fn tasks(report: &Report) -> Section {
    let explained = "Context by prefill, answer by decode; boundary decode, with which decode runs the \
        last prompt token again, so that one-token answers see both stages.";
    let mut section = Section::new("Tasks", explained);
    for (n, dense) in report.tasks_dense.iter().enumerate() {
        let points = |from| {
            let scores = report
                .of(from)
                .filter_map(move |row| Some((row.block as f64, row.tasks.get(n)?.metric.value)));
            LineSeries::new(in_words(from), scores)
        };
        let better = dense.metric.name.higher_is_better();
        let unit = if better { Unit::Percent } else { Unit::None };
        let label = dense.metric.name.to_string().replace('_', " ");
        section = section.with(Item::Lines(LineChart {
            title: format!("{}, {} items", dense.task, dense.items),
            description: format!(
                "{label} with one block removed; {} is better.",
                if better { "higher" } else { "lower" }
            ),
            x: Axis::new("Block"),
            y: Axis::new(label).with_unit(unit),
            series: RemovedFrom::ALL.map(points).to_vec(),
            references: vec![Reference {
                label: "dense".to_owned(),
                value: dense.metric.value,
            }],
            ..LineChart::default()
        }));
    }
    section
}

fn in_words(from: RemovedFrom) -> &'static str {
    match from {
        RemovedFrom::Prefill => "from prefill",
        RemovedFrom::Decode => "from decode",
        RemovedFrom::Both => "from both",
    }
}
