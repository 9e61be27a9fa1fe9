//! Racing: candidates that cannot win any more are not evaluated to the end.

use pdtrim_core::objective::COST_RESOLUTION;
use pdtrim_core::{BlockSet, PerStage};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::draw::shuffled;
use crate::error::{Error, Result};
use crate::ledger::{Evaluation, Ledger};

/// Units that the first round sees: from fewer, Student's t tells next to nothing.
const FIRST_ROUND: usize = 4;

/// Whether and how candidates are raced against each other.
///
/// A race evaluates all K candidates on a few of the objective's N units (calibration windows), drawn
/// by the seed; then those that can still win on half as many more; and so on, until the survivors
/// have seen all N. The cheapest survivor wins. It costs what the full evaluation says: to the bit if
/// what a window costs does not depend on the windows that run with it, as on the CPU; else up to
/// rounding.
///
/// After a round of n units a candidate is dropped if some other one in the race is cheaper beyond
/// doubt: if d, the mean over these units of the difference between the two, and s, the differences'
/// standard deviation, give d - t s / √n √(1 - n / N) > [`COST_RESOLUTION`]. The last factor is there
/// because the units are drawn without replacement from the N that decide. t is the quantile of
/// Student's distribution with n - 1 degrees of freedom that is exceeded with probability
/// error / ((K - 1) R), R being the number of rounds after which candidates are dropped.
///
/// # What the error probability means
///
/// It bounds the probability, over the order in which units are drawn, that the race's winner is not
/// the one that the full evaluation chooses from the same candidates. That one is dropped only if one
/// of the K - 1 others seems cheaper after one of the R rounds, so that the probabilities of these
/// (K - 1) R events add up to at most the error. It is assumed that the mean of n paired differences,
/// divided by its estimated standard error, follows Student's distribution, as it does where
/// differences are normal; few units or heavy tails make that an approximation. Several races, one
/// for each removed block say, err with at most the sum of their probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Racing {
    error: f64,
    seed: u64,
}

impl Racing {
    /// A race whose winner is the wrong one with a probability of at most `error`; 0 = no race, every
    /// candidate is evaluated in full. `seed` draws the order of the units.
    ///
    /// # Errors
    ///
    /// [`Error::RaceError`] for a probability outside [0, 1).
    pub fn new(error: f64, seed: u64) -> Result<Self> {
        if (0.0..1.0).contains(&error) {
            Ok(Self { error, seed })
        } else {
            Err(Error::RaceError { found: error })
        }
    }

    /// Probability of a wrong winner that is put up with; 0 = no race.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// Costs of `candidates`, `None` for those that were dropped. `on_units` as in [`Ledger::unit_costs`].
    ///
    /// A candidate that was evaluated in full without a race only meets the survivors.
    pub(crate) fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        ledger: &mut Ledger<'_>,
        on_units: &mut (dyn FnMut(usize, Option<&Evaluation>) + Send),
    ) -> Result<Vec<Option<f64>>> {
        ledger.ask(candidates);
        let units = ledger.units();
        let rounds = rounds(units);
        let order = shuffled(units, self.seed);
        let tests = candidates.len().saturating_sub(1) * (rounds.len() - 1);
        // Above one half, a cheaper candidate would count as dearer.
        let level = (self.error / tests.max(1) as f64).min(0.5);
        let mut runners: Vec<Runner<'_>> = candidates
            .iter()
            .filter(|candidate| ledger.can_race(candidate))
            .map(Runner::new)
            .collect();
        let mut seen = 0;
        for end in rounds {
            // In the windows' own order, the same for every race of a search: prefill's side of a
            // round is then computed once.
            let mut drawn = order[seen..end].to_vec();
            drawn.sort_unstable();
            seen = end;
            let asked: Vec<_> = runners
                .iter()
                .map(|runner| runner.candidate.clone())
                .collect();
            let costs = ledger.unit_costs(&asked, &drawn, on_units)?;
            for (runner, costs) in runners.iter_mut().zip(costs) {
                runner.costs.extend(costs);
            }
            if seen < units {
                let margin = Margin::new(level, seen, units);
                let is_beaten = |runner: &Runner<'_>| {
                    let mut others = runners.iter();
                    others.any(|other| margin.is_dearer(&runner.costs, &other.costs))
                };
                let beaten: Vec<bool> = runners.iter().map(is_beaten).collect();
                let mut beaten = beaten.into_iter();
                runners.retain(|_| beaten.next() == Some(false));
            }
        }
        Ok(candidates
            .iter()
            .map(|candidate| ledger.cost(candidate))
            .collect())
    }
}

