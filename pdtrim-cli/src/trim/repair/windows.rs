//! The windows of a repair, which serve no other purpose.

use anyhow::{Context, Result, anyhow};
use pdtrim_core::objective::Calibration;
use pdtrim_search::Error;
use pdtrim_search::calibration::{CalibrationSet, Corpus, Part, WindowDraw};
use pdtrim_search::repair::halved;

use crate::args::{RepairArg, TrimConfig};
use crate::calibration;
use crate::progress::Progress;
use crate::repair::default_tokens;
use crate::session::Session;

/// What a repair's windows are drawn from.
pub(crate) struct Sources {
    fit: Corpus,
    held_out: Corpus,
}

/// The windows of a repair; they share no text with each other or with those of the search.
pub(crate) struct Windows {
    pub(super) fit: CalibrationSet,
    pub(super) held_out: CalibrationSet,
}

impl Sources {
    /// Reads and checks the files; `None` without a repair.
    pub(crate) fn read(config: &TrimConfig) -> Result<Option<Self>> {
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
    pub(crate) fn draw(
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
        let windows = tokens.map_or_else(|| default_tokens(config.repair), Into::into);
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
    let WindowDraw {
        windows: asked,
        seed,
        ..
    } = wanted;
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
        // Seed 0 leaves no slots of a text to others; what is taken is left out all the same.
        if is_short && wanted.seed != 0 {
            wanted.seed = 0;
            continue;
        }
        if is_asked || !is_short || wanted.windows == 1 {
            let hint = "name another source with --repair-calibration, or fewer --repair-tokens";
            let context = format!("cannot draw repair windows from {} ({hint})", corpus.name());
            return Err(anyhow!(error)).context(context);
        }
        wanted.windows /= 2;
        wanted.seed = seed;
    }
}
