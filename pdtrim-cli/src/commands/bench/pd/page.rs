//! The page: times over prompt length and batch, and the numbers behind them.

use pdtrim_eval::page::{Axis, Cell, Column, Item, LineChart, LineSeries, Page, Section, Table};

use super::rows::Row;
use crate::commands::bench::environment::Environment;
use crate::commands::bench::report::seconds;

pub(super) fn page(environment: &Environment, rows: &[Row], repeats: usize) -> Page {
    Page {
        title: format!("{} in one process and in two", environment.model),
        subtitle: format!(
            "{} on {}, {} threads that both processes share; medians, rounds: {repeats}",
            environment.dtype, environment.device, environment.threads
        ),
        sections: vec![times(rows), numbers(rows)],
    }
}

fn times(rows: &[Row]) -> Section {
    let smallest = rows.iter().map(|row| row.batch).min().unwrap_or(1);
    let longest = rows.iter().map(|row| row.prompt_tokens).max().unwrap_or(1);
    let text = "Both processes run on this machine: a wire adds its time, and a second machine's speed is \
        missing. Links with a rate and a delay are modelled by a program between the two.";
    let by_length = |row: &&Row| row.batch == smallest;
    let by_batch = move |row: &&Row| row.prompt_tokens == longest;
    Section::new("Times", text)
        .with(chart(
            format!("Time to the first token, batch {smallest}"),
            "Prompt tokens",
            &rows.iter().filter(by_length).collect::<Vec<_>>(),
            |row| (row.prompt_tokens as f64, row.ttft),
        ))
        .with(chart(
            format!("Time to the first token, {longest} prompt tokens"),
            "Requests at a time",
            &rows.iter().filter(by_batch).collect::<Vec<_>>(),
            |row| (row.batch as f64, row.ttft),
        ))
        .with(chart(
            format!("Time per later token, {longest} prompt tokens"),
            "Requests at a time",
            &rows.iter().filter(by_batch).collect::<Vec<_>>(),
            |row| (row.batch as f64, row.tpot),
        ))
}

fn chart(title: String, x: &str, rows: &[&Row], point: fn(&Row) -> (f64, f64)) -> Item {
    let mut ways: Vec<String> = Vec::new();
    for row in rows {
        let way = row.way();
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    let series = ways.iter().map(|way| {
        let of = rows.iter().filter(|row| row.way() == *way);
        LineSeries::new(way.clone(), of.map(|row| point(row)))
    });
    Item::Lines(LineChart {
        title,
        description: "Medians over requests and rounds.".to_owned(),
        x: Axis::new(x).with_log_scale(),
        y: Axis::new("Time").with_unit_name("s").with_log_scale(),
        series: series.collect(),
        ..LineChart::default()
    })
}

fn numbers(rows: &[Row]) -> Section {
    let text = "On the wire: bytes of the messages that brought one request's keys and values, counted where \
        they arrive; the keys and values in them are as many bytes as the plan says. Times fewer: the dense model's keys and values in bf16 over the bytes on the wire.";
    let columns = [
        Column::text("how"),
        Column::number("prompt"),
        Column::number("batch"),
        Column::number("TTFT"),
        Column::number("TPOT"),
        Column::number("tokens/s"),
        Column::number("on the wire"),
        Column::number("times fewer"),
    ];
    let mut table = Table::new("Medians over requests and rounds.", columns);
    for row in rows {
        let [crossed, times] = row.crossed();
        table.rows.push(vec![
            row.way().into(),
            row.prompt_tokens.to_string().into(),
            row.batch.to_string().into(),
            seconds(row.ttft).into(),
            seconds(row.tpot).into(),
            Cell::number(Some(row.tokens_per_second), 1),
            crossed.into(),
            times.into(),
        ]);
    }
    Section::new("Numbers", text).with(Item::Table(table))
}
