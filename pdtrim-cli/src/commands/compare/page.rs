//! The page: what the losses and the searches of the rows look like.

use pdtrim_eval::page::{
    Axis, Bar, BarChart, BarSeries, Item, LineChart, LineSeries, Page, Reference, Section, Unit,
};

use super::config::{Configuration, name};
use super::report::{Report, Summary};
use super::table::{columns_explained, table};
use crate::args::{MethodArg, RepairArg, TargetArg};

pub(super) fn page(report: &Report) -> Page {
    let configuration = &report.measured.configuration;
    let mut sections = vec![summary(report), losses(report)];
    sections.extend(repairs(report));
    sections.push(same_work(report));
    if !report.measured.dense.tasks.is_empty() {
        sections.push(tasks(report));
    }
    sections.push(search(report));
    Page {
        title: format!("Ways to trim {}", configuration.model),
        subtitle: format!(
            "mean held-out loss; strategies: {}, seeds: {}",
            configuration.strategies.len(),
            configuration.seeds.len()
        ),
        sections,
    }
}

fn summary(report: &Report) -> Section {
    let configuration = &report.measured.configuration;
    let text = "Each strategy removes blocks from one set for both stages (unified), or from a set for \
        each stage (pd: decode's includes prefill's; pd-independent: any). All see the same calibration \
        windows, and all are measured on windows that none of them saw.";
    let text = format!("{text}\n\n{}", columns_explained(report));
    let mut section = Section::new("Summary", text).with(Item::Facts(facts(configuration)));
    for why in report.rows.iter().flat_map(|row| &row.failed) {
        section = section.with(Item::Note(format!("Failed: {why}")));
    }
    section.with(Item::Table(table(report)))
}

