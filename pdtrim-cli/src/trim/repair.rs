//! The repair: windows of its own, the fit, and what it wins back on held-out windows.

use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
use pdtrim_core::plan::{PlanCalibration, PlanScore, RepairFile};
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockSet, PerStage};
use pdtrim_eval::Mode;
use pdtrim_eval::page::{Item, Section};
use pdtrim_search::Error;
use pdtrim_search::calibration::{CalibrationSet, Corpus, Part, WindowDraw};
use pdtrim_search::repair::{LinearRepair, Run as RemovedRun, halved};
use serde::{Deserialize, Serialize};

use super::Run;
use crate::args::{RepairArg, TrimConfig};
use crate::calibration;
use crate::progress::Progress;
use crate::session::{Repaired, Session};

/// Tokens of each stage that a repair is fitted on if the user does not say how many.
const DEFAULT_TOKENS: usize = 8192;

/// What a repair's windows are drawn from.
pub(super) struct Sources {
    fit: Corpus,
    held_out: Corpus,
}

/// The windows of a repair; they share no text with each other or with those of the search.
pub(super) struct Windows {
    fit: CalibrationSet,
    held_out: CalibrationSet,
}

/// What is known of a repaired model.
pub(super) struct Repair {
    pub(super) file: RepairFile,
    /// Windows that it was fitted on.
    pub(super) about: PlanCalibration,
    /// Windows that the figures are measured on.
    pub(super) held_out: PlanCalibration,
    pub(super) found: Figures,
}

/// Mean NLL with the same blocks removed, before and after the repair.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Gain {
    pub(super) dense: f64,
    pub(super) trimmed: f64,
    pub(super) repaired: f64,
}

/// What was measured of a repair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// J on the search's own windows, with both stages repaired.
    pub(super) cost: f64,
    /// On held-out windows: prefill alone, and both stages.
    pub(super) prefill: Gain,
    pub(super) both: Gain,
}

/// What a later run can reuse of a repair.
#[derive(Serialize, Deserialize)]
struct Kept {
    file: RepairFile,
    found: Figures,
}

impl Gain {
    /// In words, with the share of the rise that was won back.
    pub(super) fn text(&self) -> String {
        let Self {
            dense,
            trimmed,
            repaired,
        } = self;
        let rise = trimmed - dense;
        let share = if rise > 0.0 {
            let percent = (trimmed - repaired) / rise * 100.0;
            format!("{percent:.1} % of the rise won back")
        } else {
            "no rise to win back".to_owned()
        };
        format!("dense {dense:.3}, trimmed {trimmed:.3}, repaired {repaired:.3}: {share}")
    }
}

impl Sources {
    /// Reads and checks the files; `None` without a repair.
    pub(super) fn read(config: &TrimConfig) -> Result<Option<Self>> {
        if config.repair == RepairArg::None {
            return Ok(None);
        }
        let data = config.data.as_deref();
        let fit = config.repair_calibration.as_ref();
        let fit = fit.unwrap_or(&config.calibration);
        Ok(Some(Self {
            fit: Corpus::read(fit, data, Part::Calibration)?,
            held_out: Corpus::read(&config.calibration, data, Part::HeldOut)?,
        }))
    }

    /// Draws windows that share no text with those of the search.
    pub(super) fn draw(
        &self,
        session: &Session,
        config: &TrimConfig,
        selection: &Calibration,
        progress: Progress,
    ) -> Result<Windows> {
        let draw = |corpus: &Corpus, windows, is_asked, taken: &[&Calibration]| {
            let wanted = WindowDraw {
                // Items of another seed; a text's windows are told apart by what is in them.
                seed: config.calibration_seed + 1,
                windows,
                items: None,
                ..config.window_draw()
            };
            draw(session, corpus, wanted, is_asked, taken, progress)
        };
        let held_out = draw(&self.held_out, config.windows.get(), false, &[selection])?;
        let tokens = config.repair_tokens;
        let windows = tokens.map_or(DEFAULT_TOKENS, Into::into);
        // Each stage has half of the tokens of each window.
        let windows = (2 * windows).div_ceil(config.window_tokens.get());
        let taken = [selection, &held_out.calibration];
        let fit = halved(draw(&self.fit, windows, tokens.is_some(), &taken)?)?;
        Ok(Windows { fit, held_out })
    }
}

