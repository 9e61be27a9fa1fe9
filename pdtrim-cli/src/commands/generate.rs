use anyhow::Result;
use pdtrim_eval::Mode;
use serde_json::json;

use crate::args::GenerateArgs;
use crate::output;
use crate::progress::Progress;
use crate::session::{Bound, Session};

/// From this many tokens on, copying the weights to where they are faster to read pays.
const LONG_ANSWER: usize = 64;

pub(crate) fn run(args: &GenerateArgs, progress: Progress) -> Result<()> {
    let mut session = Session::open(&args.model, progress)?;
    if args.max_new_tokens > LONG_ANSWER {
        session = session.for_long_work();
    }
    let bound = Bound::from_args(&args.plan, &session)?;
    let model = bound.model(&session, Mode::PdKv, bound.boundary)?;
    let prompt = session.tokenizer.encode_prompt(&args.prompt)?;
    let stop = &session.model.config().eos_token_ids;
    if args.json {
        let generation = model.generate_greedy(&prompt, args.max_new_tokens, stop, |_| {})?;
        session.check_unchanged(None)?;
        let text = session.tokenizer.decode(&generation.tokens)?;
        return output::json(&json!({
            "prompt_tokens": prompt.len(),
            "tokens": generation.tokens,
            "text": text,
            "kv_bytes": generation.kv_bytes,
        }));
    }
    output::part(&args.prompt)?;
    // A token may end inside a character, so the text is decoded anew and its new part written.
    let (mut tokens, mut written) = (Vec::new(), 0);
    let mut failed = None;
    let generation = model.generate_greedy(&prompt, args.max_new_tokens, stop, |token| {
        tokens.push(token);
        if failed.is_none() {
            failed = write_new(&session, &tokens, &mut written).err();
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    output::result("")?;
    session.check_unchanged(None)?;
    let prompt = prompt.len();
    progress.say(&format!(
        "{prompt} prompt tokens, {} of KV sent to decode, {} new tokens",
        generation.kv_bytes,
        generation.tokens.len()
    ));
    Ok(())
}

fn write_new(session: &Session, tokens: &[u32], written: &mut usize) -> Result<()> {
    let text = session.tokenizer.decode(tokens)?;
    if let Some(new) = text.get(*written..).filter(|_| !text.ends_with('\u{fffd}')) {
        output::part(new)?;
        *written = text.len();
    }
    Ok(())
}
