//! Numbers that depend on nothing but a seed (`SplitMix64`; Steele, Lea and Flood 2014).

/// The next number of `SplitMix64`, whose stream is the same on every machine and in every release.
///
/// ```
/// let (mut one, mut other) = (7, 7);
/// assert_eq!(pdtrim_core::draw::next(&mut one), pdtrim_core::draw::next(&mut other));
/// ```
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `n`; the bias of the remainder is below n / 2^64.
///
/// ```
/// let mut state = 7;
/// assert!(pdtrim_core::draw::draw(&mut state, 6) < 6);
/// ```
pub fn draw(state: &mut u64, n: usize) -> usize {
    (next(state) % n as u64) as usize
}

/// A number in 0..1, one of the 2^53 that an f64 can tell apart there.
///
/// ```
/// let mut state = 7;
/// assert!((0.0..1.0).contains(&pdtrim_core::draw::uniform(&mut state)));
/// ```
pub fn uniform(state: &mut u64) -> f64 {
    (next(state) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A seed for the n-th of several draws that `seed` starts.
///
/// ```
/// use pdtrim_core::draw::stream;
///
/// // A seed of its own for each of several samples.
/// assert_ne!(stream(7, 0), stream(7, 1));
/// ```
pub fn stream(seed: u64, n: usize) -> u64 {
    let mut state = seed;
    let mut state = next(&mut state).wrapping_add(n as u64);
    next(&mut state)
}

/// The numbers below `n`, every order equally likely (Fisher and Yates).
///
/// ```
/// let mut order = pdtrim_core::draw::shuffled(5, 7);
/// order.sort_unstable();
/// assert_eq!(order, [0, 1, 2, 3, 4]);
/// ```
pub fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = seed;
    for last in (1..n).rev() {
        order.swap(last, draw(&mut state, last + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_numbers_fill_their_range() {
        let mut state = 3;
        let numbers: Vec<f64> = (0..1000).map(|_| uniform(&mut state)).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let mean = numbers.iter().sum::<f64>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.03, "{mean}");
    }

    #[test]
    fn streams_differ_from_seed_to_seed_and_from_draw_to_draw() {
        let mut streams: Vec<u64> = (0..10)
            .flat_map(|seed| (0..10).map(move |n| stream(seed, n)))
            .collect();
        streams.sort_unstable();
        streams.dedup();
        assert_eq!(streams.len(), 100);
    }

    #[test]
    fn a_shuffle_is_an_order_of_all_numbers_and_depends_on_its_seed() {
        let orders: Vec<Vec<usize>> = (0..20).map(|seed| shuffled(9, seed)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..9).collect::<Vec<_>>());
        }
        assert!(orders.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(shuffled(9, 4), orders[4]);
        assert_eq!(shuffled(1, 4), [0]);
    }
}
