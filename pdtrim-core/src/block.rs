//! Transformer blocks as the dense model numbers them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Depth of one transformer block in the dense model, counted from 0.
///
/// Never a position in a stack from which blocks were removed: that is a plain `usize` slot.
///
/// ```
/// use pdtrim_core::{BlockId, BlockSet};
///
/// // Without block 1, block 2 is the second to run; its id stays what it was.
/// let kept = BlockSet::from_indices(4, [1])?.complement();
/// let ids: Vec<BlockId> = kept.iter().collect();
/// assert_eq!(ids[1], BlockId::new(2));
/// assert_eq!(ids[1].to_string(), "2");
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockId(u16);

impl BlockId {
    /// The block at depth `index` of the dense model.
    ///
    /// # Panics
    ///
    /// Panics if `index` does not fit 16 bits; no such model exists.
    pub fn new(index: usize) -> Self {
        Self(u16::try_from(index).expect("models have fewer than 65536 blocks"))
    }

    /// Depth in the dense model, counted from 0.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A set of blocks of one model: sorted, without duplicates, every id below the model's depth.
///
/// ```
/// use pdtrim_core::BlockSet;
///
/// let prefill = BlockSet::from_indices(30, [26, 17])?;
/// let decode = prefill.union(&BlockSet::from_indices(30, [6, 18])?);
/// assert!(prefill.is_subset(&decode));
/// assert_eq!(decode.to_string(), "6,17,18,26");
///
/// let refused = BlockSet::from_indices(30, [30]).unwrap_err();
/// assert_eq!(refused.to_string(), "block 30 does not exist: the model has 30 blocks (0 to 29)");
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSet {
    depth: usize,
    ids: BTreeSet<BlockId>,
}

impl BlockSet {
    /// The empty set for a model of `depth` blocks.
    pub fn empty(depth: usize) -> Self {
        Self {
            depth,
            ids: BTreeSet::new(),
        }
    }

    /// Every block of a model of `depth` blocks.
    pub fn all(depth: usize) -> Self {
        Self {
            depth,
            ids: (0..depth).map(BlockId::new).collect(),
        }
    }

    /// The set with the given dense indices.
    ///
    /// # Errors
    ///
    /// [`Error::BlockOutOfRange`] if an index is not below `depth`.
    pub fn from_indices(
        depth: usize,
        indices: impl IntoIterator<Item = usize>,
    ) -> Result<Self, Error> {
        let mut set = Self::empty(depth);
        for index in indices {
            if index >= depth {
                return Err(Error::BlockOutOfRange {
                    block: index,
                    depth,
                });
            }
            set.ids.insert(BlockId::new(index));
        }
        Ok(set)
    }

    /// Number of blocks of the model this set belongs to.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Number of blocks in the set.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the set holds no block.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether `id` is in the set.
    pub fn contains(&self, id: BlockId) -> bool {
        self.ids.contains(&id)
    }

    /// Whether block `id` is not in the set, and the one after it is.
    pub fn starts_after(&self, id: BlockId) -> bool {
        !self.contains(id) && self.contains(BlockId::new(id.index() + 1))
    }

    /// The ids in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.ids.iter().copied()
    }

    /// The dense indices in ascending order.
    pub fn to_indices(&self) -> Vec<usize> {
        self.iter().map(BlockId::index).collect()
    }

    /// This set and one more block.
    ///
    /// # Panics
    ///
    /// Panics if `id` is not below the depth.
    #[must_use]
    pub fn with(&self, id: BlockId) -> Self {
        assert!(
            id.index() < self.depth,
            "block {id} of a model with {} blocks",
            self.depth
        );
        let mut set = self.clone();
        set.ids.insert(id);
        set
    }

    /// This set without one block.
    #[must_use]
    pub fn without(&self, id: BlockId) -> Self {
        let mut set = self.clone();
        set.ids.remove(&id);
        set
    }

    /// Blocks in either set.
    ///
    /// # Panics
    ///
    /// Panics if the sets belong to models of different depth, like the other set operations.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.same_depth(other);
        Self {
            depth: self.depth,
            ids: &self.ids | &other.ids,
        }
    }

    /// Blocks in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.same_depth(other);
        Self {
            depth: self.depth,
            ids: &self.ids & &other.ids,
        }
    }

    /// Blocks of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.same_depth(other);
        Self {
            depth: self.depth,
            ids: &self.ids - &other.ids,
        }
    }

    /// Blocks of the model that are not in this set.
    #[must_use]
    pub fn complement(&self) -> Self {
        Self::all(self.depth).difference(self)
    }

    /// Whether every block of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.same_depth(other);
        self.ids.is_subset(&other.ids)
    }

    fn same_depth(&self, other: &Self) {
        assert_eq!(
            self.depth, other.depth,
            "block sets of models of different depth"
        );
    }
}

