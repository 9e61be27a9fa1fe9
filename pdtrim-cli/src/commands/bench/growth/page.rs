//! The page: four charts and the numbers behind them.

use pdtrim_eval::page::{
    Axis, Cell, Column, Item, LineChart, LineSeries, Page, Section, Table, Unit,
};

use super::rows::{Gain, Growth, Point, Removed, Saving, against};
use crate::commands::bench::environment::Environment;
use crate::commands::bench::report::{BenchReport, seconds};

pub(super) fn page(report: &BenchReport, growth: &Growth) -> Page {
    let environment = &report.environment;
    Page {
        title: format!("How the time of {} grows", environment.model),
        subtitle: format!(
            "{} on {}, {} threads; median of {} rounds",
            environment.dtype, environment.device, environment.threads, report.settings["repeats"]
        ),
        sections: vec![
            removed_section(growth),
            gain_section(growth),
            length_section(growth),
            batch_section(growth),
            machine_section(environment, report.doubt()),
        ],
    }
}

fn removed_section(growth: &Growth) -> Section {
    let text = "Both stages run without the same blocks. Removing work can save no more time than \
        the work took: prefill computes, so its line is the share of FLOPs removed; decode reads \
        weights, so its line is the share of weight bytes removed, the vocabulary head among what \
        stays. A difference above zero is time saved beyond the line, below zero time that the \
        removed blocks did not give back. Each run is compared with the dense run of its round.";
    let prefill = |row: &Removed| row.prefill;
    let decode = |row: &Removed| row.decode;
    Section::new("Blocks removed", text)
        .with(chart(growth, "Prefill", "FLOPs removed", prefill))
        .with(chart(growth, "Decode", "weight bytes removed", decode))
        .with(Item::Table(removed_table(growth)))
}

fn chart(growth: &Growth, stage: &str, work: &str, of: fn(&Removed) -> Saving) -> Item {
    let points = |share: fn(Saving) -> f64| {
        let rows = growth.removed.iter();
        rows.map(|row| (row.count as f64, share(of(row))))
            .collect::<Vec<_>>()
    };
    Item::Lines(LineChart {
        title: format!("{stage}: time saved"),
        description: format!(
            "Shares of the dense model's; the line to reach is the share of {work}."
        ),
        x: Axis::new("Blocks removed"),
        y: Axis::new("Share of the dense model").with_unit(Unit::Percent),
        series: vec![
            LineSeries::new("time saved", points(|saving| saving.time_saved)),
            LineSeries::new(work, points(|saving| saving.work_removed)),
        ],
        ..LineChart::default()
    })
}

fn removed_table(growth: &Growth) -> Table {
    let columns = [
        "blocks removed",
        "FLOPs removed",
        "prefill time saved",
        "difference (points)",
        "weight bytes removed",
        "decode time saved",
        "difference (points)",
        "TTFT",
        "TPOT",
    ];
    let mut table = Table::new(
        "Shares of the dense model's; TTFT and TPOT are medians.",
        columns.map(Column::number),
    );
    let percent = |share: f64| Cell::from(format!("{:.1} %", share * 100.0));
    let points = |saving: Saving| Cell::from(format!("{:+.1}", saving.difference_points));
    for row in &growth.removed {
        table.rows.push(vec![
            row.count.to_string().into(),
            percent(row.prefill.work_removed),
            percent(row.prefill.time_saved),
            points(row.prefill),
            percent(row.decode.work_removed),
            percent(row.decode.time_saved),
            points(row.decode),
            seconds(row.ttft.median).into(),
            seconds(row.tpot.median).into(),
        ]);
    }
    table
}

fn gain_section(growth: &Growth) -> Section {
    let text =
        "From the prompt to the last token of an answer: TTFT + n x TPOT, dense over trimmed.";
    let gains = growth.gains();
    let of = |answer: usize| {
        let gains = gains
            .iter()
            .filter(move |gain| gain.answer_tokens == answer);
        gains.map(|gain: &Gain| (gain.removed as f64, gain.speedup))
    };
    let series = growth.answers.iter();
    let series: Vec<LineSeries> = series
        .map(|&answer| LineSeries::new(format!("{answer} tokens"), of(answer)))
        .collect();
    let chart = LineChart {
        title: "Gain from prompt to last token".to_owned(),
        description: "How many times sooner the answer is complete.".to_owned(),
        x: Axis::new("Blocks removed"),
        y: Axis::new("Times faster than dense"),
        series,
        ..LineChart::default()
    };
    Section::new("End to end", text).with(Item::Lines(chart))
}

