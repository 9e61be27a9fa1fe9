//! Which prompt positions' keys and values decode receives, per block.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};

/// The first `first` and the last `last` positions of a prompt.
///
/// A prompt of at most `first + last` positions is not trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpan {
    /// Positions kept from the start (the attention sinks).
    pub first: usize,
    /// Positions kept from the end.
    pub last: usize,
}

impl TokenSpan {
    /// Whether a prompt of `n_positions` loses any.
    pub fn trims(self, n_positions: usize) -> bool {
        self.first.saturating_add(self.last) < n_positions
    }

    /// Positions that are kept of a prompt of `n_positions`.
    pub fn kept(self, n_positions: usize) -> usize {
        n_positions.min(self.first.saturating_add(self.last))
    }

    /// The places in a cache of `n_positions` entries that are kept, ascending.
    pub fn places(self, n_positions: usize) -> Vec<usize> {
        if !self.trims(n_positions) {
            return (0..n_positions).collect();
        }
        (0..self.first)
            .chain(n_positions - self.last..n_positions)
            .collect()
    }
}

/// Per block, the prompt positions that cross to decode: all of them, or a [`TokenSpan`].
///
/// Every block named is below the model's depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPlan {
    depth: usize,
    spans: BTreeMap<BlockId, TokenSpan>,
}

/// One group of blocks that share a [`TokenSpan`], as a plan file lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvGroup {
    /// Dense indices of the blocks.
    pub blocks: Vec<usize>,
    /// Positions kept from the start.
    pub first: usize,
    /// Positions kept from the end.
    pub last: usize,
}

impl KvPlan {
    /// All positions of every block.
    pub fn send_all(depth: usize) -> Self {
        Self {
            depth,
            spans: BTreeMap::new(),
        }
    }

    /// `span` in `blocks`, all positions elsewhere.
    pub fn uniform(blocks: &BlockSet, span: TokenSpan) -> Self {
        Self {
            depth: blocks.depth(),
            spans: blocks.iter().map(|id| (id, span)).collect(),
        }
    }

    /// The plan that `groups` describe.
    ///
    /// # Errors
    ///
    /// [`Error::BlockOutOfRange`], or [`Error::KvBlockTwice`] if two groups name one block.
    pub fn from_groups(depth: usize, groups: &[KvGroup]) -> Result<Self> {
        let mut plan = Self::send_all(depth);
        for group in groups {
            let span = TokenSpan {
                first: group.first,
                last: group.last,
            };
            for id in BlockSet::from_indices(depth, group.blocks.iter().copied())?.iter() {
                if plan.spans.insert(id, span).is_some() {
                    return Err(Error::KvBlockTwice { block: id.index() });
                }
            }
        }
        Ok(plan)
    }

    /// The groups that describe this plan, in the order of their spans.
    pub fn to_groups(&self) -> Vec<KvGroup> {
        let mut groups: BTreeMap<TokenSpan, Vec<usize>> = BTreeMap::new();
        for (id, span) in &self.spans {
            groups.entry(*span).or_default().push(id.index());
        }
        let group = |(span, blocks): (TokenSpan, Vec<usize>)| KvGroup {
            blocks,
            first: span.first,
            last: span.last,
        };
        groups.into_iter().map(group).collect()
    }

    /// Number of blocks of the model.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Whether every position of every block is sent.
    pub fn sends_all(&self) -> bool {
        self.spans.is_empty()
    }

    /// What `id` sends: `None` = all positions.
    pub fn span(&self, id: BlockId) -> Option<TokenSpan> {
        self.spans.get(&id).copied()
    }

    /// The blocks with a span.
    ///
    /// # Panics
    ///
    /// Never: the spans' blocks are below the depth.
    pub fn blocks(&self) -> BlockSet {
        BlockSet::from_indices(self.depth, self.spans.keys().map(|id| id.index()))
            .expect("checked when the plan was made")
    }

    /// Positions of block `id` that cross for a prompt of `n_positions`.
    pub fn positions_sent(&self, id: BlockId, n_positions: usize) -> usize {
        self.span(id)
            .map_or(n_positions, |span| span.kept(n_positions))
    }

    /// Whether a block that decode keeps (not in `removed`) loses a position of a prompt of `n_positions`.
    pub fn trims(&self, removed: &BlockSet, n_positions: usize) -> bool {
        self.spans
            .iter()
            .any(|(id, span)| !removed.contains(*id) && span.trims(n_positions))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn kept_places_are_the_first_and_the_last_in_order(first in 0_usize..20, last in 0_usize..20, n in 0_usize..50) {
            let span = TokenSpan { first, last };
            let places = span.places(n);
            prop_assert_eq!(places.len(), span.kept(n));
            prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
            for place in 0..n {
                let kept = place < first || place + last >= n;
                prop_assert_eq!(places.contains(&place), kept);
            }
        }

        #[test]
        fn groups_describe_the_whole_plan(ids in proptest::collection::btree_set(0_usize..12, 0..12), first in 0_usize..4) {
            let blocks = BlockSet::from_indices(12, ids).unwrap();
            let plan = KvPlan::uniform(&blocks, TokenSpan { first, last: 7 });
            prop_assert_eq!(KvPlan::from_groups(12, &plan.to_groups()).unwrap(), plan);
        }
    }

    #[test]
    fn a_prompt_of_first_plus_last_positions_is_not_trimmed() {
        assert!(!TokenSpan { first: 4, last: 64 }.trims(68));
        assert!(TokenSpan { first: 4, last: 64 }.trims(69));
    }

    #[test]
    fn a_block_in_two_groups_is_refused() {
        let group = KvGroup {
            blocks: vec![1, 2],
            first: 1,
            last: 1,
        };
        let refused = KvPlan::from_groups(4, &[group.clone(), group]);
        assert!(matches!(refused, Err(Error::KvBlockTwice { block: 1 })));
    }
}
