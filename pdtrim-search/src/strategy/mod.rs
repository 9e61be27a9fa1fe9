//! How a set is chosen; one file for each strategy.

mod beam;
mod exact;
mod measuring;
mod one_shot;
mod pdtrim;
mod random;
mod shortened_ppl;
mod shortened_taylor;
mod shortgpt;
mod sleb;

use pdtrim_core::{BlockId, BlockSet, PerStage, Stage};

pub use beam::Beam;
pub use exact::Exact;
pub use pdtrim::{Annealing, PdTrim, Validation};
pub use random::Random;
pub use shortened_ppl::ShortenedPpl;
pub use shortened_taylor::ShortenedTaylor;
pub use shortgpt::ShortGpt;
pub use sleb::Sleb;

use crate::error::Result;
use crate::ledger::{Evaluation, Ledger};
use crate::problem::Problem;
use crate::stages::StageProblem;

/// What a search has to tell while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// So many more evaluations of a candidate on a unit are planned.
    Planned(usize),
    /// So many of those planned were made, had been made before, or turned out not to be needed.
    Settled(usize),
    /// A candidate's cost became known.
    Evaluated(Evaluation),
    /// A block was chosen; `cost` is that of the set so far, if the strategy measured it.
    Chosen {
        /// The block.
        block: BlockId,
        /// Cost of the set with it.
        cost: Option<f64>,
    },
}

/// A way to choose exactly as many blocks as the problem asks for.
pub trait Strategy {
    /// Name in plans and on the command line.
    fn name(&self) -> &'static str;

    /// Whether it goes by an importance that has to be measured beforehand:
    /// [`Problem::with_importance`].
    fn wants_importance(&self) -> bool {
        false
    }

    /// Refuses a problem that is beyond this strategy, before anything is measured.
    ///
    /// # Errors
    ///
    /// [`Error::TooManySets`](crate::Error::TooManySets) of [`Exact`]; the others take every problem.
    fn check(&self, problem: &Problem) -> Result<()> {
        let _ = problem;
        Ok(())
    }

    /// The blocks to remove, the given ones among them.
    ///
    /// # Errors
    ///
    /// [`Error::Objective`](crate::Error::Objective),
    /// [`Error::CostNotFinite`](crate::Error::CostNotFinite),
    /// [`Error::NoImportance`](crate::Error::NoImportance), and what [`check`](Self::check) refuses.
    fn search(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet>;

    /// The blocks to remove from each stage: prefill's with D = ∅, then decode's with prefill's fixed,
    /// unless the strategy knows better. `problem` was [checked](StageProblem::check).
    ///
    /// # Errors
    ///
    /// As [`search`](Self::search).
    fn search_stages(
        &self,
        problem: &StageProblem<'_>,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Stage, Step) + Send),
    ) -> Result<PerStage<BlockSet>> {
        problem.one_after_the_other(self, ledger, on_step)
    }
}
