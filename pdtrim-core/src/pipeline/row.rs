//! Decode of texts that come and go: each has a row of its own, and rows of any length step together.

use burn::tensor::Tensor;

use super::score::Text;
use super::{Handover, PdModel};
use crate::cache::{KvCache, TokenPosition};
use crate::error::{Error, Result};
use crate::stage::{Boundary, Stage};

/// A text that decode goes on with, after one prompt.
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{Boundary, greedy_tokens};
///
/// let model = TinyModel::default().build();
/// let dense = PdModel::dense(&model, Boundary::Prefill);
/// let row = |prompt: &[u32]| dense.decode_row(prompt, dense.prefill(&[prompt])?, 2);
/// // Two texts of different lengths take each step together.
/// let (mut short, mut long) = (row(&[1, 2])?, row(&[3, 4, 5, 6])?);
/// for _ in 0..2 {
///     let logits = dense.decode_step(&mut [&mut short, &mut long])?;
///     let tokens = greedy_tokens(logits);
///     short.feed(tokens[0]);
///     long.feed(tokens[1]);
/// }
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Debug)]
pub struct DecodeRow {
    cache: KvCache,
    /// Position of the token that is fed next.
    position: TokenPosition,
    /// Fed next.
    pending: u32,
    /// Hidden states `[1, hidden]` that the first new token follows from, where prefill leaves them.
    first: Option<Tensor<2>>,
    /// Tokens that may still be fed.
    room: usize,
}

impl DecodeRow {
    /// Goes on with `token`, of the vocabulary, which the last step's logits led to.
    pub fn feed(&mut self, token: u32) {
        self.pending = token;
    }
}

