//! The importance that a strategy goes by.

use anyhow::Result;
use pdtrim_core::objective::{Calibration, Rows, TaylorPass};
use pdtrim_core::{Boundary, PerStage};

use crate::progress::Progress;
use crate::session::Session;

/// Taylor importance of each block of the dense model for each stage; higher = keep.
pub(crate) fn importance(
    session: &Session,
    calibration: &Calibration,
    (rows, boundary): (Rows, Boundary),
    progress: Progress,
) -> Result<PerStage<Vec<f64>>> {
    let step = progress.step("Taylor importance", session.depth());
    let pass = TaylorPass::new(&session.model, calibration, rows, boundary);
    Ok(pass.importance(&mut |_| step.advance())?.by_element)
}
