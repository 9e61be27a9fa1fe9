mod about;
mod card;
mod chosen;
mod file;
mod gguf;
mod onnx;
mod scores;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use pdtrim_core::checkpoint::{
    Checkpoint, ExportFile, ExportForm, ExportSettings, ExportStage, StageWeights,
    is_export_leftover, mergekit_config,
};
use pdtrim_core::plan::Repair;
use pdtrim_core::{BlockSet, Plan};

use self::card::Card;
use self::chosen::Chosen;
use crate::args::ExportArgs;
use crate::progress::Progress;
use crate::{output, session};

pub(crate) fn run(args: &ExportArgs, progress: Progress) -> Result<()> {
    if let Some(kind) = args.gguf {
        return gguf::run(args, kind, progress);
    }
    if let Some(n_tokens) = args.onnx {
        return onnx::run(args, n_tokens, progress);
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
    let stage = match &plan {
        None => {
            ensure!(
                args.stage.is_none(),
                "--stage needs a plan: {} is a model",
                args.source
            );
            ExportStage::without(BlockSet::empty(checkpoint.config().n_blocks))
        }
        Some(plan) => of_plan(args, plan, &model, &checkpoint, progress)
            .with_context(|| format!("cannot use the plan {}", args.source))?,
    };
    let settings = ExportSettings {
        form: args.form.form(),
        dtype: args.dtype.dtype(),
        max_shard: args.max_shard_size,
    };
    let report = checkpoint.export(&stage, &settings, &args.out)?;
    output::result(&format!(
        "{}: {} blocks, {} of weights in {}",
        args.out.display(),
        report.blocks,
        report.weight_bytes,
        match report.weight_files {
            1 => "one file".to_owned(),
            several => format!("{several} files"),
        }
    ))
}

/// A folder that holds something is not written into by accident; what a killed export left there is nothing.
fn check_folder(folder: &Path, force: bool) -> Result<()> {
    let held = folder.read_dir().ok().and_then(|entries| {
        let mut entries = entries.flatten();
        entries.find(|entry| !is_export_leftover(&entry.file_name()))
    });
    ensure!(
        force || held.is_none(),
        "{} is not empty; --force writes into it all the same",
        folder.display()
    );
    Ok(())
}

/// What is written of a plan, and a word on what its reader may not expect.
fn of_plan(
    args: &ExportArgs,
    plan: &Plan,
    model: &str,
    checkpoint: &Checkpoint,
    progress: Progress,
) -> Result<ExportStage> {
    plan.check_model(model, &checkpoint.hash()?)?;
    let plan_path = Path::new(&args.source);
    let form = args.form.form();
    let chosen = Chosen::of_plan(plan, plan_path, checkpoint.config(), args.stage)?;
    chosen.check_form(plan, form)?;
    if matches!(chosen.weights, StageWeights::Narrow(..)) {
        progress.say(
            "the folder has zeros in the place of removed heads and channels: stock engines have one \
                width for all blocks, so it gives the plan's logits without its speed",
        );
    }
    let licence = checkpoint.licence()?;
    if licence.is_none() {
        progress.say(&format!(
            "{model} names no licence: nothing says what may be done with the export, and its card says so"
        ));
    }
    let recipe = (form == ExportForm::Plain).then(|| recipe(args, plan, &chosen, progress));
    let recipe = recipe.flatten();
    let card = Card {
        name: args.out.file_name().map_or_else(
            || chosen.name.to_owned(),
            |name| name.to_string_lossy().into_owned(),
        ),
        plan,
        chosen: &chosen,
        form,
        licence,
        scores: scores::beside(plan_path, &plan.file().model.hash)?,
        has_recipe: recipe.is_some(),
    };
    let card = ExportFile {
        name: "README.md",
        text: card.text(),
    };
    Ok(ExportStage {
        about: about::about(plan, &chosen, form),
        files: [card].into_iter().chain(recipe).collect(),
        removed: chosen.removed,
        weights: chosen.weights,
    })
}

/// mergekit's recipe, where a merge can make the weights.
fn recipe(
    args: &ExportArgs,
    plan: &Plan,
    chosen: &Chosen,
    progress: Progress,
) -> Option<ExportFile> {
    let file = plan.file();
    if file.repair != Repair::None || file.width.is_some() {
        progress.say(
            "no mergekit_config.yml: a merge of the base's layers cannot make repaired or narrower blocks",
        );
        return None;
    }
    Some(ExportFile {
        name: "mergekit_config.yml",
        text: mergekit_config(&file.model.name, &chosen.removed, args.dtype.dtype()),
    })
}
