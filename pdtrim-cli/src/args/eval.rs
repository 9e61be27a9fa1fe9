use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdtrim_eval::Mode;
use pdtrim_eval::regression::MaxDrop;

use super::{ModelArgs, PlanArgs};

/// Score a model, or a plan, on tasks.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) score: ScoreArgs,
    /// Folder for results.json, results.csv, items.jsonl and report.html. A killed evaluation goes on
    /// where it was when it is started again with the same folder.
    #[arg(long, short, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Start over: forget what an earlier run in the same folder measured.
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
    /// Print one results object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write each item's scores as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) items: Option<PathBuf>,
    /// Name the known tasks and stop.
    #[arg(long)]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) gate: GateArgs,
}

/// A gate for builds.
#[derive(Args, Debug)]
#[command(next_help_heading = "Regression gate")]
pub(crate) struct GateArgs {
    /// What the scores are compared with: a file of `pdtrim baseline`. Exits with 1 if a metric fell
    /// by more than its --max-drop and a paired test says that it is no noise.
    #[arg(long, value_name = "FILE", requires = "max_drop")]
    pub(crate) baseline: Option<PathBuf>,
    /// How much a metric may get worse: `acc=0.01`, `perplexity=2%`, `hellaswag:acc_norm=0.02`; again for
    /// each metric.
    #[arg(long, value_name = "[TASK:]METRIC=AMOUNT[%]", requires = "baseline")]
    pub(crate) max_drop: Vec<MaxDrop>,
    /// Chance that a metric which did not get worse fails.
    #[arg(long, value_name = "P", default_value = "0.05", requires = "baseline")]
    pub(crate) alpha: f64,
    /// Write the gate's outcome as `JUnit` XML.
    #[arg(long, value_name = "FILE", requires = "baseline")]
    pub(crate) junit: Option<PathBuf>,
    /// Print annotations of a GitHub workflow [default: in a GitHub workflow].
    #[arg(long, requires = "baseline")]
    pub(crate) github: bool,
}

/// Score a model, or a plan, and keep every item's result for `pdtrim eval --baseline`.
#[derive(Args, Debug)]
pub(crate) struct BaselineArgs {
    #[command(flatten)]
    pub(crate) score: ScoreArgs,
    /// The file to write.
    #[arg(long, short, value_name = "FILE", default_value = "baseline.json")]
    pub(crate) output: PathBuf,
}

/// What is scored.
#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tasks, groups and task files, separated by commas; `pdtrim eval --list` names them
    /// [default: everyday,passages,oneword,heldout].
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Folder with the benchmarks' published files; what is not there comes from the hub.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Only the first N items of each task.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroUsize>,
    /// Worked examples in front of each item, the first ones of the task's examples [default: the task's].
    #[arg(long, value_name = "N")]
    pub(crate) num_fewshot: Option<usize>,
    /// Requests that run together [default: as many as have 1024 tokens].
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<NonZeroUsize>,
    /// How much of the plan is in force; several, separated by commas, are compared with dense
    /// [default: pd+kv with a plan, else dense].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) mode: Vec<ModeArg>,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModeArg {
    /// The model as it is.
    Dense,
    /// One machine that runs both stages without decode's blocks.
    Unified,
    /// Each stage without its own blocks; all KV crosses.
    Pd,
    /// The whole plan.
    #[value(name = "pd+kv")]
    PdKv,
}

impl ModeArg {
    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Dense => Mode::Dense,
            Self::Unified => Mode::Unified,
            Self::Pd => Mode::Pd,
            Self::PdKv => Mode::PdKv,
        }
    }
}
