//! A run's search, and what it takes.

use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use pdtrim_core::objective::{CalibrationLoss, Rows};
use pdtrim_core::{BlockSet, PerStage};
use pdtrim_search::calibration::CalibrationSet;
use pdtrim_search::{Ledger, Problem, StageProblem, Strategy, Target};
use serde_json::json;

use super::config::Job;
use super::measure::Comparison;
use super::report::SearchCost;
use crate::args::{StrategyArg, TargetArg, ValidationLedger};
use crate::repair::Pairs;
use crate::taylor;

/// A search's blocks and its cost.
type Kept = (PerStage<Vec<usize>>, SearchCost);

impl<'a> Comparison<'a> {
    /// The search, or what an earlier run kept of it. Searches on the same windows share what they
    /// measure; each is charged for all that it asks for.
    pub(super) fn search(
        &self,
        (job, kind): (Job, StrategyArg),
        set: &CalibrationSet,
        pairs: Option<&Pairs>,
    ) -> Result<(PerStage<BlockSet>, SearchCost)> {
        let depth = self.session.depth();
        let name = format!("search-{}", job.file_name());
        let mut about = json!(["search", job, self.configuration.settings(job)]);
        if let Some(pairs) = pairs {
            about = json!([about, pairs.sha256]);
        }
        let fingerprint = self.fingerprint(set, &about)?;
        if let Some((removed, cost)) = self.folder.kept::<Kept>(&name, &fingerprint) {
            let set = |indices: Vec<usize>| BlockSet::from_indices(depth, indices);
            let removed = PerStage {
                prefill: set(removed.prefill)?,
                decode: set(removed.decode)?,
            };
            return Ok((removed, cost));
        }
        let (removed, cost) = match pairs {
            Some(pairs) => self.search_with((job, kind), set, pairs)?,
            None => self.search_plain((job, kind), set)?,
        };
        let indices = PerStage {
            prefill: removed.prefill.to_indices(),
            decode: removed.decode.to_indices(),
        };
        self.folder.keep(&name, &fingerprint, &(indices, cost))?;
        Ok((removed, cost))
    }

