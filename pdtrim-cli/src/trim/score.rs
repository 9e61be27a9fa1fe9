//! Scores of every task in every mode.

use anyhow::Result;
use pdtrim_core::Boundary;
use pdtrim_core::plan::PlanScore;
use pdtrim_eval::{Dataset, EvalReport, Execution, Mode, PdScorer, Prepared, RunInfo, TaskResult};
use sha2::{Digest, Sha256};

use super::repair::Repair;
use super::search::Found;
use super::width::Width;
use super::{Run, prepared_name};
use crate::commands::{boundaries, session_info};
use crate::scoring::tokens_hash;
use crate::session::Bound;
use pdtrim_core::hash::hex;

/// Encodes every task once; all modes are measured on the same tokens.
pub(super) fn prepare(run: &Run, dense: &Bound) -> Result<Vec<Prepared>> {
    let model = dense.model(&run.session, Mode::Dense, run.config.boundary)?;
    let scorer = PdScorer::new(model, &run.session.tokenizer);
    let prepare = |(task, data): &(_, _)| Ok(Prepared::new(task, data, &scorer, run.config.limit)?);
    run.tasks.iter().map(prepare).collect()
}

/// Prefilled positions of every prompt that is scored.
pub(super) fn prompt_lengths(prepared: &[Prepared], boundary: Boundary) -> Vec<usize> {
    let left_to_decode = usize::from(boundary == Boundary::Decode);
    let prompts = prepared.iter().flat_map(Prepared::prompts);
    prompts
        .map(|prompt| prompt.len() - left_to_decode)
        .collect()
}

pub(super) fn run(run: &Run, bound: &Bound, prepared: &[Prepared]) -> Result<EvalReport> {
    let mut info = RunInfo {
        limit: run.config.limit.map(Into::into),
        seed: Some(run.config.seed),
        ..session_info(&run.session)?
    };
    if let Ok(serde_json::Value::Object(config)) = serde_json::to_value(&run.config) {
        info.config = config;
    }
    let mut report = EvalReport::new(info);
    let mut reused = 0;
    for (prepared, (_, data)) in prepared.iter().zip(&run.tasks) {
        for mode in Mode::ALL {
            for boundary in boundaries(mode, run.config.boundary, prepared.one_token_items() > 0) {
                let (result, known) = one(run, bound, (prepared, data), mode, boundary)?;
                reused += usize::from(known);
                report.push(mode, boundary, result);
            }
        }
    }
    if reused > 0 {
        run.progress.say(&format!(
            "reused {reused} of {} score rows of an earlier run",
            report.rows.len()
        ));
    }
    Ok(report)
}

/// One row; says whether an earlier run had measured it.
fn one(
    run: &Run,
    bound: &Bound,
    (prepared, data): (&Prepared, &Dataset),
    mode: Mode,
    boundary: Option<Boundary>,
) -> Result<(TaskResult, bool)> {
    let effective = boundary.unwrap_or(run.config.boundary);
    let fingerprint = fingerprint(run, bound, (prepared, data), mode, boundary)?;
    let place = boundary.map_or_else(String::new, |boundary| format!("-{boundary}"));
    let name = format!(
        "score-{}-{mode}{place}",
        prepared_name(prepared).replace(['/', '\\'], "_")
    );
    if let Some(result) = run.folder.kept(&name, &fingerprint) {
        return Ok((result, true));
    }
    let at = boundary.map_or_else(String::new, |boundary| format!(", boundary {boundary}"));
    let step = run.progress.step(
        &format!("score {} {mode}{at}", prepared_name(prepared)),
        prepared.tokens(),
    );
    let scorer = PdScorer::new(
        bound.model(&run.session, mode, effective)?,
        &run.session.tokenizer,
    )
    .with_stop(&run.session.model.config().eos_token_ids);
    let progress = |at: pdtrim_eval::Progress| step.set_done(at.tokens_done);
    let execution = Execution {
        progress: Some(&progress),
        ..Execution::default()
    };
    let result = prepared.evaluate(&scorer, &execution)?;
    run.folder.keep(&name, &fingerprint, &result)?;
    Ok((result, false))
}

/// Everything that a row of scores depends on: the run, what the mode makes of the plan, and the tokens.
fn fingerprint(
    run: &Run,
    bound: &Bound,
    (prepared, data): (&Prepared, &Dataset),
    mode: Mode,
    boundary: Option<Boundary>,
) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(env!("CARGO_PKG_VERSION"));
    hasher.update(run.session.checkpoint.hash()?);
    hasher.update(format!(
        "{:?} {} {boundary:?} ",
        run.session.dtype, run.session.device
    ));
    hasher.update(bound.in_force(mode));
    hasher.update(tokens_hash(prepared, data)?);
    Ok(hex(&hasher.finalize()))
}

/// J of the plan on the search's windows, repaired or narrower if it is.
fn final_cost(search: &Found, repair: Option<&Repair>, width: Option<&Width>) -> f64 {
    let repaired = repair.map_or(search.cost, |repair| repair.found.cost);
    width.map_or(repaired, |width| width.cost)
}

/// The figures that a plan keeps: the search's own objective and every metric of every row.
pub(super) fn plan_scores(
    boundary: Boundary,
    (search, repair, width): (&Found, Option<&Repair>, Option<&Width>),
    kv: Option<&pdtrim_kv::KvChoice>,
    report: &EvalReport,
) -> Vec<PlanScore> {
    let loss = |mode: Mode, boundary, value| PlanScore {
        task: "calibration".to_owned(),
        mode: mode.to_string(),
        boundary,
        metric: "mean_nll".to_owned(),
        value,
    };
    let mut scores = vec![
        loss(Mode::Dense, None, search.cost_dense),
        loss(Mode::Pd, Some(boundary), final_cost(search, repair, width)),
    ];
    scores.extend(repair.iter().flat_map(|repair| repair.scores(boundary)));
    scores.extend(kv.map(|choice| loss(Mode::PdKv, Some(boundary), choice.cost)));
    for row in &report.rows {
        scores.extend(row.result.summary.metrics.iter().map(|metric| PlanScore {
            task: row.result.summary.task.clone(),
            mode: row.mode.to_string(),
            boundary: row.boundary,
            metric: metric.name.to_string(),
            value: metric.value,
        }));
    }
    scores
}
