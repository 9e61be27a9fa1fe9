//! What a search may take away: single blocks, and pairs that one distilled block can stand for.

use std::fmt;

use pdtrim_core::{BlockId, BlockSet};

use crate::error::{Error, Result};
use crate::problem::Problem;

/// Joint redundancy from which two neighbouring blocks are a pair to distil, `d_T`, in (0, 1].
///
/// ```
/// use pdtrim_search::DistillThreshold;
///
/// assert_eq!(DistillThreshold::default(), DistillThreshold::new(0.95)?);
/// assert!(DistillThreshold::new(1.5).is_err());
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillThreshold(f64);

impl DistillThreshold {
    /// `d_T`.
    ///
    /// # Errors
    ///
    /// [`Error::DistillThreshold`] outside (0, 1].
    pub fn new(threshold: f64) -> Result<Self> {
        if threshold > 0.0 && threshold <= 1.0 {
            Ok(Self(threshold))
        } else {
            Err(Error::DistillThreshold { found: threshold })
        }
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl Default for DistillThreshold {
    /// 0.95, the paper's, from its public reviews.
    fn default() -> Self {
        Self(0.95)
    }
}

impl fmt::Display for DistillThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The two candidate sets of a problem (arXiv:2509.04467, pruning set and distillation set).
///
/// [`DistillRepair::fit_pairs`](crate::repair::DistillRepair::fit_pairs) trains the blocks that stand for
/// the pairs of the distillation set, and a [`CalibrationLoss`](pdtrim_core::objective::CalibrationLoss)
/// that [has them](pdtrim_core::objective::CalibrationLoss::with_pairs) runs such a block wherever a
/// candidate keeps the first block of a pair and is without the second. To replace a pair is thus to remove
/// its second block, which counts as one removal; to turn that into a mere deletion is to swap it for the
/// first. That a pair whose second block goes is never left as it is is ours: its first block was fitted
/// to make up for just that, and candidates stay plain sets of blocks for every strategy.
///
/// ```
/// use pdtrim_search::{CandidateSets, DistillThreshold, Problem, Target};
///
/// let problem = Problem::new(Target::Prefill, &[0.9, 0.5, 0.8, 0.7, 0.9], 2, true)?;
/// // Blocks 2 and 3 together leave the hidden states nearly as they were.
/// let pairs = [0.6, 0.7, 0.96, 0.8];
/// let sets = CandidateSets::new(&problem, &pairs, DistillThreshold::default())?;
/// assert_eq!(sets.pruning().iter().map(|id| id.index()).collect::<Vec<_>>(), [2, 3, 1]);
/// assert_eq!(sets.distillation().to_indices(), [2]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateSets {
    pruning: Vec<BlockId>,
    distillation: BlockSet,
}

impl CandidateSets {
    /// The sets for `problem`. `pair_redundancy[l]` is the joint redundancy of blocks l and l + 1.
    ///
    /// # Errors
    ///
    /// [`Error::RedundancyLength`] if the table is another model's; [`Error::NanRedundancy`].
    pub fn new(
        problem: &Problem,
        pair_redundancy: &[f64],
        threshold: DistillThreshold,
    ) -> Result<Self> {
        let depth = problem.depth();
        if pair_redundancy.len() + 1 != depth {
            return Err(Error::RedundancyLength {
                expected: depth,
                found: pair_redundancy.len() + 1,
            });
        }
        if let Some(block) = pair_redundancy.iter().position(|value| value.is_nan()) {
            return Err(Error::NanRedundancy { block });
        }
        let mut pruning = problem.choices(problem.given());
        let is_pair = |first: &BlockId| {
            let redundancy = pair_redundancy.get(first.index());
            pruning.contains(&BlockId::new(first.index() + 1))
                && redundancy.is_some_and(|redundancy| *redundancy >= threshold.0)
        };
        let pairs = pruning.iter().filter(|id| is_pair(id));
        let distillation = BlockSet::from_indices(depth, pairs.map(|id| id.index()))?;
        // Stable: ties stay in the blocks' order.
        let redundancy = |id: &BlockId| problem.redundancy(*id);
        pruning.sort_by(|a, b| redundancy(b).total_cmp(&redundancy(a)));
        Ok(Self {
            pruning,
            distillation,
        })
    }

    /// Blocks that may be deleted, the most redundant first.
    pub fn pruning(&self) -> &[BlockId] {
        &self.pruning
    }

    /// The first block of each pair that one distilled block may replace.
    pub fn distillation(&self) -> &BlockSet {
        &self.distillation
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Target;

    fn indices(blocks: &[BlockId]) -> Vec<usize> {
        blocks.iter().map(|id| id.index()).collect()
    }

    fn sets(target: Target, threshold: f64) -> Result<CandidateSets> {
        let redundancy = [0.9, 0.5, 0.8, 0.7, 0.8, 0.9];
        let problem = Problem::new(target, &redundancy, 2, true).unwrap();
        let threshold = DistillThreshold::new(threshold)?;
        CandidateSets::new(&problem, &[0.99, 0.95, 0.9, 0.97, 0.99], threshold)
    }

    #[test]
    fn the_ends_are_in_neither_set_and_pairs_reach_the_threshold() {
        let sets = sets(Target::Prefill, 0.95).unwrap();
        assert_eq!(indices(sets.pruning()), [2, 4, 3, 1]);
        assert_eq!(sets.distillation().to_indices(), [1, 3]);
    }

    #[test]
    fn given_blocks_are_in_neither_set() {
        let target = Target::Decode {
            prefill: BlockSet::from_indices(6, [1]).unwrap(),
            nested: true,
        };
        let sets = sets(target, 0.9).unwrap();
        assert_eq!(indices(sets.pruning()), [2, 4, 3]);
        assert_eq!(sets.distillation().to_indices(), [2, 3]);
    }

    #[test]
    fn thresholds_outside_their_range_and_foreign_tables_are_refused() {
        for threshold in [0.0, -0.5, 1.01, f64::NAN] {
            assert!(matches!(
                sets(Target::Prefill, threshold),
                Err(Error::DistillThreshold { .. })
            ));
        }
        assert!(sets(Target::Prefill, 1.0).unwrap().distillation.is_empty());
        let problem = Problem::new(Target::Prefill, &[0.5; 4], 1, true).unwrap();
        assert!(matches!(
            CandidateSets::new(&problem, &[0.5; 4], DistillThreshold::default()),
            Err(Error::RedundancyLength {
                expected: 4,
                found: 5
            })
        ));
        assert!(matches!(
            CandidateSets::new(&problem, &[0.5, f64::NAN, 0.5], DistillThreshold::default()),
            Err(Error::NanRedundancy { block: 1 })
        ));
    }
}
