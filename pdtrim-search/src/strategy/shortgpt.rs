//! One-shot removal by redundancy (ShortGPT, arXiv:2403.03853).

use std::cmp::Reverse;

use pdtrim_core::BlockSet;

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
        let mut removed = problem.given().clone();
        let mut choices = problem.choices(&removed);
        choices.sort_by(|a, b| {
            problem
                .redundancy(*b)
                .total_cmp(&problem.redundancy(*a))
                .then(Reverse(b).cmp(&Reverse(a)))
        });
        for block in choices.into_iter().take(problem.count() - removed.len()) {
            removed = removed.with(block);
            on_step(Step::Chosen { block, cost: None });
        }
        Ok(removed)
    }
}
