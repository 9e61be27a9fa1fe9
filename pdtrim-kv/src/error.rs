//! What can go wrong in choosing a KV plan.

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A KV plan that cannot be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The calibration loss could not be evaluated, or its costs could not be written down.
    #[error(transparent)]
    Core(#[from] pdtrim_core::Error),
    /// A target that is no saving.
    #[error("a KV target must be above 1 (times fewer token positions), found {found}")]
    Target {
        /// What was asked for.
        found: f64,
    },
    /// The prompts are too short for the target.
    #[error(
        "{found}x fewer token positions cannot be reached: the {prompts} prompts have \
            {positions} positions in all, {blocks} blocks keep KV, and each block keeps at \
            least one position"
    )]
    Unreachable {
        /// The target.
        found: f64,
        /// Prompts that were to be trimmed.
        prompts: usize,
        /// Their positions.
        positions: usize,
        /// Blocks that decode runs.
        blocks: usize,
    },
}
