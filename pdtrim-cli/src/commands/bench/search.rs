//! A whole greedy search for one set of blocks for both stages, by the loss of every token.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use pdtrim_core::model::BlockModel;
use pdtrim_core::objective::{CalibrationLoss, Objective, OnCost, OnUnitCosts, Rows};
use pdtrim_core::{BlockSet, Boundary, PerStage};
use pdtrim_search::{Ledger, Problem, Racing, Sleb, Step, Strategy, Target};
use serde_json::json;

use super::environment::{Environment, Peak};
use super::measure::{Point, Rounds, timed};
use super::report::{BenchReport, Measurement, seconds, settings};
use super::text;
use crate::args::SearchBenchArgs;
use crate::progress::Progress;
use crate::session::Session;

/// What one search did.
struct Searched {
    /// Seconds.
    time: f64,
    /// In the order of their removal, with the cost after each.
    chosen: Vec<(usize, Option<f64>)>,
    evaluations: usize,
}

/// The same costs, with nothing shared between candidates.
struct OneByOne<'l>(&'l CalibrationLoss<'l>);

impl Objective for OneByOne<'_> {
    fn depth(&self) -> usize {
        self.0.depth()
    }

    fn units(&self) -> usize {
        self.0.units()
    }

    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> pdtrim_core::Result<Vec<f64>> {
        let mut costs = Vec::with_capacity(candidates.len());
        for (n, candidate) in candidates.iter().enumerate() {
            let alone = std::slice::from_ref(candidate);
            costs.extend(self.0.costs(alone, &mut |_, cost| on_cost(n, cost))?);
        }
        Ok(costs)
    }

    fn unit_costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        on_costs: &mut OnUnitCosts<'_>,
    ) -> pdtrim_core::Result<Vec<Vec<f64>>> {
        let mut all = Vec::with_capacity(candidates.len());
        for (n, candidate) in candidates.iter().enumerate() {
            let alone = std::slice::from_ref(candidate);
            let on_costs = &mut |_, costs: &[f64]| on_costs(n, costs);
            all.extend(self.0.unit_costs(alone, units, on_costs)?);
        }
        Ok(all)
    }
}

pub(super) fn run(args: &SearchBenchArgs, progress: Progress) -> Result<()> {
    let session = Session::open(&args.measure.model, progress)?.for_long_work();
    let before = Peak::find(session.device, &args.measure);
    let rounds = Rounds::new(&args.measure, 0, 1);
    let (count, tokens) = (args.count.get(), args.window_tokens.get());
    let (calibration, mut about) = text::windows(&session, &args.text, args.windows.get(), tokens)?;
    // The greedy search looks at no redundancy.
    let redundancy = vec![0.0; session.depth()];
    let protect_ends = !args.unprotected_ends;
    let problem = Problem::new(Target::Unified, &redundancy, count, protect_ends)?;
    let sleb = Sleb {
        racing: Racing::new(args.race_error, 0)?,
    };
    let model = &session.model;
    let point: Point<'_, Searched> = Box::new(|| {
        let mut step = progress.search("search: evaluations");
        let mut chosen = Vec::new();
        let evaluated = AtomicUsize::new(0);
        let (time, ()) = timed(model.device(), || {
            let loss = CalibrationLoss::new(model, &calibration, Rows::All, Boundary::Prefill);
            let alone = OneByOne(&loss);
            let objective: &dyn Objective = if args.no_prefix_reuse { &alone } else { &loss };
            let mut ledger = Ledger::in_memory(objective);
            sleb.search(&problem, &mut ledger, &mut |event| {
                step.hear(&event);
                match event {
                    Step::Evaluated(_) => {
                        evaluated.fetch_add(1, Ordering::Relaxed);
                    }
                    Step::Chosen { block, cost } => chosen.push((block.index(), cost)),
                    Step::Planned(_) | Step::Settled(_) => {}
                }
            })?;
            Ok(())
        })?;
        let evaluations = evaluated.into_inner();
        Ok(Searched {
            time,
            chosen,
            evaluations,
        })
    });
    let mut runs = rounds.run("search", progress, &mut [point])?;
    let runs = runs.remove(0);
    let environment = Environment::of(&session, &args.measure, before)?;
    let last = &runs[runs.len() - 1];
    let blocks: Vec<usize> = last.chosen.iter().map(|(block, _)| *block).collect();
    let costs: Vec<Option<f64>> = last.chosen.iter().map(|(_, cost)| *cost).collect();
    let found = Measurement::new("search", runs.iter().map(|run| run.time).collect());
    let seconds_per_evaluation = found.median / last.evaluations as f64;
    about["count"] = json!(count);
    about["protect_ends"] = json!(protect_ends);
    about["race_error"] = json!(args.race_error);
    about["prefix_reuse"] = json!(!args.no_prefix_reuse);
    let mut report = BenchReport::new("search", environment, settings(about, rounds), vec![found]);
    report.facts.extend([
        ("blocks".to_owned(), json!(blocks)),
        ("costs".to_owned(), json!(costs)),
        ("evaluations".to_owned(), json!(last.evaluations)),
        (
            "seconds_per_evaluation".to_owned(),
            json!(seconds_per_evaluation),
        ),
    ]);
    let names: Vec<String> = blocks.iter().map(usize::to_string).collect();
    report.remarks.push(format!(
        "blocks {} in the order of their removal; {} evaluations, {} each",
        names.join(", "),
        last.evaluations,
        seconds(seconds_per_evaluation)
    ));
    report.finish(&args.measure)
}
