//! A run's search, and what it takes.

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
use crate::args::TargetArg;
use crate::taylor;

impl Comparison<'_> {
    /// The search, with the passes that measure redundancy and, for a strategy that goes by it, importance.
    pub(super) fn search(
        &self,
        job: Job,
        set: &CalibrationSet,
        loss: &CalibrationLoss<'_>,
    ) -> Result<(PerStage<BlockSet>, SearchCost)> {
        let journal = self.folder.journal(&format!("search-{}", job.file_name()));
        let mut ledger = Ledger::resume(loss, &journal, &self.fingerprint(set, &json!(job))?)?;
        let strategy = job.row.strategy.with_defaults(job.seed)?;
        let resumed = ledger.reused() > 0;
        let begun = Instant::now();
        let removed = match job.row.target {
            TargetArg::Unified => self.unified(job, set, strategy.as_ref(), &mut ledger),
            TargetArg::Pd | TargetArg::PdIndependent => {
                self.stages(job, (set, loss), strategy.as_ref(), &mut ledger)
            }
        }?;
        let dropped: usize = ledger.dropped().map(|(_, windows)| windows).sum();
        let evaluations = ledger.trace().len();
        let cost = SearchCost {
            seconds: (!resumed).then(|| begun.elapsed().as_secs_f64()),
            evaluations,
            window_evaluations: evaluations * ledger.units() + dropped,
        };
        Ok((removed, cost))
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

    fn importance(
        &self,
        set: &CalibrationSet,
        strategy: &dyn Strategy,
        rows: Rows,
    ) -> Result<Option<PerStage<Vec<f64>>>> {
        let measure = || {
            let loss = (rows, self.configuration.boundary);
            taylor::importance(self.session, &set.calibration, loss, self.progress)
        };
        strategy.wants_importance().then(measure).transpose()
    }
}
