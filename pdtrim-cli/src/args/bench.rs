use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use pdtrim_core::{BlockList, Boundary};

use super::{DtypeArg, ModelArgs, PlanArgs};
use crate::commands::Link;

/// Measure how fast the stages, a search and an evaluation run on this machine.
#[derive(Args, Debug)]
#[command(
    after_help = "All samples are kept in the JSON, in seconds and in their order. With a plan, dense and \
        trimmed are measured in turn, so that a machine that is busy for a while slows both."
)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) what: BenchCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// Time to the first token: the prompt, its last logits and the choice.
    Prefill(PrefillBenchArgs),
    /// Time per output token after a prompt whose prefill is not counted.
    Decode(DecodeBenchArgs),
    /// One pass of log-likelihoods over windows: what a search pays for a candidate.
    Perplexity(PerplexityBenchArgs),
    /// A whole greedy search for one set of blocks, by the loss of every token.
    Search(SearchBenchArgs),
    /// Scoring a task.
    Eval(EvalBenchArgs),
    /// Opening a checkpoint, loading its weights and the first token of a prompt.
    Load(LoadBenchArgs),
    /// Write a checkpoint of a published model's shape with seeded random weights, to measure with.
    Make(MakeBenchArgs),
    /// How times grow with prompt length, batch and removed blocks, against what the work predicts; a page.
    Growth(GrowthBenchArgs),
    /// Requests from prompt to last token: both stages in one process, and prefill in another; a page.
    Pd(PdBenchArgs),
}

/// What every measurement takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct MeasureArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Runs before the first that counts [default: 1; search: 0].
    #[arg(long, value_name = "N")]
    pub(crate) warmup: Option<usize>,
    /// Runs that count [default: 5; search: 1; growth: 3].
    #[arg(long, value_name = "N")]
    pub(crate) repeats: Option<NonZeroUsize>,
    /// Threads [default: as many as the machine has].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// What the device can compute, in FLOP/s [default on the CPU: measured, products that stay in the
    /// nearest cache]. An H200's data sheet says 989e12 for dense bf16.
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) peak_flops: Option<f64>,
    /// What the device can read, in bytes/s [default on the CPU: measured, a sum over 256 MiB]. An
    /// H200's data sheet says 4.8e12.
    #[arg(long, value_name = "X", value_parser = positive)]
    pub(crate) peak_bandwidth: Option<f64>,
    /// Print one object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write the object to a file.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if number > 0.0 && number.is_finite() {
        Ok(number)
    } else {
        Err("expected a number above 0".to_owned())
    }
}

#[derive(Args, Debug)]
pub(crate) struct PrefillBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Tokens of a prompt.
    #[arg(long, default_value = "512", value_name = "N")]
    pub(crate) tokens: NonZeroUsize,
    /// Prompts at a time.
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) batch: NonZeroUsize,
}

#[derive(Args, Debug)]
pub(crate) struct DecodeBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Tokens of a prompt.
    #[arg(long, default_value = "512", value_name = "N")]
    pub(crate) context: NonZeroUsize,
    /// Prompts at a time.
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) batch: NonZeroUsize,
    /// Tokens that are timed in each run, after the first.
    #[arg(long, default_value = "32", value_name = "N")]
    pub(crate) new_tokens: NonZeroUsize,
}

/// Where windows come from.
#[derive(Args, Debug)]
pub(crate) struct TextArgs {
    /// Text to cut windows from, from its start, again and again if it is too short [default: bundled prose].
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct PerplexityBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Tokens in all; what does not fill a window is left out.
    #[arg(long, default_value = "8192", value_name = "N")]
    pub(crate) tokens: NonZeroUsize,
    /// Tokens of a window.
    #[arg(long, default_value = "1024", value_name = "N")]
    pub(crate) window: NonZeroUsize,
}

