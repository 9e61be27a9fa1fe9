//! Scoring a task.

use anyhow::{Result, ensure};
use pdtrim_core::model::BlockModel;
use pdtrim_eval::{Execution, Folders, PdScorer, Prepared, TaskSummary};
use serde_json::{Map, Value, json};

use super::environment::{Environment, Peak};
use super::measure::{Point, Rounds, timed};
use super::report::{BenchReport, Measurement, settings};
use super::subjects;
use super::work::{Stages, Work};
use crate::args::EvalBenchArgs;
use crate::commands::load_tasks;
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(super) fn run(args: &EvalBenchArgs, progress: Progress) -> Result<()> {
    let folders = Folders::of(args.data.as_deref());
    let mut tasks = load_tasks(&args.task, &folders, None)?.loaded;
    ensure!(
        tasks.len() == 1,
        "expected one task, `{}` is a group of {}",
        args.task,
        tasks.len()
    );
    let (task, data) = tasks.remove(0);
    let session = Session::open(&args.measure.model, progress)?.for_long_work();
    let before = Peak::find(session.device, &args.measure);
    let bound = Bound::from_args(&args.plan, &session)?;
    let rounds = Rounds::new(&args.measure, 1, 5);
    let subjects = subjects(&bound, &session)?;
    let scorers: Vec<PdScorer<'_>> = subjects
        .iter()
        .map(|subject| PdScorer::new(subject.pd.clone(), &session.tokenizer))
        .collect();
    let prepared = Prepared::new(&task, &data, &scorers[0], args.limit)?;
    let points = scorers
        .iter()
        .map(|scorer| -> Point<'_, (f64, TaskSummary)> {
            let (prepared, device) = (&prepared, session.model.device());
            Box::new(move || {
                timed(device, || {
                    Ok(prepared.evaluate(scorer, &Execution::default())?.summary)
                })
            })
        });
    let mut points: Vec<_> = points.collect();
    let runs = rounds.run("eval", progress, &mut points)?;
    let environment = Environment::of(&session, &args.measure, before)?;
    let requests = prepared.requests();
    let tokens = requests.iter().map(pdtrim_eval::Request::tokens).sum();
    let found = subjects.iter().zip(runs).map(|(subject, runs)| {
        let samples = runs.iter().map(|(seconds, _)| *seconds).collect();
        let stages = Stages::new(&session, &subject.pd);
        let work = requests
            .iter()
            .map(|request| stages.scored(request.context.len(), &request.continuations))
            .fold(Work::default(), |sum, work| sum + work);
        Measurement::new(subject.name, samples)
            .of(&subject.pd)
            .with_tokens(tokens)
            .with_work(work, &environment.peak)
            .with_fact("mode", subject.mode.to_string())
            .with_fact("metrics", metrics(&runs[0].1))
    });
    let found = found.collect();
    let what = json!({
        "task": task.name(),
        "items": prepared.items(),
        "requests": requests.len(),
        "tokens": tokens,
        "boundary": bound.boundary,
    });
    BenchReport::new("eval", environment, settings(what, rounds), found).finish(&args.measure)
}

fn metrics(summary: &TaskSummary) -> Map<String, Value> {
    summary
        .metrics
        .iter()
        .map(|metric| (metric.name.to_string(), json!(metric.value)))
        .collect()
}
