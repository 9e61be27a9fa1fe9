//! Sets of indices in a short text form.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Largest index that a text may name; no model has a wider MLP.
const LIMIT: usize = 1 << 22;

/// A set of indices, written in ascending order as single ones and ranges: `4,17-19`.
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
pub struct Indices(BTreeSet<usize>);

impl Indices {
    /// The indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().copied()
    }

    /// Number of indices.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `index` is one of them.
    pub fn contains(&self, index: usize) -> bool {
        self.0.contains(&index)
    }

    /// The largest.
    pub fn last(&self) -> Option<usize> {
        self.0.last().copied()
    }

    /// Adds `index`; says whether it is new.
    pub fn insert(&mut self, index: usize) -> bool {
        self.0.insert(index)
    }

    /// Whether all of them are in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// The indices below `size` that are not in the set, ascending.
    pub fn kept(&self, size: usize) -> Vec<usize> {
        (0..size).filter(|index| !self.contains(*index)).collect()
    }
}

impl FromIterator<usize> for Indices {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        Self(indices.into_iter().collect())
    }
}

impl fmt::Display for Indices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
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
                (Some(first), Some(last)) if first <= last => indices.0.extend(first..=last),
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(set in proptest::collection::btree_set(0_usize..40, 0..40)) {
            let indices: Indices = set.into_iter().collect();
            prop_assert_eq!(indices.to_string().parse::<Indices>().unwrap(), indices);
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
    fn what_is_no_list_is_refused_by_its_part() {
        for part in ["x", "3-", "-3", "5-2", "4194304", "0-99999999999"] {
            let error = format!("1,{part}").parse::<Indices>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{part}`")), "{error}");
        }
    }
}
