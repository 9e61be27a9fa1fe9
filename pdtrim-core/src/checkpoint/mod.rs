//! Checkpoints: Hugging Face folders and GGUF files, read into one checked config and a Burn module.
//!
//! Both kinds give the same thing: lazily read tensors with Hugging Face's names, shapes and row
//! order. [`Checkpoint::load`] puts them into the module through `burn-store`, one at a time, so that
//! memory holds the weights and a single tensor more; [`Checkpoint::export`] writes them out the same way.

mod export;
pub mod gguf;
mod gguf_export;
mod gguf_source;
mod hf;
pub mod hub;
mod licence;
mod names;
mod onnx_export;
pub mod pull;
pub mod seeded;
mod shards;
pub mod source;
mod stamp;
mod weights;
pub mod wheel;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use burn::store::burn_pack::Tensor as PackTensor;
use burn::tensor::{DType, Device};
use sha2::{Digest, Sha256};

pub use export::{
    ExportFile, ExportForm, ExportReport, ExportSettings, ExportStage, StageWeights,
    is_export_leftover, mergekit_config,
};
pub use licence::Licence;
pub(crate) use names::{DOWN_PROJ, DOWN_PROJ_BIAS, O_PROJ_BIAS, block_shapes};
use shards::Access;
pub(crate) use shards::open_safetensors;

use crate::block::BlockSet;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Llama;
use crate::tokenizer::Tokenizer;
use gguf_source::GgufSource;
use hf::HfFolder;
use stamp::Stamp;

/// A checkpoint on disk whose configuration was read and checked; weights are read when asked for.
///
/// ```
/// use burn::tensor::{DType, Device};
/// use pdtrim_core::Boundary;
/// use pdtrim_core::checkpoint::Checkpoint;
/// use pdtrim_core::pipeline::PdModel;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # pdtrim_core::testing::tiny_checkpoint(folder.path())?;
/// # let path = folder.path();
/// let checkpoint = Checkpoint::open(path)?;
/// let (model, tokenizer) = checkpoint.load_with_tokenizer(DType::F32, &Device::flex())?;
/// let prompt = tokenizer.encode_prompt("Once upon")?;
/// let stages = PdModel::dense(&model, Boundary::Prefill);
/// let new = stages.generate_greedy(&prompt, 4, &checkpoint.config().eos_token_ids, |_| ())?;
/// assert!(!new.tokens.is_empty());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    source: Source,
    /// Its configuration and weights, in the order of their names.
    files: Vec<Stamp>,
    hash: OnceLock<String>,
}

#[derive(Debug)]
enum Source {
    Hf(HfFolder),
    Gguf(GgufSource),
}

/// One tensor of a checkpoint, as `pdtrim inspect` lists it.
///
/// ```
/// use pdtrim_core::testing::tiny_checkpoint;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let tensors = tiny_checkpoint(folder.path())?.listing()?;
/// let embedding = tensors.iter().find(|tensor| tensor.name == "model.embed_tokens.weight");
/// let embedding = embedding.expect("every model has one");
/// assert_eq!((embedding.shape.as_slice(), embedding.bytes), (&[256, 32][..], 4 * 256 * 32));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TensorListing {
    /// Hugging Face name.
    pub name: String,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    /// Element type in the file (`F32`, `BF16`, `Q4_1`, …).
    pub element_type: String,
    /// Size in the file.
    pub bytes: u64,
}

