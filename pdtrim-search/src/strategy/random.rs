//! Random blocks: the control.

use pdtrim_core::BlockSet;

use super::{Step, Strategy};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::problem::Problem;

/// Removes blocks drawn without regard to anything but the seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random {
    /// Seed of the draw.
    pub seed: u64,
}

impl Strategy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn search(
        &self,
        problem: &Problem,
        _ledger: &mut Ledger<'_>,
        on_step: &mut (dyn FnMut(Step) + Send),
    ) -> Result<BlockSet> {
        let mut removed = problem.given().clone();
        let mut choices = problem.choices(&removed);
        let mut state = self.seed;
        while removed.len() < problem.count() {
            let block = choices.swap_remove(draw(&mut state, choices.len()));
            removed = removed.with(block);
            on_step(Step::Chosen { block, cost: None });
        }
        Ok(removed)
    }
}

/// A number below `n` by `SplitMix64`, whose stream is the same on every machine and in every release;
/// the bias of the remainder is below n / 2^64.
fn draw(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % n as u64) as usize
}
