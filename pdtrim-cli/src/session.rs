//! What every command needs first: the model, its tokenizer, and what the plan makes of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::DType;
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::checkpoint::hub::fetch_dataset_file;
use pdtrim_core::checkpoint::source::{ModelSource, PullEvent, SourceSettings};
use pdtrim_core::device::{DeviceSpec, available_memory};
use pdtrim_core::hash::sha256;
use pdtrim_core::model::{BlockModel, Llama};
use pdtrim_core::pipeline::PdModel;
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::width::{PlanWidth, Widths};
use pdtrim_core::{
    BlockKv, BlockList, BlockSet, Boundary, Bytes, KvFill, KvPlan, PerStage, Plan, Stage, Tokenizer,
};
use pdtrim_eval::{HubFile, Mode};
use pdtrim_kv::PlannedTransfer;
use pdtrim_kv::serve::ServedParts;

use crate::args::{DEFAULT_MODEL, DtypeArg, ModelArgs, PlanArgs};
use crate::mapped;
use crate::progress::Progress;
use crate::run_folder::RunFolder;

/// A loaded model.
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) model: Llama,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) device: DeviceSpec,
    pub(crate) dtype: DType,
}

impl Session {
    pub(crate) fn open(args: &ModelArgs, progress: Progress) -> Result<Self> {
        let name = args
            .model
            .clone()
            .unwrap_or_else(|| DEFAULT_MODEL.to_owned());
        // Before anything is fetched: a device that is not there should not cost a download.
        let device: DeviceSpec = args.device.as_deref().unwrap_or("cpu").parse()?;
        let place = device.open()?;
        let dtype = args
            .dtype
            .map_or_else(|| device.default_dtype(), DtypeArg::dtype);
        let path = fetch(&name, args.offline, progress)?;
        let checkpoint = Checkpoint::open(&path)?;
        let (model, tokenizer) = if args.one_block {
            let model = checkpoint.load_streamed(dtype, &place)?;
            (model, checkpoint.tokenizer()?)
        } else {
            checkpoint.load_with_tokenizer(dtype, &place)?
        };
        Ok(Self {
            name,
            checkpoint,
            model,
            tokenizer,
            device,
            dtype,
        })
    }

    /// For work that reads the weights many times: they are copied from the mapped file into memory that
    /// is faster to read, if there is twice as much of it as they need.
    pub(crate) fn for_long_work(self) -> Self {
        let needed = (self.model.config().parameters() * self.dtype.size()) as u64;
        let has_room = available_memory().is_some_and(|free| free.0 / 2 > needed);
        if self.device != DeviceSpec::Cpu || !has_room || !self.checkpoint.maps_weights() {
            return self;
        }
        Self {
            model: self.model.in_large_pages(),
            ..self
        }
    }

    /// Fails if the checkpoint was written to, or replaced, since it was opened: what was measured may be
    /// of either. What `folder` kept of it is then not reused.
    pub(crate) fn check_unchanged(&self, folder: Option<&RunFolder>) -> Result<()> {
        let unchanged = self.checkpoint.check_unchanged();
        if unchanged.is_err() {
            folder.map_or(Ok(()), RunFolder::forget)?;
        }
        Ok(unchanged?)
    }

    pub(crate) fn depth(&self) -> usize {
        self.model.config().n_blocks
    }
}

