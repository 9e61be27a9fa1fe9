//! Racing: candidates that cannot win any more are not evaluated to the end.

mod margin;

use pdtrim_core::{BlockSet, PerStage};

use self::margin::Margin;
use crate::error::{Error, Result};
use crate::ledger::{Evaluation, Ledger};
use pdtrim_core::draw::shuffled;

/// Units that the first round sees: from fewer, Student's t tells next to nothing.
const FIRST_ROUND: usize = 4;

/// Whether and how candidates are raced against each other.
///
/// A race evaluates all K candidates on a few of the objective's N units (calibration windows), drawn
/// by the seed; then those that can still win on half as many more; and so on, until the survivors
/// have seen all N. The cheapest survivor wins, or, for a beam, the w cheapest do. It costs what the full evaluation says: to the bit if
/// what a window costs does not depend on the windows that run with it, as on the CPU; else up to
/// rounding.
///
/// After a round of n units a candidate is dropped if the one that looks cheapest is cheaper beyond
/// doubt: if d, the mean over these units of the difference between the two, and s, the differences'
/// standard deviation, give d - t s / √n √(1 - n / N) >
/// [`COST_RESOLUTION`](pdtrim_core::objective::COST_RESOLUTION). The last factor is there because the
/// units are drawn without replacement from the N that decide. t is the quantile of Student's distribution
/// with n - 1 degrees of freedom that is exceeded with probability error / (w (K - 1) R), R being the number
/// of rounds after which candidates are dropped. Where w win, all of the w that look cheapest have to be
/// cheaper beyond doubt.
///
/// From a few units, s is hardly known, and t is large. But the candidates of a race scatter alike: so
/// from eight differences on, s² is the mean of its own estimate and of what all of them have in common,
/// weighted by their degrees of freedom, which then count for t as well (the moderated t of Smyth 2004,
/// doi:10.2202/1544-6115.1027: a scaled inverse chi-squared distribution is fitted to the variances).
///
/// # What the error probability means
///
/// It bounds the probability, over the order in which units are drawn, that the race's winner is not
/// the one that the full evaluation chooses from the same candidates. That one is dropped only if one
/// of the K - 1 others seems cheaper after one of the R rounds, so that the probabilities of these
/// (K - 1) R events add up to at most the error. One of several winners is dropped only if all that look
/// cheapest seem cheaper, of which one at least is not, so there are w times as many such events. It is assumed that the mean of n paired differences,
/// divided by its estimated standard error, follows Student's distribution, as it does where
/// differences are normal and their variances are drawn as stated; few units or heavy tails make that
/// an approximation. Several races, one for each removed block say, err with at most the sum of their
/// probabilities.
///
/// ```
/// use pdtrim_search::{Racing, Sleb};
///
/// // Each removal is another than the full evaluation's with a probability of at most 1 %.
/// let strategy = Sleb { racing: Racing::new(0.01, 7)? };
/// assert_eq!(strategy.racing.error(), 0.01);
/// assert!(Racing::new(1.0, 7).is_err());
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
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

    /// Costs of `candidates`, `None` for those that were dropped because they are not among the `winners`
    /// cheapest. `on_units` as in [`Ledger::unit_costs`].
    ///
    /// A candidate that was evaluated in full without a race only meets the survivors.
    pub(crate) fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        winners: usize,
        ledger: &mut Ledger<'_>,
        on_units: &mut (dyn FnMut(usize, Option<&Evaluation>) + Send),
    ) -> Result<Vec<Option<f64>>> {
        ledger.ask(candidates);
        let runners = candidates
            .iter()
            .map(|candidate| Runner::new(candidate, 0.0));
        self.run(runners.collect(), winners, ledger, on_units)?;
        Ok(candidates
            .iter()
            .map(|candidate| ledger.cost(candidate))
            .collect())
    }

    /// The cost of `challenger`; `None` if it is dearer than `incumbent` by more than `by` beyond doubt.
    /// `on_units` as in [`Ledger::unit_costs`].
    pub(crate) fn challenge(
        &self,
        (challenger, incumbent): (&PerStage<BlockSet>, &PerStage<BlockSet>),
        by: f64,
        ledger: &mut Ledger<'_>,
        on_units: &mut (dyn FnMut(usize, Option<&Evaluation>) + Send),
    ) -> Result<Option<f64>> {
        ledger.ask(std::slice::from_ref(challenger));
        let runners = vec![Runner::new(challenger, 0.0), Runner::new(incumbent, by)];
        self.run(runners, 1, ledger, on_units)?;
        Ok(ledger.cost(challenger))
    }

    /// Lets them run until all units are seen, dropping those that cannot be among the `winners` any more.
    fn run(
        &self,
        mut runners: Vec<Runner<'_>>,
        winners: usize,
        ledger: &mut Ledger<'_>,
        on_units: &mut (dyn FnMut(usize, Option<&Evaluation>) + Send),
    ) -> Result<()> {
        let units = ledger.units();
        let rounds = rounds(units);
        let order = shuffled(units, self.seed);
        let tests = winners * runners.len().saturating_sub(1) * (rounds.len() - 1);
        // Above one half, a cheaper candidate would count as dearer.
        let level = (self.error / tests.max(1) as f64).min(0.5);
        runners.retain(|runner| ledger.can_race(runner.candidate));
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
                let costs = costs.into_iter().map(|cost| cost + runner.handicap);
                runner.costs.extend(costs);
            }
            if seen < units {
                let costs: Vec<&[f64]> = runners.iter().map(|runner| &runner.costs[..]).collect();
                let margin = Margin::new(level, seen, units);
                let mut dearer = margin.dearer(&costs, winners).into_iter();
                runners.retain(|_| dearer.next() == Some(false));
            }
        }
        Ok(())
    }
}

/// A candidate that can still win, and its costs on the units drawn so far, each with the handicap.
struct Runner<'c> {
    candidate: &'c PerStage<BlockSet>,
    handicap: f64,
    costs: Vec<f64>,
}

impl<'c> Runner<'c> {
    fn new(candidate: &'c PerStage<BlockSet>, handicap: f64) -> Self {
        Self {
            candidate,
            handicap,
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
