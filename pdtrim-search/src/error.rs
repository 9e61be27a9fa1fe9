//! What can go wrong in a search.

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A search that cannot be run or continued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The objective could not be evaluated, or its costs could not be written down.
    #[error(transparent)]
    Objective(#[from] pdtrim_core::Error),
    /// More blocks are to be removed than may be.
    #[error(
        "{count} blocks are to be removed, but only {removable} of the model's {depth} may be \
            ({reason})"
    )]
    TooMany {
        /// Blocks asked for.
        count: usize,
        /// Blocks that may be removed.
        removable: usize,
        /// Blocks of the model.
        depth: usize,
        /// Why not all of them.
        reason: &'static str,
    },
    /// Fewer blocks are to be removed than are removed already.
    #[error(
        "{count} blocks are to be removed from decode, but prefill removes {nested} and decode \
            must include them"
    )]
    FewerThanNested {
        /// Blocks asked for.
        count: usize,
        /// Blocks that prefill removes.
        nested: usize,
    },
    /// A probability that is none, or certainty.
    #[error("the error probability of racing must be at least 0 and below 1, found {found}")]
    RaceError {
        /// The number given.
        found: f64,
    },
    /// A journal holds costs on units that the objective does not have.
    #[error("the journal holds a cost on unit {found}, the objective has {units} units")]
    UnknownUnit {
        /// Units of the objective.
        units: usize,
        /// The journal's.
        found: usize,
    },
    /// The table of redundancies is for another model.
    #[error("redundancy is given for {found} blocks, the model has {expected}")]
    RedundancyLength {
        /// Blocks of the model.
        expected: usize,
        /// Entries of the table.
        found: usize,
    },
}
