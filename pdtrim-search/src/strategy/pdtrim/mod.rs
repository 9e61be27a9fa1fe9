//! The paper's iteration: a good start, random swaps that may get worse for a while, and all swaps at
//! the end.

mod annealing;
mod contest;
mod space;
mod starts;
mod state;
mod validation;
mod walk;

use pdtrim_core::{BlockSet, PerStage, Stage};

pub use annealing::Annealing;
use contest::Contest;
use space::Space;
use state::State;
pub use validation::Validation;
use walk::Walk;

use super::{Step, Strategy};
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
/// better: the result is never worse than its start, nor than any set that is one swap away, but for
/// what [races](Self::with_racing) may err, and ties go to the lowest blocks. Given blocks are never
/// swapped out.
///
/// For two stages it walks over pairs of sets, measured as they will run: a swap may be one of decode's
/// own blocks, one of prefill's, or, where decode's include prefill's, one of both. There the greedy
/// start takes prefill's blocks from both stages, and a second one is decode's greedy choice with
/// prefill's taken out of it. Ours: the paper searches prefill with D = ∅, where blocks look cheap that
/// decode then has to do without, and does not say how the two sets are brought together.
///
/// The paper also replaces two neighbouring blocks by a distilled one: an objective that has the
/// [distillation set](crate::CandidateSets) measures such sets with it, and nothing changes here.
///
/// ```
/// use pdtrim_core::PerStage;
/// use pdtrim_search::{Annealing, Ledger, PdTrim, Racing, StageProblem, Toy};
///
/// let objective = Toy::new(vec![9.0, 2.0, 1.0, 3.0, 9.0]);
/// let annealing = Annealing { steps: 20, ..Annealing::default() };
/// let strategy = PdTrim::new(annealing)?.with_racing(Racing::new(0.01, 0)?);
/// let problem = StageProblem {
///     redundancy: &PerStage::both(vec![0.5; 5]),
///     importance: None,
///     counts: PerStage { prefill: 1, decode: 2 },
///     nested: true,
///     protect_ends: true,
/// };
/// let mut ledger = Ledger::in_memory(&objective);
/// let removed = problem.search(&strategy, &mut ledger, &mut |_, _| {})?;
/// assert_eq!(removed.decode.to_indices(), [1, 2]);
/// assert!(removed.prefill.is_subset(&removed.decode));
/// # Ok::<(), pdtrim_search::Error>(())
/// ```
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

    /// Candidates are raced, and a proposal is dropped once it is clear that it will not be taken.
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

    /// Walks from the starts, then goes down from the best that were met.
    fn run(
        &self,
        space: &Space<'_>,
        starts: Vec<PerStage<BlockSet>>,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<State> {
        let mut contest = Contest {
            racing: self.racing,
            ledger,
            on_step,
        };
        let mut walk = Walk::from(space, &mut contest, starts.clone())?;
        walk.anneal(&self.annealing)?;
        let among = self.validation.as_ref().map_or(1, Validation::among);
        let mut pairs = walk.cheapest(among);
        let Some(validation) = &self.validation else {
            return contest.descend(space, pairs);
        };
        pairs.extend(starts);
        let mut contest = Contest {
            racing: validation.racing(),
            ledger: &mut validation.ledger(),
            on_step: contest.on_step,
        };
        contest.descend(space, pairs)
    }
}

/// Announces the blocks of a set that was chosen.
fn announce(set: &BlockSet, cost: f64, on_step: &mut (dyn FnMut(Step) + Send)) {
    for (n, block) in set.iter().enumerate() {
        // Parts of the set are sets that may never have been measured.
        let cost = (n + 1 == set.len()).then_some(cost);
        on_step(Step::Chosen { block, cost });
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
        let starts = starts::of_one(problem, self.racing, ledger, on_step)?;
        let found = self.run(&Space::One(problem), starts, ledger, on_step)?;
        let set = problem.target().searched(&found.removed).clone();
        announce(&set.difference(problem.given()), found.cost, on_step);
        Ok(set)
    }

    fn search_stages(
        &self,
        problem: &StageProblem<'_>,
        ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Stage, Step) + Send),
    ) -> Result<PerStage<BlockSet>> {
        let starts = starts::of_stages(problem, self.racing, ledger, on_step)?;
        let on_step = &mut |step| on_step(Stage::Decode, step);
        let found = self.run(&Space::of_stages(problem)?, starts, ledger, on_step)?;
        announce(&found.removed.decode, found.cost, on_step);
        Ok(found.removed)
    }
}
