use clap::Args;

use super::{ModelArgs, PlanArgs};

/// Go on with a text, always by the most likely token.
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// The text to go on with.
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Most tokens to make.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) max_new_tokens: usize,
    /// Print one object with text, tokens and KV bytes.
    #[arg(long)]
    pub(crate) json: bool,
}
