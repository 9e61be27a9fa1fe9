//! Published ways to choose what of a prompt's KV is kept, to hold ours against.

mod attention;
mod eviction;
mod think;

use pdtrim_core::cache::BlockCache;
use pdtrim_core::pipeline::{CacheTransfer, Received};
use pdtrim_core::{BlockId, BlockSet, Bytes, KvEncoding};

pub use eviction::{AdaKv, H2o, SnapKv, StreamingLlm, Window};
pub use think::Think;

use crate::encoding::{Codec, Held, KvShape, Part};
use crate::error::{Error, Result};
use crate::planned::{core_error, through_bytes};

/// Chooses what is kept of a prompt's keys and values in one block.
pub trait KvPolicy: Send + Sync {
    /// Name in tables and on the command line.
    fn name(&self) -> &'static str;

    /// Of how many last prompt positions it looks at the queries; `usize::MAX` = all.
    fn observes(&self) -> usize {
        0
    }

    /// What is kept of a prompt's KV, given with the [queries](BlockCache::observed) that it wants.
    ///
    /// # Errors
    ///
    /// [`Error::NoQueries`] if the model's block gave none.
    fn keep(&self, cache: &BlockCache) -> Result<Kept>;
}

/// What a policy keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Everything.
    All,
    /// These places in every head, ascending.
    Places(Vec<usize>),
    /// These places, `[batch][n_kv_heads][place]`, ascending.
    ByHead(Vec<Vec<Vec<usize>>>),
    /// All places, but of the keys only these channels, `[batch][n_kv_heads][channel]`, ascending and as many in
    /// every head; queries meet nothing in the others.
    Channels(Vec<Vec<Vec<usize>>>),
}

/// How many positions a policy keeps of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// So many.
    Positions(usize),
    /// This share of the prompt's, in (0, 1], rounded down.
    Share(f64),
}

impl Budget {
    /// Positions of a prompt of `n`: at least one, at most all.
    pub fn of(self, n: usize) -> usize {
        let kept = match self {
            Self::Positions(kept) => kept,
            Self::Share(share) => (n as f64 * share + 1e-9) as usize,
        };
        kept.clamp(1, n.max(1))
    }
}

/// Hands over what a policy keeps of some blocks, and everything of the others, in one encoding.
pub struct PolicyTransfer<P> {
    policy: P,
    blocks: BlockSet,
    encoding: KvEncoding,
}

impl<P: KvPolicy> PolicyTransfer<P> {
    /// `policy` in `blocks`.
    pub fn new(policy: P, blocks: BlockSet, encoding: KvEncoding) -> Self {
        Self {
            policy,
            blocks,
            encoding,
        }
    }

    fn hand_over(&self, id: BlockId, mut cache: BlockCache) -> Result<Received> {
        let kept = if self.blocks.contains(id) && !cache.is_empty() {
            self.policy.keep(&cache)?
        } else {
            Kept::All
        };
        match kept {
            Kept::All => {}
            Kept::Places(places) => cache.retain_places(&places),
            Kept::ByHead(places) => cache.retain_places_by_head(&places),
            Kept::Channels(channels) => return self.without_channels(&cache, &channels),
        }
        if self.encoding == KvEncoding::Held || cache.is_empty() {
            return Ok(cache.into());
        }
        through_bytes(&cache, self.encoding)
    }

    /// Keys cross without some channels, and a bit for each channel says which.
    fn without_channels(
        &self,
        cache: &BlockCache,
        channels: &[Vec<Vec<usize>>],
    ) -> Result<Received> {
        let keys = think::without(&cache.keys(), channels);
        let masked = cache.with_parts(keys, cache.values());
        let [_, positions, heads, width] = cache.keys().dims();
        let codec = Codec {
            encoding: self.encoding,
            held: Held::of(cache.keys().dtype())?,
        };
        let received = if self.encoding == KvEncoding::Held {
            masked.into()
        } else {
            through_bytes(&masked, self.encoding)?
        };
        let shape = |width| KvShape {
            positions,
            heads,
            width,
        };
        let kept = channels
            .first()
            .and_then(|row| row.first())
            .map_or(width, Vec::len);
        let which = heads * width.div_ceil(8);
        let bytes = codec.bytes(shape(kept), Part::Keys) + codec.bytes(shape(width), Part::Values);
        Ok(Received {
            bytes: Bytes((bytes + which) as u64),
            ..received
        })
    }
}

impl<P: KvPolicy> CacheTransfer for PolicyTransfer<P> {
    fn observes(&self) -> usize {
        self.policy.observes()
    }

    fn transfer(&self, id: BlockId, cache: BlockCache) -> pdtrim_core::Result<Received> {
        self.hand_over(id, cache).map_err(core_error)
    }
}

impl KvPolicy for Box<dyn KvPolicy> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn observes(&self) -> usize {
        (**self).observes()
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        (**self).keep(cache)
    }
}

/// The queries of the last `rows` positions, `[batch, rows, n_heads, head_dim]`.
fn last_queries(cache: &BlockCache, rows: usize) -> Result<burn::tensor::Tensor<4>> {
    let observed = cache.observed().ok_or(Error::NoQueries)?.clone();
    let held = observed.dims()[1];
    let rows = rows.min(held);
    Ok(observed.narrow(1, held - rows, rows))
}
