//! A whole search: blocks for prefill and blocks for decode.

use pdtrim_core::{BlockSet, PerStage, Stage};

use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::{Problem, Target};
use crate::strategy::{Step, Strategy};

/// What is asked of both stages.
///
/// ```
/// use pdtrim_core::PerStage;
/// use pdtrim_search::{Ledger, Sleb, StageProblem, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
/// let problem = StageProblem {
///     redundancy: &PerStage::both(vec![0.5; 5]),
///     importance: None,
///     counts: PerStage { prefill: 1, decode: 2 },
///     nested: true,
///     protect_ends: true,
/// };
/// let mut ledger = Ledger::in_memory(&objective);
/// let removed = problem.search(&Sleb::default(), &mut ledger, &mut |_, _| {})?;
/// assert_eq!(removed.prefill.to_indices(), [2]);
/// assert_eq!(removed.decode.to_indices(), [1, 2]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StageProblem<'r> {
    /// Redundancy of each block in each stage; higher = more redundant.
    pub redundancy: &'r PerStage<Vec<f64>>,
    /// Importance of each block in each stage, for a strategy that wants it; higher = keep.
    pub importance: Option<&'r PerStage<Vec<f64>>>,
    /// Blocks to remove; decode's include prefill's if `nested`.
    pub counts: PerStage<usize>,
    /// Whether decode must be without every block that prefill is without.
    pub nested: bool,
    /// Whether the first and the last block stay.
    pub protect_ends: bool,
}

