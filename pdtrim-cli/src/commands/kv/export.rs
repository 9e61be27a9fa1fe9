//! `pdtrim kv export`: a prompt's keys and values for vLLM.

use anyhow::{Result, ensure};
use pdtrim_core::{Boundary, limits, read_text};
use pdtrim_eval::Mode;
use pdtrim_kv::vllm::{self, folder_name, stored_tokens};

use crate::args::KvExportArgs;
use crate::commands::logprobs;
use crate::output;
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(super) fn run(args: &KvExportArgs, progress: Progress) -> Result<()> {
    ensure!(
        args.plan.boundary.is_none(),
        "--boundary changes nothing here: vLLM runs what follows the stored tokens"
    );
    let session = Session::open(&args.model, progress)?;
    let mut bound = Bound::from_args(&args.plan, &session)?;
    let narrow = bound
        .plan
        .as_ref()
        .is_some_and(|(_, plan)| plan.file().width.is_some());
    ensure!(
        !narrow,
        "the plan makes blocks narrower: expected one without [width], vLLM's layers have all heads"
    );
    let prompt = if args.ids {
        logprobs::tokens(&args.prompt_file, true, &session.tokenizer)?
    } else {
        let text = read_text(&args.prompt_file, limits::PROMPT)?;
        session.tokenizer.encode_prompt(&text)?
    };
    let block_size = args.block_size.get();
    let stored = &prompt[..stored_tokens(prompt.len(), block_size)];
    ensure!(
        !stored.is_empty(),
        "{}: expected at least {} tokens, one block and one more, found {}",
        args.prompt_file.display(),
        block_size + 1,
        prompt.len()
    );
    if args.all_positions {
        bound = bound.sending_all_positions();
    }
    check_positions(&bound, stored.len())?;
    let folder = args.out.join(folder_name(stored));
    ensure!(
        args.force || !folder.exists(),
        "{} is there already; --force replaces it",
        folder.display()
    );
    // All of the stored tokens are prefill's: vLLM runs what follows them.
    let model = bound.model(&session, Mode::PdKv, Boundary::Prefill)?;
    let handover = model.prefill(&[stored])?;
    session.check_unchanged(None)?;
    let wrote = vllm::write(handover.cache(), stored, args.connector.layout(), &args.out)?;
    note_requests(prompt.len(), block_size, progress);
    output::result(&format!(
        "{}: {} layers, {} of {} prompt tokens, {} of KV",
        wrote.folder.display(),
        wrote.layers,
        stored.len(),
        prompt.len(),
        wrote.bytes
    ))
}

/// Refuses a plan that drops positions of such a prompt in a block that decode runs.
fn check_positions(bound: &Bound, n_positions: usize) -> Result<()> {
    let kept = bound.removed_blocks().decode.complement();
    for id in kept.iter() {
        let sent = bound.kv().positions_sent(id, n_positions);
        ensure!(
            sent == n_positions,
            "block {id} sends {sent} of {n_positions} positions: expected all of them, which is what every \
                layer of a paged cache holds; --all-positions sends them"
        );
    }
    Ok(())
}

/// The connector takes a request's prompt to be a stored one and a token more, and looks for other folders at
/// the edges of a block.
fn note_requests(n_tokens: usize, block_size: usize, progress: Progress) {
    let finds = |n_tokens: usize| {
        stored_tokens(n_tokens - 1, block_size) == stored_tokens(n_tokens, block_size)
    };
    if !finds(n_tokens) {
        progress.say(
            "vLLM finds this for the prompt and one more token, not for the prompt alone: it ends one token \
                after a block",
        );
    } else if !finds(n_tokens + 1) {
        progress.say(
            "vLLM finds this for the prompt alone, not for the prompt and one more token: it ends with a block",
        );
    }
}
