//! Choosing between good sets on windows that the search did not see.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;
use crate::strategy::measuring::State;

/// A second objective that decides between the best sets of a search.
///
/// The best of many sets on few short windows is partly the luckiest on those. Of the `among` best
/// sets that the search met, and those that it started from, this takes the one with the lowest mean
/// of both costs; the second is on windows that had no part in the search. Ours; the paper does not
/// say how it guards against this.
pub struct Validation<'v> {
    ledger: Mutex<Ledger<'v>>,
    among: NonZeroUsize,
}

impl<'v> Validation<'v> {
    /// `ledger` measures on the other windows; `among` best sets are compared.
    pub fn new(ledger: Ledger<'v>, among: NonZeroUsize) -> Self {
        Self {
            ledger: Mutex::new(ledger),
            among,
        }
    }

    pub(super) fn among(&self) -> usize {
        self.among.get()
    }

    /// The best of `states` by the mean of their cost and the one on the other windows; ties go to the
    /// lowest blocks.
    pub(super) fn choose(&self, problem: &Problem, states: Vec<State>) -> Result<Option<State>> {
        let candidate = |state: &State| problem.target().stages(&state.set);
        let candidates: Vec<_> = states.iter().map(candidate).collect();
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let costs = ledger.costs(&candidates, &mut |_| {})?;
        let mean = |(state, other): (State, f64)| (f64::midpoint(state.cost, other), state);
        let by_mean = |a: &(f64, State), b: &(f64, State)| {
            let by_mean = a.0.total_cmp(&b.0);
            by_mean.then_with(|| a.1.set.cmp(&b.1.set))
        };
        let best = states.into_iter().zip(costs).map(mean).min_by(by_mean);
        Ok(best.map(|(_, state)| state))
    }
}
