//! Where the windows of a text stand; the [module](super) says how they are drawn.

use crate::error::{Error, Result};
use pdtrim_core::draw::{shuffled, stream};

/// Which windows of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// A seed's.
    Seed(u64),
    /// Those that no seed takes.
    HeldOut,
}

/// A text's length and the windows wanted of it.
pub(super) struct Strata<'s> {
    pub(super) source_name: &'s str,
    pub(super) tokens: usize,
    pub(super) windows: usize,
    pub(super) window_tokens: usize,
}

impl Strata<'_> {
    /// The first token of each window, ascending.
    pub(super) fn starts(&self, slot: Slot) -> Result<Vec<usize>> {
        let stratum = self.tokens / self.windows.max(1);
        let slots = stratum / self.window_tokens.max(1);
        let needed_slots = match slot {
            Slot::Seed(0) => 1,
            Slot::HeldOut => 2,
            Slot::Seed(_) => 3,
        };
        if slots < needed_slots {
            return Err(self.too_few(slot, needed_slots));
        }
        let start = |n: usize| {
            let slot = match slot {
                Slot::Seed(0) => 0,
                Slot::HeldOut => slots - 1,
                Slot::Seed(seed) => drawn(n, seed, slots - 2),
            };
            n * stratum + slot * self.window_tokens
        };
        Ok((0..self.windows).map(start).collect())
    }

    fn too_few(&self, slot: Slot, slots: usize) -> Error {
        let source_name = self.source_name.to_owned();
        let draw = match slot {
            Slot::Seed(0) => {
                return Error::Objective(pdtrim_core::Error::CalibrationText {
                    source_name,
                    windows: self.windows,
                    window_tokens: self.window_tokens,
                    found: self.tokens,
                });
            }
            Slot::Seed(seed) => format!("the windows of seed {seed}"),
            Slot::HeldOut => "held-out windows".to_owned(),
        };
        let windows = self.windows.saturating_mul(self.window_tokens);
        Error::TooFewTokens {
            source_name,
            draw,
            needed: windows.saturating_mul(slots),
            found: self.tokens,
        }
    }
}

/// The slot of stratum `n`: seeds 1 to `free` take its free slots in a drawn order, the next ones in
/// another.
fn drawn(n: usize, seed: u64, free: usize) -> usize {
    let (round, place) = ((seed - 1) / free as u64, (seed - 1) % free as u64);
    1 + shuffled(free, stream(round, n))[place as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strata(tokens: usize, windows: usize, window_tokens: usize) -> Strata<'static> {
        Strata {
            source_name: "a text",
            tokens,
            windows,
            window_tokens,
        }
    }

    #[test]
    fn seed_0_spreads_its_windows_evenly_from_the_start() {
        let starts = strata(1000, 4, 30).starts(Slot::Seed(0)).unwrap();
        assert_eq!(starts, [0, 250, 500, 750]);
    }

    #[test]
    fn windows_overlap_neither_within_a_seed_nor_between_seeds_nor_with_held_out_ones() {
        // Eight slots in each of four strata: six for seeds other than 0.
        let text = strata(1000, 4, 30);
        let mut taken = Vec::new();
        for seed in 0..=6 {
            taken.extend(text.starts(Slot::Seed(seed)).unwrap());
        }
        taken.extend(text.starts(Slot::HeldOut).unwrap());
        taken.sort_unstable();
        assert_eq!(taken.len(), 8 * 4);
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] >= 30));
        assert!(taken[31] + 30 <= 1000);
    }

    #[test]
    fn later_seeds_draw_again_but_never_seed_0s_or_held_out_windows() {
        let text = strata(1000, 4, 30);
        let kept: Vec<usize> = [Slot::Seed(0), Slot::HeldOut]
            .into_iter()
            .flat_map(|slot| text.starts(slot).unwrap())
            .collect();
        for seed in 7..60 {
            let starts = text.starts(Slot::Seed(seed)).unwrap();
            assert_eq!(starts, text.starts(Slot::Seed(seed)).unwrap());
            assert!(starts.iter().all(|start| !kept.contains(start)), "{seed}");
        }
        let rounds = [1, 7].map(|seed| text.starts(Slot::Seed(seed)).unwrap());
        assert_ne!(rounds[0], rounds[1]);
    }

    #[test]
    fn a_short_text_is_refused_with_what_it_would_need() {
        let text = strata(130, 2, 32);
        assert_eq!(text.starts(Slot::Seed(0)).unwrap(), [0, 65]);
        assert_eq!(text.starts(Slot::HeldOut).unwrap(), [32, 97]);
        let error = text.starts(Slot::Seed(5)).unwrap_err().to_string();
        assert!(
            error.contains("seed 5") && error.contains("192") && error.contains("130 tokens"),
            "{error}"
        );
        let text = strata(100, 2, 32);
        let error = text.starts(Slot::HeldOut).unwrap_err().to_string();
        assert!(
            error.contains("held-out") && error.contains("128"),
            "{error}"
        );
        let error = strata(60, 2, 32).starts(Slot::Seed(0)).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("2 windows of 32"), "{error}");
    }
}
