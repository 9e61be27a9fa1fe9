//! What the strategies that measure the dense model once have in common.

use std::cmp::Ordering;

use pdtrim_core::{BlockId, BlockSet};

use super::Step;
use crate::problem::Problem;

/// Removes the blocks that matter least by a table of importance, made once and never again; ties go to
/// the lowest. `importance` gives a block's, higher = keep.
pub(super) fn remove_least_important(
    problem: &Problem,
    importance: impl Fn(BlockId) -> f64,
    on_step: &mut dyn FnMut(Step),
) -> BlockSet {
    let order = |a, b| importance(a).total_cmp(&importance(b));
    remove_in_order(problem, order, on_step)
}

/// Removes the blocks that come first in `order`; ties go to the lowest.
pub(super) fn remove_in_order(
    problem: &Problem,
    order: impl Fn(BlockId, BlockId) -> Ordering,
    on_step: &mut dyn FnMut(Step),
) -> BlockSet {
    let mut removed = problem.given().clone();
    let mut choices = problem.choices(&removed);
    // Stable: ties stay in the blocks' order.
    choices.sort_by(|a, b| order(*a, *b));
    for block in choices.into_iter().take(problem.count() - removed.len()) {
        removed = removed.with(block);
        on_step(Step::Chosen { block, cost: None });
    }
    removed
}
