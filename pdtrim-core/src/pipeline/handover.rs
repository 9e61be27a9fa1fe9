//! What crosses between the stages, and the count of it.

use burn::tensor::Tensor;

use super::PdModel;
use crate::block::BlockId;
use crate::cache::{BlockCache, KvCache, TokenPosition};
use crate::error::{Error, Result};
use crate::model::hand_groups;
use crate::stage::Boundary;
use crate::units::Bytes;

/// What prefill leaves for decode.
///
/// ```
/// use pdtrim_core::Boundary;
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let dense = PdModel::dense(&model, Boundary::Prefill);
/// let sent = dense.prefill(&[[1, 2, 3]])?;
/// assert_eq!(sent.last_hidden().map(|hidden| hidden.dims()), Some([1, 32]));
///
/// // Put together again where the parts arrive.
/// let (cache, last) = (sent.cache().clone(), sent.last_hidden().cloned());
/// let received = dense.received(3, cache, last, sent.kv_bytes())?;
/// assert_eq!(received.kv_positions(), sent.kv_positions());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Handover {
    pub(super) cache: KvCache,
    /// Hidden states `[batch, hidden]` of the last prompt token; `None` when decode runs that token.
    pub(super) last: Option<Tensor<2>>,
    pub(super) next: TokenPosition,
    pub(super) kv_bytes: Bytes,
    pub(super) kv_positions: u64,
    pub(super) trimmed: bool,
}

impl Handover {
    /// Bytes of keys and values that crossed, for each prompt of the batch, as the transfer counts them.
    pub fn kv_bytes(&self) -> Bytes {
        self.kv_bytes
    }

    /// Positions that crossed, summed over blocks, for each prompt of the batch.
    pub fn kv_positions(&self) -> u64 {
        self.kv_positions
    }

    /// Whether a block that decode runs lost a prompt position.
    pub fn trimmed(&self) -> bool {
        self.trimmed
    }

    /// The cache that decode received.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Hidden states `[batch, hidden]` of the last prompt token, from which the first new token follows;
    /// `None` with [`Boundary::Decode`], where decode runs that token itself.
    pub fn last_hidden(&self) -> Option<&Tensor<2>> {
        self.last.as_ref()
    }
}

impl PdModel<'_> {
    /// Puts together on decode's side what prefill handed over in another process: the caches of the
    /// blocks that decode runs, for a prompt of `length` tokens, and the last hidden states `[batch, hidden]`
    /// with [`Boundary::Prefill`].
    ///
    /// # Errors
    ///
    /// [`Error::Received`] unless there is a cache for each of those blocks and no other, and last hidden
    /// states if and only if the boundary asks for them; [`Error::NoTokens`] and [`Error::ContextLength`].
    pub fn received(
        &self,
        length: usize,
        cache: KvCache,
        last: Option<Tensor<2>>,
        kv_bytes: Bytes,
    ) -> Result<Handover> {
        if length == 0 {
            return Err(Error::NoTokens { what: "the prompt" });
        }
        self.check_length(length)?;
        let refused = |found: &str, of: String, expected: &str| Error::Received {
            what: format!("{found} for {of}"),
            expected: expected.to_owned(),
        };
        for id in (0..self.model().dims().n_blocks).map(BlockId::new) {
            let runs = !self.removed.decode.contains(id);
            if runs != cache.block(id).is_some() {
                let (nothing, some) = ("nothing", "keys and values");
                let of = format!("block {}", id.index());
                return Err(if runs {
                    refused(nothing, of, some)
                } else {
                    refused(some, of, nothing)
                });
            }
        }
        let wanted = self.boundary == Boundary::Prefill;
        if wanted != last.is_some() {
            let (nothing, some) = ("nothing", "hidden states");
            let of = "the last prompt token".to_owned();
            return Err(if wanted {
                refused(nothing, of, some)
            } else {
                refused(some, of, nothing)
            });
        }
        let handing = Handing { kv_bytes };
        let read = self.boundary.prompt_positions(length);
        Ok(handing.done(self, cache, read, last))
    }
}

/// Hands blocks over and counts them.
#[derive(Debug, Default)]
pub(super) struct Handing {
    kv_bytes: Bytes,
}

impl Handing {
    /// Hands over the cache of block `id`, if decode runs it.
    pub(super) fn block(
        &mut self,
        pd: &PdModel<'_>,
        id: BlockId,
        block: &mut BlockCache,
    ) -> Result<()> {
        let mut sent = std::mem::replace(block, BlockCache::with_capacity(0));
        if pd.removed.decode.contains(id) {
            return Ok(());
        }
        hand_groups(pd.models, id, &mut sent);
        let received = pd.transfer.transfer(id, sent)?;
        self.kv_bytes += received.bytes;
        *block = received.cache;
        Ok(())
    }

