//! Greedy removal by measured loss (SLEB, arXiv:2402.09025).

use pdtrim_core::{BlockId, BlockSet};

use super::measuring::raced_costs;
use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;
use crate::race::Racing;

/// Removes, one after the other, the block whose removal costs least now; ties go to the lowest.
///
/// ```
/// use pdtrim_search::{Ledger, Problem, Sleb, Strategy, Target, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
/// let mut ledger = Ledger::in_memory(&objective);
/// let problem = Problem::new(Target::Prefill, &[0.5; 5], 2, true)?;
/// let removed = Sleb::default().search(&problem, &mut ledger, &mut |_| {})?;
/// assert_eq!(removed.to_indices(), [1, 2]);
/// // Three candidates for the first removal, two for the second.
/// assert_eq!(ledger.trace().len(), 5);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Sleb {
    /// How the candidates of each removal are compared; by default all are evaluated in full.
    pub racing: Racing,
}

impl Strategy for Sleb {
    fn name(&self) -> &'static str {
        "sleb"
    }

    fn search(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let mut removed = problem.given().clone();
        let first = problem.choices(&removed).len();
        let steps = problem.count() - removed.len();
        let planned: usize = (0..steps).map(|step| first - step).sum();
        on_step(Step::Planned(planned * ledger.units()));
        while removed.len() < problem.count() {
            let (block, cost) = self.cheapest(problem, ledger, &removed, on_step)?;
            removed = removed.with(block);
            on_step(Step::Chosen {
                block,
                cost: Some(cost),
            });
        }
        Ok(removed)
    }
}

impl Sleb {
    fn cheapest(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        removed: &BlockSet,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<(BlockId, f64)> {
        let choices = problem.choices(removed);
        let candidates: Vec<_> = choices
            .iter()
            .map(|&id| problem.target().stages(&removed.with(id)))
            .collect();
        let costs = raced_costs(&self.racing, &candidates, 1, ledger, on_step)?;
        let best = choices
            .into_iter()
            .zip(costs)
            .filter_map(|(id, cost)| Some((id, cost?)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b));
        Ok(best.expect("a checked problem has a block left to choose, and a race a winner"))
    }
}
