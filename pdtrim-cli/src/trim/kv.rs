//! The KV plan.

use anyhow::Result;
use pdtrim_core::journal::Journal;
use pdtrim_core::objective::{CalibrationLoss, Rows};
use pdtrim_core::{BlockSet, PerStage, TokenSpan};
use pdtrim_kv::{KvChoice, KvSearch, PositionTarget, search};

use super::Run;
use crate::args::{KvSelectionArg, TrimConfig};
use crate::session::Repaired;

/// Name of the way in which blocks are chosen, as plans have it.
pub(super) fn method(config: &TrimConfig) -> &'static str {
    match config.kv_selection {
        KvSelectionArg::Attention => "attention",
        KvSelectionArg::Loss => "loss",
    }
}

/// The KV plan for the factor asked for over the scored prompts; `None` if all KV is to be sent.
pub(super) fn run(
    run: &Run,
    repaired: &Repaired,
    removed: &PerStage<BlockSet>,
    lengths: &[usize],
) -> Result<Option<KvChoice>> {
    let config = &run.config;
    if config.kv_factor <= 1.0 {
        return Ok(None);
    }
    let target = PositionTarget::new(config.kv_factor, lengths.to_vec())?;
    let repair = repaired.sha256();
    let repair = repair.map_or_else(String::new, |sha256| format!(" repair {sha256}"));
    let fingerprint = format!(
        "{} P {} D {}{repair}",
        run.fingerprint()?,
        removed.prefill,
        removed.decode
    );
    let models = repaired.models(&run.session);
    let (rows, boundary) = (Rows::Continuation, config.boundary);
    let loss = &CalibrationLoss::per_stage(models, &run.calibration, rows, boundary)?;
    let (journal, known) = Journal::resume(&run.folder.journal("kv"), &fingerprint)?;
    if !known.is_empty() {
        run.progress.say(&format!(
            "reusing {} KV evaluations of an earlier run",
            known.len()
        ));
    }
    let selection = config.kv_selection.selection();
    let problem = KvSearch {
        loss,
        removed,
        target: &target,
        selection,
    };
    let step = run
        .progress
        .step("search KV plan", problem.planned_evaluations());
    let choice = search(&problem, Some((journal, known)), &mut |_| step.advance())?;
    drop(step);
    let sent = choice.sent_share * 100.0;
    let blocks = choice.plan.spanned();
    let span = blocks.iter().find_map(|id| choice.plan.span(id));
    let TokenSpan { first, last } = span.unwrap_or(TokenSpan { first: 0, last: 0 });
    run.progress.say(&format!(
        "search KV plan: first {first} and last {last} of blocks {blocks}; {sent:.1} % of positions sent"
    ));
    Ok(Some(choice))
}
