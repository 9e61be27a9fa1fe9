//! Carries a KV plan out on prefill's cache.

use burn::tensor::{Tensor, TensorData};
use pdtrim_core::cache::BlockCache;
use pdtrim_core::pipeline::{CacheTransfer, Received};
use pdtrim_core::{BlockId, BlockKv, Bytes, KvEncoding, KvPlan};

use crate::encoding::{Codec, Held, KvShape, Part};
use crate::error::Result;
use crate::policy::{highest, last_queries, mass};

/// Hands over what a [`KvPlan`] lets through: the first and the last prompt positions of the blocks that
/// say so, and of those between them the ones that attention fell on most, in the encoding that they say. Which
/// ones attention chose crosses too, as a bit for each. Kept entries keep the token position whose `RoPE` they carry;
/// nothing is renumbered. Decode attends to what the bytes stand for, and the bytes are counted.
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, KvFill, KvPlan, PerStage, TokenSpan};
/// use pdtrim_kv::PlannedTransfer;
///
/// let blocks = BlockSet::from_indices(5, [1, 2, 3])?;
/// let transfer = PlannedTransfer::new(KvPlan::uniform(&blocks, TokenSpan { first: 1, last: 3 }));
///
/// let (model, removed) = (TinyModel::default().build(), PerStage::dense(5));
/// let stages = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &transfer)?;
/// let sent = stages.prefill(&[[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])?;
/// assert_eq!(sent.kv_positions(), 3 * 4 + 2 * 10);
/// assert!(sent.trimmed());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PlannedTransfer {
    plan: KvPlan,
}

impl PlannedTransfer {
    /// Carries out `plan`.
    pub fn new(plan: KvPlan) -> Self {
        Self { plan }
    }

    /// The plan.
    pub fn plan(&self) -> &KvPlan {
        &self.plan
    }
}

impl CacheTransfer for PlannedTransfer {
    fn observes(&self) -> usize {
        observes(&self.plan)
    }

    fn transfer(&self, id: BlockId, cache: BlockCache) -> pdtrim_core::Result<Received> {
        hand_over(self.plan.block(id), cache).map_err(core_error)
    }
}

/// Queries that say which positions are heavy: of a longer prompt not all are asked, which would take as long as
/// the blocks themselves.
const QUERIES: usize = 256;

fn hand_over(sends: BlockKv, mut cache: BlockCache) -> Result<Received> {
    let n = cache.len();
    retain(sends, &mut cache)?;
    let received = if sends.encoding == KvEncoding::Held || cache.is_empty() {
        cache.into()
    } else {
        through_bytes(&cache, sends.encoding)?
    };
    let mut bytes = received.bytes.0;
    if !received.cache.is_empty() {
        let heads = received.cache.keys().dims()[2];
        bytes += choice_bytes(sends, n, heads) as u64;
    }
    Ok(Received {
        bytes: Bytes(bytes),
        ..received
    })
}

/// Of how many last prompt positions a plan wants the queries.
pub(crate) fn observes(plan: &KvPlan) -> usize {
    if plan.looks_at_attention() {
        usize::MAX
    } else {
        0
    }
}

/// Keeps the places that `sends` lets through.
pub(crate) fn retain(sends: BlockKv, cache: &mut BlockCache) -> Result<()> {
    let n = cache.len();
    let Some(span) = sends.span.filter(|_| sends.kept(n) < n) else {
        return Ok(());
    };
    let Some(between) = sends.chosen_among(n) else {
        cache.retain_places(&span.places(n));
        return Ok(());
    };
    let attention = mass(&last_queries(cache, n)?, &cache.keys(), QUERIES);
    let head = |attention: &Vec<f32>| {
        let chosen = highest(&attention[between.clone()], sends.heavy).into_iter();
        let chosen = chosen.map(|place| between.start + place);
        let first = 0..between.start;
        first.chain(chosen).chain(between.end..n).collect()
    };
    let row = |row: &Vec<Vec<f32>>| row.iter().map(head).collect();
    let places: Vec<Vec<Vec<usize>>> = attention.iter().map(row).collect();
    cache.retain_places_by_head(&places);
    Ok(())
}

/// What it takes to say which positions attention chose in each of `heads`: a bit for each it chose among.
pub(crate) fn choice_bytes(sends: BlockKv, n_positions: usize, heads: usize) -> usize {
    let between = sends.chosen_among(n_positions);
    between.map_or(0, |between| heads * between.len().div_ceil(8))
}

/// What a transfer's caller is told.
pub(crate) fn core_error(
    source: impl std::error::Error + Send + Sync + 'static,
) -> pdtrim_core::Error {
    pdtrim_core::Error::Transfer {
        source: Box::new(source),
    }
}

/// The cache after its keys and values were encoded and decoded again.
pub(crate) fn through_bytes(cache: &BlockCache, encoding: KvEncoding) -> Result<Received> {
    let held = Held::of(cache.keys().dtype())?;
    let codec = Codec { encoding, held };
    let empty = cache.empty_places();
    let empty = empty.as_deref();
    let (keys, key_bytes) = tensor_through_bytes(&cache.keys(), empty, codec, Part::Keys)?;
    let (values, value_bytes) = tensor_through_bytes(&cache.values(), empty, codec, Part::Values)?;
    Ok(Received {
        cache: cache.with_parts(keys, values).unobserved(),
        bytes: Bytes((key_bytes + value_bytes) as u64),
    })
}

/// `[batch, positions, heads, width]`, each row of the batch by itself, and the bytes of the first. Where heads
/// hold different numbers of positions each crosses by itself, without its empty places.
fn tensor_through_bytes(
    tensor: &Tensor<4>,
    empty: Option<&[Vec<usize>]>,
    codec: Codec,
    part: Part,
) -> Result<(Tensor<4>, usize)> {
    let [batch, positions, heads, width] = tensor.dims();
    let mut elements = elements(tensor.clone());
    let mut first_bytes = 0;
    let mut bytes = Vec::new();
    let rows = elements.chunks_exact_mut(positions * heads * width);
    for (row, elements) in rows.enumerate() {
        bytes.clear();
        if let Some(empty) = empty {
            for (head, &empty) in empty[row].iter().enumerate() {
                let shape = KvShape {
                    positions: positions - empty,
                    heads: 1,
                    width,
                };
                let places = elements.chunks_exact_mut(width).skip(empty * heads + head);
                let mut places: Vec<&mut [f32]> = places.step_by(heads).collect();
                let sent: Vec<f32> = places
                    .iter()
                    .flat_map(|place| place.iter().copied())
                    .collect();
                let start = bytes.len();
                codec.encode(&sent, shape, part, &mut bytes)?;
                let received = codec.decode(&bytes[start..], shape, part)?;
                for (place, received) in places.iter_mut().zip(received.chunks_exact(width)) {
                    place.copy_from_slice(received);
                }
            }
        } else {
            let shape = KvShape {
                positions,
                heads,
                width,
            };
            codec.encode(elements, shape, part, &mut bytes)?;
            elements.copy_from_slice(&codec.decode(&bytes, shape, part)?);
        }
        if row == 0 {
            first_bytes = bytes.len();
        }
    }
    let data = TensorData::new(elements, [batch, positions, heads, width]);
    let options = (&tensor.device(), tensor.dtype());
    Ok((Tensor::from_data(data, options), first_bytes))
}

/// The tensor's elements in order.
pub(crate) fn elements(tensor: Tensor<4>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec().expect("just converted")
}
