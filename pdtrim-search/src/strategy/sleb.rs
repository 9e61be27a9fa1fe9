//! Greedy removal by measured loss (SLEB, arXiv:2402.09025).

use pdtrim_core::{BlockId, BlockSet};

use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Removes, one after the other, the block whose removal costs least now; ties go to the lowest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleb;

impl Strategy for Sleb {
    fn name(&self) -> &'static str {
        "sleb"
    }

    fn search(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let mut removed = problem.given().clone();
        let first = problem.choices(&removed).len();
        let steps = problem.count() - removed.len();
        on_step(Step::Planned((0..steps).map(|step| first - step).sum()));
        while removed.len() < problem.count() {
            let (block, cost) = cheapest(problem, ledger, &removed, on_step)?;
            removed = removed.with(block);
            on_step(Step::Chosen {
                block,
                cost: Some(cost),
            });
        }
        Ok(removed)
    }
}

fn cheapest(
    problem: &Problem,
    ledger: &mut Ledger<'_>,
    removed: &BlockSet,
    on_step: &mut (dyn FnMut(Step) + Send),
) -> Result<(BlockId, f64)> {
    let choices = problem.choices(removed);
    let candidates: Vec<_> = choices
        .iter()
        .map(|&id| problem.target().stages(&removed.with(id)))
        .collect();
    let costs = ledger.costs(&candidates, &mut |evaluation| {
        on_step(Step::Evaluated(evaluation.clone()));
    })?;
    let best = choices
        .into_iter()
        .zip(costs)
        .min_by(|(_, a), (_, b)| a.total_cmp(b));
    Ok(best.expect("a checked problem has a block left to choose"))
}
