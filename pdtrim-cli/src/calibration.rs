//! Calibration windows for a loaded model.

use std::cell::OnceCell;

use anyhow::{Context, Result};
use pdtrim_search::calibration::{CalibrationSet, Corpus, ModelWithTokenizer, WindowDraw};

use crate::progress::Progress;
use crate::session::Session;

/// Draws windows; a model that is sampled for them shows how far it is.
pub(crate) fn draw(
    session: &Session,
    corpus: &Corpus,
    wanted: &WindowDraw,
    progress: Progress,
) -> Result<CalibrationSet> {
    let step = OnceCell::new();
    let total = wanted.windows * wanted.window_tokens;
    let model = ModelWithTokenizer {
        model: &session.model,
        tokenizer: &session.tokenizer,
        on_sampled: &|tokens| {
            step.get_or_init(|| progress.step("sample calibration tokens", total))
                .set_done(tokens);
        },
    };
    let drawn = corpus.draw(&model, wanted);
    drawn.with_context(|| format!("cannot draw calibration windows from {}", corpus.name()))
}