    fn search_plain(
        &self,
        (job, kind): (Job, StrategyArg),
        set: &CalibrationSet,
    ) -> Result<(PerStage<BlockSet>, SearchCost)> {
        let validation = self.validation_ledger((job.seed, kind), set)?;
        let loss = self.loss_of(job.seed)?;
        let mut ledgers = self.ledgers.borrow_mut();
        let ledger = match ledgers.entry(job.seed) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(self.resume("evaluations", loss, job.seed, set)?)
            }
        };
        self.charged((job, kind), (set, loss), ledger, validation.as_ref())
    }

    /// Costs with and without pairs are no costs of the same.
    fn search_with(
        &self,
        (job, kind): (Job, StrategyArg),
        set: &CalibrationSet,
        pairs: &Pairs,
    ) -> Result<(PerStage<BlockSet>, SearchCost)> {
        let with_pairs = |windows| pairs.loss(self.session, windows, self.configuration.boundary);
        let loss = with_pairs(&set.calibration)?;
        let name = |of: &str| format!("{of}-{}", pairs.sha256);
        let mut ledger = self.resume(&name("evaluations"), &loss, job.seed, set)?;
        let more = self.validation.get(&job.seed);
        let more = more
            .map(|loss| with_pairs(loss.calibration()))
            .transpose()?;
        let validation = more.as_ref().map(|loss| {
            let ledger = self.resume(&name("validation"), loss, job.seed, set)?;
            Ok::<_, anyhow::Error>(Arc::new(Mutex::new(ledger)))
        });
        let validation = validation.transpose()?;
        self.passes_before.set(pairs.seconds);
        self.charged((job, kind), (set, &loss), &mut ledger, validation.as_ref())
    }

    /// The search, and what it would take by itself.
    fn charged(
        &self,
        (job, kind): (Job, StrategyArg),
        (set, loss): (&CalibrationSet, &CalibrationLoss<'_>),
        ledger: &mut Ledger<'_>,
        validation: Option<&ValidationLedger<'_>>,
    ) -> Result<(PerStage<BlockSet>, SearchCost)> {
        let strategy = self.configuration.told(job, kind);
        let strategy = strategy.search_strategy(validation.cloned())?;
        ledger.open_account();
        let (begun, known) = (Instant::now(), ledger.seconds());
        let known_beside = on_validation(validation, |ledger| {
            ledger.open_account();
            ledger.seconds()
        });
        let removed = match job.row.target {
            TargetArg::Unified => self.unified(job, set, strategy.as_ref(), ledger),
            TargetArg::Pd | TargetArg::PdIndependent => {
                self.stages(job, (set, loss), strategy.as_ref(), ledger)
            }
        }?;
        let elapsed = begun.elapsed().as_secs_f64();
        let account = ledger.account();
        let measured = ledger.seconds() - known;
        let (beside, measured_beside) = on_validation(validation, |ledger| {
            (ledger.account(), ledger.seconds() - known_beside)
        });
        // What is neither: the passes that rank the blocks, and the training of pairs.
        let rest = (elapsed - measured - measured_beside).max(0.0);
        let rest = rest + self.passes_before.take();
        let cost = SearchCost {
            seconds: account.seconds + beside.seconds + rest,
            evaluations: account.evaluations + beside.evaluations,
            window_evaluations: account.unit_evaluations + beside.unit_evaluations,
        };
        Ok((removed, cost))
    }

    fn resume<'l>(
        &self,
        name: &str,
        loss: &'l CalibrationLoss<'l>,
        seed: u64,
        set: &CalibrationSet,
    ) -> Result<Ledger<'l>> {
        let journal = self.folder.journal(&format!("{name}-seed{seed}"));
        let windows = loss.calibration().windows().len();
        let fingerprint = self.fingerprint(set, &json!([name, windows]))?;
        Ok(Ledger::resume(loss, &journal, &fingerprint)?)
    }

    /// For `pdtrim`, if it is to decide on more windows.
    fn validation_ledger(
        &self,
        (seed, kind): (u64, StrategyArg),
        set: &CalibrationSet,
    ) -> Result<Option<ValidationLedger<'a>>> {
        if kind != StrategyArg::Pdtrim {
            return Ok(None);
        }
        let Some(loss) = self.validation.get(&seed) else {
            return Ok(None);
        };
        let mut ledgers = self.validation_ledgers.borrow_mut();
        if let Some(ledger) = ledgers.get(&seed) {
            return Ok(Some(Arc::clone(ledger)));
        }
        let ledger = self.resume("validation", loss, seed, set)?;
        let ledger = Arc::new(Mutex::new(ledger));
        ledgers.insert(seed, Arc::clone(&ledger));
        Ok(Some(ledger))
    }

    fn unified(
        &self,
        job: Job,
        set: &CalibrationSet,
        strategy: &dyn Strategy,
        ledger: &mut Ledger<'_>,
    ) -> Result<PerStage<BlockSet>> {
        let (model, boundary) = (&self.session.model, self.configuration.boundary);
        // One machine: a block's redundancy and importance are those over all tokens.
        let all = CalibrationLoss::new(model, &set.calibration, Rows::All, boundary);
        let mut problem = Problem::new(
            Target::Unified,
            &all.redundancy()?.0.decode,
            job.row.counts.decode,
            self.configuration.protect_ends,
        )?;
        if let Some(importance) = self.importance(set, strategy, Rows::All)? {
            problem = problem.with_importance(&importance.decode)?;
        }
        let mut shown = self.progress.search(&job.to_string());
        let removed = strategy.search(&problem, ledger, &mut |step| shown.hear(&step))?;
        Ok(PerStage::both(removed))
    }

    fn stages(
        &self,
        job: Job,
        (set, loss): (&CalibrationSet, &CalibrationLoss<'_>),
        strategy: &dyn Strategy,
        ledger: &mut Ledger<'_>,
    ) -> Result<PerStage<BlockSet>> {
        let mut problem = StageProblem {
            redundancy: &loss.redundancy()?.0,
            importance: None,
            counts: job.row.counts,
            nested: job.row.target == TargetArg::Pd,
            protect_ends: self.configuration.protect_ends,
        };
        problem.check(strategy)?;
        let importance = self.importance(set, strategy, Rows::Continuation)?;
        problem.importance = importance.as_ref();
        let mut shown = self.progress.search(&job.to_string());
        Ok(problem.search(strategy, ledger, &mut |_, step| shown.hear(&step))?)
    }

    /// Measured once for each seed; a search is charged for it all the same.
    fn importance(
        &self,
        set: &CalibrationSet,
        strategy: &dyn Strategy,
        rows: Rows,
    ) -> Result<Option<PerStage<Vec<f64>>>> {
        if !strategy.wants_importance() {
            return Ok(None);
        }
        let kind = match rows {
            Rows::All => "all",
            Rows::Continuation => "continuation",
        };
        let name = format!("taylor-{kind}-seed{}", set.about.seed);
        let fingerprint = self.fingerprint(set, &json!(["taylor", kind]))?;
        if let Some((importance, seconds)) = self.folder.kept(&name, &fingerprint) {
            self.passes_before.set(seconds);
            return Ok(Some(importance));
        }
        let begun = Instant::now();
        let loss = (rows, self.configuration.boundary);
        let importance = taylor::importance(self.session, &set.calibration, loss, self.progress)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.folder
            .keep(&name, &fingerprint, &(&importance, seconds))?;
        Ok(Some(importance))
    }
}

/// What `look` finds; nothing where there is no such ledger.
fn on_validation<T: Default>(
    ledger: Option<&ValidationLedger<'_>>,
    look: impl FnOnce(&mut Ledger<'_>) -> T,
) -> T {
    ledger.map_or_else(T::default, |ledger| {
        look(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
    })
}
