//! The closing pass: all swaps, until none is better.

use pdtrim_core::BlockSet;

use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;
use crate::race::Racing;
use crate::strategy::Step;
use crate::strategy::measuring::{State, raced_costs};

/// Sets of the asked size against each other.
pub(super) struct Closing<'s, 'o> {
    pub(super) problem: &'s Problem,
    pub(super) racing: Racing,
    pub(super) ledger: &'s mut Ledger<'o>,
    pub(super) on_step: &'s mut (dyn FnMut(Step) + Send + 's),
}

impl Closing<'_, '_> {
    /// The cheapest of `sets`, then the best of all that a swap leads to, again and again.
    pub(super) fn run(mut self, sets: Vec<BlockSet>) -> Result<State> {
        let mut best = self.cheapest(sets)?;
        loop {
            let kept = self.problem.choices(&best.set);
            let removed = best.set.difference(self.problem.given());
            let mut next = best.clone();
            for block in removed.iter() {
                // A race for each block that comes back: what its sets share is run once, and these
                // share everything before the block that goes.
                let rest = best.set.without(block);
                let mut sets = vec![best.set.clone()];
                sets.extend(kept.iter().map(|&id| rest.with(id)));
                let state = self.cheapest(sets)?;
                if state.order(&next).is_lt() {
                    next = state;
                }
            }
            if next == best {
                return Ok(best);
            }
            best = next;
        }
    }

    /// Ties go to the lowest blocks.
    fn cheapest(&mut self, sets: Vec<BlockSet>) -> Result<State> {
        let target = self.problem.target();
        let candidates: Vec<_> = sets.iter().map(|set| target.stages(set)).collect();
        (self.on_step)(Step::Planned(candidates.len() * self.ledger.units()));
        let costs = raced_costs(&self.racing, &candidates, self.ledger, self.on_step)?;
        let states = sets.into_iter().zip(costs);
        let states = states.filter_map(|(set, cost)| Some(State { set, cost: cost? }));
        Ok(states.min_by(State::order).expect("a race has a winner"))
    }
}
