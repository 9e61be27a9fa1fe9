//! `pdtrim compare`: strategies, targets and counts side by side.

mod config;
mod file;
mod measure;
mod merge;
mod page;
mod repair;
mod report;
mod search;
mod table;
mod width;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

use anyhow::{Error, Result, bail, ensure};
use pdtrim_core::Boundary;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
use pdtrim_search::calibration::{CalibrationSet, Corpus, Part, WindowDraw};

use super::load_all;
use crate::args::{CompareArgs, MethodArg, StrategyArg};
use crate::progress::Progress;
use crate::repair::RepairSettings;
use crate::run_folder::RunFolder;
use crate::scoring::Scoring;
use crate::session::Session;
use crate::{calibration, output, tables};
use config::{Configuration, Job};
use measure::{Comparison, Known};
use report::{Measured, Outcome, Report, Run};

const PDTRIM: MethodArg = MethodArg::Blocks(StrategyArg::Pdtrim);

pub(crate) fn run(args: &CompareArgs, progress: Progress) -> Result<()> {
    let (folder, measured) = if args.merge.is_empty() {
        measure(args, progress)?
    } else {
        let measured = merge::merge(&args.merge)?;
        (RunFolder::open(&args.out, false)?, measured)
    };
    finish(args, &folder, &Report::new(measured))
}

fn measure(args: &CompareArgs, progress: Progress) -> Result<(RunFolder, Measured)> {
    ensure!(!args.seeds.is_empty(), "expected at least one seed");
    let data = args.windows.data.as_deref();
    let source = &args.windows.calibration;
    let corpora = [Part::Calibration, Part::HeldOut].map(|part| Corpus::read(source, data, part));
    let [calibration, held_out] = corpora;
    let (calibration, held_out) = (calibration?, held_out?);
    // `load_all` reads the default tasks for an empty list.
    let tasks = if args.tasks.is_empty() {
        Vec::new()
    } else {
        load_all(&args.tasks, data, args.model.offline, None, progress)?
    };
    let folder = RunFolder::open(&args.out, args.force)?;
    let session = Session::open(&args.model, progress)?.for_long_work();
    for &repair in &args.repairs {
        RepairSettings::check_dtype(repair, session.dtype)?;
    }
    let draw = |corpus: &Corpus, wanted| calibration::draw(&session, corpus, &wanted, progress);
    let held_out = draw(
        &held_out,
        WindowDraw {
            windows: args.held_out_windows.get(),
            window_tokens: args
                .held_out_window_tokens
                .unwrap_or(args.windows.window_tokens)
                .get(),
            ..args.windows.draw(0)
        },
    )?;
    let names = tasks.iter().map(|(task, _)| task.name().to_owned());
    let configuration = Configuration::new(
        args,
        &session,
        calibration.name(),
        &held_out.about,
        names.collect(),
    )?;
    let jobs = jobs(args, &configuration);
    let seeds: BTreeSet<u64> = jobs.iter().map(|job| job.seed).collect();
    let by_seed = seeds
        .into_iter()
        .map(|seed| Ok((seed, draw(&calibration, args.windows.draw(seed))?)));
    let by_seed = by_seed.collect::<Result<BTreeMap<u64, CalibrationSet>>>()?;
    let mut losses = BTreeMap::new();
    for (&seed, set) in &by_seed {
        losses.insert(seed, loss(&session, &set.calibration, args.boundary));
    }
    let on_held_out = loss(&session, &held_out.calibration, args.boundary);
    let more = args.validation_windows;
    let validates = more > 0 && configuration.strategies.contains(&PDTRIM);
    let mut validation_windows = BTreeMap::new();
    for (&seed, set) in by_seed.iter().filter(|_| validates) {
        let wanted = args.windows.draw(seed);
        let windows =
            calibration::draw_beside(&session, &calibration, set, &wanted, more, progress)?;
        validation_windows.insert(seed, windows);
    }
    let mut validation = BTreeMap::new();
    for (&seed, windows) in &validation_windows {
        validation.insert(seed, loss(&session, windows, args.boundary));
    }
    let kept = (&folder, progress);
    let scoring = Scoring::new(&session, kept, Boundary::Decode, tasks, args.limit)?;
    let comparison = Comparison {
        configuration: &configuration,
        session: &session,
        corpus: &calibration,
        folder: &folder,
        progress,
        scoring: &scoring,
        calibration: &by_seed,
        losses: &losses,
        ledgers: RefCell::default(),
        validation: &validation,
        validation_ledgers: RefCell::default(),
        held_out: &held_out,
        known: RefCell::new(Known::new(&on_held_out, &losses)),
        baseline: OnceCell::new(),
        passes_before: Cell::default(),
    };
    let dense = comparison.dense()?;
    let runs = jobs.into_iter().map(|job| outcome(&comparison, job));
    let runs = runs.collect::<Result<_>>()?;
    session.check_unchanged(Some(&folder))?;
    let measured = Measured {
        configuration,
        dense,
        runs,
    };
    Ok((folder, measured))
}

/// The runs of this shard.
fn jobs(args: &CompareArgs, configuration: &Configuration) -> Vec<Job> {
    let jobs = configuration.jobs().into_iter().enumerate();
    let here = |place: usize| args.shard.is_none_or(|shard| shard.has(place));
    jobs.filter(|(place, _)| here(*place))
        .map(|(_, job)| job)
        .collect()
}

/// J of the model on these windows.
fn loss<'s>(
    session: &'s Session,
    windows: &'s Calibration,
    boundary: Boundary,
) -> CalibrationLoss<'s> {
    CalibrationLoss::new(&session.model, windows, Rows::Continuation, boundary)
}

/// A run that fails does not lose the others, unless nothing can be written any more.
fn outcome(comparison: &Comparison<'_>, job: Job) -> Result<Run> {
    let outcome = match comparison.run(job) {
        Ok(found) => Outcome::Found(Box::new(found)),
        Err(error) if is_of_the_disk(&error) => return Err(error),
        Err(error) => {
            comparison.progress.say(&format!("{job}: {error:#}"));
            Outcome::Failed(format!("{error:#}"))
        }
    };
    Ok(Run { job, outcome })
}

/// Whether the other runs would fail in the same way.
fn is_of_the_disk(error: &Error) -> bool {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>());
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::ReadOnlyFilesystem,
    ];
    io.is_some_and(|io| kinds.contains(&io.kind()))
}

fn finish(args: &CompareArgs, folder: &RunFolder, report: &Report) -> Result<()> {
    let object = serde_json::to_value(report)?;
    let text = serde_json::to_string_pretty(&object)?;
    folder.put("compare.json", format!("{text}\n").as_bytes())?;
    folder.put("compare.csv", &file::csv(report)?)?;
    folder.put("compare.html", page::page(report).render().as_bytes())?;
    if args.json {
        output::json(&object)?;
    } else {
        output::result(&tables::plain(&table::table(report)))?;
        let out = args.out.display();
        output::result(&format!(
            "\n{}\n{out}: compare.json, compare.csv, compare.html",
            table::explained(report)
        ))?;
    }
    match report.failed() {
        0 => Ok(()),
        failed => bail!("{failed} of {} runs failed", report.measured.runs.len()),
    }
}
