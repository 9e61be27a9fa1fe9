//! Which KV entries cross from prefill to decode (arXiv:2509.04467v1-v3; v4 dropped the mechanism).
//!
//! In chosen blocks decode receives only the first f and the last r prompt positions, in the others
//! all of them, each block's elements in the [`KvEncoding`](pdtrim_core::KvEncoding) that the plan names.
//! [`PlannedTransfer`] carries a [`KvPlan`](pdtrim_core::KvPlan) out on a cache; [`search`]
//! chooses the blocks, f and r for a byte target. KV that decode makes itself is never trimmed.
//!
//! This crate knows nothing of datasets or of how blocks are removed.

mod encoding;
mod error;
mod planned;
mod select;
mod target;

pub use encoding::{Codec, Held, KvShape, Part};
pub use error::{Error, Result};
pub use planned::PlannedTransfer;
pub use select::{KvChoice, KvEvaluation, KvSearch, Selection, search};
pub use target::PositionTarget;
