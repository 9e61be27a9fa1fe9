use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::repair::{RepairWeights, StageRepair};
use pdtrim_core::{BlockSet, Plan, Stage};
use serde_json::{Value, json};

use crate::args::{ExportArgs, StageArg};
use crate::progress::Progress;
use crate::{output, session};

pub(crate) fn run(args: &ExportArgs, progress: Progress) -> Result<()> {
    let is_plan = Path::new(&args.source)
        .extension()
        .is_some_and(|extension| extension == "toml");
    let plan = is_plan
        .then(|| Plan::read(Path::new(&args.source)))
        .transpose();
    let plan = plan.with_context(|| format!("cannot use the plan {}", args.source))?;
    let model = match (&args.model, &plan) {
        (Some(model), _) => model.clone(),
        (None, Some(plan)) => plan.file().model.name.clone(),
        (None, None) => args.source.clone(),
    };
    check_folder(&args.out, args.force)?;
    let checkpoint = Checkpoint::open(&session::fetch(&model, args.offline, progress)?)?;
    let (removed, repaired, about) = match &plan {
        None => {
            ensure!(
                args.stage.is_none(),
                "--stage needs a plan: {} is a model",
                args.source
            );
            let none = BlockSet::empty(checkpoint.config().n_blocks);
            (none, StageRepair::default(), Value::Null)
        }
        Some(plan) => {
            let hash = checkpoint.hash()?;
            plan.check_model(&model, &hash)
                .with_context(|| format!("cannot use the plan {}", args.source))?;
            let Some(stage) = args.stage.map(StageArg::stage) else {
                bail!("a plan has two stages: name one with --stage prefill or --stage decode")
            };
            let removed = plan.removed().of(stage).clone();
            let weights =
                RepairWeights::of_plan(plan, Path::new(&args.source), checkpoint.config());
            let weights =
                weights.with_context(|| format!("cannot use the plan {}", args.source))?;
            let about = about(plan, stage, &removed, weights.of(stage));
            (removed, weights.of(stage).clone(), about)
        }
    };
    let report = checkpoint.export(&removed, &repaired, args.dtype.dtype(), about, &args.out)?;
    output::result(&format!(
        "{}: {} blocks, {} of weights",
        args.out.display(),
        report.blocks,
        report.weight_bytes
    ))
}

/// A folder that holds something is not written into by accident.
fn check_folder(folder: &Path, force: bool) -> Result<()> {
    let held = folder
        .read_dir()
        .ok()
        .and_then(|mut entries| entries.next());
    ensure!(
        force || held.is_none(),
        "{} is not empty; --force writes into it all the same",
        folder.display()
    );
    Ok(())
}

/// What a reader of the exported `config.json` needs to know of the plan.
fn about(plan: &Plan, stage: Stage, removed: &BlockSet, repaired: &StageRepair) -> Value {
    let file = plan.file();
    json!({
        "stage": stage.to_string(),
        "base_model": file.model.name,
        "base_hash": file.model.hash,
        "method": file.method,
        "removed_blocks": removed.to_indices(),
        "kept_blocks": removed.complement().to_indices(),
        "repair": file.repair,
        "repaired_blocks": repaired.keys().map(|id| id.index()).collect::<Vec<_>>(),
        "kv": plan.kv().to_groups(),
    })
}
