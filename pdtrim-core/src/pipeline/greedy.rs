//! Generation by the most likely token, for one prompt or for a batch in lock-step.

use std::collections::VecDeque;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Generation, PdModel};
use crate::cache::{KvCache, TokenPosition};
use crate::error::Result;
use crate::kernels::greedy_tokens;
use crate::model::token_tensor;
use crate::stage::Stage;
use crate::units::Bytes;

impl PdModel<'_> {
    /// Generates up to `max_new_tokens` tokens, always the most likely one, calling `on_token` with each.
    /// Stops after a token of `stop`, which is included.
    ///
    /// An accelerator works one token ahead of what `on_token` was told, so that it never waits for the host.
    ///
    /// # Errors
    ///
    /// As [`prefill`](Self::prefill); [`Error::ContextLength`](crate::Error::ContextLength) if the tokens
    /// asked for do not fit.
    pub fn generate_greedy(
        &self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &[u32],
        mut on_token: impl FnMut(u32),
    ) -> Result<Generation> {
        self.generate_greedy_until(prompt, max_new_tokens, |tokens| {
            let token = tokens[tokens.len() - 1];
            on_token(token);
            stop.contains(&token)
        })
    }

    /// As [`generate_greedy`](Self::generate_greedy), but stops when `is_end`, which is asked after each
    /// token with all the tokens so far, says so.
    ///
    /// # Errors
    ///
    /// As [`generate_greedy`](Self::generate_greedy).
    pub fn generate_greedy_until(
        &self,
        prompt: &[u32],
        max_new_tokens: usize,
        mut is_end: impl FnMut(&[u32]) -> bool,
    ) -> Result<Generation> {
        let mut decoder = StepDecoder::start(self, &[prompt], max_new_tokens)?;
        // On the CPU a step is computed when it is asked for: one ahead would only delay this one.
        let unread_steps = 1 + usize::from(!is_host(self.model().device()));
        let mut unread = VecDeque::with_capacity(unread_steps);
        let mut tokens = Vec::with_capacity(max_new_tokens);
        loop {
            while unread.len() < unread_steps && tokens.len() + unread.len() < max_new_tokens {
                unread.push_back(decoder.step());
            }
            let Some(ids) = unread.pop_front() else {
                break;
            };
            tokens.push(read(ids)[0]);
            if is_end(&tokens) {
                break;
            }
        }
        Ok(Generation {
            tokens,
            kv_bytes: decoder.sent.kv_bytes,
            kv_positions: decoder.sent.kv_positions,
            trimmed: decoder.sent.trimmed,
        })
    }

    /// Generates `max_new_tokens` tokens after each of several prompts of one length, always the most
    /// likely one; returns a list for each prompt. All prompts advance together and no token ends one:
    /// what comes after a stop token is the caller's to cut off.
    ///
    /// `on_step` hears of each step, by its number from 0, when it was handed to the device: on the CPU
    /// its tokens are computed by then, an accelerator may still be at work. The tokens stay on the
    /// device until the end, so that an accelerator never waits for the host.
    ///
    /// # Errors
    ///
    /// As [`generate_greedy`](Self::generate_greedy).
    pub fn generate_greedy_batch<R: AsRef<[u32]>>(
        &self,
        prompts: &[R],
        max_new_tokens: usize,
        mut on_step: impl FnMut(usize),
    ) -> Result<Vec<Vec<u32>>> {
        let mut decoder = StepDecoder::start(self, prompts, max_new_tokens)?;
        if max_new_tokens == 0 {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let mut steps = Vec::with_capacity(max_new_tokens);
        for number in 0..max_new_tokens {
            steps.push(decoder.step());
            on_step(number);
        }
        let tokens = read(Tensor::cat(steps, 1));
        Ok(tokens.chunks(max_new_tokens).map(<[u32]>::to_vec).collect())
    }
}

/// Decode of a batch in lock-step: logits, then the tokens that were chosen from them, in turn.
pub(super) struct StepDecoder<'m, 'a> {
    pd: &'m PdModel<'a>,
    cache: KvCache,
    /// Position of the tokens that are fed next.
    position: TokenPosition,
    /// Logits `[batch, vocab_size]` of the first new token, where prefill computes them.
    first: Option<Tensor<2>>,
    /// `[batch, 1]`, fed next.
    pending: Tensor<2, Int>,
    sent: Sent,
}

/// What crossed to decode for each prompt.
struct Sent {
    kv_bytes: Bytes,
    kv_positions: u64,
    trimmed: bool,
}

impl<'m, 'a> StepDecoder<'m, 'a> {
    /// Runs prefill and makes room for `max_new_tokens`.
    pub(super) fn start<R: AsRef<[u32]>>(
        pd: &'m PdModel<'a>,
        prompts: &[R],
        max_new_tokens: usize,
    ) -> Result<Self> {
        let length = prompts.first().map_or(0, |prompt| prompt.as_ref().len());
        // The last token is chosen, never fed.
        pd.check_length(length + max_new_tokens.saturating_sub(1))?;
        let mut handover = pd.prefill(prompts)?;
        let first = handover
            .last
            .take()
            .map(|last| pd.models.prefill.logits(last));
        let fed: Vec<&[u32]> = prompts
            .iter()
            .map(|prompt| &prompt.as_ref()[length - 1..])
            .collect();
        let mut cache = handover.cache;
        cache.reserve(max_new_tokens);
        Ok(Self {
            pd,
            cache,
            position: handover.next,
            first,
            pending: token_tensor(pd.model(), &fed)?,
            sent: Sent {
                kv_bytes: handover.kv_bytes,
                kv_positions: handover.kv_positions,
                trimmed: handover.trimmed,
            },
        })
    }

    /// Chooses the next token of each prompt, `[batch, 1]`; nothing waits for an accelerator.
    fn step(&mut self) -> Tensor<2, Int> {
        let chosen = most_likely(self.logits());
        self.feed(chosen.clone());
        chosen
    }

    /// Logits `[batch, vocab_size]` of the next token of each prompt.
    pub(super) fn logits(&mut self) -> Tensor<2> {
        self.first.take().unwrap_or_else(|| {
            let fed = self.pending.clone();
            let (pd, position) = (self.pd, self.position);
            let hidden = pd.run_ids(Stage::Decode, fed, position, &mut self.cache);
            self.position.0 += 1;
            let [batch, _, width] = hidden.dims();
            let hidden = hidden.reshape([batch, width]);
            pd.models.decode.logits(hidden)
        })
    }

    /// Goes on with `chosen` `[batch, 1]`, tokens of the vocabulary.
    pub(super) fn feed(&mut self, chosen: Tensor<2, Int>) {
        self.pending = chosen;
    }
}

/// The most likely token of each row of `logits` `[rows, vocab_size]`, `[rows, 1]` on the same device.
fn most_likely(logits: Tensor<2>) -> Tensor<2, Int> {
    let device = logits.device();
    if !is_host(&device) {
        return logits.argmax(1);
    }
    let ids: Vec<i32> = greedy_tokens(logits)
        .into_iter()
        .map(|id| id as i32)
        .collect();
    let shape = [ids.len(), 1];
    Tensor::from_data(TensorData::new(ids, shape), &device)
}

/// Whether the device computes each operation when it is asked for.
fn is_host(device: &Device) -> bool {
    *device == Device::flex()
}

/// Token ids, row by row; waits for the device.
fn read(ids: Tensor<2, Int>) -> Vec<u32> {
    let ids = ids.into_data().convert::<i64>();
    let ids = ids.as_slice::<i64>().expect("just converted");
    ids.iter().map(|&id| id as u32).collect()
}
