//! What is being measured: the dense model, or it under a plan.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How much of a plan is in force. Ordered from nothing to all of it.
///
/// ```
/// use pdtrim_eval::Mode;
///
/// assert_eq!("pd+kv".parse::<Mode>()?, Mode::PdKv);
/// // From nothing of a plan to all of it.
/// assert!(Mode::Dense < Mode::Pd && Mode::Pd < Mode::PdKv);
/// # Ok::<(), pdtrim_eval::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// The model before trimming.
    #[serde(rename = "dense")]
    Dense,
    /// One machine, one set of removed blocks for both stages.
    #[serde(rename = "unified")]
    Unified,
    /// Prefill and decode each without their own blocks; all KV crosses.
    #[serde(rename = "pd")]
    Pd,
    /// As `Pd`, and the KV plan selects what crosses.
    #[serde(rename = "pd+kv")]
    PdKv,
}

impl Mode {
    /// All modes, in order.
    pub const ALL: [Self; 4] = [Self::Dense, Self::Unified, Self::Pd, Self::PdKv];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dense => "dense",
            Self::Unified => "unified",
            Self::Pd => "pd",
            Self::PdKv => "pd+kv",
        })
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.to_string() == text)
            .ok_or_else(|| Error::UnknownMode {
                found: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_parses_from_what_it_prints() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.to_string());
        }
    }

    #[test]
    fn an_unknown_mode_is_refused_by_name() {
        let error = "pd-kv".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown mode `pd-kv`, expected dense, unified, pd or pd+kv"
        );
    }
}
