use std::path::PathBuf;

use clap::Args;

use super::{ModelArgs, PlanArgs};

/// What a plan makes of a given continuation.
#[derive(Args, Debug)]
pub(crate) struct LogprobsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// File with the prompt.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: PathBuf,
    /// File with the continuation.
    #[arg(long, value_name = "FILE")]
    pub(crate) continuation_file: PathBuf,
    /// The files hold token ids, separated by white space or commas.
    #[arg(long)]
    pub(crate) ids: bool,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Print one object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}
