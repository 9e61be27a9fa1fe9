//! Writes a Hugging Face folder of the dense model or of one stage.
//!
//! One concern, one file: `forms` says which blocks a form writes and what it cannot carry, `config` makes
//! `config.json`, `weights` streams the tensors into shards, `beside` writes tokenizer and generation
//! files, `staging` sees to it that a folder appears whole or not at all, and `narrow` and `noop` are what
//! two of the ways to write blocks need.

mod beside;
mod config;
mod forms;
mod mergekit;
mod narrow;
mod noop;
mod space;
mod staging;
mod weights;
mod whole;

use std::fs;
use std::path::Path;

use burn::store::bridge;
use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::{DType, Shape, TensorData};
use serde_json::{Map, Value};

use self::forms::Written;
use self::narrow::Narrow;
use self::staging::Staging;
use self::weights::OutTensor;
use super::names::slots;
use super::shards::Access;
use super::{Checkpoint, Source};
use crate::atomic::write_atomically;
use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};
use crate::repair::StageRepair;
use crate::units::Bytes;
use crate::width::{StageBiases, StageWidths};

pub use forms::ExportForm;
pub use mergekit::mergekit_config;
pub use staging::is_export_leftover;
pub(super) use whole::write_folder;

/// What is written: the checkpoint without some blocks, and what the others have of their own.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::BlockSet;
/// use pdtrim_core::checkpoint::{Checkpoint, ExportSettings, ExportStage};
/// use pdtrim_core::testing::tiny_checkpoint;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let (model, out) = (folder.path().join("model"), folder.path().join("decode"));
/// let checkpoint = tiny_checkpoint(&model)?;
/// let stage = ExportStage::without(BlockSet::from_indices(5, [2, 3])?);
/// checkpoint.export(&stage, &ExportSettings::plain(DType::BF16), &out)?;
/// assert_eq!(Checkpoint::open(&out)?.config().n_blocks, 3);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExportStage {
    /// Blocks that the stage does without.
    pub removed: BlockSet,
    /// What the other blocks have in place of the checkpoint's weights.
    pub weights: StageWeights,
    /// Stored under `pdtrim` in `config.json`, unless null; loaders that do not know it ignore it.
    pub about: Value,
    /// Texts that are written beside the weights.
    pub files: Vec<ExportFile>,
}

/// A text file of an export.
///
/// ```
/// use pdtrim_core::BlockSet;
/// use pdtrim_core::checkpoint::{ExportFile, ExportStage};
///
/// let card = ExportFile { name: "README.md", text: "# Decode's stage\n".to_owned() };
/// let stage = ExportStage { files: vec![card], ..ExportStage::without(BlockSet::empty(5)) };
/// assert_eq!(stage.files.len(), 1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportFile {
    /// Its name in the folder.
    pub name: &'static str,
    /// What it says.
    pub text: String,
}

impl ExportStage {
    /// The checkpoint's own weights without the blocks in `removed`.
    pub fn without(removed: BlockSet) -> Self {
        Self {
            removed,
            weights: StageWeights::Own,
            about: Value::Null,
            files: Vec::new(),
        }
    }
}

/// What a stage has in place of the checkpoint's weights.
///
/// ```
/// use pdtrim_core::checkpoint::{ExportStage, StageWeights};
/// use pdtrim_core::repair::RepairWeights;
/// use pdtrim_core::{BlockSet, Stage};
///
/// // Decode's stage with what a repair made of its blocks.
/// let repair = RepairWeights::default();
/// let stage = ExportStage {
///     weights: StageWeights::Repaired(repair.of(Stage::Decode).clone()),
///     ..ExportStage::without(BlockSet::empty(5))
/// };
/// assert!(matches!(stage.weights, StageWeights::Repaired(_)));
/// ```
#[derive(Clone, Debug, Default)]
pub enum StageWeights {
    /// Nothing: the checkpoint's own are written.
    #[default]
    Own,
    /// Other weights in some blocks.
    Repaired(StageRepair),
    /// Narrower blocks in the shapes of the dense model: no engine has another width in each block, so
    /// what is removed is written as zeros, which gives the same logits at the dense model's speed.
    /// Biases set `attention_bias` and `mlp_bias`, for all blocks, with zeros where nothing is added.
    Narrow(StageWidths, StageBiases),
}

