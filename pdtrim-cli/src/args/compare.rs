use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use pdtrim_core::Boundary;
use pdtrim_search::DistillThreshold;
use serde::{Deserialize, Serialize};

use super::{ModelArgs, RepairArg, StrategyArg, WidthArg, WindowArgs};

/// Strategies, targets and numbers of removed blocks side by side, on held-out windows and tasks.
#[derive(Args, Debug)]
#[command(
    after_help = "Each run is one strategy, target, count and seed: a search on the calibration windows \
        of the seed, then the mean NLL in nats on held-out windows, which no seed draws. A row is the \
        mean over the seeds, with their standard deviation. A run is kept as soon as it is finished, \
        and reused; one that fails is reported in its row, the others go on, and the exit code is 1.\n\n\
        --shard 1/2 on one machine and --shard 2/2 on another, each with a folder of its own, do half \
        of the runs each; --merge DIR1 DIR2 --out DIR makes one table of them."
)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Strategies, separated by commas, or ways to make all blocks narrower, which then remove the same
    /// share of the blocks' parameters [default: all but exact, flap and llm-pruner].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) strategies: Vec<MethodArg>,
    /// What is searched, separated by commas.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "unified,pd,pd-independent"
    )]
    pub(crate) targets: Vec<TargetArg>,
    /// Numbers of blocks to remove, separated by commas: of the one set of `unified`, of decode's
    /// otherwise.
    #[arg(long, value_delimiter = ',', default_value = "3,6,9", value_name = "N")]
    pub(crate) counts: Vec<usize>,
    /// Blocks that `pd` removes from prefill for each that it removes from decode, rounded down.
    #[arg(long, default_value = "0.5", value_name = "X", value_parser = share)]
    pub(crate) prefill_share: f64,
    /// Seeds of the calibration windows and of random strategies, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2", value_name = "N")]
    pub(crate) seeds: Vec<u64>,
    #[command(flatten)]
    pub(crate) windows: WindowArgs,
    /// What makes up for the removed blocks, separated by commas, as `trim --repair`: a row for each.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none")]
    pub(crate) repairs: Vec<RepairArg>,
    /// Strategies whose rows are also repaired, separated by commas [default: all].
    #[arg(long, value_enum, value_delimiter = ',', requires = "repairs")]
    pub(crate) repair_strategies: Vec<StrategyArg>,
    /// Held-out windows.
    #[arg(long, default_value = "16", value_name = "N")]
    pub(crate) held_out_windows: NonZeroUsize,
    /// Tokens in a held-out window [default: as many as in the others].
    #[arg(long, value_name = "N")]
    pub(crate) held_out_window_tokens: Option<NonZeroUsize>,
    /// As `trim --beam-width`.
    #[arg(long, value_name = "N")]
    pub(crate) beam_width: Option<NonZeroUsize>,
    /// As `trim --anneal-steps`.
    #[arg(long, value_name = "N")]
    pub(crate) anneal_steps: Option<usize>,
    /// As `trim --validation-windows`.
    #[arg(long, value_name = "N", default_value = "0")]
    pub(crate) validation_windows: usize,
    /// As `trim --pairs`, for those of pdtrim's rows that have such a repair: linear for linear and distill,
    /// distill for distill.
    #[arg(long, value_enum, default_value = "none")]
    pub(crate) pairs: RepairArg,
    /// As `trim --distill-threshold`.
    #[arg(long, value_name = "D", default_value = "0.95", value_parser = distill_threshold)]
    pub(crate) distill_threshold: f64,
    /// As `trim --race-error`.
    #[arg(long, value_name = "P", default_value = "0", value_parser = race_error)]
    pub(crate) race_error: f64,
    /// Leave out the biases with which flap makes up for what it removes.
    #[arg(long)]
    pub(crate) no_compensation: bool,
    /// Also let the first and the last block be removed.
    #[arg(long)]
    pub(crate) unprotected_ends: bool,
    /// Which stage computes the first new token of a window; tasks are scored with decode.
    #[arg(long, default_value = "prefill")]
    pub(crate) boundary: Boundary,
    /// Tasks to score every run on, separated by commas [default: none].
    #[arg(long, value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,
    /// Only the first N items of each task.
    #[arg(long, value_name = "N", requires = "tasks")]
    pub(crate) limit: Option<NonZeroUsize>,
    /// Only every n-th run, from the i-th, counted from 1.
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<Shard>,
    /// Run nothing: join the tables of these folders, which are of one configuration.
    #[arg(
        long,
        value_name = "DIR",
        num_args = 1..,
        conflicts_with_all = ["shard", "model", "strategies", "targets", "counts", "seeds", "tasks", "force"]
    )]
    pub(crate) merge: Vec<PathBuf>,
    /// Folder for compare.json, compare.csv and compare.html.
    #[arg(long, short, value_name = "DIR", default_value = "pdtrim-compare")]
    pub(crate) out: PathBuf,
    /// Start over: forget what an earlier run in the same folder measured.
    #[arg(long)]
    pub(crate) force: bool,
    /// Print one object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a row is about: removed blocks, or narrower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum MethodArg {
    Blocks(StrategyArg),
    Width(WidthArg),
}

