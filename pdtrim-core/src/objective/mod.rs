//! J(P, D): what a choice of removed blocks costs, measured on calibration windows.
//!
//! [`Objective`] is the question that a search asks; it sees sets of blocks and costs, no model.
//! [`CalibrationLoss`] answers it with a model: the mean negative log-likelihood of continuation
//! tokens under the PD forward pass, or the divergence of their predictions from the dense model's.

mod coupled;
mod divergence;
mod loss;
mod mlp_pass;
mod pairs;
mod profile;
mod stream;
mod sweep;
mod taylor;
mod width_pass;

use std::ops::ControlFlow;

use crate::block::BlockSet;
use crate::error::{Error, Result};
use crate::stage::PerStage;

pub use coupled::coupled_importance;
pub use loss::{CalibrationLoss, TransferCandidate};
pub use mlp_pass::{MapMlp, MlpPass, StatesAfter};
pub use pairs::DistilledPairs;
pub use profile::{AttentionProfile, PairRedundancy, Redundancy};
pub use taylor::{TaylorImportance, TaylorPass};
pub use width_pass::{
    InputMoments, InputScores, Moments, StageMoments, WidthPass, compensation, fluctuation,
};

/// Called with a candidate's index and cost as soon as it is known; [`ControlFlow::Break`] stops the rest.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pdtrim_core::objective::OnCost;
///
/// let mut known = Vec::new();
/// let on_cost: &mut OnCost<'_> = &mut |candidate, cost| {
///     known.push((candidate, cost));
///     ControlFlow::Continue(())
/// };
/// assert!(on_cost(0, 3.25).is_continue());
/// assert_eq!(known, [(0, 3.25)]);
/// ```
pub type OnCost<'a> = dyn FnMut(usize, f64) -> ControlFlow<()> + Send + 'a;

/// Called with a candidate's index and its costs on the asked units as soon as they are known;
/// [`ControlFlow::Break`] stops the rest.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pdtrim_core::objective::OnUnitCosts;
///
/// // Stops as soon as a candidate is worse than 4 on average.
/// let on_costs: &mut OnUnitCosts<'_> = &mut |_, costs| {
///     if costs.iter().sum::<f64>() > 4.0 * costs.len() as f64 {
///         return ControlFlow::Break(());
///     }
///     ControlFlow::Continue(())
/// };
/// assert!(on_costs(0, &[3.0, 6.0]).is_break());
/// ```
pub type OnUnitCosts<'a> = dyn FnMut(usize, &[f64]) -> ControlFlow<()> + Send + 'a;

/// Costs are multiples of this, so that a run on more threads decides the same.
pub const COST_RESOLUTION: f64 = 1e-6;

/// What a candidate costs whose costs on all units are these: their mean, summed in the order given
/// and rounded to [`COST_RESOLUTION`].
///
/// ```
/// assert_eq!(pdtrim_core::objective::mean_cost(&[3.0, 3.5]), 3.25);
/// ```
pub fn mean_cost(unit_costs: &[f64]) -> f64 {
    let mean = unit_costs.iter().sum::<f64>() / unit_costs.len() as f64;
    (mean * 1e6).round() / 1e6
}

/// Something that a choice of removed blocks costs; lower is better.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pdtrim_core::objective::{Objective, OnCost};
/// use pdtrim_core::{BlockSet, Error, PerStage, Result};
///
/// /// Every removed block costs 1, in decode half as much.
/// struct PerBlock;
///
/// impl Objective for PerBlock {
///     fn depth(&self) -> usize {
///         5
///     }
///
///     fn costs(
///         &self,
///         candidates: &[PerStage<BlockSet>],
///         on_cost: &mut OnCost<'_>,
///     ) -> Result<Vec<f64>> {
///         let mut costs = Vec::new();
///         for (n, removed) in candidates.iter().enumerate() {
///             costs.push(removed.prefill.len() as f64 + 0.5 * removed.decode.len() as f64);
///             if on_cost(n, costs[n]).is_break() {
///                 return Err(Error::Stopped);
///             }
///         }
///         Ok(costs)
///     }
/// }
///
/// let both = PerStage::both(BlockSet::from_indices(5, [1, 2])?);
/// let costs = PerBlock.costs(&[both], &mut |_, _| ControlFlow::Continue(()))?;
/// assert_eq!(costs, [3.0]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub trait Objective: Sync {
    /// Number of blocks of the model.
    fn depth(&self) -> usize;

    /// Number of parts, calibration windows say, of which a cost is the mean; at least 1.
    ///
    /// An objective of several implements [`unit_costs`](Self::unit_costs) and keeps to this: a
    /// candidate's cost is [`mean_cost`] of its costs on units 0, 1, 2, ….
    fn units(&self) -> usize {
        1
    }

    /// The cost of each candidate, in the order given. `on_cost` hears of each as soon as it is
    /// known, in any order, so that a caller can keep what was computed before a kill.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] if `on_cost` broke off; whatever evaluating a candidate can fail with.
    fn costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        on_cost: &mut OnCost<'_>,
    ) -> Result<Vec<f64>>;

    /// The cost of each candidate on each of `units`, `[candidate][unit]` in the orders given; `units`
    /// are different and below [`units`](Self::units). As given here, it is for an objective of one unit.
    ///
    /// # Errors
    ///
    /// As [`costs`](Self::costs).
    fn unit_costs(
        &self,
        candidates: &[PerStage<BlockSet>],
        units: &[usize],
        on_costs: &mut OnUnitCosts<'_>,
    ) -> Result<Vec<Vec<f64>>> {
        if units.is_empty() {
            return Ok(vec![Vec::new(); candidates.len()]);
        }
        let costs = self.costs(candidates, &mut |n, cost| on_costs(n, &[cost]))?;
        Ok(costs.into_iter().map(|cost| vec![cost]).collect())
    }
}

