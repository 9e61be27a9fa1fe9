//! `pdtrim export --gguf`: a file for llama.cpp.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pdtrim_core::checkpoint::{Checkpoint, ExportForm, StageWeights};
use pdtrim_core::repair::StageRepair;
use pdtrim_core::{BlockSet, Plan};
use serde_json::Value;

use super::about::about;
use super::chosen::Chosen;
use crate::args::{ExportArgs, GgufArg};
use crate::progress::Progress;
use crate::{output, session};

pub(super) fn run(args: &ExportArgs, kind: GgufArg, progress: Progress) -> Result<()> {
    let out = &args.out;
    ensure!(
        !out.is_dir(),
        "{} is a folder: --gguf writes a file",
        out.display()
    );
    ensure!(
        args.force || !out.exists(),
        "{} is there already; --force replaces it",
        out.display()
    );
    let source = Path::new(&args.source);
    let (checkpoint, stage) = if source.extension().is_some_and(|end| end == "toml") {
        of_plan(args, source, progress)?
    } else {
        ensure!(
            args.stage.is_none(),
            "--stage needs a plan: {} is a model",
            args.source
        );
        let name = args.model.as_ref().unwrap_or(&args.source);
        let checkpoint = Checkpoint::open(&session::fetch(name, args.offline, progress)?)?;
        let none = BlockSet::empty(checkpoint.config().n_blocks);
        (checkpoint, (none, StageRepair::default(), Value::Null))
    };
    let (removed, repaired, about) = stage;
    let report = checkpoint.export_gguf(&removed, &repaired, kind.weights(), &about, out)?;
    output::result(&format!(
        "{}: {} blocks, {} of weights",
        out.display(),
        report.blocks,
        report.weight_bytes
    ))
}

/// The plan's model, and what the stage asked for is without, has instead, and says of itself.
fn of_plan(
    args: &ExportArgs,
    source: &Path,
    progress: Progress,
) -> Result<(Checkpoint, (BlockSet, StageRepair, Value))> {
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
    let about = about(&plan, &chosen, ExportForm::Plain);
    let repaired = match chosen.weights {
        StageWeights::Own => StageRepair::default(),
        StageWeights::Repaired(repaired) => repaired,
        StageWeights::Narrow(..) => bail!(
            "{} makes blocks narrower: --gguf expects a plan without [width]; without --gguf its stages are \
                written with zeros",
            args.source
        ),
    };
    Ok((checkpoint, (chosen.removed, repaired, about)))
}
