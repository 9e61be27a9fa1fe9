//! A whole search: blocks for prefill, then blocks for decode with prefill's fixed.

use pdtrim_core::{BlockSet, PerStage, Stage};

use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::{Problem, Target};
use crate::strategy::{Step, Strategy};

/// What is asked of both stages.
#[derive(Clone, Debug)]
pub struct StageProblem<'r> {
    /// Redundancy of each block in each stage; higher = more redundant.
    pub redundancy: &'r PerStage<Vec<f64>>,
    /// Blocks to remove; decode's include prefill's if `nested`.
    pub counts: PerStage<usize>,
    /// Whether decode must be without every block that prefill is without.
    pub nested: bool,
    /// Whether the first and the last block stay.
    pub protect_ends: bool,
}

impl StageProblem<'_> {
    /// The blocks that `strategy` chooses for prefill with D = ∅, and then for decode.
    ///
    /// # Errors
    ///
    /// What [`Problem::new`] refuses, for either stage before anything is searched, and what the
    /// strategy fails with.
    pub fn search(
        &self,
        strategy: &dyn Strategy,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Stage, Step) + Send),
    ) -> Result<PerStage<BlockSet>> {
        let problem = self.problem(Target::Prefill, Stage::Prefill)?;
        self.check_decode()?;
        let prefill =
            strategy.search(&problem, ledger, &mut |step| on_step(Stage::Prefill, step))?;
        let target = Target::Decode {
            prefill: prefill.clone(),
            nested: self.nested,
        };
        let problem = self.problem(target, Stage::Decode)?;
        let decode = strategy.search(&problem, ledger, &mut |step| on_step(Stage::Decode, step))?;
        Ok(PerStage { prefill, decode })
    }

    fn problem(&self, target: Target, stage: Stage) -> Result<Problem> {
        let redundancy = self.redundancy.of(stage);
        Problem::new(
            target,
            redundancy,
            *self.counts.of(stage),
            self.protect_ends,
        )
    }

    /// Decode's problem with as many given blocks as prefill will give it.
    fn check_decode(&self) -> Result<()> {
        let depth = self.redundancy.prefill.len();
        let from = usize::from(self.protect_ends);
        let given = (from..)
            .take(self.counts.prefill)
            .take_while(|&block| block < depth);
        let target = Target::Decode {
            prefill: BlockSet::from_indices(depth, given)?,
            nested: self.nested,
        };
        self.problem(target, Stage::Decode).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Sleb, Toy};

    fn search(prefill: usize, decode: usize, nested: bool) -> Result<PerStage<BlockSet>> {
        let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
        let problem = StageProblem {
            redundancy: &PerStage::both(vec![0.5; 5]),
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
}
