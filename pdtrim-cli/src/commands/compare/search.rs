//! A run's search, and what it takes.

use std::collections::btree_map::Entry;
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

/// A search's blocks and its cost.
type Kept = (PerStage<Vec<usize>>, SearchCost);

impl Comparison<'_> {
    /// The search, or what an earlier run kept of it. Searches on the same windows share what they
    /// measure; each is charged for all that it asks for.
    pub(super) fn search(
        &self,
        job: Job,
        set: &CalibrationSet,
    ) -> Result<(PerStage<BlockSet>, SearchCost)> {
        let depth = self.session.depth();
        let name = format!("search-{}", job.file_name());
        let fingerprint = self.fingerprint(set, &json!(["search", job]))?;
        if let Some((removed, cost)) = self.folder.kept::<Kept>(&name, &fingerprint) {
            let set = |indices: Vec<usize>| BlockSet::from_indices(depth, indices);
            let removed = PerStage {
                prefill: set(removed.prefill)?,
                decode: set(removed.decode)?,
            };
            return Ok((removed, cost));
        }
        let strategy = job
            .row
            .strategy
            .with_defaults(job.seed, self.configuration.race_error)?;
        let loss = self.loss_of(job.seed)?;
        let mut ledgers = self.ledgers.borrow_mut();
        let ledger = match ledgers.entry(job.seed) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let journal = self
                    .folder
                    .journal(&format!("evaluations-seed{}", job.seed));
                let fingerprint = self.fingerprint(set, &json!("evaluations"))?;
                entry.insert(Ledger::resume(loss, &journal, &fingerprint)?)
            }
        };
        ledger.open_account();
        let (begun, known) = (Instant::now(), ledger.seconds());
        let removed = match job.row.target {
            TargetArg::Unified => self.unified(job, set, strategy.as_ref(), ledger),
            TargetArg::Pd => self.stages(job, loss, strategy.as_ref(), ledger, true),
            TargetArg::PdIndependent => self.stages(job, loss, strategy.as_ref(), ledger, false),
        }?;
        let account = ledger.account();
        let beside = begun.elapsed().as_secs_f64() - (ledger.seconds() - known);
        let cost = SearchCost {
            seconds: account.seconds + beside.max(0.0),
            evaluations: account.evaluations,
            window_evaluations: account.unit_evaluations,
        };
        let indices = PerStage {
            prefill: removed.prefill.to_indices(),
            decode: removed.decode.to_indices(),
        };
        self.folder.keep(&name, &fingerprint, &(indices, cost))?;
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
            counts: job.row.counts,
            nested,
            protect_ends: self.configuration.protect_ends,
        };
        let mut shown = self.progress.search(&job.to_string());
        Ok(problem.search(strategy, ledger, &mut |_, step| shown.hear(&step))?)
    }
}