fn length_section(growth: &Growth) -> Section {
    let text = "The dense model. The predicted time is that of the shortest prompt, grown as FLOPs \
        grow: matrices in proportion to the tokens, attention with their square.";
    Section::new("Prompt length", text)
        .with(Item::Lines(time_chart(
            "Time to the first token",
            "Prompt tokens",
            &growth.lengths,
        )))
        .with(Item::Table(time_table("prompt tokens", &growth.lengths)))
}

fn batch_section(growth: &Growth) -> Section {
    let text = "The dense model. The predicted time of a step is that of the smallest batch, grown as \
        the bytes that must be read grow: weights once for all rows, keys and values for each.";
    Section::new("Batch", text)
        .with(Item::Lines(time_chart(
            "Time of a decode step",
            "Rows of the batch",
            &growth.batches,
        )))
        .with(Item::Table(time_table("rows", &growth.batches)))
}

fn time_chart(title: &str, x: &str, points: &[Point]) -> LineChart {
    let line = |of: fn(&Point) -> f64| points.iter().map(move |point| (point.x as f64, of(point)));
    LineChart {
        title: title.to_owned(),
        description: "Measured, and predicted from the work.".to_owned(),
        x: Axis::new(x).with_log_scale(),
        y: Axis::new("Time").with_unit_name("s").with_log_scale(),
        series: vec![
            LineSeries::new("measured", line(|point| point.measurement.median)),
            LineSeries::new("predicted", line(|point| point.predicted)),
        ],
        ..LineChart::default()
    }
}

fn time_table(x: &str, points: &[Point]) -> Table {
    let columns = [
        x,
        "median",
        "predicted",
        "tokens/s",
        "GFLOP/s",
        "of peak",
        "GB/s",
        "of peak",
    ];
    let mut table = Table::new("", columns.map(Column::number));
    let share = |value: Option<f64>| value.map(|value| format!("{:.0} %", value * 100.0));
    for point in points {
        let found = &point.measurement;
        let [time, predicted] = against(point);
        let achieved = found.achieved;
        let giga = |value: Option<f64>| Cell::number(value.map(|value| value / 1e9), 1);
        table.rows.push(vec![
            point.x.to_string().into(),
            time.into(),
            predicted.into(),
            Cell::number(found.tokens_per_second, 1),
            giga(achieved.map(|achieved| achieved.flops_per_second)),
            share(achieved.and_then(|achieved| achieved.share_of_peak_flops)).into(),
            giga(achieved.map(|achieved| achieved.bytes_per_second)),
            share(achieved.and_then(|achieved| achieved.share_of_peak_bandwidth)).into(),
        ]);
    }
    table
}

fn machine_section(environment: &Environment, doubt: Option<&str>) -> Section {
    let giga = |value: Option<f64>, unit: &str, measured: bool| {
        let how = if measured {
            "measured in this run"
        } else {
            "given"
        };
        value.map_or_else(String::new, |value| {
            format!("{:.1} {unit}, {how}", value / 1e9)
        })
    };
    let peak = environment.peak;
    let facts = [
        ("Model", environment.model.clone()),
        ("Model hash", environment.model_sha256.clone()),
        ("Parameters", environment.parameters.to_string()),
        ("CPU", environment.cpu.clone().unwrap_or_default()),
        (
            "Peak of computing",
            giga(peak.flops_per_second, "GFLOP/s", peak.flops_measured),
        ),
        (
            "Peak of reading",
            giga(peak.bytes_per_second, "GB/s", peak.bytes_measured),
        ),
        ("PDTrim", environment.pdtrim_version.to_owned()),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let section = Section::new("Machine", "").with(Item::Facts(facts));
    match doubt {
        Some(doubt) => section.with(Item::Note(doubt.to_owned())),
        None => section,
    }
}
