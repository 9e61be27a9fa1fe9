//! Pairs against each other.

use pdtrim_core::{BlockSet, PerStage};

use super::space::Space;
use super::state::State;
use crate::error::Result;
use crate::ledger::Ledger;
use crate::race::Racing;
use crate::strategy::Step;
use crate::strategy::measuring::{challenge, raced_costs};

/// Where pairs are measured, how, and whom to tell.
pub(super) struct Contest<'s, 'o> {
    pub(super) racing: Racing,
    pub(super) ledger: &'s mut Ledger<'o>,
    pub(super) on_step: &'s mut (dyn FnMut(Step) + Send + 's),
}

impl Contest<'_, '_> {
    /// Those of `pairs` that no race dropped.
    pub(super) fn measure(&mut self, pairs: Vec<PerStage<BlockSet>>) -> Result<Vec<State>> {
        (self.on_step)(Step::Planned(pairs.len() * self.ledger.units()));
        let costs = raced_costs(&self.racing, &pairs, 1, self.ledger, self.on_step)?;
        let states = pairs.into_iter().zip(costs).filter_map(|(removed, cost)| {
            Some(State {
                removed,
                cost: cost?,
            })
        });
        Ok(states.collect())
    }

    /// Ties go to the lowest blocks.
    pub(super) fn cheapest(&mut self, pairs: Vec<PerStage<BlockSet>>) -> Result<State> {
        let states = self.measure(pairs)?;
        Ok(states
            .into_iter()
            .min_by(State::order)
            .expect("a race has a winner"))
    }

    /// What a planned pair costs; none if a race showed that `current` is cheaper by more than `by`.
    pub(super) fn challenge(
        &mut self,
        pair: &PerStage<BlockSet>,
        current: &State,
        by: f64,
    ) -> Result<Option<f64>> {
        let pairs = (pair, &current.removed);
        challenge(&self.racing, pairs, by, self.ledger, self.on_step)
    }

    /// The cheapest of `pairs`, then the best of all moves of one block, again and again until none is
    /// better. A better pair is taken at once: its own moves are better ones to look at.
    pub(super) fn descend(
        &mut self,
        space: &Space<'_>,
        pairs: Vec<PerStage<BlockSet>>,
    ) -> Result<State> {
        let mut best = self.cheapest(pairs)?;
        let mut next = 0;
        'better: loop {
            let groups = space.moves(&best.removed);
            for offset in 0..groups.len() {
                let n = (next + offset) % groups.len();
                let mut group = groups[n].clone();
                group.push(best.removed.clone());
                let state = self.cheapest(group)?;
                if state.order(&best).is_lt() {
                    // What was not looked at lately comes first.
                    (best, next) = (state, n + 1);
                    continue 'better;
                }
            }
            return Ok(best);
        }
    }
}
