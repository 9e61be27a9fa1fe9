use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use super::{ModeArg, ModelArgs, PlanArgs};

#[derive(Args, Debug)]
#[command(
    after_help = "The fact, such as \"The code word of Oslo is velvet.\", stands between two sentences of the project's \
        own prose, the prompt ends with the question as in the task needle, and decode generates the answer on \
        the KV that it received. A prompt and its answer take at most the length, and less than one sentence below \
        it. Depth 0 is the prompt's beginning, 100 right before the question.",
    mut_arg("boundary", |boundary| boundary.help(
        "Which stage computes the first new token: prefill or decode. Prefill reads the whole prompt, so with it the \
            first token of an answer says nothing about KV [default: decode]"
    ))
)]
pub(crate) struct KvNeedleArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Tokens of a prompt and its answer, separated by commas; at most the model's context.
    #[arg(long, value_delimiter = ',', value_name = "N", default_values_t = [256, 512, 1024, 2048])]
    pub(crate) lengths: Vec<usize>,
    /// Where the fact stands, in percent of the prose, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "PERCENT", value_parser = percent, default_value = "0,10,20,30,40,50,60,70,80,90,100")]
    pub(crate) depths: Vec<f64>,
    /// Prompts for each length and depth.
    #[arg(long, value_name = "N", default_value = "5")]
    pub(crate) items: NonZeroUsize,
    /// Seed of facts and prose.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) seed: u64,
    /// How much of the plan is in force, separated by commas [default: dense,pd+kv with a plan, else dense].
    #[arg(long, alias = "mode", value_enum, value_delimiter = ',')]
    pub(crate) modes: Vec<ModeArg>,
    /// Folder for needle.json, needle.csv and needle.html. A killed run goes on where it was when it is started
    /// again with the same folder.
    #[arg(long, short, value_name = "DIR", default_value = "pdtrim-needle")]
    pub(crate) out: PathBuf,
    /// Start over: forget what an earlier run in the same folder measured.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|depth| (0.0..=100.0).contains(depth))
        .ok_or_else(|| "expected a percentage from 0 to 100".to_owned())
}
