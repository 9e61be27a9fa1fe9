//! Numbers that depend on nothing but a seed.

/// A number below `n` by `SplitMix64`, whose stream is the same on every machine and in every release;
/// the bias of the remainder is below n / 2^64.
pub(crate) fn draw(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % n as u64) as usize
}

/// The numbers below `n`, every order equally likely (Fisher and Yates).
pub(crate) fn shuffled(n: usize, seed: u64) -> Vec<usize> {
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