/// Which tokens' loss counts.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{Boundary, PerStage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let dense = |rows| {
///     let loss = CalibrationLoss::new(&model, &calibration, rows, Boundary::Prefill);
///     loss.costs(&[PerStage::dense(5)], &mut |_, _| ControlFlow::Continue(()))
/// };
/// // The mean over 4 tokens, and over 15.
/// assert_ne!(dense(Rows::Continuation)?, dense(Rows::All)?);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rows {
    /// The continuation's, under the PD forward pass.
    #[default]
    Continuation,
    /// Every token of the window after its first, in one pass through the blocks that decode keeps:
    /// what SLEB and one-machine pruning measure.
    All,
}

/// Where windows are cut from a text.
///
/// ```
/// use pdtrim_core::objective::{Calibration, Placement};
///
/// let tokens: Vec<u32> = (0..100).collect();
/// let starts = |placement| {
///     let calibration = Calibration::from_tokens("numbers", &tokens, 3, 20, placement)?;
///     Ok::<_, pdtrim_core::Error>([0, 1, 2].map(|n| calibration.windows()[n][0]))
/// };
/// assert_eq!(starts(Placement::Contiguous)?, [0, 20, 40]);
/// assert_eq!(starts(Placement::Spread)?, [0, 33, 66]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One after the other from the start.
    Contiguous,
    /// At equal distances over the whole text.
    Spread,
}

/// Token windows on which importance and loss are measured; each splits into a prompt and a continuation.
///
/// ```
/// use pdtrim_core::objective::{Calibration, Placement};
///
/// let text: Vec<u32> = (0..64).collect();
/// let calibration = Calibration::from_tokens("a text", &text, 2, 32, Placement::Contiguous)?;
/// assert_eq!((calibration.window_tokens(), calibration.prompt_tokens()), (32, 24));
///
/// let refused = Calibration::from_tokens("a text", &text, 4, 32, Placement::Contiguous);
/// let said = "a text: 64 tokens are too few for 4 windows of 32 tokens";
/// assert_eq!(refused.unwrap_err().to_string(), said);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    windows: Vec<Vec<u32>>,
    prompt_tokens: usize,
}

impl Calibration {
    /// Windows of one length, the first `prompt_tokens` tokens of each being its prompt.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`] without a window, a prompt or a continuation; [`Error::RaggedBatch`] if
    /// windows differ in length.
    pub fn new(windows: Vec<Vec<u32>>, prompt_tokens: usize) -> Result<Self> {
        let Some(length) = windows.first().map(Vec::len) else {
            return Err(Error::NoTokens {
                what: "the calibration set",
            });
        };
        if let Some(other) = windows.iter().find(|window| window.len() != length) {
            return Err(Error::RaggedBatch {
                expected: length,
                found: other.len(),
            });
        }
        if prompt_tokens == 0 {
            return Err(Error::NoTokens {
                what: "the prompt of a calibration window",
            });
        }
        if length <= prompt_tokens {
            return Err(Error::NoTokens {
                what: "the continuation of a calibration window",
            });
        }
        Ok(Self {
            windows,
            prompt_tokens,
        })
    }

    /// Cuts `n_windows` windows of `window_tokens` tokens from `tokens`; three quarters of each are its prompt.
    ///
    /// # Errors
    ///
    /// [`Error::CalibrationText`] if the text is too short; as [`new`](Self::new).
    pub fn from_tokens(
        source_name: &str,
        tokens: &[u32],
        n_windows: usize,
        window_tokens: usize,
        placement: Placement,
    ) -> Result<Self> {
        let too_few = || Error::CalibrationText {
            source_name: source_name.to_owned(),
            windows: n_windows,
            window_tokens,
            found: tokens.len(),
        };
        let needed = n_windows.checked_mul(window_tokens).ok_or_else(too_few)?;
        if tokens.len() < needed {
            return Err(too_few());
        }
        let stride = match placement {
            Placement::Contiguous => window_tokens,
            Placement::Spread => tokens.len() / n_windows.max(1),
        };
        let window = |n: usize| tokens[n * stride..n * stride + window_tokens].to_vec();
        Self::new((0..n_windows).map(window).collect(), window_tokens * 3 / 4)
    }

    /// The windows.
    pub fn windows(&self) -> &[Vec<u32>] {
        &self.windows
    }

    /// Tokens in each window.
    pub fn window_tokens(&self) -> usize {
        self.windows[0].len()
    }

    /// Tokens of each window that are its prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }
}

#[cfg(test)]
mod tests;