    /// Hands over every block of `cache`.
    pub(super) fn all(&mut self, pd: &PdModel<'_>, cache: &mut KvCache) -> Result<()> {
        cache
            .iter_mut()
            .try_for_each(|(id, block)| self.block(pd, id, block))
    }

    /// What decode goes on from after a prompt of which prefill read `read` positions.
    pub(super) fn done(
        self,
        pd: &PdModel<'_>,
        mut cache: KvCache,
        read: usize,
        last: Option<Tensor<2>>,
    ) -> Handover {
        cache.drop_blocks(&pd.removed.decode);
        let trimmed = cache.iter().any(|(_, block)| block.len() < read);
        let kv_positions = cache.iter().map(|(_, block)| block.len() as u64).sum();
        Handover {
            cache,
            last,
            next: TokenPosition(read),
            kv_bytes: self.kv_bytes,
            kv_positions,
            trimmed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::block::BlockSet;
    use crate::model::BlockModel;
    use crate::pipeline::{CacheTransfer, Received};
    use crate::stage::{KvFill, PerStage};
    use crate::testing::TinyModel;

    /// Keeps what it is handed, as a sender to another process would.
    #[derive(Default)]
    struct Wire(Mutex<Vec<(BlockId, BlockCache)>>);

    impl CacheTransfer for Wire {
        fn transfer(&self, id: BlockId, cache: BlockCache) -> Result<Received> {
            let bytes = cache.bytes_per_row();
            self.0.lock().unwrap().push((id, cache));
            let cache = BlockCache::with_capacity(0);
            Ok(Received { cache, bytes })
        }
    }

    #[test]
    fn what_another_process_hands_over_generates_the_same() {
        let model = TinyModel::default().build();
        let removed = PerStage {
            prefill: BlockSet::empty(5),
            decode: BlockSet::from_indices(5, [1, 4]).unwrap(),
        };
        let prompt: &[u32] = &[5, 6, 7, 8];
        for boundary in [Boundary::Prefill, Boundary::Decode] {
            let wire = Wire::default();
            let pd = |transfer| {
                PdModel::new(&model, removed.clone(), KvFill::Nested, boundary, transfer).unwrap()
            };
            let sender = pd(&wire);
            let sent = sender.prefill(&[prompt]).unwrap();
            let blocks = std::mem::take(&mut *wire.0.lock().unwrap());
            let order: Vec<usize> = blocks.iter().map(|(id, _)| id.index()).collect();
            assert_eq!(order, [0, 2, 3], "decode's blocks, in order");

            let receiver = pd(&super::super::SendAll);
            let here = receiver.prefill(&[prompt]).unwrap();
            let cache = KvCache::from_blocks(5, blocks);
            let there = receiver
                .received(4, cache, sent.last_hidden().cloned(), sent.kv_bytes())
                .unwrap();
            assert_eq!(there.kv_bytes(), here.kv_bytes());
            assert_eq!(there.kv_positions(), here.kv_positions());
            assert_eq!(there.last_hidden().is_some(), here.last_hidden().is_some());
            let logits = |handover| {
                let mut row = receiver.decode_row(prompt, handover, 3).unwrap();
                let mut tokens = Vec::new();
                for _ in 0..3 {
                    let logits = receiver.decode_step(&mut [&mut row]).unwrap();
                    let token = crate::kernels::greedy_tokens(logits)[0];
                    row.feed(token);
                    tokens.push(token);
                }
                tokens
            };
            assert_eq!(logits(there), logits(here));
        }
    }

    #[test]
    fn a_block_too_few_or_too_many_is_refused() {
        let model = TinyModel::default().build();
        let pd = PdModel::dense(&model, Boundary::Decode);
        let cache = pd.prefill(&[[1, 2, 3]]).unwrap().cache().clone();
        let refused = |cache, last| {
            let error = pd.received(3, cache, last, Bytes(0)).unwrap_err();
            error.to_string()
        };
        let mut fewer = cache.clone();
        fewer.drop_blocks(&BlockSet::from_indices(5, [2]).unwrap());
        let said = refused(fewer, None);
        assert!(
            said.contains("block 2") && said.contains("nothing"),
            "{said}"
        );
        let hidden = Tensor::zeros([1, 32], model.device());
        let said = refused(cache.clone(), Some(hidden));
        assert!(said.contains("the last prompt token"), "{said}");
        assert!(pd.received(3, cache, None, Bytes(0)).is_ok());
    }
}