/// The file or folder behind a model's name, fetched if it is not on this machine yet.
pub(crate) fn fetch(name: &str, offline: bool, progress: Progress) -> Result<PathBuf> {
    let settings = SourceSettings::from_env().with_offline(offline);
    let source = ModelSource::parse(name)?;
    let mut bar = None;
    let path = source.fetch(&settings, &mut |event| match event {
        PullEvent::Size { origin, bytes } => {
            progress.say(&format!("{name}: {} from {origin}", Bytes(bytes)));
        }
        PullEvent::Trying { origin } => progress.say(&format!("{name}: trying {origin}")),
        PullEvent::Failed { origin, reason } => {
            progress.say(&format!("{name}: not from {origin}: {reason}"));
        }
        PullEvent::Served { origin, path } => progress.say(&format!(
            "{name}: served by {origin}, now {}",
            path.display()
        )),
        PullEvent::Waiting { path } => progress.say(&format!(
            "{name}: another process is fetching it ({})",
            path.display()
        )),
        PullEvent::Progress { bytes, total_bytes } => {
            let step = bar.get_or_insert_with(|| {
                progress.step(&format!("{name}: bytes"), total_bytes as usize)
            });
            step.set_done(bytes as usize);
        }
        // Already here: nothing to tell.
        _ => {}
    })?;
    mapped::name_mapped(&path);
    Ok(path)
}

/// A file of a dataset on the hub, fetched if it is not on this machine yet.
pub(crate) fn fetch_dataset(file: &HubFile, offline: bool, progress: Progress) -> Result<PathBuf> {
    let settings = SourceSettings::from_env().with_offline(offline);
    let HubFile {
        repo,
        revision,
        file,
    } = file;
    let mut bar = None;
    let fetched = fetch_dataset_file(repo, revision, file, &settings, &mut |event| match event {
        PullEvent::Size { bytes, .. } => {
            progress.say(&format!("{repo}/{file}: {}", Bytes(bytes)));
        }
        PullEvent::Progress { bytes, total_bytes } => {
            let step = bar.get_or_insert_with(|| {
                progress.step(&format!("{repo}: bytes"), total_bytes as usize)
            });
            step.set_done(bytes as usize);
        }
        _ => {}
    });
    Ok(fetched?)
}

/// A plan bound to a model: checked, and ready to run in any mode.
pub(crate) struct Bound {
    removed: PerStage<BlockSet>,
    kv_fill: KvFill,
    transfer: PlannedTransfer,
    send_all: PlannedTransfer,
    repaired: Repaired,
    pub(crate) boundary: Boundary,
    pub(crate) plan: Option<(PathBuf, Plan)>,
}

impl Bound {
    /// The plan that the arguments name or spell out; nothing removed if they do neither.
    pub(crate) fn from_args(args: &PlanArgs, session: &Session) -> Result<Self> {
        let depth = session.depth();
        if let Some(path) = &args.plan {
            let plan = read_plan(path, session)?;
            let boundary = args.boundary.unwrap_or_else(|| plan.boundary());
            let mut bound = Self::new(
                plan.removed().clone(),
                plan.kv_fill(),
                plan.kv().clone(),
                boundary,
            );
            bound.repaired = Repaired::read(&plan, path, session)?;
            bound.repaired = bound.repaired.or_narrow(&plan, path, session)?;
            bound.plan = Some((path.clone(), plan));
            return Ok(bound);
        }
        let set = |list: &Option<BlockList>| {
            list.as_ref()
                .map_or(Ok(BlockSet::empty(depth)), |list| list.to_set(depth))
        };
        let removed = PerStage {
            prefill: set(&args.prefill_remove)?,
            decode: set(&args.decode_remove)?,
        };
        pdtrim_core::plan::check_removed(&removed, KvFill::Nested)?;
        let sends = BlockKv {
            span: Some(args.span()?),
            heavy: args.kv_heavy.unwrap_or(0),
            ..BlockKv::default()
        };
        let kv = KvPlan::send_all(depth);
        let blocks = set(&args.kv_blocks)?;
        let kv = blocks.iter().fold(kv, |kv, id| kv.with_block(id, sends));
        let kv = kv.encoded_everywhere(args.kv_encoding.unwrap_or_default());
        Ok(Self::new(
            removed,
            KvFill::Nested,
            kv,
            args.boundary.unwrap_or_default(),
        ))
    }

