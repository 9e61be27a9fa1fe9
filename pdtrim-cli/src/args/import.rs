use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::DEFAULT_MODEL;

#[derive(Args, Debug)]
#[command(after_help = "Sources:\n  \
        a file of SLEB's script, or a list of block indices such as [14, 17, 13]\n  \
        a mergekit file (.yml, .yaml) with merge_method passthrough and slices of one model\n  \
        a folder that `pdtrim export` wrote of a stage; two of them make a plan of both stages\n  \
        a folder of `pdtrim trim`, whose plan is checked against the model and copied\n\n\
        A list or a mergekit file is for both stages unless --stage says for which. A block that only \
        prefill is without makes a plan with kv_fill = \"project\".")]
pub(crate) struct ImportArgs {
    /// What to read: a file, a folder, or two folders of a pair of stages.
    #[arg(required = true, num_args = 1..=2, value_name = "SOURCE")]
    pub(crate) sources: Vec<PathBuf>,
    /// The dense model that the plan is for: a folder, a .gguf file, a Hugging Face id or a known name.
    #[arg(long, short, value_name = "MODEL", default_value = DEFAULT_MODEL)]
    pub(crate) model: String,
    /// The plan file to write.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// What the list is for [default: unified].
    #[arg(long, value_enum)]
    pub(crate) stage: Option<ImportStageArg>,
    /// Use the caches only, no network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Replace a plan that is already there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// The stages that a list of removed blocks is for.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ImportStageArg {
    /// Prefill only; decode keeps every block
    Prefill,
    /// Decode only; prefill keeps every block
    Decode,
    /// Both stages
    #[default]
    Unified,
}
