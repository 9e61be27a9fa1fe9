//! Greedy removal that keeps several sets at a time.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use pdtrim_core::BlockSet;

use super::measuring::{Measuring, State, raced_costs};
use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;
use crate::race::Racing;

/// Keeps the `width` cheapest sets of each size, and from each tries every block; ties go to the lowest
/// blocks. Two orders that lead to one set are one set.
///
/// Ours; with a width of 1 it is SLEB, with one of all sets exhaustive.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_search::{Beam, Ledger, Problem, Racing, Strategy, Target, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
/// let problem = Problem::new(Target::Unified, &[0.5; 5], 2, true)?;
/// let width = NonZeroUsize::new(4).expect("4 is not 0");
/// let beam = Beam { width, racing: Racing::default() };
/// let removed = beam.search(&problem, &mut Ledger::in_memory(&objective), &mut |_| {})?;
/// assert_eq!(removed.to_indices(), [1, 2]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Beam {
    /// Sets kept of each size.
    pub width: NonZeroUsize,
    /// How the sets of each size are compared; by default all are evaluated in full.
    pub racing: Racing,
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
            debug_assert!(parents.iter().all(|parent| parent.len() == size));
            // Of the last size one is wanted.
            let last = size + 1 == problem.count();
            let kept = if last { 1 } else { self.width.get() };
            let kept = self.grow(&parents, kept, &mut measuring)?;
            best = kept.first().cloned();
            parents = kept.into_iter().map(|state| state.set).collect();
        }
        Ok(measuring.choose(best))
    }
}

impl Beam {
    /// The cheapest sets of one block more.
    fn grow(
        self,
        parents: &[BlockSet],
        kept: usize,
        measuring: &mut Measuring<'_, '_>,
    ) -> Result<Vec<State>> {
        let problem = measuring.problem;
        let children = parents.iter().flat_map(|parent| {
            let choices = problem.choices(parent).into_iter();
            choices.map(|id| parent.with(id))
        });
        let children: BTreeSet<BlockSet> = children.collect();
        measuring.plan(children.len());
        let candidates = children.iter().map(|set| problem.target().stages(set));
        let candidates: Vec<_> = candidates.collect();
        let costs = raced_costs(
            &self.racing,
            &candidates,
            kept,
            measuring.ledger,
            measuring.on_step,
        )?;
        let states = children.into_iter().zip(costs);
        let mut states: Vec<State> = states
            .filter_map(|(set, cost)| cost.map(|cost| State { set, cost }))
            .collect();
        states.sort_by(State::order);
        states.truncate(kept);
        Ok(states)
    }
}