impl Checkpoint {
    /// Opens a Hugging Face folder (`config.json`, safetensors, `tokenizer.json`) or a GGUF file.
    ///
    /// # Errors
    ///
    /// [`Error::NotACheckpoint`], [`Error::Io`], [`Error::Json`], [`Error::Config`] or [`Error::Gguf`].
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
        // A file's stamp is older than what is read of it: a change in between is seen.
        let (config, source, files) = if metadata.is_dir() {
            let config_file = Stamp::of(&path.join("config.json"));
            let (config, folder) = HfFolder::open(path)?;
            let shards = folder.shards().iter().map(|shard| Stamp::of(shard));
            let mut files = shards.collect::<Result<Vec<_>>>()?;
            files.push(config_file?);
            files.sort_unstable_by(|a, b| a.path().cmp(b.path()));
            (config, Source::Hf(folder), files)
        } else {
            let file = Stamp::of(path)?;
            let (config, source) = GgufSource::open(path)?;
            (config, Source::Gguf(source), vec![file])
        };
        Ok(Self {
            path: path.to_owned(),
            config,
            source,
            files,
            hash: OnceLock::new(),
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checked configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// `safetensors` or `GGUF v3`, with the element types.
    pub fn format(&self) -> String {
        match &self.source {
            Source::Hf(_) => "Hugging Face folder (safetensors)".to_owned(),
            Source::Gguf(file) => format!("GGUF v{}", file.version()),
        }
    }

    /// `sha256:` and the hash of the configuration and weight files' bytes, in the order of their
    /// names; two copies of a checkpoint have the same.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::Changed`] for a file that is not the one that was opened any more.
    pub fn hash(&self) -> Result<String> {
        if let Some(hash) = self.hash.get() {
            return Ok(hash.clone());
        }
        let mut hasher = Sha256::new();
        for file in &self.files {
            file.hash(&mut hasher)?;
        }
        let hash = format!("sha256:{}", crate::hash::hex(&hasher.finalize()));
        Ok(self.hash.get_or_init(|| hash).clone())
    }

    /// Fails if configuration or weights were written to, or replaced, since they were opened. What was
    /// computed with mapped weights in the meantime is then of no use.
    ///
    /// # Errors
    ///
    /// [`Error::Changed`] or [`Error::Io`].
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(Stamp::check)
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Tokenizer`], [`Error::Gguf`] or [`Error::TokenizerVocabulary`].
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.source {
            Source::Hf(folder) => folder.tokenizer(&self.config),
            Source::Gguf(file) => file.tokenizer(&self.config),
        }
    }

    /// The Jinja template that makes a prompt of a conversation, if the checkpoint has one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::NotUtf8`], [`Error::Json`] or [`Error::Gguf`].
    pub fn chat_template(&self) -> Result<Option<String>> {
        match &self.source {
            Source::Hf(folder) => folder.chat_template(),
            Source::Gguf(file) => file.chat_template(),
        }
    }

    /// The tensors that the file holds.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), for a broken file.
    pub fn listing(&self) -> Result<Vec<TensorListing>> {
        match &self.source {
            Source::Hf(folder) => folder.listing(),
            Source::Gguf(file) => Ok(file.listing()),
        }
    }

    /// Loads the weights as `dtype` onto `device`.
    ///
    /// # Errors
    ///
    /// [`Error::Safetensors`], [`Error::MissingTensor`], [`Error::UnusedTensor`],
    /// [`Error::TensorShape`], [`Error::TensorDtype`] or [`Error::TensorLoad`].
    pub fn load(&self, dtype: DType, device: &Device) -> Result<Llama> {
        weights::load(&self.path, &self.config, &self.tensors()?, dtype, device)
    }

    /// [`load`](Self::load) and [`tokenizer`](Self::tokenizer) side by side, and the pages of mapped
    /// weights looked up before a first pass needs them: the shortest way to a first token.
    ///
    /// # Errors
    ///
    /// As both.
    pub fn load_with_tokenizer(&self, dtype: DType, device: &Device) -> Result<(Llama, Tokenizer)> {
        let load = || {
            let model = self.load(dtype, device)?;
            if self.maps_weights() {
                crate::kernels::pages::touch(model.weights());
            }
            Ok(model)
        };
        let (model, tokenizer) = rayon::join(load, || self.tokenizer());
        Ok((model?, tokenizer?))
    }

    /// Whether weights of the checkpoint's own element type are used where they lie in the file.
    pub fn maps_weights(&self) -> bool {
        matches!(self.source, Source::Hf(_))
    }

    /// As [`load`](Self::load), but a block is read, and converted, each time another one is run:
    /// memory holds the embedding, the vocabulary head and one block. For models that do not fit.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_streamed(&self, dtype: DType, device: &Device) -> Result<Llama> {
        weights::load_streamed(&self.path, &self.config, &self.tensors()?, dtype, device)
    }

    /// Refuses blocks of a model of another depth.
    fn check_depth(&self, removed: &BlockSet) -> Result<()> {
        let (expected, found) = (self.config().n_blocks, removed.depth());
        if expected == found {
            return Ok(());
        }
        Err(Error::Depth {
            field: "removed",
            expected,
            found,
        })
    }

    /// The reason not to write a file at `path`, if it is the one that the checkpoint is read from.
    fn refuse_own_file(&self, path: &Path) -> Result<(), String> {
        match (fs::canonicalize(self.path()), fs::canonicalize(path)) {
            (Ok(own), Ok(target)) if own == target => Err(format!(
                "{} is the checkpoint it is read from",
                path.display()
            )),
            _ => Ok(()),
        }
    }

    /// The model's tensors by Hugging Face name, checked for presence and shape, not yet read.
    fn tensors(&self) -> Result<Vec<PackTensor>> {
        self.tensors_by(Access::Mapped)
    }

    fn tensors_by(&self, access: Access) -> Result<Vec<PackTensor>> {
        match &self.source {
            Source::Hf(folder) => folder.tensors(&self.config, access),
            Source::Gguf(file) => file.tensors(&self.config),
        }
    }
}
