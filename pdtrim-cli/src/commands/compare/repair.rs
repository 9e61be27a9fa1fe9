//! A run's repair, on windows that neither choose blocks nor report on them.

use anyhow::Result;
use pdtrim_core::hash::sha256;
use pdtrim_core::objective::CalibrationLoss;
use pdtrim_core::plan::PlanCalibration;
use pdtrim_core::{BlockSet, PerStage, Stage};
use pdtrim_search::calibration::{CalibrationSet, Corpus, WindowDraw};
use pdtrim_search::repair::halved;
use pdtrim_search::{CandidateSets, DistillThreshold, Problem, Target};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::Job;
use super::measure::Comparison;
use crate::args::RepairArg;
use crate::repair::{
    Pairs, PairsJob, RepairJob, RepairSettings, default_batch, default_tokens, draw_free,
};
use crate::session::Repaired;

/// What a repair took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RepairCost {
    pub(super) seconds: f64,
    /// Windows that it was fitted on.
    pub(super) calibration: PlanCalibration,
}

impl Comparison<'_> {
    /// The pairs with which a job is searched; `None` if it has none, or no two blocks are redundant enough.
    pub(super) fn pairs(&self, job: Job, set: &CalibrationSet) -> Result<Option<Pairs>> {
        if !self.configuration.has_pairs(job) {
            return Ok(None);
        }
        RepairSettings::check_dtype(job.row.repair, self.session.dtype)?;
        let loss = self.loss_of(job.seed)?;
        let windows = self.repair_windows(job)?;
        let Some(settings) = settings(self.configuration.pairs, job.seed, &windows) else {
            return Ok(None);
        };
        let name = format!("pairs-{}-seed{}", job.row.repair, job.seed);
        let fingerprint = self.fingerprint(set, &json!(["pairs", windows.about]))?;
        let pairs = PairsJob {
            session: self.session,
            firsts: self.firsts(loss)?,
            boundary: self.configuration.boundary,
            windows: &windows.calibration,
            settings,
            folder: self.folder,
            name: &name,
            fingerprint: &fingerprint,
        };
        pairs.fit(self.progress)
    }

    fn firsts(&self, loss: &CalibrationLoss<'_>) -> Result<PerStage<BlockSet>> {
        let threshold = DistillThreshold::new(self.configuration.distill_threshold)?;
        let (redundancy, pairs) = (loss.redundancy()?.0, loss.pair_redundancy()?.0);
        let of = |stage: Stage| -> Result<BlockSet> {
            let redundancy = redundancy.of(stage);
            let protect_ends = self.configuration.protect_ends;
            let problem = Problem::new(Target::Unified, redundancy, 0, protect_ends)?;
            let sets = CandidateSets::new(&problem, pairs.of(stage), threshold)?;
            Ok(sets.distillation().clone())
        };
        Ok(PerStage {
            prefill: of(Stage::Prefill)?,
            decode: of(Stage::Decode)?,
        })
    }

    /// The stages' models with the run's repair, if it has one.
    pub(super) fn repair(
        &self,
        job: Job,
        set: &CalibrationSet,
        removed: &PerStage<BlockSet>,
    ) -> Result<(Repaired, Option<RepairCost>)> {
        let kind = job.row.repair;
        if kind.is_none() {
            return Ok((Repaired::default(), None));
        }
        let windows = self.repair_windows(job)?;
        let Some(settings) = settings(kind, job.seed, &windows) else {
            return Ok((Repaired::default(), None));
        };
        RepairSettings::check_dtype(kind, self.session.dtype)?;
        let fingerprint = self.fingerprint(set, &json!(["repair", windows.about]))?;
        let file = format!("repair-{}", job.file_name());
        let fitted = RepairJob {
            session: self.session,
            removed,
            boundary: self.configuration.boundary,
            windows: &windows.calibration,
            settings,
            state: &self.folder.state_file(&file),
            fingerprint: &fingerprint,
        }
        .fit(self.progress)?;
        self.folder.remove_state_file(&file)?;
        let cost = RepairCost {
            seconds: fitted.seconds,
            calibration: windows.about,
        };
        if fitted.weights.is_empty() {
            return Ok((Repaired::default(), Some(cost)));
        }
        // The weights are in no file; what they follow from is their name.
        let from = json!([fingerprint, settings, format!("{removed:?}")]).to_string();
        let name = sha256(from.as_bytes());
        let repaired = Repaired::new(&fitted.weights, &name, &self.session.model);
        Ok((repaired, Some(cost)))
    }

    /// As long as held-out windows, which say how the model will be used.
    fn repair_windows(&self, job: Job) -> Result<CalibrationSet> {
        let window_tokens = self.held_out.about.window_tokens;
        let tokens = default_tokens(job.row.repair);
        let wanted = WindowDraw {
            seed: job.seed + 1,
            items: None,
            // Each stage has half of the tokens of each window.
            windows: (2 * tokens).div_ceil(window_tokens),
            window_tokens,
        };
        let corpus: &Corpus = self.corpus;
        let mut taken = vec![&self.held_out.calibration];
        taken.extend(self.losses.get(&job.seed).map(CalibrationLoss::calibration));
        taken.extend(
            self.validation
                .get(&job.seed)
                .map(CalibrationLoss::calibration),
        );
        let drawn = draw_free(self.session, corpus, wanted, false, &taken, self.progress)?;
        Ok(halved(drawn)?)
    }
}

fn settings(kind: RepairArg, seed: u64, windows: &CalibrationSet) -> Option<RepairSettings> {
    let count = windows.calibration.windows().len();
    let batch = default_batch(windows.about.window_tokens).min(count).max(1);
    RepairSettings::once_through(kind, count, batch, seed)
}
