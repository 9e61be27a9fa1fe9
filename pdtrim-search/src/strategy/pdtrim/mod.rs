//! The paper's iteration: a good start, random swaps that may get worse for a while, and all swaps at
//! the end.

mod annealing;
mod closing;
mod joint;
mod validation;
mod walk;

use pdtrim_core::{BlockSet, PerStage};

pub use annealing::Annealing;
use closing::Closing;
use joint::Joint;
pub use validation::Validation;
use walk::Walk;

use super::measuring::Measuring;
use super::{ShortGpt, Sleb, Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;
use crate::race::Racing;
use crate::stages::StageProblem;

/// Iterative removal with simulated annealing (arXiv:2509.04467, iterative block removal).
///
/// Starts from the better of SLEB's and the most redundant (`ShortGPT`'s) choice. Proposes to swap a
/// removed block for a kept one, any such pair, as [`Annealing`] says. Every cost is remembered, and
/// the best set ever met counts. At the end all swaps of it are tried, again and again until none is
/// better: the result is never worse than its start, nor than any set that is one swap away, and ties
/// go to the lowest blocks. Given blocks are never swapped out.
///
/// Prefill is searched with D = ∅, and decode then has to be without prefill's blocks too: so at the end
/// both sets are moved together ([`refine`](Strategy::refine)), by their cost as they will run. The start
/// is the better of what was found and of the other order: decode's blocks with a whole prefill, and
/// prefill's out of those. Ours; the paper does not say how the two sets are brought together.
///
/// The paper also replaces two neighbouring blocks by a distilled one; without a repair that trains it,
/// the [distillation set](crate::CandidateSets) is not used.
pub struct PdTrim<'v> {
    annealing: Annealing,
    racing: Racing,
    validation: Option<Validation<'v>>,
}

impl<'v> PdTrim<'v> {
    /// The search with this annealing; no racing and no validation.
    ///
    /// # Errors
    ///
    /// [`Error::Temperatures`](crate::Error::Temperatures) unless the start temperature is finite, the
    /// end temperature positive and no higher.
    pub fn new(annealing: Annealing) -> Result<Self> {
        annealing.check()?;
        Ok(Self {
            annealing,
            racing: Racing::default(),
            validation: None,
        })
    }

    /// SLEB's choice, one of the two starts, is raced; everything after it is evaluated in full.
    #[must_use]
    pub fn with_racing(self, racing: Racing) -> Self {
        Self { racing, ..self }
    }

    /// After the walk, everything is decided on other windows: what is promised of starts and swaps then
    /// holds there, but for what a race may err.
    #[must_use]
    pub fn with_validation(self, validation: Validation<'v>) -> Self {
        Self {
            validation: Some(validation),
            ..self
        }
    }

    /// The sets to start from. The blocks that SLEB chooses on its way are not this search's choice.
    fn starts(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<Vec<BlockSet>> {
        let racing = self.racing;
        let sleb = Sleb { racing }.search(problem, ledger, &mut |step| {
            if !matches!(step, Step::Chosen { .. }) {
                on_step(step);
            }
        })?;
        let most_redundant = ShortGpt.search(problem, ledger, &mut |_| {})?;
        Ok(vec![sleb, most_redundant])
    }
}

impl Strategy for PdTrim<'_> {
    fn name(&self) -> &'static str {
        "pdtrim"
    }

    fn search(
        &self,
        problem: &Problem,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        if problem.count() == problem.given().len() {
            return Ok(problem.given().clone());
        }
        let starts = self.starts(problem, ledger, on_step)?;
        let measuring = Measuring {
            problem,
            ledger,
            on_step,
        };
        let mut walk = Walk::from(measuring, starts.clone())?;
        walk.anneal(&self.annealing)?;
        let among = self.validation.as_ref().map_or(1, Validation::among);
        let mut sets: Vec<BlockSet> = walk
            .cheapest(among)
            .into_iter()
            .map(|met| met.set)
            .collect();
        let mut measuring = walk.into_measuring();
        let chosen = if let Some(validation) = &self.validation {
            sets.extend(starts);
            Closing {
                problem,
                racing: validation.racing(),
                ledger: &mut validation.ledger(),
                on_step: measuring.on_step,
            }
            .run(sets)?
        } else {
            Closing {
                problem,
                racing: Racing::default(),
                ledger: measuring.ledger,
                on_step: measuring.on_step,
            }
            .run(sets)?
        };
        Ok(measuring.choose(Some(chosen)))
    }

    fn refine(
        &self,
        problem: &StageProblem<'_>,
        found: PerStage<BlockSet>,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<PerStage<BlockSet>> {
        if let Some(validation) = &self.validation {
            let joint = Joint {
                problem,
                racing: validation.racing(),
                ledger: &mut validation.ledger(),
                on_step,
            };
            return joint.refine(found);
        }
        let joint = Joint {
            problem,
            racing: Racing::default(),
            ledger,
            on_step,
        };
        joint.refine(found)
    }
}
