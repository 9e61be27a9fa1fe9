use std::fs::File;
use std::io::BufWriter;

use anyhow::{Context, Result};
use pdtrim_core::Boundary;
use pdtrim_eval::{Dataset, EvalReport, Mode, PdScorer, Prepared, RunInfo, Task, task_names};
use serde_json::Map;
use sha2::{Digest, Sha256};

use crate::args::{EvalArgs, ModeArg};
use crate::output;
use crate::progress::Progress;
use crate::session::{Bound, Session};

pub(crate) fn run(args: &EvalArgs, progress: Progress) -> Result<()> {
    if args.list {
        return output::result(&task_names().join("\n"));
    }
    // Everything that can be wrong with the tasks is found before the model is loaded.
    let names = if args.tasks.is_empty() {
        default_tasks()
    } else {
        args.tasks.clone()
    };
    let tasks = names
        .iter()
        .map(|name| load_task(name, args.data.as_deref()))
        .collect::<Result<Vec<_>>>()?;
    let session = Session::open(&args.model, progress)?.for_long_work();
    let bound = Bound::from_args(&args.plan, &session)?;
    let mode = args.mode.map_or(
        if bound.is_dense() {
            Mode::Dense
        } else {
            Mode::PdKv
        },
        ModeArg::mode,
    );
    let mut report = EvalReport::new(run_info(&session, &bound, args)?);
    for (task, data) in &tasks {
        let scorer = |boundary| {
            Ok::<_, anyhow::Error>(PdScorer::new(
                bound.model(&session, mode, boundary)?,
                &session.tokenizer,
            ))
        };
        let prepared = Prepared::new(task, data, &scorer(bound.boundary)?, args.limit)?;
        let asked = args.plan.boundary.is_some();
        for boundary in boundaries(
            mode,
            bound.boundary,
            !asked && prepared.one_token_items() > 0,
        ) {
            let what = format!("{} {mode}", task.name());
            let step = progress.step(&what, prepared.requests().len());
            let scorer = scorer(boundary.unwrap_or(bound.boundary))?;
            let result = prepared.evaluate(&scorer, &|at| step.set_done(at.requests_done))?;
            report.push(mode, boundary, result);
        }
    }
    if let Some(path) = &args.items {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        report
            .write_items(BufWriter::new(file))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.json {
        output::json(&report.to_json())
    } else {
        output::result(&report.table())
    }
}

/// Tasks whose data is part of the binary.
pub(crate) fn default_tasks() -> Vec<String> {
    let bundled =
        |name: &&str| Task::bundled(name).is_ok_and(|task| Dataset::load(&task, None).is_ok());
    task_names()
        .into_iter()
        .filter(bundled)
        .map(str::to_owned)
        .collect()
}

/// A bundled task by its name, or a task file of the user's.
pub(crate) fn load_task(name: &str, data: Option<&std::path::Path>) -> Result<(Task, Dataset)> {
    let path = std::path::Path::new(name);
    let task = if path.extension().is_some() {
        Task::from_file(path)?
    } else {
        Task::bundled(name)?
    };
    let data = Dataset::load(&task, data)?;
    Ok((task, data))
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

fn run_info(session: &Session, bound: &Bound, args: &EvalArgs) -> Result<RunInfo> {
    let mut config = Map::new();
    if let Some(data) = &args.data {
        config.insert("data".to_owned(), data.display().to_string().into());
    }
    Ok(RunInfo {
        plan: bound
            .plan
            .as_ref()
            .map(|(path, _)| path.display().to_string()),
        plan_sha256: bound
            .plan
            .as_ref()
            .map(|(_, plan)| hex(&Sha256::digest(plan.to_toml().as_bytes()))),
        limit: args.limit.map(Into::into),
        config,
        ..session_info(session)?
    })
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

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
