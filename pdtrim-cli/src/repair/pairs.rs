//! Pairs of neighbouring blocks for which one repaired block stands while blocks are searched.

use std::time::Instant;

use anyhow::Result;
use pdtrim_core::hash::sha256;
use pdtrim_core::objective::{Calibration, CalibrationLoss, DistilledPairs, Rows};
use pdtrim_core::plan::RepairFile;
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage};
use pdtrim_search::repair::{DistillResume, LinearRepair};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{KEPT_EVERY, RepairSettings, told};
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::session::{Repaired, Session};

/// Pairs that are to be repaired, and with what.
pub(crate) struct PairsJob<'a> {
    pub(crate) session: &'a Session,
    /// The first blocks of each stage's pairs.
    pub(crate) firsts: PerStage<BlockSet>,
    pub(crate) boundary: Boundary,
    /// Windows that neither choose blocks nor report on them.
    pub(crate) windows: &'a Calibration,
    pub(crate) settings: RepairSettings,
    /// Where the weights are kept, and as what.
    pub(crate) folder: &'a RunFolder,
    pub(crate) name: &'a str,
    /// What they depend on beside pairs and settings: model, windows, boundary.
    pub(crate) fingerprint: &'a str,
}

/// Repaired pairs of a model.
pub(crate) struct Pairs {
    models: Repaired,
    firsts: PerStage<BlockSet>,
    /// What they follow from.
    pub(crate) sha256: String,
    /// What was spent on them, in this run or an earlier one.
    pub(crate) seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    file: RepairFile,
    seconds: f64,
}

impl PairsJob<'_> {
    /// Fits the pairs, or reads what an earlier run fitted; `None` if there are none.
    pub(crate) fn fit(self, progress: Progress) -> Result<Option<Pairs>> {
        if self.firsts.is_dense() {
            return Ok(None);
        }
        let firsts = [&self.firsts.prefill, &self.firsts.decode].map(BlockSet::to_indices);
        let fingerprint = json!([self.fingerprint, firsts, self.settings]).to_string();
        let kept: Option<Kept> = self.folder.kept(self.name, &fingerprint);
        let model = &self.session.model;
        let weights_in = self.folder.state_file(&format!("{}-weights", self.name));
        let known = kept.and_then(|kept| {
            // A file that is gone or was changed is made again.
            let dense = PerStage::dense(self.session.depth());
            let read = RepairWeights::read(&kept.file, &weights_in, &dense, model.config());
            Some((read.ok()?, kept.seconds))
        });
        let (weights, seconds) = if let Some(known) = known {
            known
        } else {
            let begun = Instant::now();
            let weights = self.weights(&fingerprint, progress)?;
            let seconds = begun.elapsed().as_secs_f64();
            let file = weights.write(&weights_in)?;
            self.folder
                .keep(self.name, &fingerprint, &Kept { file, seconds })?;
            self.folder.remove_state_file(&self.training())?;
            (weights, seconds)
        };
        let sha256 = sha256(fingerprint.as_bytes());
        Ok(Some(Pairs {
            models: Repaired::new(&weights, &sha256, model),
            firsts: self.firsts,
            sha256,
            seconds,
        }))
    }

    /// Name of what is kept of an unfinished training.
    fn training(&self) -> String {
        format!("{}-training", self.name)
    }

    fn weights(&self, fingerprint: &str, progress: Progress) -> Result<RepairWeights> {
        let (model, windows) = (&self.session.model, self.windows);
        match self.settings {
            RepairSettings::Linear => {
                let _step = progress.step("fit the pairs", 0);
                let linear = LinearRepair::default();
                Ok(linear.fit_pairs(model, windows, &self.firsts, self.boundary)?)
            }
            RepairSettings::Distill(repair) => {
                let resume = DistillResume {
                    path: &self.folder.state_file(&self.training()),
                    fingerprint,
                    every: KEPT_EVERY,
                };
                let fit = told("pairs", progress, |on_step| {
                    repair.fit_pairs(
                        model,
                        windows,
                        &self.firsts,
                        self.boundary,
                        Some(resume),
                        on_step,
                    )
                })?;
                Ok(fit.weights)
            }
        }
    }
}

impl Pairs {
    /// J on these windows with the pairs.
    pub(crate) fn loss<'a>(
        &'a self,
        session: &'a Session,
        windows: &'a Calibration,
        boundary: Boundary,
    ) -> Result<CalibrationLoss<'a>> {
        let loss = CalibrationLoss::new(&session.model, windows, Rows::Continuation, boundary);
        let models = self.models.models(session);
        Ok(loss.with_pairs(PerStage {
            prefill: DistilledPairs::new(models.prefill, self.firsts.prefill.clone())?,
            decode: DistilledPairs::new(models.decode, self.firsts.decode.clone())?,
        })?)
    }

    /// The first blocks of the pairs for which one block stands in stages without `removed`.
    pub(crate) fn standing(&self, removed: &PerStage<BlockSet>) -> PerStage<Vec<usize>> {
        let of = |firsts: &BlockSet, removed: &BlockSet| {
            let standing = firsts.iter().filter(|&id| removed.starts_after(id));
            standing.map(BlockId::index).collect()
        };
        PerStage {
            prefill: of(&self.firsts.prefill, &removed.prefill),
            decode: of(&self.firsts.decode, &removed.decode),
        }
    }
}
