//! Which items are drawn; the [module](super) says how.

use super::corpus::Part;
use super::records::Pool;
use crate::error::{Error, Result};
use pdtrim_core::draw::{shuffled, stream};

/// Items that are drawn if no number is given, or all where there are fewer: as many as the paper uses.
pub const DEFAULT_ITEMS: usize = 256;

/// Of so many items, the last is held out.
const HELD_OUT_EVERY: usize = 5;

/// The drawn items, the parts of the source in turn; how many they are, and their text.
pub(super) fn joined(
    source_name: &str,
    pools: &[Pool],
    part: Part,
    (seed, wanted): (u64, Option<usize>),
) -> Result<(usize, String)> {
    let choices: Vec<Vec<&str>> = pools.iter().map(|pool| of_part(pool, part)).collect();
    let shares = shares(source_name, &choices, wanted)?;
    let drawn: Vec<Vec<&str>> = choices
        .iter()
        .zip(&shares)
        .enumerate()
        .map(|(n, (choices, &share))| {
            let places = places(n, seed, share, choices.len());
            places.into_iter().map(|place| choices[place]).collect()
        })
        .collect();
    let longest = shares.iter().copied().max().unwrap_or(0);
    let in_turn: Vec<&str> = (0..longest)
        .flat_map(|place| drawn.iter().filter_map(move |items| items.get(place)))
        .copied()
        .collect();
    Ok((in_turn.len(), in_turn.join("\n\n")))
}

/// The places of `share` items in part `n`, which has `of`: the first seeds share out an order of all
/// of them, so that they have none in common; the next ones another order.
fn places(n: usize, seed: u64, share: usize, of: usize) -> Vec<usize> {
    let seeds = (of / share.max(1)).max(1) as u64;
    let (round, place) = (seed / seeds, (seed % seeds) as usize);
    shuffled(of, stream(round, n))[place * share..][..share].to_vec()
}

fn of_part(pool: &Pool, part: Part) -> Vec<&str> {
    let held_out = |index: usize| index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1;
    let items = pool.items.iter().enumerate();
    items
        .filter(|(index, _)| held_out(*index) == (part == Part::HeldOut))
        .map(|(_, item)| item.as_str())
        .collect()
}

/// How many items each part gives: the same number, or the first parts one more.
fn shares(source_name: &str, choices: &[Vec<&str>], wanted: Option<usize>) -> Result<Vec<usize>> {
    let parts = choices.len();
    let fewest = choices.iter().map(Vec::len).min().unwrap_or(0);
    let total = wanted.unwrap_or_else(|| DEFAULT_ITEMS.min(fewest * parts));
    let share = |part: usize| total / parts + usize::from(part < total % parts);
    let shares: Vec<usize> = (0..parts).map(share).collect();
    let enough = shares
        .iter()
        .zip(choices)
        .all(|(share, of)| *share <= of.len());
    if total == 0 || !enough {
        return Err(Error::TooFewItems {
            source_name: source_name.to_owned(),
            expected: total.max(1),
            found: fewest * parts,
            reason: match parts {
                1 => ": every fifth is held out",
                _ => ": as many from each part, and every fifth of a part is held out",
            },
        });
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, items: usize) -> Pool {
        Pool {
            name: name.to_owned(),
            items: (0..items).map(|n| format!("{name}{n}")).collect(),
        }
    }

    fn drawn(pools: &[Pool], part: Part, seed: u64, wanted: Option<usize>) -> Vec<String> {
        let (n, text) = joined("two", pools, part, (seed, wanted)).unwrap();
        let items: Vec<String> = text.split("\n\n").map(str::to_owned).collect();
        assert_eq!(items.len(), n);
        items
    }

    #[test]
    fn parts_give_as_many_items_each_and_stand_in_turn() {
        let pools = [pool("a", 20), pool("b", 300)];
        let items = drawn(&pools, Part::Calibration, 0, Some(9));
        let letters: String = items.iter().map(|item| &item[..1]).collect();
        assert_eq!(letters, "ababababa");
        // Sixteen of the twenty can be drawn, so without a number it is twice that.
        assert_eq!(drawn(&pools, Part::Calibration, 0, None).len(), 32);
        let pools = [pool("a", 400), pool("b", 300)];
        assert_eq!(drawn(&pools, Part::Calibration, 0, None).len(), 256);
    }

    #[test]
    fn a_seed_draws_the_same_items_again_and_another_seed_others() {
        let pools = [pool("a", 100)];
        let items = |seed| drawn(&pools, Part::Calibration, seed, Some(20));
        assert_eq!(items(1), items(1));
        assert_ne!(items(1), items(2));
        assert_ne!(items(0), items(4));
    }

    #[test]
    fn seeds_have_no_item_in_common_as_long_as_there_are_items() {
        let pools = [pool("a", 100), pool("b", 110)];
        let draws = (0..4).map(|seed| drawn(&pools, Part::Calibration, seed, Some(40)));
        let mut items: Vec<String> = draws.flatten().collect();
        items.sort();
        items.dedup();
        assert_eq!(items.len(), 160);
    }

    #[test]
    fn a_held_out_item_is_drawn_by_no_seed() {
        let pools = [pool("a", 50)];
        let held_out = drawn(&pools, Part::HeldOut, 0, Some(10));
        assert_eq!(held_out.len(), 10);
        for seed in 0..20 {
            let items = drawn(&pools, Part::Calibration, seed, Some(40));
            assert!(items.iter().all(|item| !held_out.contains(item)));
        }
    }

    #[test]
    fn too_many_items_are_refused_with_how_many_there_are() {
        let pools = [pool("a", 20), pool("b", 300)];
        let error = joined("two", &pools, Part::Calibration, (0, Some(40)));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("40") && error.contains("only 32"), "{error}");
        let error = joined("few", &[pool("a", 4)], Part::HeldOut, (0, None));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("only 0") && error.contains("fifth"),
            "{error}"
        );
    }
}
