//! From set to set by swaps, with a memory of all that were met.

use std::collections::BTreeMap;

use pdtrim_core::BlockSet;

use super::annealing::Annealing;
use crate::draw::draw;
use crate::error::Result;
use crate::problem::Problem;
use crate::strategy::measuring::{Measuring, State};

/// Sets of the asked size, and what each that was met costs.
pub(super) struct Walk<'s, 'o> {
    measuring: Measuring<'s, 'o>,
    met: BTreeMap<BlockSet, f64>,
}

impl<'s, 'o> Walk<'s, 'o> {
    /// Measures the sets to start from.
    pub(super) fn from(mut measuring: Measuring<'s, 'o>, starts: Vec<BlockSet>) -> Result<Self> {
        measuring.plan(starts.len());
        let mut walk = Self {
            measuring,
            met: BTreeMap::new(),
        };
        walk.meet(starts)?;
        Ok(walk)
    }

    pub(super) fn into_measuring(self) -> Measuring<'s, 'o> {
        self.measuring
    }

    /// The `n` cheapest sets met so far, the cheapest first; ties go to the lowest blocks.
    pub(super) fn cheapest(&self, n: usize) -> Vec<State> {
        let state = |(set, &cost): (&BlockSet, &f64)| State {
            set: set.clone(),
            cost,
        };
        let mut states: Vec<State> = self.met.iter().map(state).collect();
        states.sort_by(State::order);
        states.truncate(n);
        states
    }

    /// The cheapest set met so far.
    pub(super) fn best(&self) -> State {
        let mut cheapest = self.cheapest(1);
        cheapest.pop().expect("a walk starts from a set")
    }

    /// Proposes one random swap after the other; where the walk ends does not matter. What counts is
    /// that a set was not met before: to come back to one costs nothing.
    pub(super) fn anneal(&mut self, annealing: &Annealing) -> Result<()> {
        let mut current = self.best();
        if !self.has_swaps() {
            return Ok(());
        }
        self.measuring.plan(annealing.steps);
        let (mut drawn, mut step) = (annealing.seed, 0);
        for _ in 0..annealing.proposals() {
            if step == annealing.steps {
                break;
            }
            let proposed = swapped(self.measuring.problem, &current.set, &mut drawn);
            let known = self.met.get(&proposed).copied();
            let cost = match known {
                Some(cost) => cost,
                None => self.meet(vec![proposed.clone()])?[0].cost,
            };
            if annealing.accepts(cost - current.cost, step, &mut drawn) {
                current = State {
                    set: proposed,
                    cost,
                };
            }
            step += usize::from(known.is_none());
        }
        self.measuring.skip(annealing.steps - step);
        Ok(())
    }

    fn has_swaps(&self) -> bool {
        let problem = self.measuring.problem;
        let set = self.best().set;
        set.len() > problem.given().len() && !problem.choices(&set).is_empty()
    }

    fn meet(&mut self, sets: Vec<BlockSet>) -> Result<Vec<State>> {
        let states = self.measuring.measure(sets)?;
        for state in &states {
            self.met.insert(state.set.clone(), state.cost);
        }
        Ok(states)
    }
}

/// `set` with one removed block back and a kept one gone, every such pair equally likely.
fn swapped(problem: &Problem, set: &BlockSet, drawn: &mut u64) -> BlockSet {
    let removed: Vec<_> = set.difference(problem.given()).iter().collect();
    let kept = problem.choices(set);
    let back = removed[draw(drawn, removed.len())];
    let gone = kept[draw(drawn, kept.len())];
    set.without(back).with(gone)
}
