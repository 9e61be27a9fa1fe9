//! What is searched, and what is one move away.

use pdtrim_core::{BlockId, BlockSet, PerStage};

use crate::error::Result;
use crate::problem::{Problem, Target};
use crate::stages::StageProblem;
use pdtrim_core::draw::draw;

/// Pairs of sets of the asked sizes.
pub(super) enum Space<'p> {
    /// One set is searched; the other one is given, or the same.
    One(&'p Problem),
    /// Both are.
    Stages {
        /// Whose blocks may go.
        removable: Problem,
        /// Whether decode's include prefill's.
        nested: bool,
    },
}

/// Pairs that share everything before the blocks that differ.
type Group = Vec<PerStage<BlockSet>>;

impl Space<'_> {
    pub(super) fn of_stages(problem: &StageProblem<'_>) -> Result<Self> {
        let (redundancy, count) = (&problem.redundancy.decode, problem.counts.decode);
        Ok(Self::Stages {
            removable: Problem::new(Target::Unified, redundancy, count, problem.protect_ends)?,
            nested: problem.nested,
        })
    }

    /// Everything that a removed block leads to that comes back for another one: a group for each, and
    /// for each stage that it can come back to.
    pub(super) fn moves(&self, removed: &PerStage<BlockSet>) -> Vec<Group> {
        match self {
            Self::One(problem) => {
                let target = problem.target();
                let set = target.searched(removed);
                let own = set.difference(problem.given());
                swaps(&own, &problem.choices(set), |back, gone| {
                    target.stages(&set.without(back).with(gone))
                })
            }
            Self::Stages { removable, nested } => stage_moves(removable, *nested, removed),
        }
    }

    /// One of all moves, each equally likely; none if there are none.
    pub(super) fn draw(
        &self,
        removed: &PerStage<BlockSet>,
        drawn: &mut u64,
    ) -> Option<PerStage<BlockSet>> {
        let mut moves: Group = self.moves(removed).into_iter().flatten().collect();
        if moves.is_empty() {
            return None;
        }
        let n = draw(drawn, moves.len());
        Some(moves.swap_remove(n))
    }
}

fn stage_moves(removable: &Problem, nested: bool, removed: &PerStage<BlockSet>) -> Vec<Group> {
    let PerStage { prefill, decode } = removed;
    let (own, kept) = (decode.difference(prefill), removable.choices(decode));
    // Decode's first: prefill's side stays, so they are the cheapest.
    let may_come_back = if nested { &own } else { decode };
    let mut moves = swaps(may_come_back, &kept, |back, gone| PerStage {
        prefill: prefill.clone(),
        decode: decode.without(back).with(gone),
    });
    let may_go = if nested {
        own.iter().collect()
    } else {
        removable.choices(prefill)
    };
    moves.extend(swaps(prefill, &may_go, |back, gone| PerStage {
        prefill: prefill.without(back).with(gone),
        decode: decode.clone(),
    }));
    if nested {
        moves.extend(swaps(prefill, &kept, |back, gone| PerStage {
            prefill: prefill.without(back).with(gone),
            decode: decode.without(back).with(gone),
        }));
    }
    moves
}

/// What `to` makes of each of `own` that comes back for one of `kept`; no group without a pair.
fn swaps(
    own: &BlockSet,
    kept: &[BlockId],
    to: impl Fn(BlockId, BlockId) -> PerStage<BlockSet>,
) -> Vec<Group> {
    if kept.is_empty() {
        return Vec::new();
    }
    let group = |back| kept.iter().map(|&gone| to(back, gone)).collect();
    own.iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(blocks: &[usize]) -> BlockSet {
        BlockSet::from_indices(7, blocks.iter().copied()).unwrap()
    }

    fn pair(prefill: &[usize], decode: &[usize]) -> PerStage<BlockSet> {
        PerStage {
            prefill: set(prefill),
            decode: set(decode),
        }
    }

    fn stages(nested: bool) -> Space<'static> {
        let redundancy = PerStage::both(vec![0.5; 7]);
        let problem = StageProblem {
            redundancy: &redundancy,
            importance: None,
            counts: PerStage {
                prefill: 1,
                decode: 2,
            },
            nested,
            protect_ends: true,
        };
        Space::of_stages(&problem).unwrap()
    }

    #[test]
    fn nested_pairs_move_in_decode_in_prefill_and_in_both() {
        let moves = stages(true).moves(&pair(&[2], &[2, 4]));
        let in_decode = [1, 3, 5].map(|gone| pair(&[2], &[2, gone])).to_vec();
        let in_prefill = vec![pair(&[4], &[2, 4])];
        let in_both = [1, 3, 5].map(|gone| pair(&[gone], &[4, gone])).to_vec();
        assert_eq!(moves, [in_decode, in_prefill, in_both]);
    }

    #[test]
    fn independent_pairs_move_in_each_stage_alone() {
        let moves = stages(false).moves(&pair(&[2], &[3, 4]));
        let back_3 = [1, 2, 5].map(|gone| pair(&[2], &[4, gone])).to_vec();
        let back_4 = [1, 2, 5].map(|gone| pair(&[2], &[3, gone])).to_vec();
        let in_prefill = [1, 3, 4, 5].map(|gone| pair(&[gone], &[3, 4])).to_vec();
        assert_eq!(moves, [back_3, back_4, in_prefill]);
    }

    #[test]
    fn one_set_keeps_what_is_given() {
        let target = Target::Decode {
            prefill: set(&[2]),
            nested: true,
        };
        let problem = Problem::new(target, &[0.5; 7], 2, true).unwrap();
        let moves = Space::One(&problem).moves(&pair(&[2], &[2, 4]));
        assert_eq!(
            moves,
            [[1, 3, 5].map(|gone| pair(&[2], &[2, gone])).to_vec()]
        );
    }

    #[test]
    fn where_nothing_can_move_nothing_is_drawn() {
        let problem = Problem::new(Target::Unified, &[0.5; 7], 5, true).unwrap();
        let all = PerStage::both(set(&[1, 2, 3, 4, 5]));
        assert!(Space::One(&problem).draw(&all, &mut 1).is_none());
        let some = stages(true).draw(&pair(&[2], &[2, 4]), &mut 1);
        assert!(some.is_some());
    }
}
