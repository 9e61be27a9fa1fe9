//! Where the walk starts.

use pdtrim_core::{BlockSet, PerStage, Stage};

use super::contest::Contest;
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::{Problem, Target};
use crate::race::Racing;
use crate::stages::StageProblem;
use crate::strategy::{ShortGpt, Sleb, Step, Strategy};

/// One set: SLEB's and the most redundant choice. The blocks that SLEB chooses on its way are not this
/// search's choice.
pub(super) fn of_one(
    problem: &Problem,
    racing: Racing,
    ledger: &mut Ledger<'_>,
    on_step: &mut (dyn FnMut(Step) + Send),
) -> Result<Vec<PerStage<BlockSet>>> {
    let sleb = greedy(problem, racing, ledger, on_step)?;
    let most_redundant = ShortGpt.search(problem, ledger, &mut |_| {})?;
    let stages = |set| problem.target().stages(&set);
    Ok(vec![stages(sleb), stages(most_redundant)])
}

/// Both stages' sets: greedily, and the most redundant of each stage.
///
/// Where decode must be without prefill's blocks too, what they cost decode counts from the start: they
/// are taken from both stages, then decode's own. The other order is the second start: decode's with a
/// whole prefill, then prefill's out of those.
pub(super) fn of_stages(
    problem: &StageProblem<'_>,
    racing: Racing,
    ledger: &mut Ledger<'_>,
    on_step: &mut (dyn FnMut(Stage, Step) + Send),
) -> Result<Vec<PerStage<BlockSet>>> {
    let target = if problem.nested {
        Target::Unified
    } else {
        Target::Prefill
    };
    let shared = problem.problem(target, Stage::Prefill)?;
    let prefill = greedy(&shared, racing, ledger, &mut |step| {
        on_step(Stage::Prefill, step);
    })?;
    let in_decode = &mut |step| on_step(Stage::Decode, step);
    let after = problem.of_decode(&prefill)?;
    let decode = greedy(&after, racing, ledger, in_decode)?;
    let mut starts = vec![PerStage { prefill, decode }];
    if problem.nested {
        starts.push(decode_first(problem, racing, ledger, in_decode)?);
    }
    starts.push(problem.one_after_the_other(&ShortGpt, ledger, &mut |_, _| {})?);
    Ok(starts)
}

fn decode_first(
    problem: &StageProblem<'_>,
    racing: Racing,
    ledger: &mut Ledger<'_>,
    on_step: &mut (dyn FnMut(Step) + Send),
) -> Result<PerStage<BlockSet>> {
    let mut prefill = BlockSet::empty(ledger.depth());
    let alone = problem.of_decode(&prefill)?;
    let decode = greedy(&alone, racing, ledger, on_step)?;
    while prefill.len() < problem.counts.prefill {
        let left = decode.difference(&prefill);
        let grown = left.iter().map(|id| PerStage {
            prefill: prefill.with(id),
            decode: decode.clone(),
        });
        let mut contest = Contest {
            racing,
            ledger,
            on_step,
        };
        prefill = contest.cheapest(grown.collect())?.removed.prefill;
    }
    Ok(PerStage { prefill, decode })
}

fn greedy(
    problem: &Problem,
    racing: Racing,
    ledger: &mut Ledger<'_>,
    on_step: &mut (dyn FnMut(Step) + Send),
) -> Result<BlockSet> {
    Sleb { racing }.search(problem, ledger, &mut |step| {
        if !matches!(step, Step::Chosen { .. }) {
            on_step(step);
        }
    })
}