impl fmt::Display for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, id) in self.ids.iter().enumerate() {
            write!(f, "{}{id}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Block indices as a user writes them (`20,24` or `5-25,27`), not yet bound to a model.
///
/// ```
/// use pdtrim_core::BlockList;
///
/// let list: BlockList = "5-7,20".parse()?;
/// assert_eq!(list.to_set(30)?.to_indices(), [5, 6, 7, 20]);
/// // The same list is too long for a model of 12 blocks.
/// assert!(list.to_set(12).is_err());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BlockListRepr", into = "Vec<usize>")]
pub struct BlockList(Vec<usize>);

#[derive(Deserialize)]
#[serde(untagged)]
enum BlockListRepr {
    Text(String),
    Indices(Vec<usize>),
}

impl TryFrom<BlockListRepr> for BlockList {
    type Error = Error;

    fn try_from(repr: BlockListRepr) -> Result<Self, Error> {
        match repr {
            BlockListRepr::Text(text) => text.parse(),
            BlockListRepr::Indices(indices) => Ok(Self(indices)),
        }
    }
}

impl From<BlockList> for Vec<usize> {
    fn from(list: BlockList) -> Self {
        list.0
    }
}

impl BlockList {
    /// Binds the list to a model of `depth` blocks.
    ///
    /// # Errors
    ///
    /// [`Error::BlockOutOfRange`] if an index is not below `depth`.
    pub fn to_set(&self, depth: usize) -> Result<BlockSet, Error> {
        BlockSet::from_indices(depth, self.0.iter().copied())
    }
}

impl FromStr for BlockList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let ranges = parts.map(parse_range).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(ranges.into_iter().flatten().collect()))
    }
}

fn parse_range(part: &str) -> Result<RangeInclusive<usize>, Error> {
    let refused = || Error::BlockList {
        found: part.to_owned(),
    };
    let number = |text: &str| {
        text.trim()
            .parse::<u16>()
            .map(usize::from)
            .map_err(|_| refused())
    };
    match part.split_once('-') {
        None => number(part).map(|index| index..=index),
        Some((from, to)) => {
            let (from, to) = (number(from)?, number(to)?);
            if from > to {
                Err(refused())
            } else {
                Ok(from..=to)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(depth: usize) -> impl Strategy<Value = BlockSet> {
        proptest::collection::btree_set(0..depth, 0..=depth)
            .prop_map(move |ids| BlockSet::from_indices(depth, ids).unwrap())
    }

    proptest! {
        #[test]
        fn a_set_and_its_complement_partition_the_model(a in set(12)) {
            prop_assert!(a.intersection(&a.complement()).is_empty());
            prop_assert_eq!(a.union(&a.complement()), BlockSet::all(12));
        }

        #[test]
        fn a_set_is_its_common_part_plus_its_difference(a in set(12), b in set(12)) {
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.intersection(&b).is_subset(&a));
        }

        #[test]
        fn a_block_that_is_put_in_can_be_taken_out(a in set(12), block in 0_usize..12) {
            let id = BlockId::new(block);
            prop_assert!(!a.without(id).contains(id));
            prop_assert_eq!(a.with(id).without(id), a.without(id));
            prop_assert_eq!(a.without(id).with(id), a.with(id));
        }

        #[test]
        fn a_printed_set_parses_back(a in set(12)) {
            let list: BlockList = a.to_string().parse().unwrap();
            prop_assert_eq!(list.to_set(12).unwrap(), a);
        }
    }

    #[test]
    fn ranges_include_both_ends() {
        let list: BlockList = "5-7, 20".parse().unwrap();
        assert_eq!(list.to_set(30).unwrap().to_indices(), [5, 6, 7, 20]);
    }

    #[test]
    fn a_block_beyond_the_depth_is_refused() {
        let list: BlockList = "3,30".parse().unwrap();
        assert!(matches!(
            list.to_set(30),
            Err(Error::BlockOutOfRange {
                block: 30,
                depth: 30
            })
        ));
    }

    #[test]
    fn words_and_backward_ranges_are_refused() {
        assert!("five".parse::<BlockList>().is_err());
        assert!("9-2".parse::<BlockList>().is_err());
    }
}
