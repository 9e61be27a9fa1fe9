//! `pdtrim eval`.

mod gate;
mod measure;
mod tasks;

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use pdtrim_core::check_writable;
use pdtrim_eval::regression::Baseline;
use pdtrim_eval::{EvalReport, Task, task_names};

pub(crate) use measure::{boundaries, session_info};
pub(crate) use tasks::{load_all, load_tasks};

use crate::args::{BaselineArgs, EvalArgs};
use crate::output;
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use measure::measure;

pub(crate) fn run(args: &EvalArgs, progress: Progress) -> Result<()> {
    if args.list {
        return output::result(&list()?);
    }
    let folder = args
        .out
        .as_deref()
        .map(|out| RunFolder::open(out, args.force))
        .transpose()?;
    for path in args.items.iter().chain(&args.gate.junit) {
        check_writable(path)?;
    }
    let (date, begun) = (SystemTime::now(), Instant::now());
    let mut report = measure(&args.score, folder.as_ref(), progress)?;
    report.run.date = date
        .duration_since(UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs_f64());
    report.run.seconds = Some(begun.elapsed().as_secs_f64());
    if let Some(path) = &args.items {
        let mut items = Vec::new();
        report.write_items(&mut items)?;
        pdtrim_core::write_atomically(path, &items)?;
    }
    if let Some(out) = &args.out {
        write(&report, out)?;
        progress.say(&format!(
            "{}: results.json, results.csv, items.jsonl, report.html",
            out.display()
        ));
    }
    let gate = gate::hold(&args.gate, &report)?;
    if args.json {
        let mut results = report.to_json();
        if let (Some(gate), Some(own)) = (&gate, results.get_mut("pdtrim")) {
            own["gate"] = gate.to_json();
        }
        output::json(&results)?;
    } else {
        output::result(&report.table())?;
        if let Some(gate) = &gate {
            output::result(&format!("\n{}", gate.table()))?;
        }
    }
    gate.map_or(Ok(()), |gate| gate::close(&args.gate, &gate))
}

/// `pdtrim baseline`.
pub(crate) fn baseline(args: &BaselineArgs, progress: Progress) -> Result<()> {
    check_writable(&args.output)?;
    let report = measure(&args.score, None, progress)?;
    Baseline::of(&report)?.write(&args.output)?;
    output::result(&report.table())?;
    progress.say(&format!("{}: every item's result", args.output.display()));
    Ok(())
}

/// Results first, the page last: a folder with a page has everything that belongs to it.
fn write(report: &EvalReport, out: &Path) -> Result<()> {
    let put = |name: &str, bytes: &[u8]| pdtrim_core::write_atomically(&out.join(name), bytes);
    let (mut items, mut csv) = (Vec::new(), Vec::new());
    report.write_items(&mut items)?;
    put("items.jsonl", &items)?;
    report.write_csv(&mut csv)?;
    put("results.csv", &csv)?;
    let results = serde_json::to_string_pretty(&report.to_json())?;
    put("results.json", format!("{results}\n").as_bytes())?;
    put("report.html", report.page().render().as_bytes())?;
    Ok(())
}

/// Names and descriptions; of a family's members only their number.
fn list() -> Result<String> {
    let line = |name: &str| -> Result<String> {
        let tasks = Task::bundled_all(name)?;
        let count = match tasks.len() {
            1 => String::new(),
            count => format!(" ({count} tasks, {}, …)", tasks[0].name()),
        };
        Ok(format!("{name:18}{}{count}", tasks[0].description()))
    };
    let lines = task_names().into_iter().map(line);
    Ok(lines.collect::<Result<Vec<_>>>()?.join("\n"))
}
