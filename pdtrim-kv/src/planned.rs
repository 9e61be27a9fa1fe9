//! Carries a KV plan out on prefill's cache.

use burn::tensor::{Tensor, TensorData};
use pdtrim_core::cache::BlockCache;
use pdtrim_core::pipeline::{CacheTransfer, Received};
use pdtrim_core::{BlockId, Bytes, KvEncoding, KvPlan};

use crate::encoding::{Codec, Held, KvShape, Part};
use crate::error::Result;

/// Hands over what a [`KvPlan`] lets through: the first and the last prompt positions of the blocks that
/// say so, in the encoding that they say. Kept entries keep the token position whose `RoPE` they carry;
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
    fn transfer(&self, id: BlockId, mut cache: BlockCache) -> pdtrim_core::Result<Received> {
        let sends = self.plan.block(id);
        if let Some(span) = sends.span {
            cache.retain_places(&span.places(cache.len()));
        }
        if sends.encoding == KvEncoding::Held || cache.is_empty() {
            return Ok(cache.into());
        }
        through_bytes(&cache, sends.encoding).map_err(core_error)
    }
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
