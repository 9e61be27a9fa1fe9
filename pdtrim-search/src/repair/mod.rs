//! What is fitted after blocks were removed: the block before each removed run learns to make up for it. New weights of an old shape, so a repaired model costs what a trimmed one costs.
//!
//! [`LinearRepair`] solves for a matrix in one pass over some windows. [`DistillRepair`] goes on from there and
//! trains the block, which wins back more and takes longer. Those windows must be none of those that chose
//! the blocks, and none of those that report the result: [`draw_disjoint`] draws such,
//! [`check_disjoint`] refuses others. The fitting sees hidden states through
//! [`MlpPass`](pdtrim_core::objective::MlpPass), so a model of the user's can be repaired if it
//! implements [`MlpOutput`](pdtrim_core::model::MlpOutput).

mod distill;
mod linear;
mod normal;
mod runs;
mod windows;

pub use distill::{
    DistillFit, DistillLoss, DistillPart, DistillRepair, DistillResume, DistillStep, OnStep,
};
pub use linear::{DEFAULT_RIDGE, LinearFit, LinearRepair};
pub use runs::{Run, runs};
pub use windows::{SHARED_TOKENS, check_disjoint, draw_disjoint, halved};