impl PdModel<'_> {
    /// A row for up to `max_new_tokens` tokens after `prompt`, from what prefill left of it.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`], [`Error::ContextLength`] if the tokens do not fit, [`Error::TokenOutOfRange`], and
    /// [`Error::Received`] if the handover is of a prompt of another length or of several.
    pub fn decode_row(
        &self,
        prompt: &[u32],
        handover: Handover,
        max_new_tokens: usize,
    ) -> Result<DecodeRow> {
        let Some(&last) = prompt.last() else {
            return Err(Error::NoTokens { what: "the prompt" });
        };
        self.check_length(prompt.len() + max_new_tokens.saturating_sub(1))?;
        let vocab_size = self.model().dims().vocab_size;
        if last as usize >= vocab_size {
            let token = last;
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        let read = self.boundary.prompt_positions(prompt.len());
        let rows = handover.last.as_ref().map_or(1, |last| last.dims()[0]);
        if handover.next != TokenPosition(read) || rows != 1 {
            return Err(Error::Received {
                what: format!("{rows} prompts of {} positions", handover.next.0),
                expected: format!("one of {read}"),
            });
        }
        let mut cache = handover.cache;
        cache.reserve(max_new_tokens);
        let leads = self.boundary == Boundary::Decode;
        Ok(DecodeRow {
            cache,
            position: handover.next,
            pending: last,
            first: handover.last,
            room: max_new_tokens.saturating_sub(usize::from(!leads)),
        })
    }

    /// Logits `[rows, vocab_size]` of the next token of each row, whose tokens go through each block together.
    /// What is chosen from them is [fed](DecodeRow::feed) before the next step.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`] without a row; [`Error::ContextLength`] for a row that has all the tokens that it
    /// was made for.
    pub fn decode_step(&self, rows: &mut [&mut DecodeRow]) -> Result<Tensor<2>> {
        for row in rows.iter_mut() {
            if row.first.is_none() {
                let tokens = row.position.0;
                let full = Error::ContextLength {
                    tokens: tokens + 1,
                    limit: tokens,
                };
                row.room = row.room.checked_sub(1).ok_or(full)?;
            }
        }
        let fed = rows.iter_mut().filter(|row| row.first.is_none());
        let texts = fed.map(|row| Text {
            tokens: vec![row.pending],
            start: row.position,
            cache: &mut row.cache,
        });
        let hidden = self.run_texts(Stage::Decode, texts.collect())?;
        let of_decode = hidden.map(|hidden| self.models.decode.logits(hidden));
        let mut run = 0;
        let mut logits = Vec::with_capacity(rows.len());
        for row in rows.iter_mut() {
            if let Some(first) = row.first.take() {
                logits.push(self.models.prefill.logits(first));
            } else if let Some(of_decode) = &of_decode {
                logits.push(of_decode.clone().narrow(0, run, 1));
                run += 1;
                row.position.0 += 1;
            }
        }
        match of_decode {
            _ if logits.is_empty() => Err(Error::NoTokens { what: "the batch" }),
            Some(of_decode) if run == rows.len() => Ok(of_decode),
            _ => Ok(Tensor::cat(logits, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockSet;
    use crate::kernels::greedy_tokens;
    use crate::pipeline::SendAll;
    use crate::stage::{KvFill, PerStage};
    use crate::testing::TinyModel;

    #[test]
    fn rows_that_join_and_leave_generate_what_each_generates_alone() {
        let model = TinyModel::default().build();
        let set = |blocks: &[usize]| BlockSet::from_indices(5, blocks.iter().copied()).unwrap();
        for (boundary, decode) in [
            (Boundary::Prefill, &[][..]),
            (Boundary::Decode, &[]),
            (Boundary::Prefill, &[1, 3]),
            (Boundary::Decode, &[2]),
        ] {
            let removed = PerStage {
                prefill: set(&[]),
                decode: set(decode),
            };
            let pd = PdModel::new(&model, removed, KvFill::Nested, boundary, &SendAll).unwrap();
            let prompts: [&[u32]; 3] = [&[5, 6, 7, 8, 9], &[3], &[40, 41, 42]];
            let lengths = [6, 9, 4];
            let alone: Vec<Vec<u32>> = prompts
                .iter()
                .zip(lengths)
                .map(|(prompt, length)| {
                    pd.generate_greedy(prompt, length, &[], |_| {})
                        .unwrap()
                        .tokens
                })
                .collect();
            let mut rows: Vec<(usize, DecodeRow)> = Vec::new();
            let mut generated = vec![Vec::new(); 3];
            for step in 0..12 {
                if step < 3 {
                    let handover = pd.prefill(&[prompts[step]]).unwrap();
                    let row = pd.decode_row(prompts[step], handover, lengths[step]);
                    rows.push((step, row.unwrap()));
                }
                rows.retain(|(number, _)| generated[*number].len() < lengths[*number]);
                if rows.is_empty() {
                    continue;
                }
                let mut stepping: Vec<&mut DecodeRow> =
                    rows.iter_mut().map(|(_, row)| row).collect();
                let chosen = greedy_tokens(pd.decode_step(&mut stepping).unwrap());
                for ((number, row), token) in rows.iter_mut().zip(chosen) {
                    generated[*number].push(token);
                    row.feed(token);
                }
            }
            assert_eq!(generated, alone, "{boundary:?} {decode:?}");
        }
    }

    #[test]
    fn a_row_takes_no_more_tokens_than_it_was_made_for() {
        let model = TinyModel::default().build();
        for boundary in [Boundary::Prefill, Boundary::Decode] {
            let pd = PdModel::dense(&model, boundary);
            let mut row = pd
                .decode_row(&[1, 2], pd.prefill(&[[1, 2]]).unwrap(), 2)
                .unwrap();
            for _ in 0..2 {
                pd.decode_step(&mut [&mut row]).unwrap();
                row.feed(3);
            }
            assert!(matches!(
                pd.decode_step(&mut [&mut row]),
                Err(Error::ContextLength { .. })
            ));
        }
    }

    #[test]
    fn a_row_of_another_prompt_is_refused() {
        let model = TinyModel::default().build();
        let pd = PdModel::dense(&model, Boundary::Prefill);
        let handover = || pd.prefill(&[[1, 2, 3]]).unwrap();
        let refused = |prompt: &[u32], new| pd.decode_row(prompt, handover(), new).unwrap_err();
        assert!(matches!(refused(&[1, 2], 1), Error::Received { .. }));
        assert!(matches!(refused(&[], 1), Error::NoTokens { .. }));
        assert!(matches!(
            refused(&[1, 2, 96], 1),
            Error::TokenOutOfRange { token: 96, .. }
        ));
        assert!(matches!(
            refused(&[1, 2, 3], 127),
            Error::ContextLength { .. }
        ));
        assert!(pd.decode_row(&[1, 2, 3], handover(), 126).is_ok());
        let two = pd.prefill(&[[1, 2, 3], [4, 5, 6]]).unwrap();
        assert!(matches!(
            pd.decode_row(&[1, 2, 3], two, 1),
            Err(Error::Received { .. })
        ));
        assert!(matches!(
            pd.decode_step(&mut []),
            Err(Error::NoTokens { .. })
        ));
    }
}
