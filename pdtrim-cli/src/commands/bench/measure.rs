//! Taking times.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Result, anyhow};
use burn::tensor::Device;
use pdtrim_core::pipeline::PdModel;

use crate::args::MeasureArgs;
use crate::progress::Progress;

/// How often each point is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    pub(super) warmup: usize,
    pub(super) repeats: usize,
}

impl Rounds {
    /// What the arguments say, or these defaults.
    pub(super) fn new(args: &MeasureArgs, warmup: usize, repeats: usize) -> Self {
        Self {
            warmup: args.warmup.unwrap_or(warmup),
            repeats: args.repeats.map_or(repeats, NonZeroUsize::get),
        }
    }

    /// Runs the points in turn, round after round, so that a machine that is busy for a while slows
    /// all of them; the samples of each point, without the warm-up's.
    pub(super) fn run<T>(
        self,
        what: &str,
        progress: Progress,
        points: &mut [Point<'_, T>],
    ) -> Result<Vec<Vec<T>>> {
        let step = progress.step(what, (self.warmup + self.repeats) * points.len());
        let mut samples: Vec<Vec<T>> = points.iter().map(|_| Vec::new()).collect();
        for round in 0..self.warmup + self.repeats {
            for (point, samples) in points.iter_mut().zip(&mut samples) {
                let sample = point()?;
                if round >= self.warmup {
                    samples.push(sample);
                }
                step.advance();
            }
        }
        Ok(samples)
    }
}

/// Something that is timed: each call gives one sample.
pub(super) type Point<'a, T> = Box<dyn FnMut() -> Result<T> + 'a>;

/// Seconds that `body` takes, until the device has finished all of it.
pub(super) fn timed<T>(device: &Device, body: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    finish(device)?;
    let start = Instant::now();
    let value = body()?;
    finish(device)?;
    Ok((start.elapsed().as_secs_f64(), value))
}

fn finish(device: &Device) -> Result<()> {
    device
        .sync()
        .map_err(|error| anyhow!("the device failed: {error:?}"))
}

/// Seconds of one generation.
#[derive(Clone, Debug)]
pub(super) struct Generated {
    /// To the first new token.
    pub(super) first: f64,
    /// For each later token, on average; not a number without one.
    pub(super) per_token: f64,
    /// For each later token on its own, where the device computes a token before the next is asked
    /// for: an accelerator is not stopped to look.
    pub(super) steps: Vec<f64>,
}

/// Generates a first token and `later` more after each of `prompts`.
pub(super) fn generate(pd: &PdModel<'_>, prompts: &[Vec<u32>], later: usize) -> Result<Generated> {
    let device = pd.model().device();
    let on_host = *device == Device::flex();
    let mut failed = None;
    let mut first = 0.0;
    let mut steps = Vec::with_capacity(if on_host { later } else { 0 });
    finish(device)?;
    let start = Instant::now();
    let mut last = 0.0;
    pd.generate_greedy_batch(prompts, later + 1, |number| {
        if number == 0 {
            failed = finish(device).err();
            first = start.elapsed().as_secs_f64();
            last = first;
        } else if on_host {
            let now = start.elapsed().as_secs_f64();
            steps.push(now - last);
            last = now;
        }
    })?;
    // The tokens were read back: nothing is left to wait for.
    let total = start.elapsed().as_secs_f64();
    match failed {
        Some(error) => Err(error),
        None => Ok(Generated {
            first,
            per_token: (total - first) / later as f64,
            steps,
        }),
    }
}

/// The middle of `values`, the mean of the two middle ones if their number is even; not a number
/// without one.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.as_slice() {
        [] => f64::NAN,
        values if values.len() % 2 == 1 => values[middle],
        values => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn points_take_turns_and_warm_up_runs_are_not_kept() {
        let order = RefCell::new(Vec::new());
        let point = |name: usize| -> Point<'_, usize> {
            let order = &order;
            Box::new(move || {
                order.borrow_mut().push(name);
                Ok(order.borrow().len())
            })
        };
        let rounds = Rounds {
            warmup: 1,
            repeats: 2,
        };
        let samples = rounds
            .run("points", Progress::Silent, &mut [point(0), point(1)])
            .unwrap();
        assert_eq!(*order.borrow(), [0, 1, 0, 1, 0, 1]);
        assert_eq!(samples, [[3, 5], [4, 6]]);
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middle_ones() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_string(), "2.5");
        assert!(median(&[]).is_nan());
    }
}
