//! Calibration windows for a loaded model.

use std::cell::OnceCell;

use anyhow::{Context, Result};
use pdtrim_core::objective::Calibration;
use pdtrim_search::calibration::{CalibrationSet, Corpus, ModelWithTokenizer, WindowDraw};
use pdtrim_search::repair;

use crate::progress::Progress;
use crate::session::Session;

/// Draws windows; a model that is sampled for them shows how far it is.
pub(crate) fn draw(
    session: &Session,
    corpus: &Corpus,
    wanted: &WindowDraw,
    progress: Progress,
) -> Result<CalibrationSet> {
    let drawn = with_model(session, wanted, progress, |model| {
        corpus.draw(model, wanted)
    });
    drawn.with_context(|| format!("cannot draw calibration windows from {}", corpus.name()))
}

/// As [`draw`], windows that share no text with those in `taken`.
pub(crate) fn draw_disjoint(
    session: &Session,
    corpus: &Corpus,
    wanted: &WindowDraw,
    taken: &[&Calibration],
    progress: Progress,
) -> pdtrim_search::Result<CalibrationSet> {
    with_model(session, wanted, progress, |model| {
        repair::draw_disjoint(corpus, model, wanted, taken)
    })
}

/// The windows of `set` and `more` others of the same corpus.
pub(crate) fn draw_beside(
    session: &Session,
    corpus: &Corpus,
    set: &CalibrationSet,
    wanted: &WindowDraw,
    more: usize,
    progress: Progress,
) -> Result<Calibration> {
    let draw = |seed| {
        let wanted = WindowDraw {
            seed,
            windows: more,
            ..*wanted
        };
        draw_disjoint(session, corpus, &wanted, &[&set.calibration], progress)
    };
    // Other items of a source that has some; of a text whatever else is left.
    let others = draw(wanted.seed).or_else(|_| draw(0));
    let others = others.with_context(|| {
        let name = corpus.name();
        format!("cannot draw {more} validation windows beside the calibration windows of {name}")
    })?;
    let all = [&set.calibration, &others.calibration].map(Calibration::windows);
    Ok(Calibration::new(
        all.concat(),
        set.calibration.prompt_tokens(),
    )?)
}

fn with_model<T>(
    session: &Session,
    wanted: &WindowDraw,
    progress: Progress,
    draw: impl FnOnce(&ModelWithTokenizer<'_>) -> T,
) -> T {
    let step = OnceCell::new();
    let total = wanted.windows * wanted.window_tokens;
    draw(&ModelWithTokenizer {
        model: &session.model,
        tokenizer: &session.tokenizer,
        on_sampled: &|tokens| {
            step.get_or_init(|| progress.step("sample calibration tokens", total))
                .set_done(tokens);
        },
    })
}