/// How it is written.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::Bytes;
/// use pdtrim_core::checkpoint::{ExportForm, ExportSettings};
///
/// let plain = ExportSettings::plain(DType::F16);
/// assert_eq!((plain.form, plain.max_shard), (ExportForm::Plain, Bytes(5_000_000_000)));
/// // Weights in files of 1 GB.
/// let settings = ExportSettings { max_shard: Bytes(1_000_000_000), ..plain };
/// assert_eq!(settings.dtype, DType::F16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// The form of the folder.
    pub form: ExportForm,
    /// Element type of the written weights.
    pub dtype: DType,
    /// Size above which weights are split into several files; a larger tensor has a file of its own.
    pub max_shard: Bytes,
}

impl ExportSettings {
    /// Where engines expect the weights to be split, 5 GB.
    pub const MAX_SHARD: Bytes = Bytes(5_000_000_000);

    /// The form `plain` in elements of `dtype`.
    pub fn plain(dtype: DType) -> Self {
        Self {
            form: ExportForm::Plain,
            dtype,
            max_shard: Self::MAX_SHARD,
        }
    }
}

/// What an export wrote.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::checkpoint::seeded;
/// use pdtrim_core::testing::TinyModel;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let config = TinyModel::default().config;
/// let report = seeded::write(&config, 7, DType::BF16, folder.path())?;
/// assert_eq!((report.blocks, report.weight_files), (5, 1));
/// assert_eq!(report.weight_bytes.0, 2 * config.parameters() as u64);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ExportReport {
    /// Blocks whose weights were written, zeroed ones included.
    pub blocks: usize,
    /// Size of the weights.
    pub weight_bytes: Bytes,
    /// Files that the weights are in.
    pub weight_files: usize,
}

impl Checkpoint {
    /// Writes `stage` as a Hugging Face folder: `config.json`, weights, tokenizer and generation files.
    ///
    /// One tensor is held at a time, read and not mapped. The folder appears whole at the end; one that is
    /// there already keeps its other files.
    ///
    /// # Errors
    ///
    /// [`Error::Depth`], [`Error::Export`] for what the form cannot carry, [`Error::Space`], [`Error::Io`],
    /// [`Error::Changed`] for a checkpoint that was written to in the meantime, and what reading
    /// the checkpoint can fail with.
    pub fn export(
        &self,
        stage: &ExportStage,
        settings: &ExportSettings,
        folder: &Path,
    ) -> Result<ExportReport> {
        self.check_depth(&stage.removed)?;
        let form = settings.form;
        let narrow = match &stage.weights {
            StageWeights::Narrow(widths, biases) => {
                Narrow::new(self.config(), form, widths, biases)?
            }
            StageWeights::Own | StageWeights::Repaired(_) => Narrow::none(self.config()),
        };
        let config = self.config_fields(stage, &narrow, settings)?;
        let tensors = self.out_tensors(stage, &narrow, settings)?;
        let weight_bytes = weights::total(&tensors);

        self.refuse_itself(folder)?;
        space::check(folder, weight_bytes)?;
        let staging = Staging::begin(folder)?;
        let weight_files = weights::write(staging.path(), tensors, settings.max_shard)?;
        self.write_beside(staging.path())?;
        if form == ExportForm::NoOp {
            noop::write_code(staging.path())?;
        }
        for file in &stage.files {
            write_atomically(&staging.path().join(file.name), file.text.as_bytes())?;
        }
        // Last: a folder without config.json is not a checkpoint, so a broken-off export is none.
        let config_path = staging.path().join("config.json");
        write_json(&config_path, &Value::Object(config))?;
        self.check_unchanged()?;
        staging.finish()?;
        Ok(ExportReport {
            blocks: form.layers(&stage.removed).len(),
            weight_bytes,
            weight_files,
        })
    }

