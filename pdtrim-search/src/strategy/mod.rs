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
///
/// ```
/// use pdtrim_search::{Ledger, Problem, Sleb, Step, Strategy, Target, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
/// let problem = Problem::new(Target::Unified, &[0.5; 5], 2, true)?;
/// let mut order = Vec::new();
/// let mut on_step = |step| {
///     if let Step::Chosen { block, cost } = step {
///         order.push((block.index(), cost));
///     }
/// };
/// Sleb::default().search(&problem, &mut Ledger::in_memory(&objective), &mut on_step)?;
/// assert_eq!(order, [(2, Some(1.0)), (1, Some(3.0))]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::{Ledger, Problem, Result, Step, Strategy, Target, Toy};
///
/// /// The last blocks that may go.
/// struct Deepest;
///
/// impl Strategy for Deepest {
///     fn name(&self) -> &'static str {
///         "deepest"
///     }
///
///     fn search(
///         &self,
///         problem: &Problem,
///         _ledger: &mut Ledger<'_>,
///         _on_step: &mut (dyn FnMut(Step) + Send),
///     ) -> Result<BlockSet> {
///         let mut removed = problem.given().clone();
///         for id in problem.choices(&removed).into_iter().rev() {
///             if removed.len() < problem.count() {
///                 removed = removed.with(id);
///             }
///         }
///         Ok(removed)
///     }
/// }
///
/// let objective = Toy::new(vec![0.0; 5]);
/// let problem = Problem::new(Target::Unified, &[0.5; 5], 2, true)?;
/// let removed = Deepest.search(&problem, &mut Ledger::in_memory(&objective), &mut |_| {})?;
/// assert_eq!(removed.to_indices(), [2, 3]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
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
