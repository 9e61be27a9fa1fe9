//! Tokens to measure with.

use anyhow::{Result, ensure};
use pdtrim_core::model::BlockModel;
use pdtrim_core::objective::Calibration;
use pdtrim_search::calibration::BUNDLED_PROSE;
use serde_json::{Value, json};

use crate::args::TextArgs;
use crate::session::Session;

/// `batch` different prompts of `tokens` tokens. Any ids will do: times do not depend on the text.
pub(super) fn prompts(session: &Session, tokens: usize, batch: usize) -> Vec<Vec<u32>> {
    let vocab_size = session.model.dims().vocab_size;
    let token = |row: usize, n: usize| ((n * 7919 + row * 104_729 + 1) % vocab_size) as u32;
    (0..batch)
        .map(|row| (0..tokens).map(|n| token(row, n)).collect())
        .collect()
}

/// Windows of a text, one after the other, and where they come from.
pub(super) fn windows(
    session: &Session,
    args: &TextArgs,
    windows: usize,
    window_tokens: usize,
) -> Result<(Calibration, Value)> {
    ensure!(
        window_tokens >= 2,
        "a window needs at least 2 tokens, found {window_tokens}"
    );
    let (name, text) = match &args.text {
        None => ("bundled prose".to_owned(), BUNDLED_PROSE.to_owned()),
        Some(path) => (
            path.display().to_string(),
            pdtrim_core::read_text(path, pdtrim_core::limits::PROMPT)?,
        ),
    };
    let tokens = session.tokenizer.encode(&text)?;
    ensure!(!tokens.is_empty(), "{name} holds no token");
    let mut source = tokens.iter().copied().cycle();
    let windows: Vec<Vec<u32>> = (0..windows)
        .map(|_| source.by_ref().take(window_tokens).collect())
        .collect();
    let about = json!({
        "text": name,
        "text_tokens": tokens.len(),
        "windows": windows.len(),
        "window_tokens": window_tokens,
    });
    // With all rows counted, where a window's prompt ends makes no difference.
    Ok((Calibration::new(windows, window_tokens / 2)?, about))
}
