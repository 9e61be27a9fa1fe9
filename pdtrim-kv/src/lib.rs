//! Which KV entries cross from prefill to decode (arXiv:2509.04467v1-v3; v4 dropped the mechanism).
//!
//! In chosen blocks decode receives only the first f and the last r prompt positions, and where the plan says so some
//! between them that attention chooses, in the others all of them, each block's elements in the [`KvEncoding`](pdtrim_core::KvEncoding) that the plan names.
//! [`PlannedTransfer`] carries a [`KvPlan`](pdtrim_core::KvPlan) out on a cache; [`search`]
//! chooses the blocks, f and r for a target of positions, and
//! [`FrontSearch`] spans and encodings for several numbers of bytes. [`KvPolicy`] is
//! the trait of published policies, to hold plans against. KV that decode makes itself is never trimmed.
//!
//! ```
//! use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
//! use pdtrim_core::pipeline::PdModel;
//! use pdtrim_core::testing::TinyModel;
//! use pdtrim_core::{Boundary, KvFill, PerStage};
//! use pdtrim_kv::{KvSearch, PlannedTransfer, PositionTarget, Selection, search};
//!
//! // Half of the positions of prompts of 40 tokens, chosen by the loss of what follows them.
//! let model = TinyModel::default().build();
//! let calibration = Calibration::new(vec![(1..49).collect()], 40)?;
//! let (rows, boundary) = (Rows::Continuation, Boundary::Prefill);
//! let loss = CalibrationLoss::new(&model, &calibration, rows, boundary);
//! let removed = PerStage::dense(5);
//! let asked = KvSearch {
//!     loss: &loss,
//!     removed: &removed,
//!     target: &PositionTarget::new(2.0, vec![40])?,
//!     selection: Selection::Loss,
//! };
//! let choice = search(&asked, None, &mut |_| ())?;
//!
//! // What was chosen, carried out: half of 5 blocks' positions cross, or less.
//! let transfer = PlannedTransfer::new(choice.plan);
//! let stages = PdModel::new(&model, removed, KvFill::Nested, boundary, &transfer)?;
//! let prompt: Vec<u32> = (1..41).collect();
//! assert!(stages.prefill(&[prompt])?.kv_positions() <= 5 * 40 / 2);
//! # Ok::<(), pdtrim_kv::Error>(())
//! ```
//!
//! # What is where
//!
//! - a choice of positions: [`search`] with [`KvSearch`], [`Selection`] and [`PositionTarget`] in, a [`KvChoice`] out;
//! - a choice of positions and encodings: [`FrontSearch`] with [`KvSizes`] in, a [`Front`] out;
//! - what both remember through a kill: [`KvJournal`] of [`KvEvaluation`]s;
//! - carrying a plan out: [`PlannedTransfer`], and [`Codec`] for the bytes of one tensor;
//! - published policies: [`StreamingLlm`], [`Window`], [`SnapKv`], [`AdaKv`], [`H2o`] and [`Think`], each a [`KvPolicy`]
//!   that a [`PolicyTransfer`] carries out;
//! - [`vllm`] writes a prompt's keys and values as vLLM's connector for files reads them;
//! - with the feature `serve`, prefill and decode are two processes that speak gRPC, with an HTTP API in front: `serve`.
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
pub use front::{Front, FrontPoint, FrontSearch, Goal, with_heavy};
pub use planned::PlannedTransfer;
pub use policy::{
    AdaKv, Budget, H2o, Kept, KvPolicy, PolicyTransfer, SnapKv, StreamingLlm, Think, Window,
};
pub use select::{KvChoice, KvSearch, Selection, search};
pub use sizes::KvSizes;
pub use target::PositionTarget;
