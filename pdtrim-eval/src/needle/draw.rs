//! Orders that a key decides, the same on every machine and in every release.

use pdtrim_core::hash::sha256;

/// The numbers below `n` in the order of their hashes with `key`.
pub(super) fn order(n: usize, key: &str) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..n).collect();
    numbers.sort_by_cached_key(|number| sha256(format!("{key} {number}").as_bytes()));
    numbers
}