/// Draws windows that share no text with `taken`; where fewer are there and no number is asked, half as
/// many and so on.
fn draw(
    session: &Session,
    corpus: &Corpus,
    mut wanted: WindowDraw,
    is_asked: bool,
    taken: &[&Calibration],
    progress: Progress,
) -> Result<CalibrationSet> {
    let asked = wanted.windows;
    loop {
        let drawn = calibration::draw_disjoint(session, corpus, &wanted, taken, progress);
        let error = match drawn {
            Ok(set) => {
                if wanted.windows < asked {
                    progress.say(&format!(
                        "repair: {} windows of {}, which has no more that are free",
                        wanted.windows,
                        corpus.name()
                    ));
                }
                return Ok(set);
            }
            Err(error) => error,
        };
        let is_short = matches!(
            error,
            Error::TooFewTokens { .. }
                | Error::TooFewDisjoint { .. }
                | Error::Objective(pdtrim_core::Error::CalibrationText { .. })
        );
        if is_asked || !is_short || wanted.windows == 1 {
            let hint = "name another source with --repair-calibration, or fewer --repair-tokens";
            let context = format!("cannot draw repair windows from {} ({hint})", corpus.name());
            return Err(anyhow!(error)).context(context);
        }
        wanted.windows /= 2;
    }
}

/// Repairs both stages; `None` if there is no run that a kept block is before.
pub(super) fn run(
    run: &Run,
    windows: &Windows,
    removed: &PerStage<BlockSet>,
) -> Result<Option<(Repair, Repaired)>> {
    let fingerprint = format!(
        "{} P {} D {} {}",
        run.fingerprint()?,
        removed.prefill,
        removed.decode,
        serde_json::json!([windows.fit.about, windows.held_out.about]),
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
        let Some(weights) = fit(run, windows, removed)? else {
            return Ok(None);
        };
        let file = weights.write(out)?;
        let repaired = Repaired::new(&weights, &file.sha256, &run.session.model);
        let found = measure(run, &windows.held_out.calibration, &repaired, removed)?;
        let kept = Kept { file, found };
        run.folder.keep("repair", &fingerprint, &kept)?;
        (weights, kept)
    };
    let gain = kept.found.both.text();
    run.progress
        .say(&format!("repair: held-out mean NLL {gain}"));
    let repaired = Repaired::new(&weights, &kept.file.sha256, &run.session.model);
    let repair = Repair {
        file: kept.file,
        about: windows.fit.about.clone(),
        held_out: windows.held_out.about.clone(),
        found: kept.found,
    };
    Ok(Some((repair, repaired)))
}

fn fit(
    run: &Run,
    windows: &Windows,
    removed: &PerStage<BlockSet>,
) -> Result<Option<RepairWeights>> {
    let step = run.progress.step("fit the repair", 0);
    let (model, boundary) = (&run.session.model, run.config.boundary);
    let calibration = &windows.fit.calibration;
    let fit = LinearRepair::default().fit(model, calibration, removed, boundary)?;
    drop(step);
    for (stage, runs) in [
        ("prefill", &fit.unrepaired.prefill),
        ("decode", &fit.unrepaired.decode),
    ] {
        for RemovedRun { first, last, .. } in runs {
            run.progress.say(&format!(
                "repair: nothing makes up for blocks {first} to {last} of {stage}, which no kept block is before"
            ));
        }
    }
    Ok((!fit.weights.is_empty()).then_some(fit.weights))
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

impl Repair {
    /// The line that a run ends with.
    pub(super) fn summary(&self) -> String {
        format!(
            "linear repair, fitted on {} windows of {}; mean NLL on {} held-out windows: {}",
            self.about.windows,
            self.about.source,
            self.held_out.windows,
            self.found.both.text()
        )
    }

    /// What the report says of it.
    pub(super) fn section(&self) -> Section {
        let text = format!(
            "In the block before each removed run the MLP's output layer was multiplied by a matrix, fitted \
                by ridge regression so that the hidden state after the run is the dense model's; each \
                stage on its own tokens of {} windows of {} tokens ({}). It costs nothing at run time. \
                Mean NLL below is on {} held-out windows ({}); no window serves two purposes.",
            self.about.windows,
            self.about.window_tokens,
            self.about.source,
            self.held_out.windows,
            self.held_out.source
        );
        let facts = [
            ("Prefill alone", self.found.prefill.text()),
            ("Both stages", self.found.both.text()),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Section::new("Repair", text).with(Item::Facts(facts))
    }

    /// The figures that a plan keeps of it.
    pub(super) fn scores(&self, boundary: pdtrim_core::Boundary) -> Vec<PlanScore> {
        let score = |mode: Mode, metric: &str, value| PlanScore {
            task: "repair held-out".to_owned(),
            mode: mode.to_string(),
            boundary: (mode != Mode::Dense).then_some(boundary),
            metric: metric.to_owned(),
            value,
        };
        let Gain {
            dense,
            trimmed,
            repaired,
        } = self.found.both;
        vec![
            score(Mode::Dense, "mean_nll", dense),
            score(Mode::Pd, "mean_nll_unrepaired", trimmed),
            score(Mode::Pd, "mean_nll", repaired),
        ]
    }
}
