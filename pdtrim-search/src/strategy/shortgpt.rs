//! One-shot removal by redundancy (ShortGPT, arXiv:2403.03853).

use pdtrim_core::BlockSet;

use super::one_shot::remove_least_important;
use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Removes the most redundant blocks, measured once on the dense model; ties go to the lowest.
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
