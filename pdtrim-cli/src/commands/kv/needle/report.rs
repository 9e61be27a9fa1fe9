//! What was measured: one struct behind the object, the CSV, the table and the page.

use anyhow::Result;
use pdtrim_core::Boundary;
use pdtrim_eval::needle::{
    NeedleAnswer, NeedleGrid, NeedlePrompt, NeedleResult, NeedleScore, NeedleTest,
};
use pdtrim_eval::{Difference, Mode};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::sends::Sends;
use crate::session::{Bound, Session};
use crate::tables::or_empty;

/// Everything that one `pdtrim kv needle` found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) settings: Value,
    /// What a reader must not overlook.
    pub(super) note: Option<String>,
    pub(super) modes: Vec<ModeReport>,
}

/// One mode.
#[derive(Debug, Serialize)]
pub(super) struct ModeReport {
    pub(super) mode: Mode,
    /// Over all prompts.
    pub(super) all: Row,
    /// For each length, over all depths.
    pub(super) lengths: Vec<Row>,
    /// For each length, each depth.
    pub(super) cells: Vec<Row>,
    pub(super) answers: Vec<NeedleAnswer>,
}

/// Some prompts of a mode.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) length: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) depth: Option<f64>,
    #[serde(flatten)]
    pub(super) score: NeedleScore,
    /// On the same prompts; absent for dense, and without it.
    pub(super) difference_to_dense: Option<Difference>,
}

/// A mode's answers, and dense's to hold them against.
struct Answered<'a> {
    result: &'a NeedleResult,
    dense: Option<&'a NeedleResult>,
}

impl Answered<'_> {
    /// The prompts of a length, of a depth, or of both. Depths are compared with what they were made from.
    fn row(&self, length: Option<usize>, depth: Option<f64>) -> Option<Row> {
        let picks = |prompt: &NeedlePrompt| {
            length.is_none_or(|length| prompt.length == length)
                && depth.is_none_or(|depth| prompt.depth.total_cmp(&depth).is_eq())
        };
        Some(Row {
            length,
            depth,
            score: self.result.score(picks)?,
            difference_to_dense: self
                .dense
                .and_then(|dense| self.result.difference(dense, picks)),
        })
    }
}

impl Report {
    pub(super) fn new(
        settings: Value,
        grid: &NeedleGrid,
        results: Vec<(Mode, NeedleResult)>,
    ) -> Self {
        let dense = results.iter().find(|(mode, _)| *mode == Mode::Dense);
        let dense = dense.map(|(_, result)| result.clone());
        let mode = |(mode, result): (Mode, NeedleResult)| {
            let dense = dense.as_ref().filter(|_| mode != Mode::Dense);
            ModeReport::new(grid, mode, result, dense)
        };
        let modes = results.into_iter().filter_map(mode).collect();
        Self {
            note: note(&settings),
            settings,
            modes,
        }
    }

    /// Each mode's share of right answers.
    pub(super) fn in_words(&self) -> String {
        let prompts = self.modes.first().map_or(0, |mode| mode.all.score.prompts);
        let shares = self.modes.iter().map(|mode| {
            let share = 100.0 * mode.all.score.exact_match;
            format!("{} {share:.1} %", mode.mode)
        });
        let shares: Vec<String> = shares.collect();
        format!("right answers to {prompts} prompts: {}", shares.join(", "))
    }

    /// A line for each mode, length and depth.
    pub(super) fn to_csv(&self) -> Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record([
            "mode",
            "length",
            "depth",
            "prompts",
            "exact_match",
            "exact_match_stderr",
            "difference_to_dense",
            "difference_to_dense_stderr",
            "prompt_tokens",
            "kv_bytes",
            "trimmed_prompts",
        ])?;
        for mode in &self.modes {
            for row in &mode.cells {
                let (score, difference) = (row.score, row.difference_to_dense);
                writer.write_record([
                    mode.mode.to_string(),
                    row.length
                        .map_or_else(String::new, |length| length.to_string()),
                    or_empty(row.depth),
                    score.prompts.to_string(),
                    score.exact_match.to_string(),
                    or_empty(score.exact_match_stderr),
                    or_empty(difference.map(|difference| difference.value)),
                    or_empty(difference.and_then(|difference| difference.stderr)),
                    score.prompt_tokens.to_string(),
                    score.kv_bytes.to_string(),
                    score.trimmed_prompts.to_string(),
                ])?;
            }
        }
        Ok(writer.into_inner()?)
    }
}

impl ModeReport {
    /// A grid has at least one prompt for each length and depth.
    fn new(
        grid: &NeedleGrid,
        mode: Mode,
        result: NeedleResult,
        dense: Option<&NeedleResult>,
    ) -> Option<Self> {
        let answered = Answered {
            result: &result,
            dense,
        };
        let lengths = grid.lengths().iter().copied().map(Some);
        let depths = || grid.depths().iter().copied().map(Some);
        let cells = lengths
            .clone()
            .flat_map(|length| depths().map(move |depth| (length, depth)));
        Some(Self {
            mode,
            all: answered.row(None, None)?,
            lengths: lengths
                .filter_map(|length| answered.row(length, None))
                .collect(),
            cells: cells
                .filter_map(|(length, depth)| answered.row(length, depth))
                .collect(),
            answers: result.answers,
        })
    }
}

/// With the boundary `prefill` a one-token answer never needs what crossed.
fn note(settings: &Value) -> Option<String> {
    let is_prefill = settings["boundary"] == json!(Boundary::Prefill);
    is_prefill.then(|| {
        "Boundary prefill: the first token of every answer comes from prefill, which has read the whole prompt, so \
            these scores say less about the KV than those with the boundary decode."
            .to_owned()
    })
}

/// What has to be known to repeat the run.
pub(super) fn settings(
    session: &Session,
    bound: &Bound,
    test: &NeedleTest,
    grid: &NeedleGrid,
) -> Result<Value> {
    let removed = bound.removed_blocks();
    let task = test.task();
    Ok(json!({
        "pdtrim_version": env!("CARGO_PKG_VERSION"),
        "model": session.name,
        "model_sha256": session.checkpoint.hash()?,
        "dtype": format!("{:?}", session.dtype).to_lowercase(),
        "device": session.device.to_string(),
        "plan": bound.plan.as_ref().map(|(path, _)| path.display().to_string()),
        "removed": {
            "prefill": removed.prefill.to_indices(),
            "decode": removed.decode.to_indices(),
        },
        "kv": bound.kv().to_groups(),
        "sends": sends(bound),
        "boundary": bound.boundary,
        "task": { "name": task.name(), "version": task.version(), "sha256": task.sha256() },
        "prose": test.files(),
        "lengths": grid.lengths(),
        "depths": grid.depths(),
        "items": grid.items(),
        "seed": grid.seed(),
    }))
}

/// What crosses, in words.
fn sends(bound: &Bound) -> String {
    if bound.kv().sends_all() {
        return "everything".to_owned();
    }
    Sends::Plan(bound.kv().clone()).in_words()
}
