use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use pdtrim_core::Boundary;

use super::{ModelArgs, WindowArgs};

/// What each block is worth to each stage: one block removed at a time from prefill, decode and both.
#[derive(Args, Debug)]
#[command(
    after_help = "For each removal: the mean NLL in nats of the continuations, its rise over the \
        dense model, and the KL divergence from the dense model's next-token distribution, each \
        with the standard error over windows. A block that only prefill is without still gives \
        decode its keys and values. The analysis of arXiv:2509.04467v4."
)]
pub(crate) struct SensitivityArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) windows: WindowArgs,
    /// Seed of the calibration windows or items.
    #[arg(long, default_value = "0", value_name = "N")]
    pub(crate) calibration_seed: u64,
    /// Which stage computes the first new token of a window; tasks are scored with decode.
    #[arg(long, default_value = "prefill")]
    pub(crate) boundary: Boundary,
    /// Tasks to score with each block removed, separated by commas [default: none].
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Only the first N items of each task.
    #[arg(long, value_name = "N", requires = "tasks")]
    pub(crate) limit: Option<NonZeroUsize>,
    /// Folder for sensitivity.json, sensitivity.csv and sensitivity.html. A killed run goes on where it
    /// was when it is started again with the same folder.
    #[arg(long, short, value_name = "DIR", default_value = "pdtrim-sensitivity")]
    pub(crate) out: PathBuf,
    /// Start over: forget what an earlier run in the same folder measured.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}
