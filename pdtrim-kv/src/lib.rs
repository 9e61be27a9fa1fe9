//! Which KV entries cross from prefill to decode (arXiv:2509.04467v1-v3; v4 dropped the mechanism).
//!
//! In chosen blocks decode receives only the first f and the last r prompt positions, in the others
//! all of them, each block's elements in the [`KvEncoding`](pdtrim_core::KvEncoding) that the plan names.
//! [`PlannedTransfer`] carries a [`KvPlan`](pdtrim_core::KvPlan) out on a cache; [`search`]
//! chooses the blocks, f and r for a target of positions, and
//! [`FrontSearch`] spans and encodings for several numbers of bytes. [`KvPolicy`] is
//! the trait of published policies, to hold plans against. KV that decode makes itself is never trimmed.
//!
//! [`vllm`] writes a prompt's keys and values as vLLM's connector for files reads them.
//!
//! With the feature `serve`, prefill and decode are two processes that speak gRPC, with an HTTP API in front: `serve`.
//!
//! This crate knows nothing of datasets or of how blocks are removed.

mod costs;
mod encoding;
mod error;
mod front;
mod planned;
mod policy;
mod select;
#[cfg(feature = "serve")]
pub mod serve;
mod sizes;
mod target;
pub mod vllm;

pub use costs::{KvEvaluation, KvJournal};
pub use encoding::{Codec, Held, KvShape, Part};
pub use error::{Error, Result};
pub use front::{Front, FrontPoint, FrontSearch, Goal};
pub use planned::PlannedTransfer;
pub use policy::{
    AdaKv, Budget, H2o, Kept, KvPolicy, PolicyTransfer, SnapKv, StreamingLlm, Think, Window,
};
pub use select::{KvChoice, KvSearch, Selection, search};
pub use sizes::KvSizes;
pub use target::PositionTarget;
