//! The two stages of serving, and where one hands over to the other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::block::BlockSet;
use crate::error::Error;

/// One of the two stages of serving a request.
///
/// ```
/// use pdtrim_core::{PerStage, Stage};
///
/// let removed = PerStage { prefill: 2, decode: 4 };
/// for stage in [Stage::Prefill, Stage::Decode] {
///     println!("{stage} is without {} blocks", removed.of(stage));
/// }
/// assert_eq!(removed.of(Stage::Decode), &4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reads the prompt and fills the KV cache.
    Prefill,
    /// Produces tokens one by one on the KV cache.
    Decode,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        })
    }
}

/// One value for each stage.
///
/// ```
/// use pdtrim_core::{BlockSet, PerStage};
///
/// let unified = PerStage::both(BlockSet::from_indices(5, [2])?);
/// assert_eq!(unified.prefill, unified.decode);
/// assert!(PerStage::dense(5).is_dense() && !unified.is_dense());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct PerStage<T> {
    /// The value of the prefill stage.
    pub prefill: T,
    /// The value of the decode stage.
    pub decode: T,
}

impl<T> PerStage<T> {
    /// The value of `stage`.
    pub fn of(&self, stage: Stage) -> &T {
        match stage {
            Stage::Prefill => &self.prefill,
            Stage::Decode => &self.decode,
        }
    }
}

impl<T: Clone> PerStage<T> {
    /// The same value for both stages.
    pub fn both(value: T) -> Self {
        Self {
            prefill: value.clone(),
            decode: value,
        }
    }
}

impl PerStage<BlockSet> {
    /// No block removed from either stage.
    pub fn dense(depth: usize) -> Self {
        Self::both(BlockSet::empty(depth))
    }

    /// Whether neither stage removes a block.
    pub fn is_dense(&self) -> bool {
        self.prefill.is_empty() && self.decode.is_empty()
    }
}

/// Which stage computes the logits of the first new token.
///
/// ```
/// use pdtrim_core::Boundary;
///
/// // Of a prompt of 10 tokens the last one may be decode's.
/// assert_eq!(Boundary::Prefill.prompt_positions(10), 10);
/// assert_eq!("decode".parse::<Boundary>()?.prompt_positions(10), 9);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// Prefill runs the whole prompt and emits the first token (`DistServe`, `SGLang`).
    #[default]
    Prefill,
    /// Prefill stops one token short; decode runs the last prompt token again (vLLM).
    Decode,
}

impl Boundary {
    /// Positions that prefill runs of a prompt of `length` tokens.
    pub fn prompt_positions(self, length: usize) -> usize {
        match self {
            Self::Prefill => length,
            Self::Decode => length.saturating_sub(1),
        }
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        })
    }
}

impl FromStr for Boundary {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "prefill" => Ok(Self::Prefill),
            "decode" => Ok(Self::Decode),
            found => Err(Error::Choice {
                field: "boundary",
                expected: "prefill or decode",
                found: found.to_owned(),
            }),
        }
    }
}

/// What a block that prefill removes but decode keeps does while the prompt is read.
///
/// Decode needs that block's keys and values for the prompt.
///
/// ```
/// use pdtrim_core::plan::check_removed;
/// use pdtrim_core::{BlockSet, KvFill, PerStage};
///
/// let only_prefill = PerStage {
///     prefill: BlockSet::from_indices(5, [1])?,
///     decode: BlockSet::empty(5),
/// };
/// assert!(check_removed(&only_prefill, KvFill::Nested).is_err());
/// check_removed(&only_prefill, KvFill::Project)?;
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvFill {
    /// Such a plan is refused: P must be a subset of D (arXiv:2509.04467, the nested constraint).
    #[default]
    Nested,
    /// Prefill still computes the block's keys and values from the hidden state that passes by
    /// (arXiv:2602.03295, POP): its norm, K and V projections and `RoPE`, nothing else.
    Project,
}
