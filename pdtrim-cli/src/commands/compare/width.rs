//! Rows whose blocks are narrower instead of fewer.

use std::time::Instant;

use anyhow::Result;
use pdtrim_core::PerStage;
use pdtrim_core::width::{BlockSize, StageWidths};
use pdtrim_search::calibration::CalibrationSet;

use super::config::Job;
use super::measure::{Comparison, Trimmed};
use super::report::SearchCost;
use crate::args::{TargetArg, WidthArg};
use crate::session::Repaired;
use crate::width::{WidthJob, WidthTarget};

impl Comparison<'_> {
    /// As large a share of the parameters of the model's blocks as the counts are of their number.
    pub(super) fn narrow(
        &self,
        job: Job,
        method: WidthArg,
        set: &CalibrationSet,
    ) -> Result<Trimmed> {
        let session = self.session;
        let removed = PerStage::dense(session.depth());
        let share = |count: usize| count as f64 / session.depth() as f64;
        let target = match job.row.target {
            TargetArg::Unified => WidthTarget::Unified(share(job.row.counts.decode)),
            TargetArg::Pd | TargetArg::PdIndependent => WidthTarget::Stages(PerStage {
                prefill: share(job.row.counts.prefill),
                decode: share(job.row.counts.decode),
            }),
        };
        let strategy = method.strategy();
        let strategy = strategy.ok_or_else(|| anyhow::anyhow!("no way to make blocks narrower"))?;
        let step = self.progress.step(&job.to_string(), 0);
        let begun = Instant::now();
        let widths = WidthJob {
            model: &session.model,
            calibration: &set.calibration,
            removed: &removed,
            boundary: self.configuration.boundary,
            method,
            target,
            compensated: !self.configuration.no_compensation,
        }
        .choose(strategy.as_ref())?;
        let seconds = begun.elapsed().as_secs_f64();
        drop(step);
        let size = BlockSize::of(session.model.config());
        let parameters = |stage: &StageWidths| {
            let removed = stage.values();
            removed.map(|block| size.removed_parameters(block)).sum()
        };
        let settings = self.configuration.settings(job);
        let about = self.fingerprint(set, &serde_json::json!([job, settings]))?;
        Ok(Trimmed {
            repaired: Repaired::narrow_as(&widths, &about, &session.model),
            width: Some(PerStage {
                prefill: parameters(&widths.removed.prefill),
                decode: parameters(&widths.removed.decode),
            }),
            removed,
            search: SearchCost {
                seconds,
                evaluations: 0,
                window_evaluations: 0,
            },
            repair: None,
        })
    }
}
