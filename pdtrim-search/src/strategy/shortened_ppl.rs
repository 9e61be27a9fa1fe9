//! One-shot removal by loss (Shortened `LLaMA`, arXiv:2402.02834, its criterion PPL).

use std::collections::BTreeMap;

use pdtrim_core::BlockSet;

use super::measuring::Measuring;
use super::one_shot::remove_least_important;
use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Removes the blocks that cost least when each is removed alone, beside those that are given; ties go
/// to the lowest. SLEB measures the same for its first block.
///
/// ```
/// use pdtrim_search::{Ledger, Problem, ShortenedPpl, Strategy, Target, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
/// let mut ledger = Ledger::in_memory(&objective);
/// let problem = Problem::new(Target::Unified, &[0.5; 5], 2, true)?;
/// assert_eq!(ShortenedPpl.search(&problem, &mut ledger, &mut |_| {})?.to_indices(), [1, 2]);
/// // Each of the three blocks that may go was measured once, by itself.
/// assert_eq!(ledger.trace().len(), 3);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ShortenedPpl;

impl Strategy for ShortenedPpl {
    fn name(&self) -> &'static str {
        "shortened-ppl"
    }

    fn search(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let given = problem.given();
        if problem.count() == given.len() {
            return Ok(given.clone());
        }
        let choices = problem.choices(given);
        let alone = choices.iter().map(|&id| given.with(id)).collect();
        let mut measuring = Measuring {
            problem,
            ledger,
            on_step: &mut *on_step,
        };
        measuring.plan(choices.len());
        let states = measuring.measure(alone)?;
        let costs = states.into_iter().map(|state| state.cost);
        let importance: BTreeMap<_, _> = choices.into_iter().zip(costs).collect();
        Ok(remove_least_important(
            problem,
            |id| importance[&id],
            on_step,
        ))
    }
}
