//! Hidden states of the dense model between blocks: candidates that leave the first blocks as they are
//! start behind them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::objective::stream::Stream;

/// Blocks from one kept place to the next.
const STEP: usize = 4;
/// What one loss keeps at most: as much as hidden states of 64 windows of 256 tokens of `SmolLM2` take in
/// seven places.
const BYTES: usize = 256 << 20;

/// What is known of the dense model, by the windows that run as one batch: on an accelerator a batch's size is
/// in how its sums are rounded.
#[derive(Default)]
pub(super) struct Stems {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    bytes: usize,
    /// By windows and block before which they are.
    streams: BTreeMap<(Vec<usize>, usize), Vec<Stream>>,
}

impl Stems {
    /// The hidden states of the windows `units` before the last block that is kept and not after `first`, and
    /// which that is. `enter` embeds the windows, `step` runs a block.
    pub(super) fn before(
        &self,
        first: usize,
        units: &[usize],
        enter: impl FnOnce() -> Result<Vec<Stream>>,
        step: impl Fn(usize, &mut Stream),
    ) -> Result<(usize, Vec<Stream>)> {
        let last = first / STEP * STEP;
        let kept = self.known().last_before(last, units);
        let (mut at, mut streams) = match kept {
            Some(kept) => kept,
            None => (0, enter()?),
        };
        // Not under the lock: what a block runs on may be the threads that wait for it.
        while at < last {
            for stream in &mut streams {
                step(at, stream);
            }
            at += 1;
            if at.is_multiple_of(STEP) {
                self.known().keep(units, at, &streams);
            }
        }
        Ok((at, streams))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn last_before(&self, last: usize, units: &[usize]) -> Option<(usize, Vec<Stream>)> {
        let places = (units.to_vec(), 0)..=(units.to_vec(), last);
        let (place, streams) = self.streams.range(places).next_back()?;
        Some((place.1, streams.clone()))
    }

    fn keep(&mut self, units: &[usize], at: usize, streams: &[Stream]) {
        let bytes = streams.iter().map(Stream::bytes).sum::<usize>();
        let place = (units.to_vec(), at);
        if self.bytes + bytes <= BYTES && !self.streams.contains_key(&place) {
            self.bytes += bytes;
            self.streams.insert(place, streams.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_block_of_the_dense_model_is_run_once_for_the_same_windows() {
        let stems = Stems::default();
        let ran = RefCell::new(Vec::new());
        // A stream of a batch of `width`, and at the end the number of blocks that it came through.
        let before = |first: usize, units: &[usize], width: usize| {
            let enter = || {
                let hidden = Tensor::zeros([width, 1, 1], &Device::flex());
                Ok(vec![Stream {
                    prompt: None,
                    continuation: Some(hidden),
                }])
            };
            let found = stems.before(first, units, enter, |block, stream| {
                ran.borrow_mut().push(block);
                stream.continuation = stream.continuation.take().map(|hidden| hidden + 1.0);
            });
            let (at, streams) = found.unwrap();
            let hidden = streams[0].continuation.clone().unwrap();
            let through = hidden.narrow(0, 0, 1).into_scalar::<f32>() as usize;
            assert_eq!(through, at, "{first} of {units:?}");
            (at, ran.take())
        };
        assert_eq!(before(3, &[0, 1], 1), (0, vec![]));
        assert_eq!(before(9, &[0, 1], 1), (8, (0..8).collect()));
        assert_eq!(before(7, &[0, 1], 1), (4, vec![]));
        assert_eq!(before(13, &[0, 1], 1), (12, (8..12).collect()));
        // Other windows are another batch.
        assert_eq!(before(4, &[0], 1), (4, (0..4).collect()));
        assert_eq!(before(5, &[0], 1), (4, vec![]));
        // What is too large to keep is run again.
        let large = BYTES / 4 + 1;
        assert_eq!(before(4, &[2], large), (4, (0..4).collect()));
        assert_eq!(before(4, &[2], large), (4, (0..4).collect()));
    }
}