    /// `config.json` of the written folder.
    fn config_fields(
        &self,
        stage: &ExportStage,
        narrow: &Narrow,
        settings: &ExportSettings,
    ) -> Result<Map<String, Value>> {
        let source = match &self.source {
            Source::Hf(folder) => Some(folder.config_json()?),
            Source::Gguf(_) => None,
        };
        let mut fields = match (settings.form, source) {
            (ExportForm::Plain, Some(source)) => config::cut(source, &stage.removed),
            (ExportForm::Identity, Some(source)) => config::carried(source),
            (ExportForm::NoOp, _) | (_, None) => config::made(narrow.config())?,
        };
        match settings.form {
            ExportForm::Plain => {
                let kept = stage.removed.complement().len();
                fields.insert("num_hidden_layers".to_owned(), kept.into());
            }
            ExportForm::NoOp => noop::describe(&mut fields, narrow.config(), &stage.removed)?,
            ExportForm::Identity => {}
        }
        config::set_dtype(&mut fields, settings.dtype);
        config::set_biases(&mut fields, narrow.config());
        if !stage.about.is_null() {
            fields.insert("pdtrim".to_owned(), stage.about.clone());
        }
        Ok(fields)
    }

    /// The tensors of the written folder, in the order of the model.
    fn out_tensors(
        &self,
        stage: &ExportStage,
        narrow: &Narrow,
        settings: &ExportSettings,
    ) -> Result<Vec<OutTensor>> {
        let layers = settings.form.layers(&stage.removed);
        let out = |name: String, tensor: PackTensor| OutTensor {
            name,
            tensor,
            dtype: settings.dtype,
            source: self.path().to_owned(),
        };
        let named = slots(self.config())
            .into_iter()
            .zip(self.tensors_by(Access::Read)?);
        let named = narrow.with_biases(named);
        let written = named.filter_map(|(slot, tensor)| match slot.block {
            None => Some(out(slot.hf, tensor)),
            Some((block, part)) => {
                let id = BlockId::new(block);
                let (layer, written) = layers.get(&id)?;
                let tensor = match (written, &stage.weights) {
                    (Written::Silent, _) if forms::is_output(&part) => zeros(&tensor.shape),
                    (Written::Whole, StageWeights::Repaired(repair)) => repair
                        .get(&id)
                        .and_then(|weights| weights.get(&part))
                        .map_or(tensor, in_memory),
                    _ => narrow.changed(id, &part, tensor),
                };
                Some(out(format!("model.layers.{layer}.{part}"), tensor))
            }
        });
        Ok(written.collect())
    }

    fn refuse_itself(&self, folder: &Path) -> Result<()> {
        let same = |path: &Path| fs::canonicalize(path).ok();
        if same(folder).is_some() && same(folder) == same(self.path()) {
            let reason = format!("{} is the checkpoint it is read from", folder.display());
            return Err(Error::Export {
                form: "a folder",
                reason,
            });
        }
        Ok(())
    }
}

/// A tensor that is not in the checkpoint.
fn in_memory(data: &TensorData) -> PackTensor {
    let copy = data.clone();
    let (dtype, shape) = (data.dtype(), data.shape().clone());
    bridge::deferred(String::new(), dtype, shape, None, move || Ok(copy.clone()))
}

/// A tensor of zeros, made when it is written.
fn zeros(shape: &Shape) -> PackTensor {
    let (shape, made) = (shape.clone(), shape.clone());
    bridge::deferred(String::new(), DType::F32, shape, None, move || {
        Ok(TensorData::new(
            vec![0.0_f32; made.num_elements()],
            made.clone(),
        ))
    })
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
    write_atomically(path, format!("{text}\n").as_bytes())
}
