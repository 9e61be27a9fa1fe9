//! Sets of indices in a short text form.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Largest index that a text may name; no model has a wider MLP.
const LIMIT: usize = 1 << 22;

/// A set of indices, written in ascending order as single ones and ranges: `4,17-19`. It is held as ranges
/// too, so that a short text makes a small set.
///
/// ```
/// use pdtrim_core::width::Indices;
///
/// let channels: Indices = "4,17-19".parse()?;
/// assert!(channels.contains(18) && channels.len() == 4);
/// let more: Indices = channels.iter().chain([5, 6]).collect();
/// assert_eq!(more.to_string(), "4-6,17-19");
/// assert_eq!(Indices::from_iter([0, 2]).kept(4), [1, 3]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Indices {
    /// First and last index of each run; no two runs touch.
    runs: BTreeMap<usize, usize>,
}

impl Indices {
    /// The indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.runs.iter().flat_map(|(&first, &last)| first..=last)
    }

    /// Number of indices.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether `index` is one of them.
    pub fn contains(&self, index: usize) -> bool {
        self.covers(index, index)
    }

    /// The largest.
    pub fn last(&self) -> Option<usize> {
        self.runs.values().next_back().copied()
    }

    /// Adds `index`; says whether it is new.
    pub fn insert(&mut self, index: usize) -> bool {
        let is_new = !self.contains(index);
        self.insert_run(index, index);
        is_new
    }

    /// Whether all of them are in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        let mut runs = self.runs.iter();
        runs.all(|(&first, &last)| other.covers(first, last))
    }

    /// The indices below `size` that are not in the set, ascending.
    pub fn kept(&self, size: usize) -> Vec<usize> {
        (0..size).filter(|index| !self.contains(*index)).collect()
    }

    /// Whether one run has both `first` and `last`.
    fn covers(&self, first: usize, last: usize) -> bool {
        let run = self.runs.range(..=first).next_back();
        run.is_some_and(|(_, &end)| last <= end)
    }

    /// Adds a run, joined with all those that it touches.
    fn insert_run(&mut self, mut first: usize, mut last: usize) {
        let touching = |runs: &BTreeMap<usize, usize>, first: usize, last: usize| {
            let run = runs.range(..=last.saturating_add(1)).next_back();
            let run = run.map(|(&start, &end)| (start, end));
            run.filter(|(_, end)| end.saturating_add(1) >= first)
        };
        while let Some((start, end)) = touching(&self.runs, first, last) {
            self.runs.remove(&start);
            (first, last) = (first.min(start), last.max(end));
        }
        self.runs.insert(first, last);
    }
}

impl FromIterator<usize> for Indices {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        let mut set = Self::default();
        for index in indices {
            set.insert_run(index, index);
        }
        set
    }
}

impl fmt::Display for Indices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (first, last) in &self.runs {
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for Indices {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut indices = Self::default();
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        for part in parts {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => indices.insert_run(first, last),
                _ => {
                    return Err(Error::Choice {
                        field: "list of channels",
                        expected: "indices and ranges such as 4,17-19",
                        found: part.to_owned(),
                    });
                }
            }
        }
        Ok(indices)
    }
}

fn number(text: &str) -> Option<usize> {
    let number = text.trim().parse().ok();
    number.filter(|number| *number < LIMIT)
}

impl TryFrom<String> for Indices {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Indices> for String {
    fn from(indices: Indices) -> Self {
        indices.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(set in proptest::collection::btree_set(0_usize..40, 0..40)) {
            let indices: Indices = set.into_iter().collect();
            prop_assert_eq!(indices.to_string().parse::<Indices>().unwrap(), indices);
        }

        #[test]
        fn a_set_holds_what_was_put_in(order in proptest::collection::vec(0_usize..40, 0..60), other in proptest::collection::btree_set(0_usize..40, 0..40)) {
            let expected: BTreeSet<usize> = order.iter().copied().collect();
            let mut set = Indices::default();
            let mut seen = BTreeSet::new();
            for &index in &order {
                prop_assert_eq!(set.insert(index), seen.insert(index));
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), expected.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len(), expected.len());
            prop_assert_eq!(set.last(), expected.last().copied());
            prop_assert_eq!(set.is_empty(), expected.is_empty());
            let text = order.iter().map(|index| format!("{index}-{}", index + 2)).collect::<Vec<_>>();
            let wide: Indices = text.join(",").parse().unwrap();
            let all: BTreeSet<usize> = order.iter().flat_map(|&index| index..index + 3).collect();
            prop_assert_eq!(&wide, &all.iter().copied().collect());
            let others: Indices = other.iter().copied().collect();
            prop_assert_eq!(set.is_subset(&others), expected.is_subset(&other));
            prop_assert!(set.is_subset(&wide));
        }
    }

    #[test]
    fn neighbours_are_written_as_a_range() {
        let indices: Indices = [19, 4, 17, 18, 6, 7].into_iter().collect();
        assert_eq!(indices.to_string(), "4,6-7,17-19");
        assert_eq!(Indices::default().to_string(), "");
        assert_eq!(indices.kept(8), [0, 1, 2, 3, 5]);
    }

    #[test]
    fn a_long_range_takes_no_more_than_a_short_one() {
        // 57 000 of them were 57 000 times four million entries of a set.
        let set: Indices = vec!["0-4194303"; 57_000].join(",").parse().unwrap();
        assert_eq!((set.len(), set.runs.len()), (1 << 22, 1));
    }

    #[test]
    fn what_is_no_list_is_refused_by_its_part() {
        for part in ["x", "3-", "-3", "5-2", "4194304", "0-99999999999"] {
            let error = format!("1,{part}").parse::<Indices>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{part}`")), "{error}");
        }
    }
}
