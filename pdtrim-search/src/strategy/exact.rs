//! All sets: the yardstick on small models.

use pdtrim_core::{BlockId, BlockSet};

use super::measuring::{Measuring, State};
use super::{Step, Strategy};
use crate::error::{Error, Result};
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Measures every set of the asked size and takes the cheapest; ties go to the lowest blocks.
///
/// ```
/// use pdtrim_search::{Error, Exact, Problem, Strategy, Target};
///
/// // 10 of 30 blocks can be chosen in 30 million ways.
/// let problem = Problem::new(Target::Unified, &[0.5; 30], 10, false)?;
/// let refused = Exact::default().check(&problem).unwrap_err();
/// assert!(matches!(refused, Error::TooManySets { sets: 30_045_015, .. }));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    /// Sets beyond which a problem is refused.
    pub limit: usize,
}

impl Default for Exact {
    /// At most 20 000 sets: 3 of 30 blocks (3276), or 4 of 28 (20 475) not quite.
    fn default() -> Self {
        Self { limit: 20_000 }
    }
}

impl Strategy for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn check(&self, problem: &Problem) -> Result<()> {
        let given = problem.given();
        let (choices, count) = (problem.choices(given).len(), problem.count() - given.len());
        let sets = subsets(choices, count);
        if sets > self.limit as u128 {
            return Err(Error::TooManySets {
                sets,
                count,
                choices,
                limit: self.limit,
            });
        }
        Ok(())
    }

    fn search(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        self.check(problem)?;
        let given = problem.given();
        let choices = problem.choices(given);
        let asked = problem.count() - given.len();
        let mut all = All {
            measuring: Measuring {
                problem,
                ledger,
                on_step,
            },
            best: None,
        };
        if asked > 0 {
            all.measuring.plan(subsets(choices.len(), asked) as usize);
            all.visit(given, &choices, asked)?;
        }
        Ok(all.measuring.choose(all.best))
    }
}

/// The walk through all sets, in the blocks' order.
struct All<'s, 'o> {
    measuring: Measuring<'s, 'o>,
    best: Option<State>,
}

impl All<'_, '_> {
    /// Measures `removed` with each choice of `asked` blocks of `choices` more. Sets that differ in
    /// their last block only are measured together: they share everything before it.
    fn visit(&mut self, removed: &BlockSet, choices: &[BlockId], asked: usize) -> Result<()> {
        if asked == 1 {
            let sets = choices.iter().map(|&id| removed.with(id)).collect();
            let states = self.measuring.measure(sets)?;
            self.best = self
                .best
                .take()
                .into_iter()
                .chain(states)
                .min_by(State::order);
            return Ok(());
        }
        let firsts = choices.len().saturating_sub(asked - 1);
        for (n, &first) in choices[..firsts].iter().enumerate() {
            self.visit(&removed.with(first), &choices[n + 1..], asked - 1)?;
        }
        Ok(())
    }
}

/// In how many ways `count` of `n` can be chosen; the largest number if it does not fit.
fn subsets(n: usize, count: usize) -> u128 {
    let fewer = count.min(n - count);
    (0..fewer).fold(1_u128, |ways, taken| {
        let more = ways.checked_mul((n - taken) as u128);
        more.map_or(u128::MAX, |more| more / (taken as u128 + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_are_counted() {
        for (n, count, expected) in [(5, 0, 1), (5, 5, 1), (10, 4, 210), (28, 4, 20_475)] {
            assert_eq!(subsets(n, count), expected);
        }
        assert_eq!(subsets(80, 40), 107_507_208_733_336_176_461_620);
        // A saturated product stays larger than any limit.
        assert!(subsets(1000, 500) > u128::from(u64::MAX));
    }
}
