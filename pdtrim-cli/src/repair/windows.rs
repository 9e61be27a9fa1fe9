//! Windows that nothing else is measured on.

use anyhow::{Context, Result, anyhow};
use pdtrim_core::objective::Calibration;
use pdtrim_search::Error;
use pdtrim_search::calibration::{CalibrationSet, Corpus, WindowDraw};

use crate::calibration;
use crate::progress::Progress;
use crate::session::Session;

/// Draws windows that share no text with `taken`; where fewer are there and no number is asked, half as
/// many and so on.
pub(crate) fn draw_free(
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
