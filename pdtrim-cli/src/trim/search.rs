//! Blocks for prefill, then blocks for decode, or one set for both.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use pdtrim_core::objective::{CalibrationLoss, Redundancy, Rows};
use pdtrim_core::{BlockSet, PerStage};
use pdtrim_search::{CandidateSets, Evaluation, Ledger, Problem, StageProblem, Strategy, Target};

use super::Run;
use crate::args::StrategyArg;
use crate::taylor;

/// What was found, and how.
pub(super) struct Found {
    pub(super) method: &'static str,
    pub(super) removed: PerStage<BlockSet>,
    /// J of the dense model, with P removed only, and with P and D.
    pub(super) cost_dense: f64,
    pub(super) cost_prefill: f64,
    pub(super) cost: f64,
    pub(super) trace: Vec<Evaluation>,
    /// On how many windows each candidate was evaluated that a race dropped.
    pub(super) dropped: Vec<usize>,
    /// How large the two candidate sets of each search were; none for a strategy without them.
    pub(super) candidate_sets: Vec<String>,
}

pub(super) fn run(run: &Run, loss: &CalibrationLoss<'_>, redundancy: &Redundancy) -> Result<Found> {
    let has_pairs = run.config.strategy == StrategyArg::Pdtrim;
    let pairs = has_pairs.then(|| loss.pair_redundancy()).transpose()?;
    let ledger = Ledger::resume(loss, &run.folder.journal("search"), &run.fingerprint()?)?;
    let reused = ledger.reused();
    if reused > 0 {
        run.progress.say(&format!(
            "reusing {reused} evaluations of an earlier run (--force starts over)"
        ));
    }
    let validation = run.validation.as_ref().map(|windows| {
        let (rows, boundary) = (Rows::Continuation, run.config.boundary);
        CalibrationLoss::new(&run.session.model, windows, rows, boundary)
    });
    let validation = validation.as_ref().map(|loss| {
        let (journal, windows) = (
            run.folder.journal("validation"),
            run.config.validation_windows,
        );
        let fingerprint = format!("{} and {windows} windows", run.fingerprint()?);
        let ledger = Ledger::resume(loss, &journal, &fingerprint)?;
        Ok::<_, anyhow::Error>(Arc::new(Mutex::new(ledger)))
    });
    let mut search = Search {
        run,
        strategy: run.config.search_strategy(validation.transpose()?)?,
        redundancy: &redundancy.0,
        pairs: pairs.as_ref().map(|pairs| &pairs.0),
        ledger,
        candidate_sets: Vec::new(),
    };
    let removed = if run.config.unified {
        PerStage::both(search.unified()?)
    } else {
        search.by_stage()?
    };
    search.into_found(removed)
}

/// The searches of a run.
struct Search<'s> {
    run: &'s Run,
    strategy: Box<dyn Strategy + 's>,
    redundancy: &'s PerStage<Vec<f64>>,
    pairs: Option<&'s PerStage<Vec<f64>>>,
    ledger: Ledger<'s>,
    candidate_sets: Vec<String>,
}