#[derive(Args, Debug)]
pub(crate) struct SearchBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Blocks to remove.
    #[arg(long, default_value = "6", value_name = "N")]
    pub(crate) count: NonZeroUsize,
    /// Calibration windows.
    #[arg(long, default_value = "10", value_name = "N")]
    pub(crate) windows: NonZeroUsize,
    /// Tokens of a window.
    #[arg(long, default_value = "1024", value_name = "N")]
    pub(crate) window_tokens: NonZeroUsize,
    /// Let the first and the last block be removed too.
    #[arg(long)]
    pub(crate) unprotected_ends: bool,
    /// Drop candidates early; chance that a removed block is another one because of it. 0 = off.
    #[arg(long, default_value = "0", value_name = "P")]
    pub(crate) race_error: f64,
    /// Run the whole model for every candidate, as a search does that shares nothing.
    #[arg(long)]
    pub(crate) no_prefix_reuse: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EvalBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// The task: a known name or a task file.
    #[arg(default_value = "everyday")]
    pub(crate) task: String,
    /// Folder with the benchmarks' published files.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Only the first N items.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroUsize>,
}

#[derive(Args, Debug)]
pub(crate) struct LoadBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    /// The prompt whose first new token is waited for.
    #[arg(long, default_value = "The capital of France is", value_name = "TEXT")]
    pub(crate) prompt: String,
}

#[derive(Args, Debug)]
pub(crate) struct MakeBenchArgs {
    /// smollm2-135m, llama-3.2-3b, llama-3.1-8b or llama-2-13b.
    pub(crate) shape: String,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Element type of the weights.
    #[arg(long, value_enum, default_value = "bf16")]
    pub(crate) dtype: DtypeArg,
    /// Seed of the weights.
    #[arg(long, default_value = "0")]
    pub(crate) seed: u64,
}

#[derive(Args, Debug)]
pub(crate) struct GrowthBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    /// Prompt lengths of prefill [default: 256 to 8192, doubling, as far as the model's context goes].
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) lengths: Option<Vec<NonZeroUsize>>,
    /// Batches of decode [default: 1 to 32, doubling].
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub(crate) batches: Option<Vec<NonZeroUsize>>,
    /// Most blocks to remove [default: 15, or all but one].
    #[arg(long, value_name = "N")]
    pub(crate) max_removed: Option<usize>,
    /// Blocks in the order of their removal, such as a search found [default: from the middle outwards].
    #[arg(long, value_name = "BLOCKS")]
    pub(crate) order: Option<BlockList>,
    /// Tokens of a prompt where batch or blocks vary.
    #[arg(long, default_value = "512", value_name = "N")]
    pub(crate) tokens: NonZeroUsize,
    /// Tokens of decode that are timed in each run.
    #[arg(long, default_value = "16", value_name = "N")]
    pub(crate) new_tokens: NonZeroUsize,
    /// Answer lengths for which the gain from prompt to last token is stated.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "32,128,512",
        value_name = "N"
    )]
    pub(crate) answers: Vec<usize>,
    /// Which stage computes the first new token.
    #[arg(long, default_value = "prefill")]
    pub(crate) boundary: Boundary,
    /// The page; its numbers go to a .json file beside it.
    #[arg(long, default_value = "growth.html", value_name = "FILE")]
    pub(crate) page: PathBuf,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Prefill is started as another process on this machine, for the dense model and for the plan; \
        decode runs in this one. A link other than loopback is modelled by a program between them: it \
        delays packets and spaces them out, it loses none. Where a kernel has netem, `tc` on a network \
        namespace does better, with `pdtrim serve` in it."
)]
pub(crate) struct PdBenchArgs {
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Tokens of a prompt.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "512,1024,2048,4096",
        value_name = "N"
    )]
    pub(crate) lengths: Vec<NonZeroUsize>,
    /// Requests at a time.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,4,16",
        value_name = "N"
    )]
    pub(crate) batches: Vec<NonZeroUsize>,
    /// Tokens that follow each prompt.
    #[arg(long, default_value = "32", value_name = "N")]
    pub(crate) new_tokens: NonZeroUsize,
    /// Links between the processes: loopback, or RATE/DELAY such as 1gbit/5ms.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "loopback",
        value_name = "LINK"
    )]
    pub(crate) links: Vec<Link>,
    /// The page.
    #[arg(long, default_value = "pd.html", value_name = "FILE")]
    pub(crate) page: PathBuf,
}
