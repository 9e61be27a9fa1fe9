//! The repair: windows of its own, the fit, and what it wins back on held-out windows.

mod figures;
mod windows;

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
use pdtrim_core::plan::RepairFile;
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockSet, PerStage};
use pdtrim_search::repair::DistillLoss;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub(super) use figures::Repair;
pub(super) use windows::{Sources, Windows};

use super::Run;
use crate::repair::{RepairJob, RepairSettings};
use crate::session::Repaired;
use figures::{Figures, Gain};

/// What a later run can reuse of a repair.
#[derive(Serialize, Deserialize)]
struct Kept {
    file: RepairFile,
    losses: Vec<DistillLoss>,
    seconds: f64,
    found: Figures,
}

impl Run {
    /// What everything depends on that is fitted on the repair's windows.
    pub(super) fn repair_fingerprint(&self) -> Result<String> {
        // The held-out windows take text away from those of the fit.
        let about = self.repair.as_ref();
        let about = about.map(|windows| (&windows.fit.about, &windows.held_out.about));
        Ok(format!("{} {}", self.fingerprint()?, json!(about)))
    }
}

/// Repairs both stages; `None` if there is no run that a kept block is before.
pub(super) fn run(
    run: &Run,
    windows: &Windows,
    removed: &PerStage<BlockSet>,
) -> Result<Option<(Repair, Repaired)>> {
    let count = windows.fit.calibration.windows().len();
    let Some(settings) = RepairSettings::of(&run.config, run.config.repair, count) else {
        return Ok(None);
    };
    let on = run.repair_fingerprint()?;
    let fingerprint = format!(
        "{on} P {} D {} {}",
        removed.prefill,
        removed.decode,
        json!(settings),
    );
    let kept: Option<Kept> = run.folder.kept("repair", &fingerprint);
    let (out, config) = (&run.config.out, run.session.model.config());
    let known = kept.and_then(|kept| {
        // A file that is gone or was changed is made again.
        let weights = RepairWeights::read(&kept.file, out, removed, config).ok()?;
        Some((weights, kept))
    });
    let (weights, kept) = if let Some(known) = known {
        run.progress.say("reusing the repair of an earlier run");
        known
    } else {
        let state = run.folder.state_file("distill");
        let job = RepairJob {
            session: &run.session,
            removed,
            boundary: run.config.boundary,
            windows: &windows.fit.calibration,
            settings,
            state: &state,
            fingerprint: &on,
        };
        let fitted = job.fit(run.progress)?;
        if fitted.weights.is_empty() {
            return Ok(None);
        }
        let file = fitted.weights.write(out)?;
        let repaired = Repaired::new(&fitted.weights, &file.sha256, &run.session.model);
        let found = measure(run, &windows.held_out.calibration, &repaired, removed)?;
        let kept = Kept {
            file,
            losses: fitted.losses,
            seconds: fitted.seconds,
            found,
        };
        run.folder.keep("repair", &fingerprint, &kept)?;
        run.folder.remove_state_file("distill")?;
        (fitted.weights, kept)
    };
    let gain = kept.found.both.text();
    run.progress
        .say(&format!("repair: held-out mean NLL {gain}"));
    let repaired = Repaired::new(&weights, &kept.file.sha256, &run.session.model);
    let repair = Repair {
        kind: settings,
        losses: kept.losses,
        seconds: kept.seconds,
        file: kept.file,
        about: windows.fit.about.clone(),
        held_out: windows.held_out.about.clone(),
        found: kept.found,
    };
    Ok(Some((repair, repaired)))
}

fn measure(
    run: &Run,
    held_out: &Calibration,
    repaired: &Repaired,
    removed: &PerStage<BlockSet>,
) -> Result<Figures> {
    let depth = run.session.depth();
    let dense = PerStage::dense(depth);
    let prefill = PerStage {
        prefill: removed.prefill.clone(),
        decode: BlockSet::empty(depth),
    };
    let step = run.progress.step("measure the repair", 0);
    let cost = |windows, models, removed: &PerStage<BlockSet>| -> Result<f64> {
        let (rows, boundary) = (Rows::Continuation, run.config.boundary);
        let loss = CalibrationLoss::per_stage(models, windows, rows, boundary)?;
        let costs = loss.costs(std::slice::from_ref(removed), &mut |_, _| {
            ControlFlow::Continue(())
        })?;
        costs.first().copied().context("no cost came back")
    };
    let base = Repaired::default();
    let (base, repaired) = (base.models(&run.session), repaired.models(&run.session));
    let dense = cost(held_out, base, &dense)?;
    let gain = |removed| -> Result<Gain> {
        Ok(Gain {
            dense,
            trimmed: cost(held_out, base, removed)?,
            repaired: cost(held_out, repaired, removed)?,
        })
    };
    let figures = Figures {
        cost: cost(&run.calibration, repaired, removed)?,
        prefill: gain(&prefill)?,
        both: gain(removed)?,
    };
    drop(step);
    Ok(figures)
}
