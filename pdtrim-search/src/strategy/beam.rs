//! Greedy removal that keeps several sets at a time.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use pdtrim_core::BlockSet;

use super::measuring::{Measuring, State};
use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Keeps the `width` cheapest sets of each size, and from each tries every block; ties go to the lowest
/// blocks. Two orders that lead to one set are one set.
///
/// Ours; with a width of 1 it is SLEB, with one of all sets exhaustive.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_search::{Beam, Ledger, Problem, Strategy, Target, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
/// let problem = Problem::new(Target::Unified, &[0.5; 5], 2, true)?;
/// let beam = Beam { width: NonZeroUsize::new(4).expect("4 is not 0") };
/// let removed = beam.search(&problem, &mut Ledger::in_memory(&objective), &mut |_| {})?;
/// assert_eq!(removed.to_indices(), [1, 2]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Beam {
    /// Sets kept of each size.
    pub width: NonZeroUsize,
}

impl Strategy for Beam {
    fn name(&self) -> &'static str {
        "beam"
    }

    fn search(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let mut measuring = Measuring {
            problem,
            ledger,
            on_step,
        };
        let mut parents = vec![problem.given().clone()];
        let mut best = None;
        for size in problem.given().len()..problem.count() {
            measuring.plan(parents.len() * problem.choices(&parents[0]).len());
            debug_assert!(parents.iter().all(|parent| parent.len() == size));
            let kept = self.grow(&parents, &mut measuring)?;
            best = kept.first().cloned();
            parents = kept.into_iter().map(|state| state.set).collect();
        }
        Ok(measuring.choose(best))
    }
}

impl Beam {
    /// The cheapest sets of one block more.
    fn grow(self, parents: &[BlockSet], measuring: &mut Measuring<'_, '_>) -> Result<Vec<State>> {
        let mut seen = BTreeSet::new();
        let mut states = Vec::new();
        for parent in parents {
            // A call for each parent: its children share everything before their new block.
            let choices = measuring.problem.choices(parent).into_iter();
            let children = measuring.measure(choices.map(|id| parent.with(id)).collect())?;
            states.extend(
                children
                    .into_iter()
                    .filter(|state| seen.insert(state.set.clone())),
            );
        }
        states.sort_by(State::order);
        states.truncate(self.width.get());
        Ok(states)
    }
}
