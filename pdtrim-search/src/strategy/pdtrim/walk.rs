//! From pair to pair by random moves, with a memory of all that were met.

use std::collections::BTreeMap;

use pdtrim_core::{BlockSet, PerStage};

use super::annealing::Annealing;
use super::contest::Contest;
use super::space::Space;
use super::state::State;
use crate::error::Result;
use crate::strategy::Step;

/// Pairs of the asked sizes, and what each that was met costs.
pub(super) struct Walk<'w, 's, 'o> {
    space: &'w Space<'w>,
    contest: &'w mut Contest<'s, 'o>,
    met: BTreeMap<PerStage<BlockSet>, f64>,
}

impl<'w, 's, 'o> Walk<'w, 's, 'o> {
    /// Measures the pairs to start from.
    pub(super) fn from(
        space: &'w Space<'w>,
        contest: &'w mut Contest<'s, 'o>,
        starts: Vec<PerStage<BlockSet>>,
    ) -> Result<Self> {
        let states = contest.measure(starts)?;
        let met = states
            .into_iter()
            .map(|state| (state.removed, state.cost))
            .collect();
        Ok(Self {
            space,
            contest,
            met,
        })
    }

    /// The `n` cheapest pairs met so far, the cheapest first; ties go to the lowest blocks.
    pub(super) fn cheapest(&self, n: usize) -> Vec<PerStage<BlockSet>> {
        let states = self.states().into_iter().take(n);
        states.map(|state| state.removed).collect()
    }

    fn states(&self) -> Vec<State> {
        let state = |(removed, &cost): (&PerStage<BlockSet>, &f64)| State {
            removed: removed.clone(),
            cost,
        };
        let mut states: Vec<State> = self.met.iter().map(state).collect();
        states.sort_by(State::order);
        states
    }

    /// Proposes one random move after the other; where the walk ends does not matter. What counts is
    /// that a pair was not met before: to come back to one costs nothing.
    pub(super) fn anneal(&mut self, annealing: &Annealing) -> Result<()> {
        let start = self.states().into_iter().next();
        let mut current = start.expect("a walk starts from a pair");
        let units = self.contest.ledger.units();
        (self.contest.on_step)(Step::Planned(annealing.steps * units));
        let (mut drawn, mut step) = (annealing.seed, 0);
        for _ in 0..annealing.proposals() {
            if step == annealing.steps {
                break;
            }
            let Some(proposed) = self.space.draw(&current.removed, &mut drawn) else {
                break;
            };
            // Drawn first: a race then only has to tell on which side of it the cost lies.
            let rise = annealing.accepted_rise(step, &mut drawn);
            let known = self.met.get(&proposed).copied();
            let cost = match known {
                Some(cost) => Some(cost),
                None => self.contest.challenge(&proposed, &current, rise)?,
            };
            step += usize::from(known.is_none());
            let Some(cost) = cost else {
                continue;
            };
            self.met.insert(proposed.clone(), cost);
            if cost - current.cost < rise {
                current = State {
                    removed: proposed,
                    cost,
                };
            }
        }
        let left = annealing.steps - step;
        (self.contest.on_step)(Step::Settled(left * units));
        Ok(())
    }
}
