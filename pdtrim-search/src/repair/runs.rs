//! Removed runs.

use pdtrim_core::{BlockId, BlockSet};

/// Removed blocks one after the other, and the kept block before them.
///
/// ```
/// use pdtrim_core::{BlockId, BlockSet};
/// use pdtrim_search::repair::{Run, runs};
///
/// let found = runs(&BlockSet::from_indices(9, [0, 3, 4])?);
/// assert_eq!(found[0].before, None);
/// let [before, first, last] = [2, 3, 4].map(BlockId::new);
/// assert_eq!(found[1], Run { before: Some(before), first, last });
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The kept block before the run; `None` if the model begins with the run.
    pub before: Option<BlockId>,
    /// The first removed block.
    pub first: BlockId,
    /// The last removed block.
    pub last: BlockId,
}

/// The runs of `removed`, from the front.
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::repair::runs;
///
/// let removed = BlockSet::from_indices(9, [3, 4, 7])?;
/// let lengths = runs(&removed).into_iter().map(|run| run.last.index() - run.first.index() + 1);
/// assert_eq!(lengths.collect::<Vec<_>>(), [2, 1]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn runs(removed: &BlockSet) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for id in removed.iter() {
        match runs.last_mut() {
            Some(run) if run.last.index() + 1 == id.index() => run.last = id,
            _ => runs.push(Run {
                before: id.index().checked_sub(1).map(BlockId::new),
                first: id,
                last: id,
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run_and_a_run_at_the_front_has_nothing_before_it() {
        let removed = BlockSet::from_indices(9, [0, 1, 4, 6, 7, 8]).unwrap();
        let found: Vec<_> = runs(&removed)
            .into_iter()
            .map(|run| {
                (
                    run.before.map(BlockId::index),
                    run.first.index(),
                    run.last.index(),
                )
            })
            .collect();
        assert_eq!(found, [(None, 0, 1), (Some(3), 4, 4), (Some(5), 6, 8)]);
        assert!(runs(&BlockSet::empty(9)).is_empty());
    }
}
