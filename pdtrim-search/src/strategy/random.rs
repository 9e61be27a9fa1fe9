//! Random blocks: the control.

use pdtrim_core::BlockSet;

use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;
use pdtrim_core::draw::draw;

/// Removes blocks drawn without regard to anything but the seed.
///
/// ```
/// use pdtrim_search::{Ledger, Problem, Random, Strategy, Target, Toy};
///
/// let unused = Toy::new(vec![0.0; 9]);
/// let problem = Problem::new(Target::Unified, &[0.5; 9], 4, true)?;
/// let draw = |seed| Random { seed }.search(&problem, &mut Ledger::in_memory(&unused), &mut |_| {});
/// assert_eq!(draw(1)?, draw(1)?);
/// assert_eq!(draw(2)?.len(), 4);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Random {
    /// Seed of the draw.
    pub seed: u64,
}

impl Strategy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn search(
        &self,
        problem: &Problem,
        _ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let mut removed = problem.given().clone();
        let mut choices = problem.choices(&removed);
        let mut state = self.seed;
        while removed.len() < problem.count() {
            let block = choices.swap_remove(draw(&mut state, choices.len()));
            removed = removed.with(block);
            on_step(Step::Chosen { block, cost: None });
        }
        Ok(removed)
    }
}
