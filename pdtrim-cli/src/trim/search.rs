//! Blocks for prefill, then blocks for decode.

use anyhow::Result;
use pdtrim_core::objective::{CalibrationLoss, Redundancy};
use pdtrim_core::{BlockSet, PerStage};
use pdtrim_search::{
    Evaluation, Ledger, Problem, Racing, Random, ShortGpt, Sleb, Step, Strategy, Target,
};

use super::Run;
use crate::args::StrategyArg;

/// What was found, and how.
pub(super) struct Found {
    pub(super) method: &'static str,
    pub(super) removed: PerStage<BlockSet>,
    /// J of the dense model, with P removed only, and with P and D.
    pub(super) cost_dense: f64,
    pub(super) cost_prefill: f64,
    pub(super) cost: f64,
    pub(super) trace: Vec<Evaluation>,
    /// On how many windows each candidate was evaluated that a race dropped.
    pub(super) dropped: Vec<usize>,
}

/// The strategy of that name; every command that searches builds it here.
pub(crate) fn strategy(kind: StrategyArg, seed: u64, racing: Racing) -> Box<dyn Strategy> {
    match kind {
        StrategyArg::Sleb => Box::new(Sleb { racing }),
        StrategyArg::Shortgpt => Box::new(ShortGpt),
        StrategyArg::Random => Box::new(Random { seed }),
    }
}

pub(super) fn run(run: &Run, loss: &CalibrationLoss<'_>, redundancy: &Redundancy) -> Result<Found> {
    let config = &run.config;
    let strategy = strategy(config.strategy, config.seed, config.racing()?);
    let mut ledger = Ledger::resume(loss, &run.folder.journal("search"), &run.fingerprint()?)?;
    let protect_ends = !config.unprotected_ends;
    let problem = Problem::new(
        Target::Prefill,
        &redundancy.0.prefill,
        config.prefill_count,
        protect_ends,
    )?;
    // Refuse an impossible decode problem before prefill's search has run.
    let stand_in = BlockSet::empty(run.session.depth());
    Problem::new(
        Target::Decode {
            prefill: stand_in,
            nested: false,
        },
        &redundancy.0.decode,
        config.decode_count,
        protect_ends,
    )?;
    if !config.independent && config.decode_count < config.prefill_count {
        return Err(pdtrim_search::Error::FewerThanNested {
            count: config.decode_count,
            nested: config.prefill_count,
        }
        .into());
    }
    let prefill = one(
        run,
        "search prefill",
        strategy.as_ref(),
        &problem,
        &mut ledger,
    )?;
    let target = Target::Decode {
        prefill: prefill.clone(),
        nested: !config.independent,
    };
    let problem = Problem::new(
        target,
        &redundancy.0.decode,
        config.decode_count,
        protect_ends,
    )?;
    let decode = one(
        run,
        "search decode",
        strategy.as_ref(),
        &problem,
        &mut ledger,
    )?;

    let none = BlockSet::empty(run.session.depth());
    let removed = PerStage {
        prefill: prefill.clone(),
        decode,
    };
    let stages = |prefill: &BlockSet, decode: &BlockSet| PerStage {
        prefill: prefill.clone(),
        decode: decode.clone(),
    };
    // One at a time: candidates of one call are measured from what they share, which costs the same here.
    let mut cost = |candidate| Ok::<_, anyhow::Error>(ledger.costs(&[candidate], &mut |_| {})?[0]);
    let cost_dense = cost(stages(&none, &none))?;
    let cost_prefill = cost(stages(&prefill, &none))?;
    let cost = cost(removed.clone())?;
    Ok(Found {
        method: strategy.name(),
        removed,
        cost_dense,
        cost_prefill,
        cost,
        trace: ledger.trace().to_vec(),
        dropped: ledger.dropped().map(|(_, windows)| windows).collect(),
    })
}

fn one(
    run: &Run,
    what: &str,
    strategy: &dyn Strategy,
    problem: &Problem,
    ledger: &mut Ledger<'_>,
) -> Result<BlockSet> {
    let reused = ledger.reused();
    if reused > 0 && problem.target() == &Target::Prefill {
        run.progress.say(&format!(
            "reusing {reused} evaluations of an earlier run (--force starts over)"
        ));
    }
    let step = run.progress.step(what, 0);
    let mut settled = 0;
    let removed = strategy.search(problem, ledger, &mut |event| match event {
        Step::Planned(evaluations) => step.set_total(evaluations),
        Step::Settled(evaluations) => {
            settled += evaluations;
            step.set_done(settled);
        }
        Step::Evaluated(_) | Step::Chosen { .. } => {}
    })?;
    drop(step);
    run.progress.say(&format!("{what}: blocks {removed}"));
    Ok(removed)
}
