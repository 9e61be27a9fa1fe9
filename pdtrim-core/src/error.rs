//! What can go wrong in this crate.

use std::path::PathBuf;

use crate::block::BlockSet;
use crate::checkpoint::gguf::GgufError;
use crate::model::ModelDims;
use crate::stage::Stage;
use crate::units::Bytes;

/// Result with this crate's [`Error`].
///
/// ```
/// fn removed(text: &str) -> pdtrim_core::Result<Vec<usize>> {
///     Ok(text.parse::<pdtrim_core::BlockList>()?.to_set(30)?.to_indices())
/// }
/// assert_eq!(removed("3-5")?, [3, 4, 5]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An input that cannot be used; each variant names the offender, what was expected and what was found.
///
/// ```
/// use pdtrim_core::{BlockSet, Error};
///
/// let error = BlockSet::from_indices(5, [7]).unwrap_err();
/// assert!(matches!(error, Error::BlockOutOfRange { block: 7, depth: 5 }));
/// assert_eq!(error.to_string(), "block 7 does not exist: the model has 5 blocks (0 to 4)");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted: "read", "write", …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file was written to, or replaced, while it was in use.
    #[error("{} changed while it was in use: expected the file as it was opened, found {found}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is there now.
        found: String,
    },
    /// A path names a folder, a pipe, a socket or a device.
    #[error("{}: expected a file, found {found}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A file is larger than its kind may be; see [`limits`](crate::limits).
    #[error("{}: expected at most {limit} bytes, found {found}", path.display())]
    FileSize {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
        /// Its size in bytes, as far as it was read.
        found: u64,
    },
    /// A file has more of something in it than allowed; see [`limits`](crate::limits).
    #[error("{}: expected at most {limit} {what}, found more", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A file is not valid JSON of the expected form.
    #[error("{} is not the expected JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: serde_json::Error,
    },
    /// A file is not valid TOML of the expected form.
    #[error("{} is not the expected TOML", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: Box<toml::de::Error>,
    },
    /// A file is not valid YAML of the expected form.
    #[error("{} is not the expected YAML", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where and why parsing stopped.
        source: Box<serde_saphyr::Error>,
    },
    /// A file of another tool says what a plan cannot.
    #[error("{}: `{field}`: expected {expected}, found {found}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// The field as the file spells it.
        field: String,
        /// What is accepted.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A path is neither a Hugging Face folder nor a GGUF file.
    #[error("{} is not a checkpoint: expected {expected}, found {found}", path.display())]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
        /// What a checkpoint has there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A field of a checkpoint's configuration has a value this crate cannot run.
    #[error("{}: field `{field}` must be {expected}, found {found}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The field as the checkpoint spells it.
        field: String,
        /// What is accepted.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A GGUF file is broken or of an unknown kind.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// A safetensors file is broken.
    #[error("{}: not a usable safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint lacks a tensor that the model needs.
    #[error("{}: tensor `{tensor}` is missing, the config needs it with shape {expected:?}", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// Name as the checkpoint would spell it.
        tensor: String,
        /// Its shape, outermost axis first.
        expected: Vec<usize>,
    },
    /// The checkpoint holds a tensor that the model has no place for.
    #[error("{}: tensor `{tensor}` has no place in a {architecture} with {blocks} blocks", path.display())]
    UnusedTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The architecture that was built.
        architecture: &'static str,
        /// Its number of blocks.
        blocks: usize,
    },
    /// A tensor's shape is not the one that the config gives.
    #[error("{}: tensor `{tensor}` has shape {found:?}, the config needs {expected:?}", path.display())]
    TensorShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape by the config, outermost axis first.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has an element type that weights cannot have.
    #[error("{}: tensor `{tensor}` has element type {found}, expected F32, F16 or BF16", path.display())]
    TensorDtype {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        found: String,
    },
    /// Weights could not be put into the module.
    #[error("{}: tensor `{tensor}` could not be loaded: {reason}", path.display())]
    TensorLoad {
        /// The checkpoint.
        path: PathBuf,
        /// The parameter's path in the module.
        tensor: String,
        /// The store's reason.
        reason: String,
    },
    /// A tokenizer file is broken.
    #[error("{}: not a usable tokenizer: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer makes ids that the model has no embedding for.
    #[error("{}: the tokenizer has ids up to {largest_id}, the model's vocab_size is {vocab_size}", path.display())]
    TokenizerVocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// Largest id of the tokenizer.
        largest_id: usize,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// Text could not be turned into token ids or back.
    #[error("the tokenizer refused the text: {reason}")]
    Encode {
        /// The tokenizer's reason.
        reason: String,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {token} is not below the model's vocab_size {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Rows of the model's embedding.
        vocab_size: usize,
    },
    /// A block index is not below the model's depth.
    #[error("block {block} does not exist: the model has {depth} blocks (0 to {})", depth.saturating_sub(1))]
    BlockOutOfRange {
        /// The index.
        block: usize,
        /// Blocks of the model.
        depth: usize,
    },
    /// A list of blocks is not written as indices and ranges.
    #[error("`{found}` is not a block list: expected indices and ranges such as 5-25,27")]
    BlockList {
        /// The part that was not understood.
        found: String,
    },
    /// A stage would keep no block at all.
    #[error("{stage} would keep none of the model's {depth} blocks; at least one must stay")]
    AllBlocksRemoved {
        /// The stage.
        stage: Stage,
        /// Blocks of the model.
        depth: usize,
    },
    /// Prefill removes blocks that decode keeps, in a nested plan.
    #[error(
        "prefill removes blocks that decode keeps ({missing}): expected every block removed \
            from prefill to be removed from decode, or kv_fill = \"project\""
    )]
    NotNested {
        /// Blocks in P and not in D.
        missing: BlockSet,
    },
    /// Block sets of another model depth.
    #[error("`{field}` is for a model with {found} blocks, this model has {expected}")]
    Depth {
        /// What was given.
        field: &'static str,
        /// Blocks of the model.
        expected: usize,
        /// Blocks of the set.
        found: usize,
    },
    /// The two stages are to run models that do not fit together.
    #[error("prefill's model is {prefill:?}, decode's is {decode:?}: both need the same sizes")]
    StageModels {
        /// Prefill's.
        prefill: ModelDims,
        /// Decode's.
        decode: ModelDims,
    },
    /// A plan made for another model.
    #[error(
        "the plan is for model {} ({expected}), this is {} ({found})",
        expected_name,
        found_name
    )]
    PlanModel {
        /// Name in the plan.
        expected_name: String,
        /// Hash in the plan.
        expected: String,
        /// Name of the model at hand.
        found_name: String,
        /// Hash of the model at hand.
        found: String,
    },
    /// A plan file of another format version.
    #[error("plan version {found} is unknown, this build reads version {expected}")]
    PlanVersion {
        /// The version that this build writes.
        expected: u32,
        /// The version in the file.
        found: u32,
    },
    /// A plan for a deeper model than any.
    #[error("the plan's [model]: expected at most {limit} blocks, found {found}")]
    PlanDepth {
        /// The largest number of blocks.
        limit: usize,
        /// The number in the plan.
        found: usize,
    },
    /// A plan whose repair and repair file do not go together.
    #[error("the plan's repair: expected {expected}, found `{found}`")]
    PlanRepair {
        /// What a plan has there.
        expected: &'static str,
        /// What this one has.
        found: String,
    },
    /// A repair file is not the one that the plan was made with.
    #[error("{}: the plan needs the repair {expected}, this file is {found}", path.display())]
    RepairHash {
        /// The file.
        path: PathBuf,
        /// Hash in the plan.
        expected: String,
        /// Hash of the file.
        found: String,
    },
    /// A repair file holds a tensor that the plan has no use for.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    RepairTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What a repair of this plan holds.
        expected: String,
        /// What this one is.
        found: String,
    },
    /// A block of a stage cannot be made narrower like that.
    #[error("width of block {block} in {stage}: expected {expected}, found {found}")]
    Width {
        /// The stage.
        stage: Stage,
        /// The block.
        block: usize,
        /// What is accepted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Widths that were written for a model of other sizes.
    #[error(
        "the plan's [width] is for blocks of {} head groups and {} MLP channels, the model has {} and {}",
        found[0],
        found[1],
        expected[0],
        expected[1]
    )]
    WidthModel {
        /// Head groups and MLP channels of the model.
        expected: [usize; 2],
        /// Those of the plan.
        found: [usize; 2],
    },
    /// A plan whose widths and other parts do not go together.
    #[error("the plan's [width]: expected {expected}, found `{found}`")]
    PlanWidth {
        /// What a plan has there.
        expected: &'static str,
        /// What this one has.
        found: String,
    },
    /// A file of biases is not the one that the plan was made with.
    #[error("{}: the plan needs the biases {expected}, this file is {found}", path.display())]
    WidthHash {
        /// The file.
        path: PathBuf,
        /// Hash in the plan.
        expected: String,
        /// Hash of the file.
        found: String,
    },
    /// A block stands in two groups of a KV plan.
    #[error("block {block} stands in more than one [[kv]] group of the plan")]
    KvBlockTwice {
        /// The block.
        block: usize,
    },
    /// A prompt with its continuation does not fit the model's context.
    #[error("{tokens} tokens (prompt and continuation) do not fit the model's context of {limit}")]
    ContextLength {
        /// Tokens asked for.
        tokens: usize,
        /// Positions that the model was made for.
        limit: usize,
    },
    /// A pass needs at least one token there.
    #[error("{what} is empty: expected at least one token")]
    NoTokens {
        /// "the prompt", "the continuation", …
        what: &'static str,
    },
    /// Rows of one batch differ in length.
    #[error("a batch must hold sequences of one length, found {expected} and {found} tokens")]
    RaggedBatch {
        /// Length of the first row.
        expected: usize,
        /// Length of the row that differs.
        found: usize,
    },
    /// Calibration text gives no window.
    #[error(
        "{source_name}: {found} tokens are too few for {windows} windows of {window_tokens} tokens"
    )]
    CalibrationText {
        /// Where the text came from.
        source_name: String,
        /// Windows asked for.
        windows: usize,
        /// Tokens in each.
        window_tokens: usize,
        /// Tokens in the text.
        found: usize,
    },
    /// A text file is not UTF-8.
    #[error("{} is not UTF-8 text (first bad byte at offset {offset})", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is not UTF-8.
        offset: usize,
    },
    /// A text file has nothing in it.
    #[error("{} is empty", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// A word that is none of the choices.
    #[error("`{found}` is not a {field}: expected {expected}")]
    Choice {
        /// What was chosen.
        field: &'static str,
        /// The choices.
        expected: &'static str,
        /// The word.
        found: String,
    },
    /// A device that this build or this machine does not have.
    #[error("device {device} cannot be used: {missing}")]
    Device {
        /// The device as the user named it.
        device: String,
        /// What is missing.
        missing: &'static str,
    },
    /// What a [`CacheTransfer`](crate::pipeline::CacheTransfer) of another crate reported.
    #[error("the KV cache could not be handed to decode")]
    Transfer {
        /// The transfer's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A share of first positions that is none.
    #[error("`first_ratio`: expected a number from 0 to 1, found {found}")]
    FirstRatio {
        /// What was asked for.
        found: f64,
    },
    /// What decode was handed is not what follows from the prompt and the plan.
    #[error("decode received {what}, expected {expected}")]
    Received {
        /// What came, or what it came for.
        what: String,
        /// What should have.
        expected: String,
    },
    /// Derivatives of the loss cannot be computed: a number on the way is none.
    #[error("{stage}, block {block}: {what} is not a finite number, so the loss has no derivative")]
    NotFinite {
        /// The stage.
        stage: Stage,
        /// The block.
        block: usize,
        /// What is not finite.
        what: &'static str,
    },
    /// A temperature with which no token can be drawn.
    #[error("a temperature must be a finite number above 0, found {found}")]
    Temperature {
        /// The number given.
        found: f64,
    },
    /// A journal holds a whole line that is no record of its kind.
    #[error("{}, line {line}: {found}; delete the file or start over", path.display())]
    JournalLine {
        /// The journal.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong with it.
        found: String,
    },
    /// A file system has no room for what is to be written.
    #[error("{}: {expected} are needed, {found} are free", folder.display())]
    Space {
        /// Where it was to be written.
        folder: PathBuf,
        /// What it takes.
        expected: Bytes,
        /// What is free.
        found: Bytes,
    },
    /// A template that an engine could not follow.
    #[error("line {line}: expected at most {limit} {what}, found more")]
    TemplateNesting {
        /// Line, counted from 1.
        line: usize,
        /// What nests.
        what: &'static str,
        /// How many may.
        limit: usize,
    },
    /// The caller broke off.
    #[error("stopped by the caller")]
    Stopped,
    /// A model cannot be written in the form asked for.
    #[error("this model cannot be written as {form}: {reason}")]
    Export {
        /// The form.
        form: &'static str,
        /// Why not.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
