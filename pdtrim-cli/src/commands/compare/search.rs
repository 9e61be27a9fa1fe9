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

impl Comparison<'_> {
    /// The search, with the pass that measures redundancy.
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
            TargetArg::Pd => self.stages(job, loss, strategy.as_ref(), &mut ledger, true),
            TargetArg::PdIndependent => {
                self.stages(job, loss, strategy.as_ref(), &mut ledger, false)
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
        // One machine: a block's redundancy is that over all tokens.
        let all = CalibrationLoss::new(model, &set.calibration, Rows::All, boundary);
        let problem = Problem::new(
            Target::Unified,
            &all.redundancy()?.0.decode,
            job.row.counts.decode,
            self.configuration.protect_ends,
        )?;
        let mut shown = self.progress.search(&job.to_string());
        let removed = strategy.search(&problem, ledger, &mut |step| shown.hear(&step))?;
        Ok(PerStage::both(removed))
    }

    fn stages(
        &self,
        job: Job,
        loss: &CalibrationLoss<'_>,
        strategy: &dyn Strategy,
        ledger: &mut Ledger<'_>,
        nested: bool,
    ) -> Result<PerStage<BlockSet>> {
        let problem = StageProblem {
            redundancy: &loss.redundancy()?.0,
            importance: None,
            counts: job.row.counts,
            nested,
            protect_ends: self.configuration.protect_ends,
        };
        let mut shown = self.progress.search(&job.to_string());
        Ok(problem.search(strategy, ledger, &mut |_, step| shown.hear(&step))?)
    }
}