impl MethodArg {
    /// The strategy that removes blocks, if it is one.
    pub(crate) fn strategy(self) -> Option<StrategyArg> {
        match self {
            Self::Blocks(strategy) => Some(strategy),
            Self::Width(_) => None,
        }
    }
}

impl ValueEnum for MethodArg {
    fn value_variants<'a>() -> &'a [Self] {
        use StrategyArg::{
            Beam, Exact, Pdtrim, Random, ShortenedPpl, ShortenedTaylor, Shortgpt, Sleb,
        };
        &[
            Self::Blocks(Pdtrim),
            Self::Blocks(Sleb),
            Self::Blocks(Beam),
            Self::Blocks(Exact),
            Self::Blocks(Shortgpt),
            Self::Blocks(ShortenedPpl),
            Self::Blocks(ShortenedTaylor),
            Self::Blocks(Random),
            Self::Width(WidthArg::Flap),
            Self::Width(WidthArg::LlmPruner),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Blocks(strategy) => strategy.to_possible_value(),
            Self::Width(width) => width.to_possible_value(),
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TargetArg {
    /// One set for both stages.
    Unified,
    /// A set for each stage; decode's includes prefill's.
    Pd,
    /// A set for each stage; prefill computes the KV of blocks that only decode runs.
    PdIndependent,
}

/// One of several machines that share the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// Whether the run at this place of the list, counted from 0, is this shard's.
    pub(crate) fn has(self, place: usize) -> bool {
        place % self.of == self.index - 1
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, of)| {
            Some(Self {
                index: index.parse().ok()?,
                of: of.parse().ok()?,
            })
        });
        numbers
            .filter(|shard| (1..=shard.of).contains(&shard.index))
            .ok_or_else(|| "expected I/N with I from 1 to N, such as 1/2".to_owned())
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

fn distill_threshold(text: &str) -> Result<f64, String> {
    let threshold = text
        .parse()
        .ok()
        .and_then(|d| DistillThreshold::new(d).ok());
    let threshold = threshold.map(DistillThreshold::value);
    threshold.ok_or_else(|| "expected a number above 0 and at most 1".to_owned())
}

fn race_error(text: &str) -> Result<f64, String> {
    let error = text.parse().ok().filter(|error| (0.0..1.0).contains(error));
    error.ok_or_else(|| "expected a number from 0 to below 1".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_can_be_compared() {
        let methods = MethodArg::value_variants();
        for &strategy in StrategyArg::value_variants() {
            assert!(methods.contains(&MethodArg::Blocks(strategy)));
        }
        for &method in methods {
            let name = serde_json::to_value(method).unwrap();
            assert_eq!(name, method.to_possible_value().unwrap().get_name());
            assert_eq!(serde_json::from_value::<MethodArg>(name).unwrap(), method);
        }
    }

    #[test]
    fn shards_share_out_the_runs() {
        let shards: Vec<Shard> = ["1/3", "2/3", "3/3"]
            .map(|text| text.parse().unwrap())
            .into();
        for place in 0..10 {
            let owners = shards.iter().filter(|shard| shard.has(place)).count();
            assert_eq!(owners, 1, "{place}");
        }
        assert!(shards[1].has(1) && shards[1].has(4));
        for wrong in ["0/2", "3/2", "1", "1/0", "a/b"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
