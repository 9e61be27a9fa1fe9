//! How much two choices of blocks agree.

use pdtrim_core::BlockSet;

/// Blocks in both sets over blocks in either (the Jaccard index): 1 for equal sets, also if both are
/// empty, 0 for sets without a common block.
///
/// # Panics
///
/// Panics if the sets belong to models of different depth.
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::jaccard;
///
/// let [a, b] = [BlockSet::from_indices(9, [1, 2, 3])?, BlockSet::from_indices(9, [2, 3, 4])?];
/// assert_eq!(jaccard(&a, &b), 0.5);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn jaccard(a: &BlockSet, b: &BlockSet) -> f64 {
    let either = a.union(b).len();
    if either == 0 {
        return 1.0;
    }
    a.intersection(b).len() as f64 / either as f64
}

/// Mean [`jaccard`] over all pairs of a set of `a` with one of `b`; `None` without a pair.
///
/// # Panics
///
/// As [`jaccard`].
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::mean_agreement;
///
/// // What two strategies chose, each with two seeds.
/// let [a, b] = [BlockSet::from_indices(9, [1, 2])?, BlockSet::from_indices(9, [5, 6])?];
/// assert_eq!(mean_agreement(&[&a, &a], &[&a, &b]), Some(0.5));
/// assert_eq!(mean_agreement(&[&a], &[]), None);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn mean_agreement(a: &[&BlockSet], b: &[&BlockSet]) -> Option<f64> {
    let pairs = a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b)));
    mean(pairs.map(|(a, b)| jaccard(a, b)))
}

/// Mean [`jaccard`] over all pairs of different places in `sets`; `None` for fewer than two sets.
///
/// # Panics
///
/// As [`jaccard`].
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_search::mean_agreement_within;
///
/// let [a, b] = [BlockSet::from_indices(9, [1, 2])?, BlockSet::from_indices(9, [5, 6])?];
/// assert_eq!(mean_agreement_within(&[&a, &a]), Some(1.0));
/// assert_eq!(mean_agreement_within(&[&a, &b]), Some(0.0));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn mean_agreement_within(sets: &[&BlockSet]) -> Option<f64> {
    let pairs = sets
        .iter()
        .enumerate()
        .flat_map(|(n, &a)| sets[n + 1..].iter().map(move |&b| (a, b)));
    mean(pairs.map(|(a, b)| jaccard(a, b)))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(blocks: &[usize]) -> BlockSet {
        BlockSet::from_indices(8, blocks.iter().copied()).unwrap()
    }

    #[test]
    fn agreement_is_the_common_share_of_all_blocks() {
        for (a, b, expected) in [
            (&[1, 2][..], &[1, 2][..], 1.0),
            (&[1, 2], &[2, 3], 1.0 / 3.0),
            (&[1, 2], &[3], 0.0),
            (&[], &[], 1.0),
            (&[], &[3], 0.0),
        ] {
            assert!((jaccard(&set(a), &set(b)) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn means_run_over_all_pairs() {
        let (a, b, c) = (set(&[1, 2]), set(&[2, 3]), set(&[4, 5]));
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-12;
        assert!(near(
            mean_agreement(&[&a, &b], &[&a, &c]),
            (1.0 + 1.0 / 3.0) / 4.0
        ));
        assert!(near(mean_agreement_within(&[&a, &b, &c]), 1.0 / 9.0));
        assert_eq!(mean_agreement_within(&[&a]), None);
        assert_eq!(mean_agreement(&[&a], &[]), None);
    }
}
