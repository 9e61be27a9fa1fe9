//! Which strategy, and what it is told.

use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pdtrim_search::{
    Annealing, Beam, DistillThreshold, Exact, PdTrim, Racing, Random, ShortGpt, ShortenedPpl,
    ShortenedTaylor, Sleb, Strategy,
};
use serde::{Deserialize, Serialize};

use super::TrimConfig;
use super::trim::set;

#[derive(Args, Debug)]
pub(crate) struct StrategyArgs {
    /// How blocks are chosen [default: sleb].
    #[arg(long, value_enum)]
    pub(crate) strategy: Option<StrategyArg>,
    /// Let sleb drop candidates that can no longer win before they have seen all windows: each removal
    /// is then another than the full evaluation's with at most this probability [default: 0].
    #[arg(long, value_name = "P")]
    pub(crate) race_error: Option<f64>,
    /// Sets of each size that beam keeps [default: 4].
    #[arg(long, value_name = "N")]
    pub(crate) beam_width: Option<NonZeroUsize>,
    /// Sets that pdtrim measures on its random walk, before it tries all swaps [default: 200].
    #[arg(long, value_name = "N")]
    pub(crate) anneal_steps: Option<usize>,
    /// Temperature of pdtrim's first step, in nats a token: a set that costs T more is taken with
    /// probability 1/e [default: 0.1].
    #[arg(long, value_name = "T")]
    pub(crate) anneal_start: Option<f64>,
    /// Temperature of its last step; it falls geometrically [default: 0.01].
    #[arg(long, value_name = "T")]
    pub(crate) anneal_end: Option<f64>,
    /// Joint redundancy from which pdtrim counts two neighbouring blocks as a pair that one distilled
    /// block could replace [default: 0.95].
    #[arg(long, value_name = "D")]
    pub(crate) distill_threshold: Option<f64>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StrategyArg {
    /// The better of sleb's and shortgpt's, then swaps by simulated annealing, then all swaps until
    /// none is better.
    Pdtrim,
    /// Greedily by loss, measured after each removal.
    Sleb,
    /// As sleb, with several sets of each size.
    Beam,
    /// Every set, where there are at most 20000.
    Exact,
    /// At once, by redundancy.
    Shortgpt,
    /// At once, by the loss without each block alone.
    ShortenedPpl,
    /// At once, by Taylor importance: weights times the loss's derivative by them; the first four and
    /// the last two blocks go last.
    ShortenedTaylor,
    /// At random: the control.
    Random,
}

impl StrategyArg {
    /// The strategy with its default settings.
    pub(crate) fn with_defaults(self, seed: u64) -> Result<Box<dyn Strategy>> {
        let config = TrimConfig {
            strategy: self,
            seed,
            ..TrimConfig::default()
        };
        config.search_strategy()
    }
}

impl StrategyArgs {
    /// Flags win over the file.
    pub(super) fn resolve(self, config: &mut TrimConfig) {
        set(&mut config.strategy, self.strategy);
        set(&mut config.race_error, self.race_error);
        set(&mut config.beam_width, self.beam_width);
        set(&mut config.anneal_steps, self.anneal_steps);
        set(&mut config.anneal_start, self.anneal_start);
        set(&mut config.anneal_end, self.anneal_end);
        set(&mut config.distill_threshold, self.distill_threshold);
    }
}

impl TrimConfig {
    pub(crate) fn distill_threshold(&self) -> Result<DistillThreshold> {
        DistillThreshold::new(self.distill_threshold).context("distill-threshold")
    }

    /// The strategy; refuses numbers that none of them takes.
    pub(crate) fn search_strategy(&self) -> Result<Box<dyn Strategy>> {
        let racing = Racing::new(self.race_error, self.seed).context("race-error")?;
        let annealing = Annealing {
            steps: self.anneal_steps,
            start_temperature: self.anneal_start,
            end_temperature: self.anneal_end,
            seed: self.seed,
        };
        let pdtrim = PdTrim::new(annealing).context("anneal-start and anneal-end")?;
        Ok(match self.strategy {
            StrategyArg::Pdtrim => Box::new(pdtrim.with_racing(racing)),
            StrategyArg::Sleb => Box::new(Sleb { racing }),
            StrategyArg::Beam => Box::new(Beam {
                width: self.beam_width,
            }),
            StrategyArg::Exact => Box::new(Exact::default()),
            StrategyArg::Shortgpt => Box::new(ShortGpt),
            StrategyArg::ShortenedPpl => Box::new(ShortenedPpl),
            StrategyArg::ShortenedTaylor => Box::new(ShortenedTaylor),
            StrategyArg::Random => Box::new(Random { seed: self.seed }),
        })
    }
}
