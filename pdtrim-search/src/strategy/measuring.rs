//! What the strategies that measure have in common.

use std::cmp::Ordering;

use pdtrim_core::{BlockSet, PerStage};

use super::Step;
use crate::error::Result;
use crate::ledger::{Evaluation, Ledger};
use crate::problem::Problem;
use crate::race::Racing;

/// A set of removed blocks and its cost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) set: BlockSet,
    pub(super) cost: f64,
}

impl State {
    /// By cost; by the blocks where costs are equal, so that ties go to the lowest.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let by_cost = self.cost.total_cmp(&other.cost);
        by_cost.then_with(|| self.set.cmp(&other.set))
    }
}

/// Costs of candidates that were planned, raced for `winners` places if `racing` says so; `None` for those
/// that were dropped.
pub(super) fn raced_costs(
    racing: &Racing,
    candidates: &[PerStage<BlockSet>],
    winners: usize,
    ledger: &mut Ledger<'_>,
    on_step: &mut (dyn FnMut(Step) + Send),
) -> Result<Vec<Option<f64>>> {
    let planned = candidates.len();
    settling(planned, ledger, on_step, |ledger, settle| {
        if can_race(racing, ledger) {
            return racing.costs(candidates, winners, ledger, settle);
        }
        let units = ledger.units();
        let costs = ledger.costs(candidates, &mut |evaluation| {
            settle(units, Some(evaluation));
        })?;
        Ok(costs.into_iter().map(Some).collect())
    })
}

/// The cost of a candidate that was planned; `None` if a race showed that it is dearer than `incumbent`
/// by more than `by`.
pub(super) fn challenge(
    racing: &Racing,
    (challenger, incumbent): (&PerStage<BlockSet>, &PerStage<BlockSet>),
    by: f64,
    ledger: &mut Ledger<'_>,
    on_step: &mut (dyn FnMut(Step) + Send),
) -> Result<Option<f64>> {
    if !can_race(racing, ledger) {
        let challenger = std::slice::from_ref(challenger);
        return Ok(raced_costs(&Racing::default(), challenger, 1, ledger, on_step)?[0]);
    }
    settling(1, ledger, on_step, |ledger, settle| {
        racing.challenge((challenger, incumbent), by, ledger, settle)
    })
}

fn can_race(racing: &Racing, ledger: &Ledger<'_>) -> bool {
    ledger.units() > 1 && racing.error() > 0.0
}

/// Hears how many units were evaluated, and of a cost that became known.
type Settle<'s> = dyn FnMut(usize, Option<&Evaluation>) + Send + 's;

/// Tells of all that `measure` settles of the planned candidates, and at last that the rest is settled too.
fn settling<T>(
    planned: usize,
    ledger: &mut Ledger<'_>,
    on_step: &mut (dyn FnMut(Step) + Send),
    measure: impl FnOnce(&mut Ledger<'_>, &mut Settle<'_>) -> Result<T>,
) -> Result<T> {
    let mut unsettled = planned * ledger.units();
    let measured = measure(ledger, &mut |units, evaluation| {
        unsettled = unsettled.saturating_sub(units);
        on_step(Step::Settled(units));
        if let Some(evaluation) = evaluation {
            on_step(Step::Evaluated(evaluation.clone()));
        }
    })?;
    on_step(Step::Settled(unsettled));
    Ok(measured)
}

/// A problem, what is known of it, and whom to tell.
pub(super) struct Measuring<'s, 'o> {
    pub(super) problem: &'s Problem,
    pub(super) ledger: &'s mut Ledger<'o>,
    pub(super) on_step: &'s mut (dyn FnMut(Step) + Send + 's),
}

impl Measuring<'_, '_> {
    /// Says that so many sets will be measured.
    pub(super) fn plan(&mut self, sets: usize) {
        (self.on_step)(Step::Planned(sets * self.ledger.units()));
    }

    /// Measures sets that were planned; those that are known cost nothing.
    pub(super) fn measure(&mut self, sets: Vec<BlockSet>) -> Result<Vec<State>> {
        let target = self.problem.target();
        let candidates: Vec<_> = sets.iter().map(|set| target.stages(set)).collect();
        let units = self.ledger.units();
        let mut unsettled = sets.len() * units;
        let on_step = &mut self.on_step;
        let costs = self.ledger.costs(&candidates, &mut |evaluation| {
            unsettled -= units;
            on_step(Step::Settled(units));
            on_step(Step::Evaluated(evaluation.clone()));
        })?;
        (self.on_step)(Step::Settled(unsettled));
        let states = sets.into_iter().zip(costs);
        Ok(states.map(|(set, cost)| State { set, cost }).collect())
    }

    /// Announces the blocks of the set that was chosen. Nothing is known of it if nothing was asked.
    pub(super) fn choose(&mut self, chosen: Option<State>) -> BlockSet {
        let given = self.problem.given();
        let Some(State { set, cost }) = chosen else {
            return given.clone();
        };
        let blocks: Vec<_> = set.difference(given).iter().collect();
        for (n, &block) in blocks.iter().enumerate() {
            // Parts of the set are sets that may never have been measured.
            let cost = (n + 1 == blocks.len()).then_some(cost);
            (self.on_step)(Step::Chosen { block, cost });
        }
        set
    }
}
