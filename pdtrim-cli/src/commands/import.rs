use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::import::{self, BlockSource, FolderStage, StageFolder};
use pdtrim_core::plan::{PlanModel, Repair};
use pdtrim_core::{BlockSet, Error, PerStage, Plan, limits, read_bytes, write_atomically};

use crate::args::{ImportArgs, ImportStageArg};
use crate::progress::Progress;
use crate::{output, session};

pub(crate) fn run(args: &ImportArgs, progress: Progress) -> Result<()> {
    let out = &args.out;
    ensure!(
        args.force || !out.exists(),
        "{} is there already; --force replaces it",
        out.display()
    );
    for source in &args.sources {
        ensure!(
            source.exists(),
            "cannot read {}: no such file or folder",
            source.display()
        );
    }
    let checkpoint = Checkpoint::open(&session::fetch(&args.model, args.offline, progress)?)?;
    let model = PlanModel {
        name: args.model.clone(),
        hash: checkpoint.hash()?,
        blocks: checkpoint.config().n_blocks,
    };
    let plan = match args.sources.as_slice() {
        [source] if !source.is_dir() => of_file(source, args.stage, model, progress)?,
        [folder] if folder.join("plan.toml").is_file() => {
            no_stage(args)?;
            let plan = of_run(folder, model)?;
            copy_beside(&plan, folder, out, args.force)?;
            plan
        }
        folders => {
            no_stage(args)?;
            of_stages(folders.iter().map(AsRef::as_ref), model, progress)?
        }
    };
    plan.write(out)?;
    let none_or = |set: &BlockSet| match set.len() {
        0 => "none".to_owned(),
        _ => set.to_string(),
    };
    let PerStage { prefill, decode } = plan.removed();
    output::result(&format!(
        "{}: prefill without blocks {}; decode without blocks {}",
        out.display(),
        none_or(prefill),
        none_or(decode)
    ))
}

fn no_stage(args: &ImportArgs) -> Result<()> {
    ensure!(
        args.stage.is_none(),
        "--stage is for a list or a mergekit file: a folder says which stage it is"
    );
    Ok(())
}

/// A plan of a list of blocks, or of a mergekit file.
fn of_file(
    path: &Path,
    stage: Option<ImportStageArg>,
    model: PlanModel,
    progress: Progress,
) -> Result<Plan> {
    let source = BlockSource::read(path, model.blocks)?;
    if let Some(named) = source.model.filter(|named| *named != model.name) {
        progress.say(&format!(
            "{} names the model {named}; the plan is for {}",
            path.display(),
            model.name
        ));
    }
    let kept = BlockSet::empty(model.blocks);
    let removed = match stage.unwrap_or_default() {
        ImportStageArg::Unified => PerStage::both(source.removed),
        ImportStageArg::Prefill => PerStage {
            prefill: source.removed,
            decode: kept,
        },
        ImportStageArg::Decode => PerStage {
            prefill: kept,
            decode: source.removed,
        },
    };
    let plan = import::plan(model, source.method, &removed, Vec::new());
    plan.with_context(|| format!("cannot make a plan of {}", path.display()))
}

/// The plan of a run, if it is the model's.
fn of_run(folder: &Path, model: PlanModel) -> Result<Plan> {
    let path = folder.join("plan.toml");
    let cannot = || format!("cannot use the plan {}", path.display());
    let plan = Plan::read(&path).with_context(cannot)?;
    plan.check_model(&model.name, &model.hash)
        .with_context(cannot)?;
    let mut file = plan.file().clone();
    file.model.name = model.name;
    Plan::new(file).with_context(cannot)
}

/// The files without which the plan cannot be run go where it goes.
fn copy_beside(plan: &Plan, from: &Path, out: &Path, force: bool) -> Result<()> {
    let to = out.parent().unwrap_or(Path::new(""));
    let same = |path: &Path| fs::canonicalize(path).ok();
    let place = if to.as_os_str().is_empty() {
        Path::new(".")
    } else {
        to
    };
    if same(place).is_some() && same(place) == same(from) {
        return Ok(());
    }
    let mut files = Vec::new();
    for name in plan.file().files_beside() {
        let (source, target) = (from.join(name), to.join(name));
        ensure!(
            force || !target.exists(),
            "{} is there already; --force replaces it",
            target.display()
        );
        let bytes = read_bytes(&source, limits::WEIGHTS)
            .with_context(|| format!("the plan needs {}", source.display()))?;
        files.push((target, bytes));
    }
    for (target, bytes) in files {
        write_atomically(&target, &bytes)?;
    }
    Ok(())
}

/// A plan of one exported stage, or of both.
fn of_stages<'p>(
    folders: impl Iterator<Item = &'p Path>,
    model: PlanModel,
    progress: Progress,
) -> Result<Plan> {
    let mut removed = PerStage::dense(model.blocks);
    let mut read: Vec<(&Path, StageFolder)> = Vec::new();
    for path in folders {
        ensure!(
            path.join("config.json").is_file(),
            "{}: expected a folder with plan.toml, or of an exported stage with config.json; two sources \
                have to be two such folders",
            path.display()
        );
        let folder = StageFolder::read(path, model.blocks)?;
        if folder.base_hash != model.hash {
            let error = Error::PlanModel {
                expected_name: folder.base_model,
                expected: folder.base_hash,
                found_name: model.name,
                found: model.hash,
            };
            return Err(error).with_context(|| format!("cannot use the folder {}", path.display()));
        }
        if folder.repair != Repair::None {
            progress.say(&format!(
                "{}: the folder's weights are repaired; the plan removes the same blocks without a repair",
                path.display()
            ));
        }
        if let Some((other, first)) = read.first() {
            check_pair((other, first), (path, &folder))?;
        }
        match folder.stage {
            FolderStage::Prefill => removed.prefill = folder.removed.clone(),
            FolderStage::Decode => removed.decode = folder.removed.clone(),
            FolderStage::Unified => removed = PerStage::both(folder.removed.clone()),
        }
        read.push((path, folder));
    }
    let Some((path, folder)) = read.pop() else {
        bail!("no folder was named");
    };
    let plan = import::plan(model, &folder.method, &removed, folder.kv);
    plan.with_context(|| format!("cannot make a plan of {}", path.display()))
}

fn check_pair(first: (&Path, &StageFolder), second: (&Path, &StageFolder)) -> Result<()> {
    let (one, other) = (first.1, second.1);
    ensure!(
        one.stage != other.stage,
        "{} and {} are both {} stages: expected one of each",
        first.0.display(),
        second.0.display(),
        one.stage
    );
    for (path, folder) in [first, second] {
        ensure!(
            folder.stage != FolderStage::Unified,
            "{} is for both stages: expected it alone, or a prefill and a decode stage",
            path.display()
        );
    }
    let differs = if one.pair != other.pair {
        Some("pair")
    } else if one.kv != other.kv {
        Some("kv")
    } else {
        None
    };
    if let Some(field) = differs {
        bail!(
            "{} and {} have different `pdtrim.{field}`: expected two stages of one plan",
            first.0.display(),
            second.0.display()
        );
    }
    Ok(())
}
