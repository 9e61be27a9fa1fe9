use clap::Args;

use super::DEFAULT_MODEL;

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
