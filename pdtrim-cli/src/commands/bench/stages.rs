//! Time to the first token, and time for each later one.

use anyhow::Result;
use serde_json::json;

use super::environment::{Environment, Peak};
use super::measure::{Generated, Point, Rounds, generate, median};
use super::report::{BenchReport, Measurement, settings};
use super::work::Stages;
use super::{Subject, subjects, text};
use crate::args::{DecodeBenchArgs, PrefillBenchArgs};
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(super) fn prefill(args: &PrefillBenchArgs, progress: Progress) -> Result<()> {
    let session = Session::open(&args.measure.model, progress)?.for_long_work();
    let before = Peak::find(session.device, &args.measure);
    let bound = Bound::from_args(&args.plan, &session)?;
    let (tokens, batch) = (args.tokens.get(), args.batch.get());
    let rounds = Rounds::new(&args.measure, 1, 5);
    let prompts = text::prompts(&session, tokens, batch);
    let subjects = subjects(&bound, &session)?;
    let runs = run(&subjects, &prompts, 0, rounds, "prefill", progress)?;
    let environment = Environment::of(&session, &args.measure, before)?;
    let found = subjects.iter().zip(runs).map(|(subject, runs)| {
        let samples = runs.iter().map(|run| run.first).collect();
        let stages = Stages::new(&session, &subject.pd);
        let sent = positions_sent(subject, &prompts)?;
        let work = stages.first_token(tokens, batch, sent);
        Ok(Measurement::new(subject.name, samples)
            .of(&subject.pd)
            .with_tokens(tokens * batch)
            .with_work(work, &environment.peak))
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    let what = json!({"tokens": tokens, "batch": batch, "boundary": bound.boundary});
    BenchReport::new("prefill", environment, settings(what, rounds), found).finish(&args.measure)
}

pub(super) fn decode(args: &DecodeBenchArgs, progress: Progress) -> Result<()> {
    let session = Session::open(&args.measure.model, progress)?.for_long_work();
    let before = Peak::find(session.device, &args.measure);
    let bound = Bound::from_args(&args.plan, &session)?;
    let (context, batch, later) = (args.context.get(), args.batch.get(), args.new_tokens.get());
    let rounds = Rounds::new(&args.measure, 1, 5);
    let prompts = text::prompts(&session, context, batch);
    let subjects = subjects(&bound, &session)?;
    let runs = run(&subjects, &prompts, later, rounds, "decode", progress)?;
    let environment = Environment::of(&session, &args.measure, before)?;
    let found = subjects.iter().zip(runs).map(|(subject, runs)| {
        let samples = runs.iter().map(|run| run.per_token).collect();
        let stages = Stages::new(&session, &subject.pd);
        let sent = positions_sent(subject, &prompts)?;
        let work = stages.later_token(batch, sent, later);
        let found = Measurement::new(subject.name, samples)
            .of(&subject.pd)
            .with_tokens(batch)
            .with_work(work, &environment.peak);
        let steps: Vec<_> = runs.into_iter().map(|run| run.steps).collect();
        let all = steps.concat();
        if all.is_empty() {
            return Ok(found);
        }
        Ok(found
            .with_fact("median_step", median(&all))
            .with_fact("steps", json!(steps)))
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    let boundary = bound.boundary;
    let what =
        json!({"context": context, "batch": batch, "new_tokens": later, "boundary": boundary});
    BenchReport::new("decode", environment, settings(what, rounds), found).finish(&args.measure)
}

fn run(
    subjects: &[Subject<'_>],
    prompts: &[Vec<u32>],
    later: usize,
    rounds: Rounds,
    what: &str,
    progress: Progress,
) -> Result<Vec<Vec<Generated>>> {
    let points = subjects.iter().map(|subject| -> Point<'_, Generated> {
        let Subject { pd, .. } = subject;
        Box::new(move || generate(pd, prompts, later))
    });
    let mut points: Vec<_> = points.collect();
    rounds.run(what, progress, &mut points)
}

/// Positions that cross to decode for each prompt, summed over blocks, counted on a run.
fn positions_sent(subject: &Subject<'_>, prompts: &[Vec<u32>]) -> Result<usize> {
    Ok(subject.pd.prefill(&prompts[..1])?.kv_positions() as usize)
}
