//! What the forms of an export that are one file have in common.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use pdtrim_core::checkpoint::{Checkpoint, ExportForm, ExportReport, StageWeights};
use pdtrim_core::{BlockSet, Plan};
use serde_json::Value;

use super::about::about;
use super::chosen::Chosen;
use crate::args::ExportArgs;
use crate::progress::Progress;
use crate::{output, session};

/// A model, and what the stage asked for is without, has instead, and says of itself.
pub(super) struct Source {
    pub(super) checkpoint: Checkpoint,
    pub(super) removed: BlockSet,
    pub(super) weights: StageWeights,
    /// Null for the dense model.
    pub(super) about: Value,
}

impl Source {
    pub(super) fn open(args: &ExportArgs, progress: Progress) -> Result<Self> {
        let source = Path::new(&args.source);
        if source.extension().is_some_and(|end| end == "toml") {
            return Self::of_plan(args, source, progress);
        }
        ensure!(
            args.stage.is_none(),
            "--stage needs a plan: {} is a model",
            args.source
        );
        let name = args.model.as_ref().unwrap_or(&args.source);
        let checkpoint = Checkpoint::open(&session::fetch(name, args.offline, progress)?)?;
        Ok(Self {
            removed: BlockSet::empty(checkpoint.config().n_blocks),
            checkpoint,
            weights: StageWeights::Own,
            about: Value::Null,
        })
    }

    fn of_plan(args: &ExportArgs, source: &Path, progress: Progress) -> Result<Self> {
        let cannot = || format!("cannot use the plan {}", args.source);
        let plan = Plan::read(source).with_context(cannot)?;
        let model = args.model.as_ref().unwrap_or(&plan.file().model.name);
        let checkpoint = Checkpoint::open(&session::fetch(model, args.offline, progress)?)?;
        plan.check_model(model, &checkpoint.hash()?)
            .with_context(cannot)?;
        let chosen = Chosen::of_plan(&plan, source, checkpoint.config(), args.stage);
        let chosen = chosen.with_context(cannot)?;
        chosen
            .check_form(&plan, ExportForm::Plain)
            .with_context(cannot)?;
        Ok(Self {
            about: about(&plan, &chosen, ExportForm::Plain),
            checkpoint,
            removed: chosen.removed,
            weights: chosen.weights,
        })
    }
}

/// A file is not replaced by accident, a folder not at all.
pub(super) fn check_out(args: &ExportArgs, flag: &str) -> Result<()> {
    let out = &args.out;
    ensure!(
        !out.is_dir(),
        "{} is a folder: {flag} writes a file",
        out.display()
    );
    ensure!(
        args.force || !out.exists(),
        "{} is there already; --force replaces it",
        out.display()
    );
    Ok(())
}

pub(super) fn say(out: &Path, report: &ExportReport) -> Result<()> {
    output::result(&format!(
        "{}: {} blocks, {} of weights",
        out.display(),
        report.blocks,
        report.weight_bytes
    ))
}
