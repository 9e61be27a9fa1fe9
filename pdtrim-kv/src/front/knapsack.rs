//! One choice for each item, the lowest sum of prices whose sizes fit.

/// Parts of the budget that sizes are rounded up to.
const PARTS: usize = 8192;

/// What an item may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) price: f64,
    pub(super) size: f64,
}

/// The choice of each item. Sizes are rounded up to parts of the budget, so that what is chosen fits;
/// if nothing does, the smallest choices. Ties go to the first.
pub(super) fn solve(items: &[Vec<Choice>], budget: f64) -> Vec<usize> {
    let smallest = |choices: &Vec<Choice>| {
        let order = |a: &usize, b: &usize| choices[*a].size.total_cmp(&choices[*b].size);
        (0..choices.len()).min_by(order).unwrap_or(0)
    };
    // What is certain to be needed is taken off first, so that parts are of what is left to decide.
    let least: Vec<usize> = items.iter().map(smallest).collect();
    let size = |item: usize, choice: usize| items[item][choice].size;
    let needed: f64 = least
        .iter()
        .enumerate()
        .map(|(item, &choice)| size(item, choice))
        .sum();
    let left = budget - needed;
    if left <= 0.0 {
        return least;
    }
    let parts = |item: usize, choice: usize| {
        let more = size(item, choice) - size(item, least[item]);
        (more / left * PARTS as f64 - 1e-9).ceil().max(0.0) as usize
    };
    // best[p]: the lowest sum of prices of the items so far in at most p parts.
    let mut best = vec![0.0; PARTS + 1];
    let mut taken = Vec::with_capacity(items.len());
    for (item, choices) in items.iter().enumerate() {
        let sizes: Vec<usize> = (0..choices.len())
            .map(|choice| parts(item, choice))
            .collect();
        let mut next = vec![f64::INFINITY; PARTS + 1];
        let mut from = vec![least[item]; PARTS + 1];
        for held in 0..=PARTS {
            for (choice, &parts) in sizes.iter().enumerate() {
                let Some(before) = held.checked_sub(parts) else {
                    continue;
                };
                let price = best[before] + choices[choice].price;
                if price < next[held] {
                    (next[held], from[held]) = (price, choice);
                }
            }
        }
        best = next;
        taken.push((from, sizes));
    }
    let mut held = PARTS;
    let mut chosen: Vec<usize> = taken
        .iter()
        .rev()
        .map(|(from, sizes)| {
            let choice = from[held];
            held -= sizes[choice].min(held);
            choice
        })
        .collect();
    chosen.reverse();
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sums(items: &[Vec<Choice>], chosen: &[usize]) -> (f64, f64) {
        let chosen = items.iter().zip(chosen);
        chosen.fold((0.0, 0.0), |(price, size), (choices, &choice)| {
            (price + choices[choice].price, size + choices[choice].size)
        })
    }

    /// Every way to choose.
    fn all(items: &[Vec<Choice>]) -> Vec<Vec<usize>> {
        items.iter().fold(vec![Vec::new()], |ways, choices| {
            let longer = ways.iter().flat_map(|way| {
                (0..choices.len()).map(move |choice| [&way[..], &[choice]].concat())
            });
            longer.collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_chosen_fits_and_nothing_that_fits_with_room_to_spare_is_cheaper(
            items in proptest::collection::vec(proptest::collection::vec((-1.0_f64..3.0, 1_u32..1000), 1..4), 1..6),
            budget in 1.0_f64..4000.0,
        ) {
            let choice = |&(price, size): &(f64, u32)| Choice { price, size: f64::from(size) };
            let items: Vec<Vec<Choice>> = items.iter().map(|choices| choices.iter().map(choice).collect()).collect();
            let chosen = solve(&items, budget);
            let (price, size) = sums(&items, &chosen);
            let ways = all(&items);
            let fits: Vec<f64> = ways.iter().map(|way| sums(&items, way)).filter(|(_, size)| *size <= budget * 0.999).map(|(price, _)| price).collect();
            let cheapest = fits.into_iter().fold(f64::INFINITY, f64::min);
            if cheapest.is_finite() {
                prop_assert!(size <= budget + 1e-6);
                // Rounding up costs less than 1 in 8192 of what is left to decide for each item.
                let left = budget - sums(&items, &items.iter().map(|choices| (0..choices.len()).min_by(|a, b| choices[*a].size.total_cmp(&choices[*b].size)).unwrap()).collect::<Vec<_>>()).1;
                let room = left * 6.0 / 8192.0;
                let tight = ways.iter().map(|way| sums(&items, way)).filter(|(_, size)| *size <= budget - room).map(|(price, _)| price);
                let tight = tight.fold(f64::INFINITY, f64::min);
                prop_assert!(price <= tight + 1e-9, "{price} above {tight}");
            }
        }
    }

    #[test]
    fn where_nothing_fits_the_smallest_are_chosen() {
        let choices = vec![
            Choice {
                price: 0.0,
                size: 9.0,
            },
            Choice {
                price: 5.0,
                size: 4.0,
            },
        ];
        assert_eq!(solve(&[choices.clone(), choices], 7.0), [1, 1]);
    }
}
