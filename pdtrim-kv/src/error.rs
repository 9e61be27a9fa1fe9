//! What can go wrong in choosing a KV plan and in carrying it out.

use pdtrim_core::KvEncoding;

/// Result with this crate's [`Error`].
///
/// ```
/// use pdtrim_core::model::BlockModel;
/// use pdtrim_kv::{KvSizes, Result};
///
/// fn dense_bytes(model: &dyn BlockModel, prompt: usize) -> Result<f64> {
///     Ok(KvSizes::new(model, vec![prompt])?.dense_bf16_bytes())
/// }
///
/// let model = pdtrim_core::testing::TinyModel::default().build();
/// assert_eq!(dense_bytes(&model, 10)?, 3200.0);
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A KV plan that cannot be found or carried out.
///
/// ```
/// use pdtrim_kv::{Error, PositionTarget};
///
/// let error = PositionTarget::new(0.5, vec![1024]).unwrap_err();
/// assert!(matches!(error, Error::Target { .. }));
/// let said = "a KV target must be above 1 (times fewer token positions), found 0.5";
/// assert_eq!(error.to_string(), said);
/// ```
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
    /// A policy that judges positions by queries, and a model whose blocks do not give them.
    #[error("the policy looks at the prompt's queries, which the model's blocks did not hand over")]
    NoQueries,
    /// A search in which a block has nothing to choose from.
    #[error("a block's choices of what to send are empty")]
    EmptyMenu,
    /// Fewer bytes than the choices allow.
    #[error(
        "{found}x fewer bytes than the dense model's KV in bf16 cannot be reached: the choices that blocks \
            have allow {most:.2}x"
    )]
    FrontUnreachable {
        /// What was asked for.
        found: f64,
        /// The most that can be asked for.
        most: f64,
    },
    /// A cache in an element type that none is held in.
    #[error("keys and values are held in f32, bf16 or f16, found {found}")]
    HeldIn {
        /// The type.
        found: String,
    },
    /// A number that an encoding has no code for.
    #[error("the encoding {encoding} has no code for {found} among the keys and values")]
    NotFinite {
        /// The encoding.
        encoding: KvEncoding,
        /// The number.
        found: f32,
    },
    /// A cache with holes, for an engine that has none.
    #[error(
        "block {block} holds {found} positions, expected all of the first {expected}: a paged cache has every \
            position of every layer"
    )]
    Positions {
        /// The block, as the dense model numbers it.
        block: usize,
        /// Positions from 0 on that it should hold.
        expected: usize,
        /// Positions that it holds.
        found: usize,
    },
    /// Bytes that are not what the shape says.
    #[error("expected {expected} bytes of keys or values, found {found}")]
    Length {
        /// What the shape and the encoding ask for.
        expected: usize,
        /// What there is.
        found: usize,
    },
}
