use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdtrim_kv::vllm::ConnectorLayout;

use super::{ModelArgs, PlanArgs};

#[derive(Args, Debug)]
#[command(
    after_help = "Prefill runs the plan's prefill stage; layers are numbered as in the folder that `pdtrim export \
        --stage decode` writes, which is what vLLM has to serve, with this element type (--dtype), this block size, one \
        worker, and --out as shared_storage_path. vLLM runs the tokens that fill no block itself, with \
        decode's blocks. A paged cache has every position of every layer, so a plan that drops positions of \
        this prompt is refused; --all-positions sends them all instead."
)]
pub(crate) struct KvExportArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// The prompt's text.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: PathBuf,
    /// The file holds token ids instead, separated by commas or white space.
    #[arg(long)]
    pub(crate) ids: bool,
    /// The folder that vLLM is given as `shared_storage_path`; the prompt's folder is made in it.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Tokens of a block of vLLM's cache.
    #[arg(long, value_name = "N", default_value = "16")]
    pub(crate) block_size: NonZeroUsize,
    /// The release whose connector reads it.
    #[arg(long, value_enum, default_value_t = ConnectorArg::Vllm033)]
    pub(crate) connector: ConnectorArg,
    /// Send every position in every block, whatever the plan says: what decode then answers is the mode pd, not
    /// pd+kv.
    #[arg(long)]
    pub(crate) all_positions: bool,
    /// Replace the prompt's folder if it is there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Releases of vLLM whose sources the layout follows.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectorArg {
    /// `SharedStorageConnector` of vLLM 0.11.0, on `FlashAttention`
    #[value(name = "vllm-0.11")]
    Vllm011,
    /// `ExampleConnector` of vLLM 0.33.0
    #[value(name = "vllm-0.33")]
    Vllm033,
}

impl ConnectorArg {
    pub(crate) fn layout(self) -> ConnectorLayout {
        match self {
            Self::Vllm011 => ConnectorLayout::V0_11,
            Self::Vllm033 => ConnectorLayout::V0_33,
        }
    }
}
