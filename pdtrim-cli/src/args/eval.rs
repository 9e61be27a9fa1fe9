use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdtrim_eval::Mode;

use super::{ModelArgs, PlanArgs};

/// Score a model, or a plan, on tasks.
#[derive(Args, Debug)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Tasks, separated by commas; `pdtrim eval --list` names them [default: those with bundled data].
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Folder with the benchmarks' published files.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Only the first N items of each task.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<NonZeroUsize>,
    /// How much of the plan is in force [default: pd+kv with a plan, else dense].
    #[arg(long, value_enum)]
    pub(crate) mode: Option<ModeArg>,
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Print one results object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also write each item's scores as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) items: Option<PathBuf>,
    /// Name the known tasks and stop.
    #[arg(long)]
    pub(crate) list: bool,
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
