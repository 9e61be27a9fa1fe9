//! Text to tokens, as lm-evaluation-harness does it.

use crate::error::{Error, Place, Result};
use crate::scorer::Scorer;

/// A context, ready to be continued.
///
/// Tokens never span a context and its continuation: both are encoded together, and the tokens after
/// as many as the context alone has are the continuation's. White space at the context's end belongs
/// to the continuation, since tokenizers attach it to the next word.
pub(crate) struct Context<'a> {
    encoder: Encoder<'a>,
    text: &'a str,
    tail: &'a str,
    own_tokens: usize,
    tokens: Vec<u32>,
}

/// A scorer's tokenizer, with the task that an error has to name.
#[derive(Clone, Copy)]
pub(crate) struct Encoder<'a> {
    pub(crate) scorer: &'a dyn Scorer,
    pub(crate) task: &'a str,
}

impl<'a> Encoder<'a> {
    pub(crate) fn encode(self, text: &str) -> Result<Vec<u32>> {
        self.scorer.encode(text).map_err(|source| Error::Scorer {
            task: self.task.to_owned(),
            source,
        })
    }

    /// Encodes a context; an empty one becomes the prefix token.
    pub(crate) fn context(self, text: &'a str, place: &Place) -> Result<Context<'a>> {
        let (text, tail) = text.split_at(text.trim_end().len());
        let own = self.encode(text)?;
        let own_tokens = own.len();
        let tokens = if own.is_empty() {
            vec![self.prefix_token(place)?]
        } else {
            own
        };
        Ok(Context {
            encoder: self,
            text,
            tail,
            own_tokens,
            tokens,
        })
    }
}

impl Encoder<'_> {
    /// The token that stands for an empty context.
    pub(crate) fn prefix_token(self, place: &Place) -> Result<u32> {
        let token = self.scorer.prefix_token();
        token.ok_or_else(|| Error::NoPrefixToken {
            place: place.clone(),
        })
    }
}

impl Context<'_> {
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens that `text` adds; empty when the tokenizer merges it into the context.
    pub(crate) fn continuation(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self
            .encoder
            .encode(&format!("{}{}{text}", self.text, self.tail))?;
        Ok(tokens.split_off(self.own_tokens.min(tokens.len())))
    }

    pub(crate) fn into_tokens(self) -> Vec<u32> {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scorer::{Request, ScorerError, Scores};

    /// Tokens are characters, except that `ab` is one token (1), a space joins the letter after it
    /// (1000 + letter), and `xyz` is one token (2).
    struct Merging {
        prefix: Option<u32>,
    }

    impl Scorer for Merging {
        fn encode(&self, text: &str) -> Result<Vec<u32>, ScorerError> {
            let mut tokens = Vec::new();
            let mut rest = text;
            while let Some(first) = rest.chars().next() {
                let second = rest.chars().nth(1);
                let (id, taken) = match (first, second) {
                    ('a', Some('b')) => (1, 2),
                    ('x', _) if rest.starts_with("xyz") => (2, 3),
                    (' ', Some(letter)) if letter != ' ' => (1000 + u32::from(letter), 2),
                    _ => (u32::from(first), 1),
                };
                tokens.push(id);
                rest = &rest[taken..];
            }
            Ok(tokens)
        }

        fn prefix_token(&self) -> Option<u32> {
            self.prefix
        }

        fn max_tokens(&self) -> usize {
            100
        }

        fn score(&self, _: &[Request]) -> Result<Vec<Scores>, ScorerError> {
            Err("this test only encodes".into())
        }
    }

    fn pair(context: &str, continuation: &str) -> (Vec<u32>, Vec<u32>) {
        let scorer = Merging { prefix: Some(7) };
        let encoder = Encoder {
            scorer: &scorer,
            task: "t",
        };
        let context = encoder.context(context, &Place::new("f", 1)).unwrap();
        let continuation = context.continuation(continuation).unwrap();
        (context.into_tokens(), continuation)
    }

    fn ids(text: &str) -> Vec<u32> {
        text.chars().map(u32::from).collect()
    }

    #[test]
    fn context_and_continuation_split_at_the_contexts_own_length() {
        assert_eq!(pair("q:", " y"), (ids("q:"), vec![1000 + u32::from('y')]));
    }

    #[test]
    fn white_space_at_the_end_moves_to_the_continuation() {
        assert_eq!(pair("q: ", "y"), (ids("q:"), vec![1000 + u32::from('y')]));
        assert_eq!(
            pair("q:\n ", "y"),
            (ids("q:"), vec![10, 1000 + u32::from('y')])
        );
    }

    #[test]
    fn a_merge_across_the_boundary_is_cut_by_count_not_by_text() {
        // "qa" + "bc" encodes to [q, ab, c]; the context alone has 2 tokens, so [c] is scored.
        assert_eq!(pair("qa", "bc"), (ids("qa"), ids("c")));
    }

    #[test]
    fn a_continuation_that_is_merged_away_is_empty() {
        assert_eq!(pair("xy", "z"), (ids("xy"), vec![]));
    }

    #[test]
    fn an_empty_context_is_the_prefix_token() {
        assert_eq!(pair("", "yc"), (vec![7], ids("yc")));
        assert_eq!(pair(" ", "y"), (vec![7], vec![1000 + u32::from('y')]));
    }

    #[test]
    fn an_empty_context_without_prefix_token_is_refused() {
        let scorer = Merging { prefix: None };
        let encoder = Encoder {
            scorer: &scorer,
            task: "t",
        };
        let error = encoder
            .context("", &Place::new("f", 3))
            .err()
            .unwrap()
            .to_string();
        assert_eq!(
            error,
            "f, line 3: the context is empty and the tokenizer has neither a BOS nor an EOS token"
        );
    }
}
