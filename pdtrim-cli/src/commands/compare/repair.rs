//! A run's repair, on windows that neither choose blocks nor report on them.

use anyhow::Result;
use pdtrim_core::hash::sha256;
use pdtrim_core::objective::CalibrationLoss;
use pdtrim_core::plan::PlanCalibration;
use pdtrim_core::{BlockSet, PerStage};
use pdtrim_search::calibration::{CalibrationSet, Corpus, WindowDraw};
use pdtrim_search::repair::halved;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::Job;
use super::measure::Comparison;
use crate::repair::{RepairJob, RepairSettings, default_batch, default_tokens, draw_free};
use crate::session::Repaired;

/// What a repair took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RepairCost {
    pub(super) seconds: f64,
    /// Windows that it was fitted on.
    pub(super) calibration: PlanCalibration,
}

impl Comparison<'_> {
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
        let count = windows.calibration.windows().len();
        let batch = default_batch(windows.about.window_tokens).min(count).max(1);
        let settings = RepairSettings::once_through(kind, count, batch, job.seed);
        let Some(settings) = settings else {
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