impl Search<'_> {
    fn unified(&mut self) -> Result<BlockSet> {
        let (redundancy, count) = (self.of_both(self.redundancy), self.run.config.decode_count);
        // One machine: the loss of all tokens, as the strategy's authors measure it.
        let importance = self.importance(Rows::All)?;
        let table = importance.as_ref().map(|table| table.decode.as_slice());
        let tables = (redundancy.as_slice(), table);
        let problem = self.problem(Target::Unified, tables, count)?;
        let pairs = self.pairs.map(|pairs| self.of_both(pairs));
        self.one("both stages", &problem, pairs.as_deref())
    }

    /// A table for both stages together: their means, by their tokens in a window.
    fn of_both(&self, table: &PerStage<Vec<f64>>) -> Vec<f64> {
        let windows = &self.run.calibration;
        let share = windows.prompt_tokens() as f64 / windows.window_tokens() as f64;
        let stages = table.prefill.iter().zip(&table.decode);
        stages
            .map(|(prefill, decode)| share * prefill + (1.0 - share) * decode)
            .collect()
    }

    fn by_stage(&mut self) -> Result<PerStage<BlockSet>> {
        let config = &self.run.config;
        let (redundancy, pairs) = (self.redundancy, self.pairs);
        // Refuse an impossible decode problem before prefill's search has run.
        let both = StageProblem {
            redundancy,
            importance: None,
            counts: PerStage {
                prefill: config.prefill_count,
                decode: config.decode_count,
            },
            nested: !config.independent,
            protect_ends: !config.unprotected_ends,
        };
        both.check(self.strategy.as_ref())?;
        let importance = self.importance(Rows::Continuation)?;
        let table = importance.as_ref().map(|table| table.prefill.as_slice());
        let tables = (redundancy.prefill.as_slice(), table);
        let problem = self.problem(Target::Prefill, tables, config.prefill_count)?;
        let prefill = self.one(
            "prefill",
            &problem,
            pairs.map(|pairs| pairs.prefill.as_slice()),
        )?;
        let target = Target::Decode {
            prefill: prefill.clone(),
            nested: !config.independent,
        };
        let table = importance.as_ref().map(|table| table.decode.as_slice());
        let tables = (redundancy.decode.as_slice(), table);
        let problem = self.problem(target, tables, config.decode_count)?;
        let decode = self.one(
            "decode",
            &problem,
            pairs.map(|pairs| pairs.decode.as_slice()),
        )?;
        let found = PerStage { prefill, decode };
        if config.strategy != StrategyArg::Pdtrim {
            return Ok(found);
        }
        let mut step = self.run.progress.search("search both together");
        let on_step = &mut |event| step.hear(&event);
        let removed = self
            .strategy
            .refine(&both, found.clone(), &mut self.ledger, on_step)?;
        drop(step);
        if removed != found {
            let PerStage { prefill, decode } = &removed;
            let line = format!("search both together: blocks {prefill} and {decode}");
            self.run.progress.say(&line);
        }
        Ok(removed)
    }

    /// The importance of each block, if the strategy goes by it; an earlier run's where that was kept.
    fn importance(&self, rows: Rows) -> Result<Option<PerStage<Vec<f64>>>> {
        if !self.strategy.wants_importance() {
            return Ok(None);
        }
        let Run {
            config,
            folder,
            session,
            calibration,
            progress,
            ..
        } = self.run;
        let fingerprint = format!("{} {rows:?}", self.run.fingerprint()?);
        if let Some(kept) = folder.kept("taylor", &fingerprint) {
            return Ok(Some(kept));
        }
        let loss = (rows, config.boundary);
        let importance = taylor::importance(session, calibration, loss, *progress)?;
        folder.keep("taylor", &fingerprint, &importance)?;
        Ok(Some(importance))
    }

    fn problem(
        &self,
        target: Target,
        (redundancy, importance): (&[f64], Option<&[f64]>),
        count: usize,
    ) -> Result<Problem> {
        let protect_ends = !self.run.config.unprotected_ends;
        let problem = Problem::new(target, redundancy, count, protect_ends)?;
        match importance {
            Some(importance) => Ok(problem.with_importance(importance)?),
            None => Ok(problem),
        }
    }

    fn one(&mut self, what: &str, problem: &Problem, pairs: Option<&[f64]>) -> Result<BlockSet> {
        let progress = self.run.progress;
        if let Some(pairs) = pairs {
            let threshold = self.run.config.distill_threshold()?;
            let sets = CandidateSets::new(problem, pairs, threshold)?;
            let sizes = format!(
                "{what}: {} blocks in the pruning set, {} pairs of joint redundancy {threshold} \
                    or more in the distillation set",
                sets.pruning().len(),
                sets.distillation().len()
            );
            progress.say(&sizes);
            self.candidate_sets.push(sizes);
        }
        let mut step = progress.search(&format!("search {what}"));
        let on_step = &mut |event| step.hear(&event);
        let removed = self.strategy.search(problem, &mut self.ledger, on_step)?;
        drop(step);
        progress.say(&format!("search {what}: blocks {removed}"));
        Ok(removed)
    }

    fn into_found(mut self, removed: PerStage<BlockSet>) -> Result<Found> {
        let none = BlockSet::empty(self.run.session.depth());
        let prefill_only = PerStage {
            prefill: removed.prefill.clone(),
            decode: none.clone(),
        };
        // One at a time: candidates of one call are measured from what they share, which costs the same here.
        let mut cost =
            |candidate| Ok::<_, anyhow::Error>(self.ledger.costs(&[candidate], &mut |_| {})?[0]);
        Ok(Found {
            method: self.strategy.name(),
            cost_dense: cost(PerStage::both(none))?,
            cost_prefill: cost(prefill_only)?,
            cost: cost(removed.clone())?,
            removed,
            trace: self.ledger.trace().to_vec(),
            dropped: self.ledger.dropped().map(|(_, windows)| windows).collect(),
            candidate_sets: self.candidate_sets,
        })
    }
}
