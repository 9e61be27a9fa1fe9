use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;
use pdtrim_core::Boundary;
use pdtrim_search::calibration::CalibrationSource;

use super::ModelArgs;

/// Search with several calibration sources and seeds, and compare the chosen blocks and their losses.
#[derive(Args, Debug)]
#[command(
    after_help = "For each source and seed: sleb on both stages, J on its own windows, and the mean \
        NLL in nats on held-out windows of every source, of the bundled prose and, with --data, of \
        WikiText-2's test text. No seed draws a held-out window. The rows `random` are the control: \
        blocks drawn by the seed."
)]
pub(crate) struct CalibrationsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Sources, separated by commas, as `trim --calibration` takes them [default: prose,self; with
    /// --data all that have a name].
    #[arg(long, value_delimiter = ',', value_name = "SOURCE")]
    pub(crate) sources: Vec<CalibrationSource>,
    /// Seeds, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2", value_name = "N")]
    pub(crate) seeds: Vec<u64>,
    /// Folder with the published files.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Items to draw from each source that has some [default: 256, or all if there are fewer].
    #[arg(long, value_name = "N")]
    pub(crate) calibration_items: Option<NonZeroUsize>,
    /// Calibration windows.
    #[arg(long, default_value = "8", value_name = "N")]
    pub(crate) windows: NonZeroUsize,
    /// Tokens in a window; three quarters are its prompt.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) window_tokens: NonZeroUsize,
    /// Held-out windows of each domain, as long as the others.
    #[arg(long, default_value = "16", value_name = "N")]
    pub(crate) held_out_windows: NonZeroUsize,
    /// Blocks to remove from prefill.
    #[arg(long, default_value = "2", value_name = "N")]
    pub(crate) prefill_count: usize,
    /// Blocks to remove from decode, prefill's included.
    #[arg(long, default_value = "4", value_name = "N")]
    pub(crate) decode_count: usize,
    /// Also let the first and the last block be removed.
    #[arg(long)]
    pub(crate) unprotected_ends: bool,
    /// Which stage computes the first new token.
    #[arg(long, default_value = "prefill")]
    pub(crate) boundary: Boundary,
    /// Print one object instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write the object to a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}
