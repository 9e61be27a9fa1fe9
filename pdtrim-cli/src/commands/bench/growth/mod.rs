//! How times grow with prompt length, batch and removed blocks, against what the work predicts.

mod page;
mod rows;

use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use pdtrim_core::model::BlockModel;
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::{BlockSet, Boundary, KvFill, PerStage, write_atomically};
use serde_json::{Value, json};

use super::environment::{Environment, Peak};
use super::measure::{Generated, Point, Rounds, generate};
use super::report::{BenchReport, settings};
use super::text;
use crate::args::GrowthBenchArgs;
use crate::progress::Progress;
use crate::session::Session;
use rows::{Growth, Removed};

/// One generation of the sweep.
struct Run<'a> {
    pd: PdModel<'a>,
    tokens: usize,
    batch: usize,
    later: usize,
}

pub(super) fn run(args: &GrowthBenchArgs, progress: Progress) -> Result<()> {
    let session = Session::open(&args.measure.model, progress)?.for_long_work();
    let before = Peak::find(session.device, &args.measure);
    let sweep = Sweep::new(args, &session)?;
    let rounds = Rounds::new(&args.measure, 1, 3);
    let (tokens, later) = (args.tokens.get(), args.new_tokens.get());
    let model = |removed: &BlockSet| model(&session, removed, args.boundary);
    let none = BlockSet::empty(session.depth());
    let one = |pd, tokens, batch, later| Run {
        pd,
        tokens,
        batch,
        later,
    };
    let lengths = sweep
        .lengths
        .iter()
        .map(|&length| Ok(one(model(&none)?, length, 1, 0)));
    let batches = sweep
        .batches
        .iter()
        .map(|&batch| Ok(one(model(&none)?, tokens, batch, later)));
    let removed = sweep
        .removed
        .iter()
        .map(|set| Ok(one(model(set)?, tokens, 1, later)));
    let lengths = lengths.collect::<Result<Vec<_>>>()?;
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let removed = removed.collect::<Result<Vec<_>>>()?;
    let measure = |what: &str, runs: &[Run<'_>]| measure(&session, what, runs, rounds, progress);
    let times = [
        measure("growth over prompt length", &lengths)?,
        measure("growth over batch", &batches)?,
        measure("growth over removed blocks", &removed)?,
    ];
    let environment = Environment::of(&session, &args.measure, before)?;
    let [by_length, by_batch, by_removed] = times;
    let growth = Growth {
        lengths: rows::lengths(&session, &environment, &lengths, &by_length),
        batches: rows::batches(&session, &environment, &batches, &by_batch),
        removed: rows::removed(&session, &environment, &removed, &by_removed),
        answers: args.answers.clone(),
    };
    let what = json!({
        "tokens": tokens,
        "new_tokens": later,
        "boundary": args.boundary,
        "order": sweep.order,
    });
    let report = report(environment, settings(what, rounds), &growth, args)?;
    report.finish(&args.measure)
}

/// What is varied.
struct Sweep {
    lengths: Vec<usize>,
    batches: Vec<usize>,
    /// Blocks in the order of their removal.
    order: Vec<usize>,
    removed: Vec<BlockSet>,
}

impl Sweep {
    fn new(args: &GrowthBenchArgs, session: &Session) -> Result<Self> {
        let depth = session.depth();
        let context = session.model.dims().context_length;
        let numbers = |list: &Vec<NonZeroUsize>| list.iter().map(|n| n.get()).collect();
        let doubling = |from: usize, to: usize| {
            std::iter::successors(Some(from), |n| Some(n * 2)).take_while(move |&n| n <= to)
        };
        let lengths = match &args.lengths {
            Some(list) => numbers(list),
            None => doubling(256, context.min(8192)).collect(),
        };
        let batches = match &args.batches {
            Some(list) => numbers(list),
            None => doubling(1, 32).collect(),
        };
        let order = args
            .order
            .clone()
            .map_or_else(|| from_the_middle(depth), Vec::from);
        BlockSet::from_indices(depth, order.iter().copied())?;
        let most = args
            .max_removed
            .unwrap_or(15.min(depth - 1).min(order.len()));
        ensure!(
            most < depth,
            "--max-removed {most} would keep none of {depth} blocks"
        );
        ensure!(
            most <= order.len(),
            "--max-removed {most} is more than the {} blocks of --order",
            order.len()
        );
        let set = |count: usize| BlockSet::from_indices(depth, order[..count].iter().copied());
        let removed = (0..=most).map(set).collect::<Result<_, _>>()?;
        Ok(Self {
            lengths,
            batches,
            order,
            removed,
        })
    }
}

/// All blocks, those in the middle first, the lower of two at the same distance before the higher.
fn from_the_middle(depth: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..depth).collect();
    order.sort_by_key(|&block| (2 * block + 1).abs_diff(depth));
    order
}

fn model<'a>(session: &'a Session, removed: &BlockSet, boundary: Boundary) -> Result<PdModel<'a>> {
    let removed = PerStage::both(removed.clone());
    let model = &session.model;
    Ok(PdModel::new(
        model,
        removed,
        KvFill::Nested,
        boundary,
        &SendAll,
    )?)
}

fn measure(
    session: &Session,
    what: &str,
    runs: &[Run<'_>],
    rounds: Rounds,
    progress: Progress,
) -> Result<Vec<Vec<Generated>>> {
    let points = runs.iter().map(|run| -> Point<'_, Generated> {
        let Run {
            pd,
            tokens,
            batch,
            later,
        } = run;
        let prompts = text::prompts(session, *tokens, *batch);
        Box::new(move || generate(pd, &prompts, *later))
    });
    let mut points: Vec<_> = points.collect();
    rounds.run(what, progress, &mut points)
}

/// The report, after the page and the numbers beside it were written.
fn report(
    environment: Environment,
    settings: Value,
    growth: &Growth,
    args: &GrowthBenchArgs,
) -> Result<BenchReport> {
    let measurements = growth.measurements();
    let mut report = BenchReport::new("growth", environment, settings, measurements);
    report
        .facts
        .insert("removed".to_owned(), serde_json::to_value(&growth.removed)?);
    report
        .facts
        .insert("gains".to_owned(), serde_json::to_value(growth.gains())?);
    report
        .remarks
        .extend(growth.removed.iter().map(Removed::in_words));
    let numbers = args.page.with_extension("json");
    let page = page::page(&report, growth).render();
    let object = serde_json::to_string_pretty(&report.to_json()?)?;
    for (path, text) in [(&args.page, page), (&numbers, format!("{object}\n"))] {
        write_atomically(path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let (page, numbers) = (args.page.display(), numbers.display());
    report.remarks.push(format!("wrote {page} and {numbers}"));
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_from_the_middle_outwards() {
        assert_eq!(from_the_middle(5), [2, 1, 3, 0, 4]);
        assert_eq!(from_the_middle(4), [1, 2, 0, 3]);
    }
}
