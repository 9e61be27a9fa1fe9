use std::path::Path;

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use pdtrim_core::{Tokenizer, limits, read_text};
use pdtrim_eval::Mode;
use serde_json::json;

use crate::args::LogprobsArgs;
use crate::output;
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(crate) fn run(args: &LogprobsArgs, progress: Progress) -> Result<()> {
    let session = Session::open(&args.model, progress)?;
    let bound = Bound::from_args(&args.plan, &session)?;
    let prompt = tokens(&args.prompt_file, args.ids, &session.tokenizer)?;
    let continuation = tokens(&args.continuation_file, args.ids, &session.tokenizer)?;
    let scores = bound
        .model(&session, Mode::PdKv, bound.boundary)?
        .score(&prompt, &[&continuation])?;
    session.check_unchanged(None)?;
    let logprobs: Vec<f32> = scores.continuations[0]
        .tokens
        .iter()
        .map(|token| token.logprob)
        .collect();
    if args.json {
        return output::json(&json!({
            "prompt_tokens": prompt.len(),
            "tokens": continuation,
            "logprobs": logprobs,
            "kv_bytes": scores.kv_bytes,
        }));
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["id", "token", "log-probability"]);
    for (&id, logprob) in continuation.iter().zip(logprobs) {
        let text = session.tokenizer.decode(&[id])?;
        table.add_row([id.to_string(), format!("{text:?}"), format!("{logprob:.4}")]);
    }
    output::result(&table.trim_fmt())?;
    let sum = scores.continuations[0].sum();
    output::result(&format!(
        "sum {sum:.4}, {} prompt tokens, {} of KV sent to decode",
        prompt.len(),
        scores.kv_bytes
    ))
}

pub(super) fn tokens(path: &Path, ids: bool, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let text = read_text(path, limits::PROMPT)?;
    if !ids {
        return Ok(tokenizer.encode(&text)?);
    }
    let words = text
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']'))
        .filter(|word| !word.is_empty());
    let ids: Vec<u32> = words
        .map(|word| {
            word.parse()
                .with_context(|| format!("{}: `{word}` is not a token id", path.display()))
        })
        .collect::<Result<_>>()?;
    if ids.is_empty() {
        bail!("{} holds no token id", path.display());
    }
    Ok(ids)
}
