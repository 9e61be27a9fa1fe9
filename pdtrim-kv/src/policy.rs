//! Published ways to choose what of a prompt's KV is kept, to hold ours against.

mod attention;
mod eviction;
mod think;

use pdtrim_core::cache::BlockCache;
use pdtrim_core::pipeline::{CacheTransfer, Received};
use pdtrim_core::{BlockId, BlockSet, Bytes, KvEncoding};

pub(crate) use attention::mass;
pub(crate) use eviction::highest;
pub use eviction::{AdaKv, H2o, SnapKv, StreamingLlm, Window};
pub use think::Think;

use crate::encoding::{Codec, Held, KvShape, Part};
use crate::error::{Error, Result};
use crate::planned::{core_error, through_bytes};

/// Chooses what is kept of a prompt's keys and values in one block.
///
/// ```
/// use pdtrim_core::cache::BlockCache;
/// use pdtrim_kv::{Kept, KvPolicy, Result};
/// # use burn::tensor::{Device, Tensor};
/// # use pdtrim_core::cache::TokenPosition;
///
/// /// Every other position.
/// struct Half;
///
/// impl KvPolicy for Half {
///     fn name(&self) -> &'static str {
///         "half"
///     }
///
///     fn keep(&self, cache: &BlockCache) -> Result<Kept> {
///         Ok(Kept::Places((0..cache.len()).step_by(2).collect()))
///     }
/// }
///
/// # let mut cache = BlockCache::with_capacity(5);
/// # let rows = Tensor::<4>::zeros([1, 5, 2, 8], &Device::flex());
/// # cache.append(rows.clone(), rows, TokenPosition(0));
/// // A cache of five positions.
/// assert_eq!(Half.keep(&cache)?, Kept::Places(vec![0, 2, 4]));
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_kv::Kept;
///
/// /// Most positions that a head keeps of a prompt of `n`.
/// fn most(kept: &Kept, n: usize) -> usize {
///     match kept {
///         Kept::All | Kept::Channels(_) => n,
///         Kept::Places(places) => places.len(),
///         Kept::ByHead(rows) => rows.iter().flatten().map(Vec::len).max().unwrap_or(0),
///     }
/// }
///
/// assert_eq!(most(&Kept::Places(vec![0, 4, 5]), 6), 3);
/// assert_eq!(most(&Kept::ByHead(vec![vec![vec![5], vec![0, 5]]]), 6), 2);
/// ```
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
///
/// ```
/// use pdtrim_kv::Budget;
///
/// assert_eq!(Budget::Share(0.25).of(1024), 256);
/// assert_eq!(Budget::Positions(256).of(100), 100);
/// ```
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
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, KvEncoding, KvFill, PerStage};
/// use pdtrim_kv::{Budget, PolicyTransfer, StreamingLlm};
///
/// let policy = StreamingLlm { sinks: 2, budget: Budget::Positions(6) };
/// let blocks = BlockSet::from_indices(5, [1, 2])?;
/// let transfer = PolicyTransfer::new(policy, blocks, KvEncoding::Held);
///
/// let (model, removed) = (TinyModel::default().build(), PerStage::dense(5));
/// let stages = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &transfer)?;
/// let sent = stages.prefill(&[[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])?;
/// // Two blocks send 6 positions, three all 10.
/// assert_eq!(sent.kv_positions(), 2 * 6 + 3 * 10);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
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
pub(crate) fn last_queries(cache: &BlockCache, rows: usize) -> Result<burn::tensor::Tensor<4>> {
    let observed = cache.observed().ok_or(Error::NoQueries)?.clone();
    let held = observed.dims()[1];
    let rows = rows.min(held);
    Ok(observed.narrow(1, held - rows, rows))
}
