//! Which requests run together.

use std::num::NonZeroUsize;
use std::ops::Range;

use crate::scorer::Request;

/// How many requests run together. Batches are fixed before the first one runs, so that an evaluation
/// that goes on after a kill computes the rest exactly as it would have.
///
/// ```
/// use std::num::NonZeroUsize;
///
/// use pdtrim_eval::{BatchSize, Execution};
///
/// let eight = NonZeroUsize::new(8).expect("8 is not 0");
/// let execution = Execution { batch: BatchSize::Requests(eight), ..Execution::default() };
/// assert_ne!(execution.batch, BatchSize::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// Neighbours with so many tokens together, and at least one request.
    Tokens(NonZeroUsize),
    /// So many requests, whatever their lengths.
    Requests(NonZeroUsize),
}

impl Default for BatchSize {
    /// 1024 tokens: matrix products of this many rows are as fast as those of more.
    fn default() -> Self {
        Self::Tokens(const { NonZeroUsize::new(1024).expect("not zero") })
    }
}

impl BatchSize {
    /// The batches of `requests`, in their order.
    pub(crate) fn split(self, requests: &[Request]) -> Vec<Range<usize>> {
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut tokens = 0;
        for (index, request) in requests.iter().enumerate() {
            tokens += request.tokens();
            let fits = |batch: &Range<usize>| match self {
                Self::Tokens(most) => tokens <= most.get(),
                Self::Requests(most) => batch.len() < most.get(),
            };
            match batches.last_mut() {
                Some(batch) if fits(batch) => batch.end = index + 1,
                _ => {
                    tokens = request.tokens();
                    batches.push(index..index + 1);
                }
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let request = |tokens: usize| Request {
            context: vec![0; tokens - 1],
            continuations: vec![vec![0]],
        };
        [3000, 600, 500, 400, 200, 10].map(request).into()
    }

    #[test]
    fn batches_by_tokens_hold_every_request_once_and_stay_small() {
        let batches = BatchSize::default().split(&requests());
        assert_eq!(batches, [0..1, 1..2, 2..4, 4..6]);
        assert_eq!(BatchSize::default().split(&[]), Vec::<Range<usize>>::new());
    }

    #[test]
    fn batches_by_number_hold_so_many() {
        let four = BatchSize::Requests(NonZeroUsize::new(4).unwrap());
        assert_eq!(four.split(&requests()), [0..4, 4..6]);
    }
}
