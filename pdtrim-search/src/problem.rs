//! What is searched: a stage, a number of blocks, and the blocks that must stay.

use pdtrim_core::{BlockId, BlockSet, PerStage};

use crate::error::{Error, Result};

/// The set that is searched, and what it means to the two stages.
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::Target;
///
/// let target = Target::Decode { prefill: BlockSet::from_indices(5, [1])?, nested: true };
/// let stages = target.stages(&BlockSet::from_indices(5, [1, 3])?);
/// assert_eq!(stages.prefill.to_indices(), [1]);
/// assert_eq!(stages.decode.to_indices(), [1, 3]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// P, with D = ∅.
    Prefill,
    /// D, with P fixed.
    Decode {
        /// Blocks that prefill removes.
        prefill: BlockSet,
        /// Whether D must include them (the paper's constraint).
        nested: bool,
    },
    /// One set for both stages: one machine.
    Unified,
}

impl Target {
    /// The two stages' sets if the searched set is `set`.
    pub fn stages(&self, set: &BlockSet) -> PerStage<BlockSet> {
        match self {
            Self::Prefill => PerStage {
                prefill: set.clone(),
                decode: BlockSet::empty(set.depth()),
            },
            Self::Decode { prefill, .. } => PerStage {
                prefill: prefill.clone(),
                decode: set.clone(),
            },
            Self::Unified => PerStage::both(set.clone()),
        }
    }

    /// The searched one of the two stages' sets.
    pub(crate) fn searched<'s>(&self, stages: &'s PerStage<BlockSet>) -> &'s BlockSet {
        match self {
            Self::Prefill => &stages.prefill,
            Self::Decode { .. } | Self::Unified => &stages.decode,
        }
    }

    /// Blocks that are in the set from the start.
    fn given(&self, depth: usize) -> BlockSet {
        match self {
            Self::Decode {
                prefill,
                nested: true,
            } => prefill.clone(),
            _ => BlockSet::empty(depth),
        }
    }
}

/// A search problem that has a solution: exactly `count` blocks, the given ones among them, no protected one.
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::{Problem, Target};
///
/// // Two blocks of decode, among them prefill's; the first and the last stay.
/// let target = Target::Decode { prefill: BlockSet::from_indices(5, [1])?, nested: true };
/// let problem = Problem::new(target, &[0.5; 5], 2, true)?;
/// let open = problem.choices(problem.given());
/// assert_eq!(open.iter().map(|id| id.index()).collect::<Vec<_>>(), [2, 3]);
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Problem {
    target: Target,
    redundancy: Vec<f64>,
    importance: Option<Vec<f64>>,
    count: usize,
    given: BlockSet,
    removable: BlockSet,
}

impl Problem {
    /// Remove `count` blocks in all. `redundancy[l]` is block l's (higher = more redundant);
    /// `protect_ends` keeps the first and the last block.
    ///
    /// # Errors
    ///
    /// [`Error::TooMany`], [`Error::FewerThanNested`], [`Error::NanRedundancy`], or
    /// [`Error::RedundancyLength`] if a given set is for a model of another depth.
    pub fn new(
        target: Target,
        redundancy: &[f64],
        count: usize,
        protect_ends: bool,
    ) -> Result<Self> {
        let depth = redundancy.len();
        if let Target::Decode { prefill, .. } = &target
            && prefill.depth() != depth
        {
            return Err(Error::RedundancyLength {
                expected: prefill.depth(),
                found: depth,
            });
        }
        if let Some(block) = redundancy.iter().position(|value| value.is_nan()) {
            return Err(Error::NanRedundancy { block });
        }
        let given = target.given(depth);
        if count < given.len() {
            return Err(Error::FewerThanNested {
                count,
                nested: given.len(),
            });
        }
        let ends = [0, depth.saturating_sub(1)];
        let ends = ends
            .into_iter()
            .filter(|&block| protect_ends && block < depth);
        let protected = BlockSet::from_indices(depth, ends)?.difference(&given);
        let removable = protected.complement();
        let (limit, reason) = if protect_ends {
            (removable.len(), "the first and the last block stay")
        } else {
            (depth.saturating_sub(1), "one block must stay")
        };
        if count > limit {
            return Err(Error::TooMany {
                count,
                removable: limit,
                depth,
                reason,
            });
        }
        Ok(Self {
            target,
            redundancy: redundancy.to_vec(),
            importance: None,
            count,
            given,
            removable,
        })
    }

    /// The same problem with an importance of each block for what the target removes it from; higher =
    /// keep. Strategies ask for it with [`wants_importance`](crate::Strategy::wants_importance).
    ///
    /// # Errors
    ///
    /// [`Error::ImportanceLength`] or [`Error::ImportanceNotFinite`].
    pub fn with_importance(self, importance: &[f64]) -> Result<Self> {
        if importance.len() != self.depth() {
            return Err(Error::ImportanceLength {
                expected: self.depth(),
                found: importance.len(),
            });
        }
        let mut entries = importance.iter().enumerate();
        if let Some((block, &found)) = entries.find(|(_, value)| !value.is_finite()) {
            return Err(Error::ImportanceNotFinite { block, found });
        }
        Ok(Self {
            importance: Some(importance.to_vec()),
            ..self
        })
    }

    /// What the searched set means.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Number of blocks of the model.
    pub fn depth(&self) -> usize {
        self.redundancy.len()
    }

    /// Number of blocks to remove, the given ones included.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Blocks that are removed from the start.
    pub fn given(&self) -> &BlockSet {
        &self.given
    }

    /// Blocks that may still be added to `removed`, ascending.
    pub fn choices(&self, removed: &BlockSet) -> Vec<BlockId> {
        self.removable.difference(removed).iter().collect()
    }

    /// Redundancy of a block; higher = more redundant.
    pub fn redundancy(&self, id: BlockId) -> f64 {
        self.redundancy[id.index()]
    }

    /// Importance of each block, if one was given; higher = keep.
    pub fn importance(&self) -> Option<&[f64]> {
        self.importance.as_deref()
    }
}