fn facts(configuration: &Configuration) -> Vec<(String, String)> {
    let items = configuration.calibration_items;
    let items = items.map_or_else(String::new, |items| format!(", {items} items"));
    let seeds: Vec<String> = configuration.seeds.iter().map(u64::to_string).collect();
    let facts = [
        ("Model", configuration.model.clone()),
        ("Model hash", configuration.model_sha256.clone()),
        (
            "Run in",
            format!("{} on {}", configuration.dtype, configuration.device),
        ),
        (
            "Calibration",
            format!(
                "{} windows of {} tokens, {}{items}, seeds {}",
                configuration.windows,
                configuration.window_tokens,
                configuration.calibration,
                seeds.join(", ")
            ),
        ),
        (
            "Held out",
            format!(
                "{} windows, {}",
                configuration.held_out.windows, configuration.held_out.source
            ),
        ),
        ("Boundary", configuration.boundary.to_string()),
        ("PDTrim", configuration.pdtrim_version.clone()),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// The held-out loss over removed blocks: a chart for each target.
fn losses(report: &Report) -> Section {
    let configuration = &report.measured.configuration;
    let charts = configuration.targets.iter().map(|&target| {
        let line = |&strategy: &MethodArg| {
            let points = rows(report, strategy, target)
                .filter_map(|row| Some((row.row.counts.decode as f64, row.held_out_loss?.mean)));
            LineSeries::new(name(strategy), points)
        };
        loss_chart(
            report,
            format!("Held-out loss, {}", name(target)),
            blocks_axis(target),
            configuration.strategies.iter().map(line).collect(),
        )
    });
    let mut section = Section::new("Loss", "Mean over the seeds.");
    section.items.extend(charts);
    section
}

/// The same over the work that is saved: a chart for each strategy.
fn same_work(report: &Report) -> Section {
    let configuration = &report.measured.configuration;
    let text = "A unified set of n blocks saves more of prefill than a pair of sets with n blocks in \
        decode does. Here rows stand over the mean of two shares of the dense model's: prefill's FLOPs \
        saved, and decode's weight bytes saved.";
    let charts = configuration.strategies.iter().map(|&strategy| {
        let line = |&target: &TargetArg| {
            let points = rows(report, strategy, target).filter_map(|row| {
                let (flops, bytes) = (row.prefill_flops_saved?, row.decode_weight_bytes_saved?);
                let saved = f64::midpoint(flops.mean, bytes.mean);
                Some((saved, row.held_out_loss?.mean))
            });
            LineSeries::new(name(target), points)
        };
        loss_chart(
            report,
            format!("Held-out loss over work saved, {}", name(strategy)),
            Axis::new("Work saved, mean of both stages").with_unit(Unit::Percent),
            configuration.targets.iter().map(line).collect(),
        )
    });
    let mut section = Section::new("At the same work", text);
    section.items.extend(charts);
    section
}

/// Every line begins with the dense model.
fn loss_chart(report: &Report, title: String, x: Axis, mut series: Vec<LineSeries>) -> Item {
    let dense = report.measured.dense.held_out_loss;
    for line in &mut series {
        line.points.insert(0, (0.0, dense));
    }
    let losses = series.iter().flat_map(|series| &series.points);
    let losses: Vec<f64> = losses.map(|point| point.1).collect();
    Item::Lines(LineChart {
        title,
        description: "Mean NLL of held-out continuations; lower is better.".to_owned(),
        x,
        y: Axis::new("Held-out loss")
            .with_unit_name("nats")
            .with_outliers_cut(losses),
        series,
        references: vec![Reference {
            label: "dense".to_owned(),
            value: dense,
        }],
        ..LineChart::default()
    })
}

/// A row of a strategy and target for each count, without a repair where it has several.
fn rows(report: &Report, strategy: MethodArg, target: TargetArg) -> impl Iterator<Item = &Summary> {
    let repair = report.measured.configuration.repairs.iter().copied();
    let repair = repair.min_by_key(|repair| !repair.is_none());
    let repair = repair.unwrap_or_default();
    repaired_rows(report, strategy, target, repair)
}

fn repaired_rows(
    report: &Report,
    strategy: MethodArg,
    target: TargetArg,
    repair: RepairArg,
) -> impl Iterator<Item = &Summary> {
    let rows = report.rows.iter();
    rows.filter(move |row| {
        let row = &row.row;
        row.strategy == strategy && row.target == target && row.repair == repair
    })
}

/// What repairs win back: a chart for each strategy that has several and each target.
fn repairs(report: &Report) -> Option<Section> {
    let configuration = &report.measured.configuration;
    if configuration.repairs.len() < 2 {
        return None;
    }
    let mut section = Section::new("Repair", "Mean over the seeds, by repair.");
    for &strategy in &configuration.strategies {
        for &target in &configuration.targets {
            let line = |&repair: &RepairArg| {
                let rows = repaired_rows(report, strategy, target, repair);
                let point =
                    |row: &Summary| Some((row.row.counts.decode as f64, row.held_out_loss?.mean));
                LineSeries::new(repair.to_string(), rows.filter_map(point))
            };
            let lines: Vec<_> = configuration.repairs.iter().map(line).collect();
            let lines: Vec<_> = lines
                .into_iter()
                .filter(|line| !line.points.is_empty())
                .collect();
            if lines.len() > 1 {
                let title = format!("Held-out loss, {} {}", name(strategy), name(target));
                section = section.with(loss_chart(report, title, blocks_axis(target), lines));
            }
        }
    }
    Some(section)
}

fn blocks_axis(target: TargetArg) -> Axis {
    Axis::new(match target {
        TargetArg::Unified => "Blocks removed",
        TargetArg::Pd | TargetArg::PdIndependent => "Blocks removed from decode",
    })
}

fn tasks(report: &Report) -> Section {
    let text = "The mean of the tasks' accuracies; boundary decode, so that one-token answers see both \
        stages.";
    let bar = |row: &Summary| Bar {
        value: row.average.map(|average| average.mean / 100.0),
        error: row
            .average
            .and_then(|average| Some(average.standard_deviation? / 100.0)),
        marked: false,
    };
    let dense = report.average_dense().map(|value| Reference {
        label: "dense".to_owned(),
        value: value / 100.0,
    });
    let chart = BarChart {
        title: "Average accuracy".to_owned(),
        description: "Mean and standard deviation over seeds; higher is better.".to_owned(),
        axis: Axis::new("Average accuracy").with_unit(Unit::Percent),
        references: dense.into_iter().collect(),
        ..bars(report, bar)
    };
    Section::new("Tasks", text).with(Item::Bars(chart))
}

fn search(report: &Report) -> Section {
    let bar = |row: &Summary| Bar {
        value: row.window_evaluations.map(|spread| spread.mean),
        error: row
            .window_evaluations
            .and_then(|spread| spread.standard_deviation),
        marked: false,
    };
    let chart = BarChart {
        title: "Cost of the search".to_owned(),
        description:
            "Evaluations of a candidate on a calibration window, mean over seeds. One-shot \
            strategies need none beside the pass that ranks the blocks."
                .to_owned(),
        axis: Axis::new("Evaluations on windows"),
        ..bars(report, bar)
    };
    Section::new("Search", "").with(Item::Bars(chart))
}

/// A group for each target and count, a bar for each strategy.
fn bars(report: &Report, bar: impl Fn(&Summary) -> Bar) -> BarChart {
    let configuration = &report.measured.configuration;
    let groups: Vec<(TargetArg, usize)> = configuration
        .targets
        .iter()
        .flat_map(|&target| {
            configuration
                .counts
                .iter()
                .map(move |&count| (target, count))
        })
        .collect();
    let of = |strategy, &(target, count): &(TargetArg, usize)| {
        let mut rows = rows(report, strategy, target);
        let row = rows.find(|row| row.row.counts.decode == count);
        row.map_or_else(Bar::default, &bar)
    };
    let series = configuration.strategies.iter().map(|&strategy| BarSeries {
        name: name(strategy),
        bars: groups.iter().map(|group| of(strategy, group)).collect(),
    });
    BarChart {
        group_label: "Target and blocks removed".to_owned(),
        groups: groups
            .iter()
            .map(|&(target, count)| format!("{} {count}", name(target)))
            .collect(),
        series: series.collect(),
        ..BarChart::default()
    }
}