/// A candidate that can still win, and its costs on the units drawn so far.
struct Runner<'c> {
    candidate: &'c PerStage<BlockSet>,
    costs: Vec<f64>,
}

impl<'c> Runner<'c> {
    fn new(candidate: &'c PerStage<BlockSet>) -> Self {
        Self {
            candidate,
            costs: Vec::new(),
        }
    }
}

/// How many units have been seen after each round: 4, half as many more each time, and at last all.
/// Doubling drops less: on `SmolLM2` and 8 windows 40 of 848 evaluations instead of 58 at an error of 0.01.
fn rounds(units: usize) -> Vec<usize> {
    let growing = std::iter::successors(Some(FIRST_ROUND), |seen| Some(seen + seen / 2));
    let mut rounds: Vec<usize> = growing.take_while(|&seen| seen < units).collect();
    rounds.push(units);
    rounds
}

/// The bound that a mean difference over `seen` of `units` has to exceed, in standard deviations.
struct Margin {
    deviations: f64,
}

impl Margin {
    fn new(level: f64, seen: usize, units: usize) -> Self {
        let (n, all) = (seen as f64, units as f64);
        let student = StudentsT::new(0.0, 1.0, n - 1.0).expect("rounds see more than one unit");
        let quantile = -student.inverse_cdf(level);
        Self {
            deviations: quantile * ((1.0 - n / all) / n).sqrt(),
        }
    }

    /// Whether `costs` are higher than `other` beyond doubt.
    fn is_dearer(&self, costs: &[f64], other: &[f64]) -> bool {
        let n = costs.len() as f64;
        let differences = costs.iter().zip(other).map(|(cost, other)| cost - other);
        let mean = differences.clone().sum::<f64>() / n;
        let squares: f64 = differences
            .map(|difference| (difference - mean).powi(2))
            .sum();
        let deviation = (squares / (n - 1.0)).sqrt();
        mean - self.deviations * deviation > COST_RESOLUTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_grow_by_half_and_end_with_all_units() {
        assert_eq!(rounds(16), [4, 6, 9, 13, 16]);
        assert_eq!(rounds(13), [4, 6, 9, 13]);
        assert_eq!(rounds(5), [4, 5]);
        assert_eq!(rounds(4), [4]);
        assert_eq!(rounds(1), [1]);
    }

    #[test]
    fn the_margin_is_students_t_with_the_correction_for_a_finite_population() {
        // t(0.975, 4) = 2.776445, from a table; 5 of 10 units.
        let margin = Margin::new(0.025, 5, 10);
        assert!((margin.deviations - 2.776_445 * (0.5_f64 / 5.0).sqrt()).abs() < 1e-5);
        // Differences 1, 2, 3, 4, 5: mean 3, standard deviation 1.58, so 3 - 1.39 is above 0.
        let costs = [1.0, 2.0, 3.0, 4.0, 5.0];
        assert!(margin.is_dearer(&costs, &[0.0; 5]));
        assert!(!margin.is_dearer(&[0.0; 5], &costs));
        // Differences -1, 0, 1, 2, 3: mean 1.
        assert!(!margin.is_dearer(&costs, &[2.0; 5]));
    }

    #[test]
    fn equal_costs_are_never_told_apart() {
        let margin = Margin::new(0.5, 4, 8);
        assert!(!margin.is_dearer(&[1.0; 4], &[1.0; 4]));
        // Less than the resolution of costs is a tie, too.
        assert!(!margin.is_dearer(&[1.000_000_5; 4], &[1.0; 4]));
        assert!(margin.is_dearer(&[1.000_01; 4], &[1.0; 4]));
    }

    #[test]
    fn a_probability_outside_its_range_is_refused() {
        for error in [-0.1, 1.0, f64::NAN] {
            assert!(matches!(
                Racing::new(error, 0),
                Err(Error::RaceError { .. })
            ));
        }
        assert_eq!(Racing::new(0.0, 0).unwrap(), Racing::default());
    }
}
