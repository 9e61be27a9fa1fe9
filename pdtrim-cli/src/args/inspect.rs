use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdtrim_core::Stage;
use pdtrim_core::checkpoint::gguf::OutputType;

use super::{DEFAULT_MODEL, DtypeArg};

/// Say what a checkpoint is.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A folder, a .gguf file, a Hugging Face id or a known name.
    #[arg(default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Use the caches only, no network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// List every tensor.
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Print one object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Fetch a model into the cache.
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// A known name or a Hugging Face id (org/name or org/name@revision).
    #[arg(default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
    /// Use the caches only, no network.
    #[arg(long)]
    pub(crate) offline: bool,
}

/// Write a Hugging Face folder, or a GGUF file.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// A model (the dense model is written) or a plan file ending in .toml (one of its stages is).
    pub(crate) source: String,
    /// The folder to write, or the file with --gguf.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The stage of the plan.
    #[arg(long, value_enum)]
    pub(crate) stage: Option<StageArg>,
    /// The model of the plan, if the name in the plan does not lead to it.
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// The form: the stock architecture with fewer layers.
    #[arg(long, value_enum, default_value_t = FormArg::Plain)]
    pub(crate) form: FormArg,
    /// Element type of the written weights.
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    pub(crate) dtype: DtypeArg,
    /// Write one GGUF file for llama.cpp instead, with matrices of this element type.
    #[arg(long, value_enum, value_name = "TYPE", conflicts_with_all = ["form", "dtype"])]
    pub(crate) gguf: Option<GgufArg>,
    /// Use the caches only, no network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Replace a folder that has something in it, or a file.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageArg {
    Prefill,
    Decode,
}

impl StageArg {
    pub(crate) fn stage(self) -> Stage {
        match self {
            Self::Prefill => Stage::Prefill,
            Self::Decode => Stage::Decode,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GgufArg {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl GgufArg {
    pub(crate) fn weights(self) -> OutputType {
        match self {
            Self::F32 => OutputType::F32,
            Self::F16 => OutputType::F16,
            Self::Bf16 => OutputType::BF16,
            Self::Q8_0 => OutputType::Q8_0,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FormArg {
    Plain,
}