    pub(crate) fn new(
        removed: PerStage<BlockSet>,
        kv_fill: KvFill,
        kv: KvPlan,
        boundary: Boundary,
    ) -> Self {
        let send_all = PlannedTransfer::new(KvPlan::send_all(kv.depth()));
        Self {
            removed,
            kv_fill,
            transfer: PlannedTransfer::new(kv),
            send_all,
            repaired: Repaired::default(),
            boundary,
            plan: None,
        }
    }

    /// The same, but every block sends all positions, in its encoding.
    pub(crate) fn sending_all_positions(self) -> Self {
        let kv = self.kv().clone();
        let kv = kv.spanned().iter().fold(kv, |kv, id| {
            let encoding = kv.block(id).encoding;
            let sends = BlockKv {
                encoding,
                ..BlockKv::default()
            };
            kv.with_block(id, sends)
        });
        Self {
            transfer: PlannedTransfer::new(kv),
            ..self
        }
    }

    /// The same with repaired weights.
    pub(crate) fn with_repaired(self, repaired: Repaired) -> Self {
        Self { repaired, ..self }
    }

    /// Blocks removed from each stage.
    pub(crate) fn removed_blocks(&self) -> &PerStage<BlockSet> {
        &self.removed
    }

    /// What a repair, or widths, made of the weights.
    pub(crate) fn repaired(&self) -> &Repaired {
        &self.repaired
    }

    /// What each stage runs.
    pub(crate) fn models<'a>(&'a self, session: &'a Session) -> PerStage<&'a dyn BlockModel> {
        self.repaired.models(session)
    }

    /// Whether the plan leaves the model as it is.
    pub(crate) fn is_dense(&self) -> bool {
        self.removed.is_dense()
            && self.transfer.plan().sends_all()
            && self.repaired.sha256.is_none()
    }

    /// What `mode` makes of the plan, in words: two modes that do the same have the same.
    pub(crate) fn in_force(&self, mode: Mode) -> String {
        let removed = self.removed(mode);
        let kv = if mode == Mode::PdKv {
            self.transfer.plan().to_groups()
        } else {
            Vec::new()
        };
        let repair = match &self.repaired.sha256 {
            Some(sha256) if mode != Mode::Dense => format!(" repair {sha256}"),
            _ => String::new(),
        };
        format!(
            "P {} D {} {:?} {kv:?}{repair}",
            removed.prefill, removed.decode, self.kv_fill
        )
    }

    /// What crosses with all of the plan in force.
    pub(crate) fn kv(&self) -> &KvPlan {
        self.transfer.plan()
    }

    /// What a server of the plan holds in `mode`; `dense` are the model's weights as they are.
    pub(crate) fn into_served(
        self,
        dense: &Arc<Llama>,
        mode: Mode,
        model_hash: String,
    ) -> ServedParts {
        let removed = self.removed(mode);
        let kv = match mode {
            Mode::PdKv => self.kv().clone(),
            _ => KvPlan::send_all(removed.decode.depth()),
        };
        let stages = self.repaired.stages;
        let repaired = |stage: Option<Llama>| -> Arc<dyn BlockModel> {
            match stage {
                Some(model) if mode != Mode::Dense => Arc::new(model),
                _ => Arc::clone(dense) as Arc<dyn BlockModel>,
            }
        };
        let decode = repaired(stages.decode);
        let models = match mode {
            // One machine runs both stages on one set of weights: decode's.
            Mode::Dense | Mode::Unified => PerStage::both(decode),
            Mode::Pd | Mode::PdKv => PerStage {
                prefill: repaired(stages.prefill),
                decode,
            },
        };
        ServedParts {
            models,
            removed,
            kv_fill: self.kv_fill,
            boundary: self.boundary,
            kv,
            model_hash,
            weights_hash: self.repaired.sha256,
        }
    }

    /// Blocks removed from each stage in `mode`.
    pub(crate) fn removed(&self, mode: Mode) -> PerStage<BlockSet> {
        match mode {
            Mode::Dense => PerStage::dense(self.removed.decode.depth()),
            // One machine runs both stages on one set of weights: decode's.
            Mode::Unified => PerStage::both(self.removed.decode.clone()),
            Mode::Pd | Mode::PdKv => self.removed.clone(),
        }
    }