impl StageProblem<'_> {
    /// The blocks that `strategy` chooses.
    ///
    /// # Errors
    ///
    /// What [`check`](Self::check) refuses, before anything is searched, and what the strategy fails
    /// with.
    pub fn search(
        &self,
        strategy: &dyn Strategy,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Stage, Step) + Send),
    ) -> Result<PerStage<BlockSet>> {
        self.check(strategy)?;
        strategy.search_stages(self, ledger, on_step)
    }

    /// The blocks that `strategy` chooses for prefill with D = ∅, then for decode with prefill's fixed.
    ///
    /// # Errors
    ///
    /// As [`Strategy::search`].
    pub fn one_after_the_other<S: Strategy + ?Sized>(
        &self,
        strategy: &S,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Stage, Step) + Send),
    ) -> Result<PerStage<BlockSet>> {
        let problem = self.of_prefill()?;
        let prefill =
            strategy.search(&problem, ledger, &mut |step| on_step(Stage::Prefill, step))?;
        let problem = self.of_decode(&prefill)?;
        let decode = strategy.search(&problem, ledger, &mut |step| on_step(Stage::Decode, step))?;
        Ok(PerStage { prefill, decode })
    }

    /// Prefill's problem, with D = ∅.
    ///
    /// # Errors
    ///
    /// As [`Problem::new`].
    pub fn of_prefill(&self) -> Result<Problem> {
        self.problem(Target::Prefill, Stage::Prefill)
    }

    /// Decode's problem where prefill is without these blocks.
    ///
    /// # Errors
    ///
    /// As [`Problem::new`].
    pub fn of_decode(&self, prefill: &BlockSet) -> Result<Problem> {
        let target = Target::Decode {
            prefill: prefill.clone(),
            nested: self.nested,
        };
        self.problem(target, Stage::Decode)
    }

    /// Refuses what cannot be searched with `strategy`; decode with as many given blocks as prefill
    /// will give it.
    ///
    /// # Errors
    ///
    /// What [`Problem::new`] and [`Strategy::check`] refuse, for either stage.
    pub fn check(&self, strategy: &dyn Strategy) -> Result<()> {
        strategy.check(&self.of_prefill()?)?;
        strategy.check(&self.decode_like()?)
    }

    /// To remove what is asked of `stage`.
    pub(crate) fn problem(&self, target: Target, stage: Stage) -> Result<Problem> {
        let (redundancy, count) = (self.redundancy.of(stage), *self.counts.of(stage));
        let problem = Problem::new(target, redundancy, count, self.protect_ends)?;
        match self.importance {
            Some(importance) => problem.with_importance(importance.of(stage)),
            None => Ok(problem),
        }
    }

    /// Decode's problem with the first blocks that prefill may give it instead of those that it will.
    fn decode_like(&self) -> Result<Problem> {
        let depth = self.redundancy.prefill.len();
        let from = usize::from(self.protect_ends);
        let given = (from..)
            .take(self.counts.prefill)
            .take_while(|&block| block < depth);
        self.of_decode(&BlockSet::from_indices(depth, given)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Exact, ShortenedTaylor, Sleb, Toy};

    fn search(prefill: usize, decode: usize, nested: bool) -> Result<PerStage<BlockSet>> {
        let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
        let problem = StageProblem {
            redundancy: &PerStage::both(vec![0.5; 5]),
            importance: None,
            counts: PerStage { prefill, decode },
            nested,
            protect_ends: true,
        };
        let mut ledger = Ledger::in_memory(&objective);
        let mut stages = Vec::new();
        let found = problem.search(&Sleb::default(), &mut ledger, &mut |stage, _| {
            stages.push(stage);
        });
        assert!(found.is_err() || stages.is_sorted_by_key(|stage| *stage == Stage::Decode));
        found
    }

    #[test]
    fn decode_is_searched_with_what_prefill_is_without() {
        let removed = search(1, 2, true).unwrap();
        assert_eq!(removed.prefill.to_indices(), [2]);
        assert_eq!(removed.decode.to_indices(), [1, 2]);
    }

    #[test]
    fn each_stage_goes_by_its_own_importance() {
        let objective = Toy::new(vec![1.0; 9]);
        let redundancy = PerStage::both(vec![0.5; 9]);
        let mut importance = PerStage::both(vec![1.0; 9]);
        importance.prefill[5] = 0.5;
        importance.decode[4] = 0.2;
        importance.decode[5] = 2.0;
        let problem = |nested| StageProblem {
            redundancy: &redundancy,
            importance: Some(&importance),
            counts: PerStage {
                prefill: 1,
                decode: 2,
            },
            nested,
            protect_ends: true,
        };
        let search = |nested| {
            let mut ledger = Ledger::in_memory(&objective);
            let found = problem(nested).search(&ShortenedTaylor, &mut ledger, &mut |_, _| {});
            found.unwrap()
        };
        assert_eq!(search(true).prefill.to_indices(), [5]);
        assert_eq!(search(true).decode.to_indices(), [4, 5]);
        assert_eq!(search(false).decode.to_indices(), [4, 6]);
    }

    #[test]
    fn a_problem_that_decode_cannot_solve_is_refused_first() {
        assert!(matches!(
            search(2, 1, true),
            Err(Error::FewerThanNested {
                count: 1,
                nested: 2
            })
        ));
        assert!(search(2, 1, false).is_ok());
        assert!(matches!(search(1, 4, true), Err(Error::TooMany { .. })));
        assert!(matches!(search(4, 4, true), Err(Error::TooMany { .. })));
    }

    #[test]
    fn too_many_sets_for_decode_are_refused_before_prefill_is_searched() {
        let redundancy = PerStage::both(vec![0.5; 9]);
        let problem = |nested| StageProblem {
            redundancy: &redundancy,
            importance: None,
            counts: PerStage {
                prefill: 1,
                decode: 3,
            },
            nested,
            protect_ends: true,
        };
        // Two of the six blocks that prefill leaves, or three of all seven.
        let exact = Exact { limit: 15 };
        assert!(problem(true).check(&exact).is_ok());
        assert!(matches!(
            problem(false).check(&exact),
            Err(Error::TooManySets { sets: 35, .. })
        ));
        let objective = Toy::new(vec![1.0; 9]);
        let mut ledger = Ledger::in_memory(&objective);
        let refused = problem(false).search(&exact, &mut ledger, &mut |_, _| {});
        assert!(refused.is_err() && ledger.trace().is_empty());
    }
}
