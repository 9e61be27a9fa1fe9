//! Greedy removal by measured loss (SLEB, arXiv:2402.09025).

use pdtrim_core::{BlockId, BlockSet, PerStage};

use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::{Evaluation, Ledger};
use crate::problem::Problem;
use crate::race::Racing;

/// Removes, one after the other, the block whose removal costs least now; ties go to the lowest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleb {
    /// How the candidates of each removal are compared; by default all are evaluated in full.
    pub racing: Racing,
}

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
        let planned: usize = (0..steps).map(|step| first - step).sum();
        on_step(Step::Planned(planned * ledger.units()));
        while removed.len() < problem.count() {
            let (block, cost) = self.cheapest(problem, ledger, &removed, on_step)?;
            removed = removed.with(block);
            on_step(Step::Chosen {
                block,
                cost: Some(cost),
            });
        }
        Ok(removed)
    }
}

impl Sleb {
    fn cheapest(
        &self,
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
        let mut unsettled = candidates.len() * ledger.units();
        let costs = self.costs(&candidates, ledger, &mut |units, evaluation| {
            unsettled -= units;
            on_step(Step::Settled(units));
            if let Some(evaluation) = evaluation {
                on_step(Step::Evaluated(evaluation.clone()));
            }
        })?;
        on_step(Step::Settled(unsettled));
        let best = choices
            .into_iter()
            .zip(costs)
            .filter_map(|(id, cost)| Some((id, cost?)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b));
        Ok(best.expect("a checked problem has a block left to choose, and a race a winner"))
    }

    /// `None` for a candidate that a race dropped.
    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        ledger: &mut Ledger<'_>,
        on_units: &mut (dyn FnMut(usize, Option<&Evaluation>) + Send),
    ) -> Result<Vec<Option<f64>>> {
        let units = ledger.units();
        if units > 1 && self.racing.error() > 0.0 {
            return self.racing.costs(candidates, ledger, on_units);
        }
        let costs = ledger.costs(candidates, &mut |evaluation| {
            on_units(units, Some(evaluation));
        })?;
        Ok(costs.into_iter().map(Some).collect())
    }
}
