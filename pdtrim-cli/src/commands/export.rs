use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::repair::{RepairWeights, StageRepair};
use pdtrim_core::width::Widths;
use pdtrim_core::{BlockSet, Plan, Stage};
use serde_json::{Value, json};

use crate::args::{ExportArgs, StageArg};
use crate::progress::Progress;
use crate::{output, session};

pub(crate) fn run(args: &ExportArgs, progress: Progress) -> Result<()> {
    if let Some(kind) = args.gguf {
        return super::gguf::run(args, kind, progress);
    }
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
    let (removed, repaired, narrow, about) = match &plan {
        None => {
            ensure!(
                args.stage.is_none(),
                "--stage needs a plan: {} is a model",
                args.source
            );
            let none = BlockSet::empty(checkpoint.config().n_blocks);
            (none, StageRepair::default(), None, Value::Null)
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
            let narrow = Widths::of_plan(plan, Path::new(&args.source), checkpoint.config());
            let narrow = narrow.with_context(|| format!("cannot use the plan {}", args.source))?;
            let narrow = plan.file().width.as_ref().map(|_| (narrow, stage));
            (removed, weights.of(stage).clone(), narrow, about)
        }
    };
    let (dtype, out) = (args.dtype.dtype(), &args.out);
    let report = match narrow {
        // A plan with widths has no repair.
        Some((widths, stage)) => {
            let (narrow, biases) = (widths.removed.of(stage), widths.biases.of(stage));
            progress.say(
                "the folder has zeros in the place of removed heads and channels: stock engines have one \
                    width for all blocks, so it gives the plan's logits without its speed",
            );
            checkpoint.export_narrow(&removed, narrow, biases, dtype, about, out)?
        }
        None => checkpoint.export(&removed, &repaired, dtype, about, out)?,
    };
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
pub(super) fn about(
    plan: &Plan,
    stage: Stage,
    removed: &BlockSet,
    repaired: &StageRepair,
) -> Value {
    let file = plan.file();
    let mut about = json!({
        "stage": stage.to_string(),
        "base_model": file.model.name,
        "base_hash": file.model.hash,
        "method": file.method,
        "removed_blocks": removed.to_indices(),
        "kept_blocks": removed.complement().to_indices(),
        "repair": file.repair,
        "repaired_blocks": repaired.keys().map(|id| id.index()).collect::<Vec<_>>(),
        "kv": plan.kv().to_groups(),
    });
    if let Some(section) = &file.width {
        let blocks = section.blocks.iter().filter(|block| block.stage == stage);
        let blocks = blocks.map(|block| {
            json!({
                "block": block.block,
                "removed_groups": block.removed_groups,
                "removed_channels": block.removed_channels.len(),
            })
        });
        about["width"] = json!({
            "method": section.method,
            "form": "zeros in the dense model's shapes; biases in o_proj and down_proj where the plan has them",
            "blocks": blocks.collect::<Vec<_>>(),
        });
    }
    about
}
