//! How a worse set is accepted for a while.

use crate::error::{Error, Result};
use pdtrim_core::draw::uniform;

/// Proposals in all for each set that is to be measured: small spaces are soon known, and a walk would
/// never end.
const PROPOSALS_A_STEP: usize = 20;

/// Simulated annealing: how many sets are measured, and how readily a worse one is taken.
///
/// A set that costs Δ more is taken with probability exp(-Δ / T); T falls geometrically from one
/// temperature to the other. The paper (arXiv:2509.04467) leaves schedule and steps unsaid; these are
/// ours.
///
/// ```
/// use pdtrim_search::{Annealing, PdTrim};
///
/// // A longer walk that begins hotter.
/// let annealing = Annealing { steps: 500, start_temperature: 0.2, ..Annealing::default() };
/// assert!(PdTrim::new(annealing).is_ok());
/// // Temperatures have to fall.
/// assert!(PdTrim::new(Annealing { start_temperature: 0.001, ..annealing }).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Annealing {
    /// Sets that are measured; to propose one that was measured before is no step. 0 leaves the closing
    /// passes alone.
    pub steps: usize,
    /// T at the first step, in the cost's unit (nats a token).
    pub start_temperature: f64,
    /// T at the last one.
    pub end_temperature: f64,
    /// Seed of proposals and decisions.
    pub seed: u64,
}

impl Default for Annealing {
    /// 200 steps from 0.1 to 0.01 nats. Swaps of a good set cost `SmolLM2`'s decode a few hundredths to a
    /// few tenths more; on forty seeded models of ten blocks these found the best set of every size up
    /// to 4, and 100 steps, or an end at 0.001, did not on five and more of them.
    fn default() -> Self {
        Self {
            steps: 200,
            start_temperature: 0.1,
            end_temperature: 0.01,
            seed: 0,
        }
    }
}

impl Annealing {
    /// Refuses temperatures that do not fall, or are none.
    pub(super) fn check(&self) -> Result<()> {
        let (start, end) = (self.start_temperature, self.end_temperature);
        if end > 0.0 && end <= start && start.is_finite() {
            Ok(())
        } else {
            Err(Error::Temperatures { start, end })
        }
    }

    pub(super) fn proposals(&self) -> usize {
        self.steps.saturating_mul(PROPOSALS_A_STEP)
    }

    /// How much more a set may cost to be taken at `step`: it is exceeded by a rise of Δ with probability
    /// exp(-Δ / T).
    pub(super) fn accepted_rise(&self, step: usize, state: &mut u64) -> f64 {
        -self.temperature(step) * uniform(state).ln()
    }

    fn temperature(&self, step: usize) -> f64 {
        let last = self.steps.saturating_sub(1).max(1);
        let fallen = step as f64 / last as f64;
        self.start_temperature * (self.end_temperature / self.start_temperature).powf(fallen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temperature_falls_geometrically_from_start_to_end() {
        let annealing = Annealing {
            steps: 5,
            start_temperature: 1.0,
            end_temperature: 0.01,
            seed: 0,
        };
        let expected = [1.0, 0.316_227_766, 0.1, 0.031_622_777, 0.01];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((annealing.temperature(step) - expected).abs() < 1e-8);
        }
        let one = Annealing {
            steps: 1,
            ..annealing
        };
        assert!((one.temperature(0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn better_is_always_taken_and_worse_as_often_as_stated() {
        let annealing = Annealing::default();
        let mut state = 1;
        assert!((0..100).all(|step| annealing.accepted_rise(step, &mut state) > -0.01));
        assert!((0..100).all(|step| annealing.accepted_rise(step, &mut state) > 0.0));
        // At the first step exp(-0.1 / 0.1) = 0.368; at the last one exp(-10).
        let taken = (0..10_000).filter(|_| annealing.accepted_rise(0, &mut state) > 0.1);
        let taken = taken.count() as f64 / 1e4;
        assert!((taken - 0.368).abs() < 0.02, "{taken}");
        assert!(!(0..1000).any(|_| annealing.accepted_rise(199, &mut state) > 0.1));
    }

    #[test]
    fn temperatures_that_rise_or_are_none_are_refused() {
        for (start, end) in [
            (0.1, 0.2),
            (0.1, 0.0),
            (f64::NAN, 0.1),
            (0.1, f64::NAN),
            (f64::INFINITY, 0.1),
        ] {
            let annealing = Annealing {
                start_temperature: start,
                end_temperature: end,
                ..Annealing::default()
            };
            assert!(matches!(annealing.check(), Err(Error::Temperatures { .. })));
        }
    }
}
