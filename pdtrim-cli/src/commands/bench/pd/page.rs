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
    let lengths = Over {
        x: "Prompt tokens",
        of: format!("batch {smallest}"),
        rows: rows.iter().filter(|row| row.batch == smallest).collect(),
        place: |row| row.prompt_tokens,
    };
    let of_longest = rows.iter().filter(|row| row.prompt_tokens == longest);
    let batches = Over {
        x: "Requests at a time",
        of: format!("{longest} prompt tokens"),
        rows: of_longest.collect(),
        place: |row| row.batch,
    };
    let drawn = match (lengths.varies(), batches.varies()) {
        (true, true) => vec![lengths, batches],
        (false, true) => vec![batches],
        (_, false) => vec![lengths],
    };
    let section = Section::new("Times", text);
    drawn.iter().fold(section, |section, over| {
        section
            .with(over.chart("Time to the first token", |row| row.ttft))
            .with(over.chart("Time per later token", |row| row.tpot))
    })
}

/// Rows that differ in one number of the request.
struct Over<'r> {
    x: &'static str,
    /// What they have in common.
    of: String,
    rows: Vec<&'r Row>,
    place: fn(&Row) -> usize,
}

impl Over<'_> {
    fn varies(&self) -> bool {
        let mut places = self.rows.iter().map(|row| (self.place)(row));
        let first = places.next();
        places.any(|place| Some(place) != first)
    }

    fn chart(&self, what: &str, seconds: fn(&Row) -> f64) -> Item {
        let mut ways: Vec<String> = Vec::new();
        for row in &self.rows {
            let way = row.way();
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        let point = |row: &&Row| ((self.place)(row) as f64, seconds(row));
        let series = ways.iter().map(|way| {
            let of = self.rows.iter().filter(|row| row.way() == *way);
            LineSeries::new(way.clone(), of.map(point))
        });
        Item::Lines(LineChart {
            title: format!("{what}, {}", self.of),
            description: "Medians over requests and rounds.".to_owned(),
            x: Axis::new(self.x).with_log_scale(),
            y: Axis::new("Time").with_unit_name("s").with_log_scale(),
            series: series.collect(),
            ..LineChart::default()
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(prompt_tokens: usize, batch: usize) -> Row {
        Row {
            model: "dense",
            link: None,
            link_is_modelled: false,
            prompt_tokens,
            batch,
            ttft: 0.5,
            tpot: 0.02,
            ttft_samples: vec![0.5],
            tokens_per_second: 40.0,
            kv_bytes: 0,
            kv_bytes_expected: 0,
            wire_bytes: 0,
            times_fewer_bytes: None,
        }
    }

    #[test]
    fn times_are_drawn_over_what_varies() {
        let axes = |rows: &[Row]| {
            let axis = |item: &Item| match item {
                Item::Lines(chart) => chart.x.label.clone(),
                other => panic!("expected lines, found {other:?}"),
            };
            times(rows).items.iter().map(axis).collect::<Vec<_>>()
        };
        let (prompt, batch) = ("Prompt tokens", "Requests at a time");
        assert_eq!(axes(&[row(512, 1), row(1024, 1)]), [prompt, prompt]);
        assert_eq!(axes(&[row(512, 1), row(512, 4)]), [batch, batch]);
        assert_eq!(axes(&[row(512, 4)]), [prompt, prompt]);
        let all = [row(512, 1), row(512, 4), row(1024, 1), row(1024, 4)];
        assert_eq!(axes(&all), [prompt, prompt, batch, batch]);
    }
}
