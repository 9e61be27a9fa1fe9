//! Which strategy, and what it is told.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pdtrim_search::{
    Annealing, Beam, DistillThreshold, Exact, Ledger, PdTrim, Racing, Random, ShortGpt,
    ShortenedPpl, ShortenedTaylor, Sleb, Strategy, Validation,
};
use serde::{Deserialize, Serialize};

use super::TrimConfig;
use super::trim::set;

#[derive(Args, Debug)]
pub(crate) struct StrategyArgs {
    /// How blocks are chosen [default: sleb].
    #[arg(long, value_enum)]
    pub(crate) strategy: Option<StrategyArg>,
    /// Let sleb, beam and pdtrim drop candidates that can no longer win before they have seen all windows: each
    /// choice is then another than the full evaluation's with at most this probability [default: 0].
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
    /// Windows beside the calibration windows on which pdtrim decides between the sets that its walk
    /// found, and makes its closing passes; the more, the less it fits the luck of a few [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) validation_windows: Option<usize>,
    /// Joint redundancy from which two neighbouring blocks are a pair that one block can stand for (--pairs)
    /// [default: 0.95].
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

impl StrategyArgs {
    /// Flags win over the file.
    pub(super) fn resolve(self, config: &mut TrimConfig) {
        set(&mut config.strategy, self.strategy);
        set(&mut config.race_error, self.race_error);
        set(&mut config.beam_width, self.beam_width);
        set(&mut config.anneal_steps, self.anneal_steps);
        set(&mut config.anneal_start, self.anneal_start);
        set(&mut config.anneal_end, self.anneal_end);
        set(&mut config.validation_windows, self.validation_windows);
        set(&mut config.distill_threshold, self.distill_threshold);
    }
}

/// Costs on the windows that `pdtrim` decides on.
pub(crate) type ValidationLedger<'v> = Arc<Mutex<Ledger<'v>>>;

/// Sets of a walk that are compared on those windows.
const VALIDATED: NonZeroUsize = NonZeroUsize::new(16).expect("not 0");
/// Probability with which each of those comparisons may drop the best.
const VALIDATION_ERROR: f64 = 0.05;

impl TrimConfig {
    fn validation<'v>(&self, ledger: ValidationLedger<'v>) -> Result<Validation<'v>> {
        let racing = Racing::new(VALIDATION_ERROR, self.seed)?;
        Ok(Validation::new(ledger, VALIDATED, racing))
    }

    pub(crate) fn distill_threshold(&self) -> Result<DistillThreshold> {
        DistillThreshold::new(self.distill_threshold).context("distill-threshold")
    }

    /// The strategy; refuses numbers that none of them takes. `validation` is `pdtrim`'s.
    pub(crate) fn search_strategy<'v>(
        &self,
        validation: Option<ValidationLedger<'v>>,
    ) -> Result<Box<dyn Strategy + 'v>> {
        let racing = Racing::new(self.race_error, self.seed).context("race-error")?;
        let annealing = Annealing {
            steps: self.anneal_steps,
            start_temperature: self.anneal_start,
            end_temperature: self.anneal_end,
            seed: self.seed,
        };
        let pdtrim = PdTrim::new(annealing).context("anneal-start and anneal-end")?;
        Ok(match self.strategy {
            StrategyArg::Pdtrim => {
                let pdtrim = pdtrim.with_racing(racing);
                Box::new(match validation {
                    Some(ledger) => pdtrim.with_validation(self.validation(ledger)?),
                    None => pdtrim,
                })
            }
            StrategyArg::Sleb => Box::new(Sleb { racing }),
            StrategyArg::Beam => Box::new(Beam {
                width: self.beam_width,
                racing,
            }),
            StrategyArg::Exact => Box::new(Exact::default()),
            StrategyArg::Shortgpt => Box::new(ShortGpt),
            StrategyArg::ShortenedPpl => Box::new(ShortenedPpl),
            StrategyArg::ShortenedTaylor => Box::new(ShortenedTaylor),
            StrategyArg::Random => Box::new(Random { seed: self.seed }),
        })
    }
}
