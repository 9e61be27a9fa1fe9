//! One-shot removal by redundancy (ShortGPT, arXiv:2403.03853).

use pdtrim_core::BlockSet;

use super::one_shot::remove_least_important;
use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Removes the most redundant blocks, measured once on the dense model; ties go to the lowest.
///
/// ```
/// use pdtrim_search::{Ledger, Problem, ShortGpt, Strategy, Target, Toy};
///
/// let redundancy = [0.99, 0.2, 0.9, 0.95, 0.99];
/// let problem = Problem::new(Target::Unified, &redundancy, 2, true)?;
/// let unused = Toy::new(vec![0.0; 5]);
/// let removed = ShortGpt.search(&problem, &mut Ledger::in_memory(&unused), &mut |_| {})?;
/// assert_eq!(removed.to_indices(), [2, 3]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ShortGpt;

impl Strategy for ShortGpt {
    fn name(&self) -> &'static str {
        "shortgpt"
    }

    fn search(
        &self,
        problem: &Problem,
        _ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let importance = |id| -problem.redundancy(id);
        Ok(remove_least_important(problem, importance, on_step))
    }
}
