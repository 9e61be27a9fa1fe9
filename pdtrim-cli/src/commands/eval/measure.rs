//! Every task in every mode with every boundary.

use anyhow::Result;
use pdtrim_core::Boundary;
use pdtrim_core::hash::sha256;
use pdtrim_eval::{
    BatchSize, Dataset, EvalReport, Execution, JournalFile, Mode, PdScorer, Prepared, RunInfo,
    Task, TaskResult,
};
use serde_json::Map;

use super::tasks::load_all;
use crate::args::{ModeArg, ScoreArgs};
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::session::{Bound, Session};

/// A model, ready to be scored.
struct Measuring<'a> {
    args: &'a ScoreArgs,
    progress: Progress,
    session: &'a Session,
    bound: &'a Bound,
    folder: Option<&'a RunFolder>,
}

/// Scores what the arguments say; with a folder, finished batches of a killed run are reused.
pub(crate) fn measure(
    args: &ScoreArgs,
    folder: Option<&RunFolder>,
    progress: Progress,
) -> Result<EvalReport> {
    // Everything that can be wrong with the tasks is found before the model is loaded.
    let data = args.data.as_deref();
    let tasks = load_all(
        &args.tasks,
        data,
        args.model.offline,
        args.num_fewshot,
        progress,
    )?;
    let session = Session::open(&args.model, progress)?.for_long_work();
    let bound = Bound::from_args(&args.plan, &session)?;
    let measuring = Measuring {
        args,
        progress,
        session: &session,
        bound: &bound,
        folder,
    };
    let mut report = EvalReport::new(measuring.run_info()?);
    for (task, data) in &tasks {
        measuring.add(task, data, &mut report)?;
    }
    session.check_unchanged(folder)?;
    Ok(report)
}

impl Measuring<'_> {
    fn add(&self, task: &Task, data: &Dataset, report: &mut EvalReport) -> Result<()> {
        let chosen = self.bound.boundary;
        let any = self.scorer(Mode::Dense, chosen)?;
        let prepared = Prepared::new(task, data, &any, self.args.limit)?;
        let cut = prepared.truncated_items();
        if cut > 0 {
            self.progress.say(&format!(
                "{}: {cut} of {} items are longer than the model's context; their prompts were cut from the left",
                task.name(),
                prepared.items()
            ));
        }
        let asked = self.args.plan.boundary.is_some();
        let both = !asked && prepared.one_token_items() > 0;
        for mode in self.modes() {
            for boundary in boundaries(mode, chosen, both) {
                let result = self.one(&prepared, mode, boundary)?;
                report.push(mode, boundary, result);
            }
        }
        Ok(())
    }

    fn modes(&self) -> Vec<Mode> {
        let mut modes: Vec<Mode> = self.args.mode.iter().map(|mode| mode.mode()).collect();
        if modes.is_empty() {
            let whole = if self.bound.is_dense() {
                ModeArg::Dense
            } else {
                ModeArg::PdKv
            };
            modes.push(whole.mode());
        }
        modes.sort_unstable();
        modes.dedup();
        modes
    }

    fn one(
        &self,
        prepared: &Prepared,
        mode: Mode,
        boundary: Option<Boundary>,
    ) -> Result<TaskResult> {
        let name = prepared.task().name();
        let at = boundary.map_or_else(String::new, |boundary| format!(", boundary {boundary}"));
        let step = self
            .progress
            .step(&format!("score {name} {mode}{at}"), prepared.tokens());
        let scorer = self.scorer(mode, boundary.unwrap_or(self.bound.boundary))?;
        let place = boundary.map_or_else(String::new, |boundary| format!("-{boundary}"));
        let path = self
            .folder
            .map(|folder| folder.journal(&format!("eval-{name}-{mode}{place}")));
        let of = self.fingerprint(mode, boundary)?;
        let tell = |at: pdtrim_eval::Progress| step.set_done(at.tokens_done);
        let execution = Execution {
            batch: self
                .args
                .batch_size
                .map_or_else(BatchSize::default, BatchSize::Requests),
            journal: path.as_deref().map(|path| JournalFile { path, of: &of }),
            progress: Some(&tell),
        };
        Ok(prepared.evaluate(&scorer, &execution)?)
    }

    fn scorer(&self, mode: Mode, boundary: Boundary) -> Result<PdScorer<'_>> {
        let model = self.bound.model(self.session, mode, boundary)?;
        let scorer = PdScorer::new(model, &self.session.tokenizer);
        Ok(scorer.with_stop(&self.session.model.config().eos_token_ids))
    }

    /// What scores depend on beside the requests.
    fn fingerprint(&self, mode: Mode, boundary: Option<Boundary>) -> Result<String> {
        let session = self.session;
        Ok(format!(
            "{} {} {:?} {} {boundary:?} {}",
            env!("CARGO_PKG_VERSION"),
            session.checkpoint.hash()?,
            session.dtype,
            session.device,
            self.bound.in_force(mode)
        ))
    }

    fn run_info(&self) -> Result<RunInfo> {
        let mut config = Map::new();
        if let Some(data) = &self.args.data {
            config.insert("data".to_owned(), data.display().to_string().into());
        }
        let plan = self.bound.plan.as_ref();
        Ok(RunInfo {
            plan: plan.map(|(path, _)| path.display().to_string()),
            plan_sha256: plan.map(|(_, plan)| sha256(plan.to_toml().as_bytes())),
            limit: self.args.limit.map(Into::into),
            batch_size: self.args.batch_size.map(Into::into),
            config,
            ..session_info(self.session)?
        })
    }
}

/// The boundaries to measure: on one machine there is none; an answer of one token comes from the
/// boundary's stage alone, so such tasks are measured with both.
pub(crate) fn boundaries(
    mode: Mode,
    chosen: Boundary,
    one_token_answers: bool,
) -> Vec<Option<Boundary>> {
    match mode {
        Mode::Dense | Mode::Unified => vec![None],
        Mode::Pd | Mode::PdKv if one_token_answers => {
            vec![Some(Boundary::Prefill), Some(Boundary::Decode)]
        }
        Mode::Pd | Mode::PdKv => vec![Some(chosen)],
    }
}

/// What of a run is known from its model alone.
pub(crate) fn session_info(session: &Session) -> Result<RunInfo> {
    Ok(RunInfo {
        pdtrim_version: env!("CARGO_PKG_VERSION").to_owned(),
        model: session.name.clone(),
        model_sha256: Some(session.checkpoint.hash()?),
        device: session.device.to_string(),
        dtype: format!("{:?}", session.dtype).to_lowercase(),
        ..RunInfo::default()
    })
}
