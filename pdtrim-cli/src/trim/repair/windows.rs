//! The windows of a repair, which serve no other purpose.

use anyhow::Result;
use pdtrim_core::objective::Calibration;
use pdtrim_search::calibration::{CalibrationSet, Corpus, Part, WindowDraw};
use pdtrim_search::repair::halved;

use crate::args::{RepairArg, TrimConfig};
use crate::progress::Progress;
use crate::repair::{default_tokens, draw_free};
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

impl Windows {
    /// The windows that blocks are fitted on.
    pub(crate) fn fit(&self) -> &CalibrationSet {
        &self.fit
    }
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
            draw_free(session, corpus, wanted, is_asked, taken, progress)
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