    /// The model with so much of the plan in force.
    pub(crate) fn model<'a>(
        &'a self,
        session: &'a Session,
        mode: Mode,
        boundary: Boundary,
    ) -> Result<PdModel<'a>> {
        let transfer = if mode == Mode::PdKv {
            &self.transfer
        } else {
            &self.send_all
        };
        let removed = self.removed(mode);
        let repaired = self.repaired.models(session);
        let models = match mode {
            Mode::Dense => PerStage::both(&session.model as &dyn BlockModel),
            Mode::Unified => PerStage::both(repaired.decode),
            Mode::Pd | Mode::PdKv => repaired,
        };
        Ok(PdModel::per_stage(
            models,
            removed,
            self.kv_fill,
            boundary,
            transfer,
        )?)
    }
}

/// What a repair, or widths, make of the model in each stage; the model itself where they change nothing.
#[derive(Debug, Default)]
pub(crate) struct Repaired {
    stages: PerStage<Option<Llama>>,
    sha256: Option<String>,
}

impl Repaired {
    /// The model with the weights of a file that has this hash.
    pub(crate) fn new(weights: &RepairWeights, sha256: &str, model: &Llama) -> Self {
        Self {
            stages: PerStage {
                prefill: weights.apply(model, Stage::Prefill),
                decode: weights.apply(model, Stage::Decode),
            },
            sha256: Some(sha256.to_owned()),
        }
    }

    fn read(plan: &Plan, path: &Path, session: &Session) -> Result<Self> {
        let Some(file) = &plan.file().repair_file else {
            return Ok(Self::default());
        };
        let weights = RepairWeights::of_plan(plan, path, session.model.config());
        let weights = weights.with_context(|| format!("cannot use the plan {}", path.display()))?;
        Ok(Self::new(&weights, &file.sha256, &session.model))
    }

    /// The model in the widths that the section of a plan describes.
    pub(crate) fn narrow(widths: &Widths, section: &PlanWidth, model: &Llama) -> Self {
        // The section has the hash of the biases.
        let about = serde_json::to_string(section).unwrap_or_default();
        Self::narrow_as(widths, &about, model)
    }

    /// The model in these widths, which follow from what `about` says.
    pub(crate) fn narrow_as(widths: &Widths, about: &str, model: &Llama) -> Self {
        Self {
            stages: PerStage {
                prefill: widths.apply(model, Stage::Prefill),
                decode: widths.apply(model, Stage::Decode),
            },
            sha256: Some(sha256(about.as_bytes())),
        }
    }

    /// The model in the widths of the plan, if it has any; a plan with widths has no repair.
    fn or_narrow(self, plan: &Plan, path: &Path, session: &Session) -> Result<Self> {
        let Some(section) = &plan.file().width else {
            return Ok(self);
        };
        let widths = Widths::of_plan(plan, path, session.model.config());
        let widths = widths.with_context(|| format!("cannot use the plan {}", path.display()))?;
        Ok(Self::narrow(&widths, section, &session.model))
    }

    /// Each stage's model.
    pub(crate) fn models<'a>(&'a self, session: &'a Session) -> PerStage<&'a dyn BlockModel> {
        let model = |stage| match self.stages.of(stage) {
            Some(repaired) => repaired as &dyn BlockModel,
            None => &session.model,
        };
        PerStage {
            prefill: model(Stage::Prefill),
            decode: model(Stage::Decode),
        }
    }

    /// Hash of the file that has the weights, if there are any.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.sha256.as_deref()
    }
}

fn read_plan(path: &Path, session: &Session) -> Result<Plan> {
    let plan =
        Plan::read(path).with_context(|| format!("cannot use the plan {}", path.display()))?;
    let check = plan.check_model(&session.name, &session.checkpoint.hash()?);
    check.with_context(|| format!("cannot use the plan {}", path.display()))?;
    Ok(plan)
}
