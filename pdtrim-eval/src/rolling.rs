//! A long text in windows, as lm-evaluation-harness rolls over it.

use std::ops::Range;

/// A window of a text's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// What it is conditioned on; `None` for the prefix token, at the text's beginning.
    pub(crate) context: Option<Range<usize>>,
    /// What is scored.
    pub(crate) scored: Range<usize>,
}

/// The windows of a text of `tokens` tokens for a model with `positions`: each token is scored once.
///
/// All windows but the last score as many tokens as the model has positions, after the one token before
/// them; the last one scores the rest, after as many tokens as still fit (`get_rolling_token_windows` and
/// `make_disjoint_window` with a context of 1).
pub(crate) fn windows(tokens: usize, positions: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut scored = 0;
    while scored < tokens {
        let end = tokens.min(scored + positions);
        let context = (scored > 0).then(|| end - positions - 1..scored);
        windows.push(Window {
            context,
            scored: scored..end,
        });
        scored = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ten_tokens_in_windows_of_four() {
        let window = |context, scored| Window { context, scored };
        assert_eq!(
            windows(10, 4),
            [
                window(None, 0..4),
                window(Some(3..4), 4..8),
                window(Some(5..8), 8..10),
            ]
        );
        assert_eq!(windows(3, 4), [window(None, 0..3)]);
        assert_eq!(windows(0, 4), []);
    }

    proptest! {
        #[test]
        fn every_token_is_scored_once_after_the_tokens_before_it(tokens in 0_usize..500, positions in 1_usize..60) {
            let mut next = 0;
            for window in windows(tokens, positions) {
                prop_assert_eq!(window.scored.start, next);
                next = window.scored.end;
                if let Some(context) = window.context {
                    prop_assert_eq!(context.end, window.scored.start);
                    prop_assert!(!context.is_empty());
                    prop_assert!(context.len() + window.scored.len() <= positions + 1);
                }
            }
            prop_assert_eq!(next, tokens);
        }
    }
}
