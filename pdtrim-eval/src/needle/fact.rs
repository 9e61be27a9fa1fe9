//! The facts: code words of places. None of these names and words is in the filler.

use super::draw::order;

pub(super) const PLACES: [&str; 16] = [
    "Oslo", "Cairo", "Lima", "Quito", "Dublin", "Prague", "Havana", "Geneva", "Boston", "Vienna",
    "Madrid", "Athens", "Warsaw", "Nairobi", "Ottawa", "Naples",
];
pub(super) const WORDS: [&str; 16] = [
    "marble", "lantern", "violin", "copper", "falcon", "ginger", "pencil", "velvet", "walnut",
    "pepper", "saddle", "anchor", "candle", "ribbon", "tunnel", "hammer",
];

/// What the prompt says once and asks for at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) place: &'static str,
    pub(super) word: &'static str,
}

impl Fact {
    /// The fact of item `item` of the cell that `key` stands for: places and words differ between a cell's
    /// first 16 items.
    pub(super) fn draw(key: &str, item: usize) -> Self {
        let places = order(PLACES.len(), &format!("{key} places"));
        let words = order(WORDS.len(), &format!("{key} words"));
        // Later rounds pair places with other words.
        let round = item / PLACES.len();
        Self {
            place: PLACES[places[item % PLACES.len()]],
            word: WORDS[words[(item + round) % WORDS.len()]],
        }
    }

    /// Every place with every word.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        PLACES
            .into_iter()
            .flat_map(|place| WORDS.map(|word| Self { place, word }))
    }

    pub(super) fn sentence(self) -> String {
        format!("The code word of {} is {}.", self.place, self.word)
    }
}
