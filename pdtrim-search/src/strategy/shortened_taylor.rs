//! One-shot removal by Taylor importance (Shortened `LLaMA`, arXiv:2402.02834, its criterion Taylor+).

use pdtrim_core::{BlockId, BlockSet};

use super::one_shot::remove_in_order;
use super::{Step, Strategy};
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Blocks at the front that stay as long as others are left.
const FIRST: usize = 4;
/// Blocks at the end that stay as long as others are left.
const LAST: usize = 2;

/// Removes the blocks of the least importance that the problem gives; ties go to the lowest.
///
/// The first four and the last two stay, as by default in the authors' code. Where no others are left,
/// those six go too, the least important first, so that the number is always the asked one.
///
/// ```
/// use pdtrim_search::{Ledger, Problem, ShortenedTaylor, Strategy, Target, Toy};
///
/// assert!(ShortenedTaylor.wants_importance());
/// let importance = [5.0, 5.0, 5.0, 5.0, 9.0, 1.0, 2.0, 5.0, 5.0];
/// let problem = Problem::new(Target::Unified, &[0.5; 9], 2, true)?.with_importance(&importance)?;
/// let unused = Toy::new(vec![0.0; 9]);
/// let removed = ShortenedTaylor.search(&problem, &mut Ledger::in_memory(&unused), &mut |_| {})?;
/// assert_eq!(removed.to_indices(), [5, 6]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ShortenedTaylor;

impl Strategy for ShortenedTaylor {
    fn name(&self) -> &'static str {
        "shortened-taylor"
    }

    fn wants_importance(&self) -> bool {
        true
    }

    fn search(
        &self,
        problem: &Problem,
        _ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let strategy = self.name();
        let importance = problem
            .importance()
            .ok_or(Error::NoImportance { strategy })?;
        let is_end = |id: BlockId| id.index() < FIRST || id.index() + LAST >= problem.depth();
        let order = |a: BlockId, b: BlockId| {
            let by_importance = importance[a.index()].total_cmp(&importance[b.index()]);
            is_end(a).cmp(&is_end(b)).then(by_importance)
        };
        Ok(remove_in_order(problem, order, on_step))
    }
}
