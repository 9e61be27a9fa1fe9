//! How many positions may cross.

use pdtrim_core::{BlockSet, KvPlan};

use crate::error::{Error, Result};

/// "x times fewer token positions", over the prompts that will be served.
///
/// Lengths decide what a span saves: in a prompt that is shorter than the span nothing is trimmed.
///
/// ```
/// use pdtrim_core::{BlockSet, KvPlan, TokenSpan};
/// use pdtrim_kv::PositionTarget;
///
/// let target = PositionTarget::new(4.0, vec![1024, 512])?;
/// let plan = KvPlan::uniform(&BlockSet::all(5), TokenSpan { first: 4, last: 188 });
/// // 192 of each prompt's positions, in every block.
/// assert_eq!(target.sent_share(&plan, &BlockSet::empty(5)), 0.25);
/// assert!(PositionTarget::new(1.0, vec![1024]).is_err());
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PositionTarget {
    factor: f64,
    lengths: Vec<usize>,
}

impl PositionTarget {
    /// `factor` times fewer positions over prompts that leave `lengths` prefilled positions each.
    ///
    /// # Errors
    ///
    /// [`Error::Target`] unless `factor` is a number above 1.
    pub fn new(factor: f64, lengths: Vec<usize>) -> Result<Self> {
        if factor > 1.0 && factor.is_finite() {
            Ok(Self { factor, lengths })
        } else {
            Err(Error::Target { found: factor })
        }
    }

    /// Share of the positions of all prompts, in the blocks that decode keeps, that `plan` sends; in [0, 1].
    pub fn sent_share(&self, plan: &KvPlan, removed: &BlockSet) -> f64 {
        let kept = removed.complement();
        let all: usize = self.lengths.iter().map(|length| length * kept.len()).sum();
        let sent = |&length: &usize| {
            kept.iter()
                .map(|id| plan.positions_sent(id, length))
                .sum::<usize>()
        };
        self.lengths.iter().map(sent).sum::<usize>() as f64 / all.max(1) as f64
    }

    /// Most positions that each of `trimmed` of `kept` blocks may send so that the target is met.
    pub(crate) fn span_positions(&self, trimmed: usize, kept: usize) -> Option<usize> {
        let all: usize = self.lengths.iter().sum();
        let allowed = (all * kept) as f64 / self.factor - (all * (kept - trimmed)) as f64;
        let sent = |span: usize| {
            self.lengths
                .iter()
                .map(|&length| length.min(span))
                .sum::<usize>()
                * trimmed
        };
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let fits = |span: &usize| sent(*span) as f64 <= allowed + 1e-9;
        (1..longest).rev().find(fits)
    }

    pub(crate) fn unreachable(&self, blocks: usize) -> Error {
        Error::Unreachable {
            found: self.factor,
            prompts: self.lengths.len(),
            positions: self.lengths.iter().sum(),
            blocks,
        }
    }
}

#[cfg(test)]
mod tests {
    use pdtrim_core::TokenSpan;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_span_is_the_longest_that_meets_the_target(
            lengths in proptest::collection::vec(2_usize..60, 1..9), factor in 1.05_f64..4.0, trimmed in 1_usize..7,
        ) {
            let target = PositionTarget::new(factor, lengths).unwrap();
            let dense = BlockSet::empty(6);
            let blocks = BlockSet::from_indices(6, 0..trimmed.min(6)).unwrap();
            let share = |span| target.sent_share(&KvPlan::uniform(&blocks, TokenSpan { first: 0, last: span }), &dense);
            match target.span_positions(blocks.len(), 6) {
                Some(span) => {
                    prop_assert!(share(span) <= 1.0 / factor + 1e-9);
                    prop_assert!(share(span + 1) > 1.0 / factor - 1e-9);
                }
                None => prop_assert!(share(1) > 1.0 / factor - 1e-9),
            }
        }
    }

    #[test]
    fn half_the_positions_of_equal_prompts_is_half_their_length() {
        let target = PositionTarget::new(2.0, vec![40; 3]).unwrap();
        assert_eq!(target.span_positions(6, 6), Some(20));
        // With two of six blocks untouched the other four may keep 10 of 40: (2·40 + 4·10) / 240 = 1/2.
        assert_eq!(target.span_positions(4, 6), Some(10));
        assert_eq!(target.span_positions(3, 6), None);
    }

    #[test]
    fn a_target_that_saves_nothing_is_refused() {
        assert!(PositionTarget::new(1.0, vec![4]).is_err());
        assert!(PositionTarget::new(f64::NAN, vec![4]).is_err());
    }
}
