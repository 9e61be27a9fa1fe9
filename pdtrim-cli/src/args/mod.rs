//! The command line: one file of clap structs for each subcommand.

mod bench;
mod calibrations;
mod compare;
mod eval;
mod export;
mod generate;
mod import;
mod inspect;
mod kv;
mod kv_export;
mod logprobs;
mod model;
mod needle;
mod plan;
mod sensitivity;
mod serve;
mod strategy;
mod trim;
mod width;
mod windows;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use bench::{
    BenchArgs, BenchCommand, DecodeBenchArgs, EvalBenchArgs, GrowthBenchArgs, LoadBenchArgs,
    MakeBenchArgs, MeasureArgs, PdBenchArgs, PerplexityBenchArgs, PrefillBenchArgs,
    SearchBenchArgs, TextArgs,
};
pub(crate) use calibrations::CalibrationsArgs;
pub(crate) use compare::{CompareArgs, MethodArg, TargetArg};
pub(crate) use eval::{BaselineArgs, EvalArgs, GateArgs, ModeArg, ScoreArgs};
pub(crate) use export::{ExportArgs, GgufArg, StageArg};
pub(crate) use generate::GenerateArgs;
pub(crate) use import::{ImportArgs, ImportStageArg};
pub(crate) use inspect::{InspectArgs, PullArgs};
pub(crate) use kv::{KvArgs, KvCommand, KvMenuArg, KvPolicyArg, KvPriceArg, KvSearchArgs};
pub(crate) use kv_export::KvExportArgs;
pub(crate) use logprobs::LogprobsArgs;
pub(crate) use model::{DEFAULT_MODEL, DtypeArg, ModelArgs};
pub(crate) use needle::KvNeedleArgs;
pub(crate) use plan::{PlanArgs, kv_encoding};
pub(crate) use sensitivity::SensitivityArgs;
pub(crate) use serve::{
    ApiArgs, PortArgs, ServeArgs, ServeCommand, ServeDecodeArgs, ServePrefillArgs, ServeUnifiedArgs,
};
pub(crate) use strategy::{StrategyArg, ValidationLedger};
pub(crate) use trim::{KvSelectionArg, RepairArg, TrimArgs, TrimConfig, set};
pub(crate) use width::WidthArg;
pub(crate) use windows::WindowArgs;

/// Trim Llama-family models for prefill/decode disaggregation.
///
/// Finds the transformer blocks that prefill can do without and, separately, those that decode can;
/// finds the blocks in which decode needs only the first and last prompt tokens' KV; and scores the
/// result against the dense model. After arXiv:2509.04467.
#[derive(Parser, Debug)]
#[command(
    name = "pdtrim",
    version,
    max_term_width = 100,
    args_override_self = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage.\nResults go to stdout, everything \
        else to stderr."
)]
pub(crate) struct Cli {
    /// Say nothing but results and errors.
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Search, trim the KV, score dense against trimmed, and write plan and report: the main job.
    Trim(Box<TrimArgs>),
    /// Score a model, or a plan, on tasks.
    Eval(Box<EvalArgs>),
    /// Score a model, or a plan, and keep every item's result for `pdtrim eval --baseline`.
    Baseline(Box<BaselineArgs>),
    /// Go on with a text, by the dense model or by a plan.
    Generate(GenerateArgs),
    /// Log-probabilities that a plan gives to a given continuation.
    Logprobs(LogprobsArgs),
    /// Say what a checkpoint is.
    Inspect(InspectArgs),
    /// Write a Hugging Face folder, or a GGUF file, of the dense model or of one stage of a plan.
    Export(ExportArgs),
    /// Make a plan of another tool's list of blocks, of a mergekit file, or of exported stages.
    Import(ImportArgs),
    /// How the choice of calibration windows changes the chosen blocks and their losses.
    Calibrations(CalibrationsArgs),
    /// Strategies, targets and numbers of removed blocks side by side, on held-out windows and tasks.
    Compare(Box<CompareArgs>),
    /// What each block is worth to each stage: one removed at a time, by loss and by divergence.
    Sensitivity(Box<SensitivityArgs>),
    /// What decode has to receive of a prompt's keys and values.
    Kv(KvArgs),
    /// Serve a model, or a plan, over HTTP: both stages in one process, or prefill and decode in two.
    Serve(Box<ServeArgs>),
    /// Fetch a model into the cache.
    Pull(PullArgs),
    /// Measure how fast the stages, a search and an evaluation run on this machine.
    Bench(Box<BenchArgs>),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}
