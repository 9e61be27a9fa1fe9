//! compare.csv.

use anyhow::Result;

use super::config::name;
use super::report::{Report, Summary};
use crate::statistics::Spread;
use crate::tables::or_empty;

/// A line for the dense model, then one for each row; `_sd` is the standard deviation over seeds.
pub(super) fn csv(report: &Report) -> Result<Vec<u8>> {
    let dense = &report.measured.dense;
    let tasks = dense
        .tasks
        .iter()
        .map(|score| format!("{}_{}", score.task, score.metric.name));
    let measured: Vec<String> = MEASURED
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(tasks)
        .chain(["average_accuracy_percent".to_owned()])
        .collect();
    let both = measured
        .iter()
        .flat_map(|name| [name.clone(), format!("{name}_sd")]);
    let first = [
        "strategy",
        "target",
        "repair",
        "prefill_removed",
        "decode_removed",
        "runs",
    ];
    let last = ["paper_average_percent", "failed"];
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(
        first
            .map(str::to_owned)
            .into_iter()
            .chain(both)
            .chain(last.map(str::to_owned)),
    )?;
    writer.write_record(dense_line(report))?;
    for row in &report.rows {
        writer.write_record(line(row))?;
    }
    Ok(writer.into_inner()?)
}

type Column = (&'static str, fn(&Summary) -> Option<Spread>);

const MEASURED: [Column; 8] = [
    ("held_out_loss", |row| row.held_out_loss),
    ("held_out_rise", |row| row.held_out_rise),
    ("prefill_flops_saved", |row| row.prefill_flops_saved),
    ("decode_weight_bytes_saved", |row| {
        row.decode_weight_bytes_saved
    }),
    ("search_seconds", |row| row.search_seconds),
    ("repair_seconds", |row| row.repair_seconds),
    ("evaluations", |row| row.evaluations),
    ("window_evaluations", |row| row.window_evaluations),
];

fn dense_line(report: &Report) -> Vec<String> {
    let dense = &report.measured.dense;
    let mut line = ["dense", "dense", "none", "0", "0", "1"]
        .map(str::to_owned)
        .to_vec();
    let one = |value: Option<f64>| [or_empty(value), String::new()];
    let zero = Some(0.0);
    line.extend(
        [
            Some(dense.held_out_loss),
            zero,
            zero,
            zero,
            None,
            None,
            None,
            None,
        ]
        .map(one)
        .concat(),
    );
    let tasks = dense.tasks.iter().map(|score| Some(score.metric.value));
    line.extend(tasks.chain([report.average_dense()]).flat_map(one));
    line.extend([or_empty(report.paper_dense()), String::new()]);
    line
}

fn line(row: &Summary) -> Vec<String> {
    let counts = row.row.counts;
    let mut line = vec![
        name(row.row.strategy),
        name(row.row.target),
        row.row.repair.to_string(),
        counts.prefill.to_string(),
        counts.decode.to_string(),
        row.runs.to_string(),
    ];
    let measured = MEASURED.iter().map(|(_, of)| of(row));
    let tasks = row.tasks.iter().copied();
    for spread in measured.chain(tasks).chain([row.average]) {
        line.push(or_empty(spread.map(|spread| spread.mean)));
        line.push(or_empty(
            spread.and_then(|spread| spread.standard_deviation),
        ));
    }
    line.extend([or_empty(row.paper), row.failed.join("; ")]);
    line
}
