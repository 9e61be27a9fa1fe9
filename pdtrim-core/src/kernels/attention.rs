//! Causal grouped-query attention on the CPU backend's storage.
//!
//! A few queries (decode) read keys and values where they lie in the cache. Many (prefill) meet them
//! packed once per head, in tiles of query rows that are shared out over the thread pool; each tile
//! multiplies with the keys that its last row may see and no others, so masked tiles are never
//! computed, and no `[seq, seq]` tensor exists. Keys and values are f32, bf16 or f16, the rest is f32.

#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined would be compiled for the baseline only"
)]

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use half::{bf16, f16};
use rayon::prelude::*;

use super::dot::{Weight, fused, total};
use super::linear::{PARALLEL_FROM, Packed};
use super::simd;
use super::tile::{self, COLUMNS, Rows};
use super::widths::{Vectors, for_each_vector_width};

/// Query rows of a tile: its scores against 2048 keys take 336 KiB, which a second-level cache holds;
/// a multiple of the rows that fill the vector registers.
const TILE: usize = 42;
/// Fewer queries than this read the cache as it lies: packing would cost more than it brings.
const PACKED_FROM: usize = 8;
/// Places whose keys, of all heads, the nearest cache holds while each head looks at them.
const PLACES: usize = 32;
/// Places of a part that one thread attends to. Not a share of a number of threads: sums over other parts
/// are rounded otherwise, and one model would have other scores on another machine.
const PART: usize = 4 * PLACES;

/// A row-major view of a tensor `[batch, places, heads, width]` whose last axis is dense.
struct Heads<'a, E> {
    elements: &'a [E],
    /// Distance between batches, places and heads, in elements.
    strides: [usize; 3],
}

impl<'a, E: Weight> Heads<'a, E> {
    fn new(tensor: &'a FlexTensor) -> Self {
        let strides = tensor.layout().strides();
        debug_assert_eq!(strides[3], 1, "made dense by the caller");
        let strides = [0, 1, 2]
            .map(|axis| usize::try_from(strides[axis]).expect("views of a cache run forward"));
        let elements: &[E] = bytemuck::cast_slice(tensor.bytes());
        Self {
            elements: &elements[tensor.layout().start_offset()..],
            strides,
        }
    }

    fn from(&self, batch: usize, place: usize, head: usize) -> &'a [E] {
        let [by_batch, by_place, by_head] = self.strides;
        &self.elements[batch * by_batch + place * by_place + head * by_head..]
    }
}

/// The sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    seq: usize,
    n_heads: usize,
    places: usize,
    n_kv_heads: usize,
    width: usize,
}

impl Sizes {
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Keys that query `query` sees.
    fn visible(&self, query: usize) -> usize {
        self.places - self.seq + query + 1
    }
}

/// See [`super::attention`]; `[batch, seq, n_heads, head_dim]`.
pub(super) fn attention(
    queries: &FlexTensor,
    keys: &FlexTensor,
    values: &FlexTensor,
) -> FlexTensor {
    let shape = queries.layout().shape().clone();
    let sizes = Sizes {
        batch: shape[0],
        seq: shape[1],
        n_heads: shape[2],
        places: keys.layout().shape()[1],
        n_kv_heads: keys.layout().shape()[2],
        width: shape[3],
    };
    let [queries, keys, values] = [queries, keys, values].map(dense);
    let out = match keys.dtype() {
        DType::BF16 => attend::<bf16>(sizes, &queries, &keys, &values),
        DType::F16 => attend::<f16>(sizes, &queries, &keys, &values),
        _ => attend::<f32>(sizes, &queries, &keys, &values),
    };
    FlexTensor::from_data(TensorData::new(out, shape))
}

fn attend<E: Cached>(
    sizes: Sizes,
    queries: &FlexTensor,
    keys: &FlexTensor,
    values: &FlexTensor,
) -> Vec<f32> {
    let queries = Heads::<f32>::new(queries);
    let (keys, values) = (Heads::<E>::new(keys), Heads::<E>::new(values));
    let mut out = vec![0.0_f32; sizes.batch * sizes.seq * sizes.n_heads * sizes.width];
    if sizes.seq < PACKED_FROM {
        by_query(sizes, &queries, &keys, &values, &mut out);
    } else {
        by_tile(sizes, &queries, &keys, &values, &mut out);
    }
    out
}

/// One query at a time, all of its heads together: keys and values are read once, in the order in which
/// they lie. Many places are worked on in parts, whose results are put together.
fn by_query<E: Cached>(
    sizes: Sizes,
    queries: &Heads<'_, f32>,
    keys: &Heads<'_, E>,
    values: &Heads<'_, E>,
    out: &mut [f32],
) {
    let row = sizes.n_heads * sizes.width;
    let work = 2 * sizes.places * out.len();
    let run = |(n, out): (usize, &mut [f32])| {
        let (query, batch) = (n % sizes.seq, n / sizes.seq);
        let visible = sizes.visible(query);
        let part = |first: usize| {
            let count = PART.min(visible - first);
            let query = (queries.from(batch, query, 0), queries.strides[2]);
            let keys = (keys.from(batch, first, 0), keys.strides);
            let values = (values.from(batch, first, 0), values.strides);
            Attended::new(sizes, count, query, keys, values)
        };
        let firsts: Vec<usize> = (0..visible).step_by(PART).collect();
        let parts: Vec<Attended> = if work < PARALLEL_FROM || firsts.len() == 1 {
            firsts.into_iter().map(part).collect()
        } else {
            firsts.into_par_iter().with_max_len(1).map(part).collect()
        };
        Attended::put_together(&parts, sizes.width, out);
    };
    if work < PARALLEL_FROM {
        out.chunks_mut(row).enumerate().for_each(run);
    } else {
        out.par_chunks_mut(row).enumerate().for_each(run);
    }
}

/// Attention of one query's heads to a part of the places, not yet divided by the sum of weights.
struct Attended {
    /// Largest score and sum of weights, for each head.
    heads: Vec<(f32, f32)>,
    /// `[n_heads, width]`.
    out: Vec<f32>,
}

impl Attended {
    /// `count` places from where `keys` and `values` begin; `query` comes with the distance between heads.
    fn new<E: Cached>(
        sizes: Sizes,
        count: usize,
        (query, by_head): (&[f32], usize),
        (keys, key_strides): (&[E], [usize; 3]),
        (values, value_strides): (&[E], [usize; 3]),
    ) -> Self {
        let Sizes { n_heads, width, .. } = sizes;
        let mut weights = vec![0.0; n_heads * count];
        let of_head = |head: usize| {
            let kv_head = head / sizes.group();
            (kv_head * key_strides[2], kv_head * value_strides[2])
        };
        for first in (0..count).step_by(PLACES) {
            let places = first..count.min(first + PLACES);
            for (head, weights) in weights.chunks_exact_mut(count).enumerate() {
                let query = &query[head * by_head..][..width];
                let keys = &keys[first * key_strides[1] + of_head(head).0..];
                E::scores(query, keys, key_strides[1], &mut weights[places.clone()]);
            }
        }
        let scale = 1.0 / (width as f32).sqrt();
        let heads = weights
            .chunks_exact_mut(count)
            .map(|weights| simd::exponentials(weights, scale))
            .collect();
        let mut out = vec![0.0; n_heads * width];
        for first in (0..count).step_by(PLACES) {
            let places = first..count.min(first + PLACES);
            let of_heads = weights.chunks_exact(count).zip(out.chunks_exact_mut(width));
            for (head, (weights, out)) in of_heads.enumerate() {
                let values = &values[first * value_strides[1] + of_head(head).1..];
                E::mix(&weights[places.clone()], values, value_strides[1], out);
            }
        }
        Self { heads, out }
    }

    fn put_together(parts: &[Self], width: usize, out: &mut [f32]) {
        for (head, out) in out.chunks_exact_mut(width).enumerate() {
            let max = parts
                .iter()
                .map(|part| part.heads[head].0)
                .fold(f32::NEG_INFINITY, f32::max);
            let shares = parts.iter().map(|part| (part.heads[head].0 - max).exp());
            let shares: Vec<f32> = shares.collect();
            let sums = parts.iter().zip(&shares);
            let sum: f32 = sums.map(|(part, share)| part.heads[head].1 * share).sum();
            for (part, share) in parts.iter().zip(shares) {
                let from = &part.out[head * width..][..width];
                for (out, from) in out.iter_mut().zip(from) {
                    *out += from * (share / sum);
                }
            }
        }
    }
}

/// Keys and values of every head, laid out for [`tile::multiply`].
struct PackedHeads {
    /// For each batch and head, panels `[width, COLUMNS]` of keys.
    keys: Vec<f32>,
    /// For each batch and head, panels `[padded places, COLUMNS]` of values.
    values: Vec<f32>,
    places: usize,
    columns: usize,
    width: usize,
}

impl PackedHeads {
    fn new<E: Cached>(sizes: Sizes, keys: &Heads<'_, E>, values: &Heads<'_, E>) -> Self {
        let Sizes { places, width, .. } = sizes;
        let vectors = Vectors::detect();
        let heads = sizes.batch * sizes.n_kv_heads;
        let padded = places.next_multiple_of(COLUMNS);
        let columns = width.next_multiple_of(COLUMNS);
        let at = |head: usize| (head / sizes.n_kv_heads, head % sizes.n_kv_heads);
        let mut packed_keys = vec![0.0_f32; heads * padded * width];
        let mut packed_values = vec![0.0_f32; heads * padded * columns];
        let pack_keys = |(n, panel): (usize, &mut [f32])| {
            let first = n % (padded / COLUMNS) * COLUMNS;
            let (batch, head) = at(n / (padded / COLUMNS));
            let rows = std::array::from_fn(|column| {
                // Places past the last repeat it; nobody looks at their scores.
                let place = (first + column).min(places - 1);
                &keys.from(batch, place, head)[..width]
            });
            E::pack(vectors, &rows, 0, bytemuck::cast_slice_mut(panel));
        };
        let pack_values = |(n, panel): (usize, &mut [f32])| {
            let first = n % (columns / COLUMNS) * COLUMNS;
            let (batch, head) = at(n / (columns / COLUMNS));
            let count = COLUMNS.min(width - first);
            for (place, line) in panel.chunks_exact_mut(COLUMNS).take(places).enumerate() {
                let row = &values.from(batch, place, head)[first..first + count];
                for (out, value) in line.iter_mut().zip(row) {
                    *out = value.widen();
                }
            }
        };
        rayon::join(
            || {
                packed_keys
                    .par_chunks_mut(width * COLUMNS)
                    .enumerate()
                    .for_each(pack_keys);
            },
            || {
                packed_values
                    .par_chunks_mut(padded * COLUMNS)
                    .enumerate()
                    .for_each(pack_values);
            },
        );
        Self {
            keys: packed_keys,
            values: packed_values,
            places: padded,
            columns,
            width,
        }
    }

    /// Panels of keys of the `head`th head, counted over the batch.
    fn keys(&self, head: usize) -> impl Iterator<Item = &[f32]> {
        let size = self.places * self.width;
        self.keys[head * size..][..size].chunks_exact(self.width * COLUMNS)
    }

    fn values(&self, head: usize) -> impl Iterator<Item = &[f32]> {
        let size = self.places * self.columns;
        self.values[head * size..][..size].chunks_exact(self.places * COLUMNS)
    }
}

fn by_tile<E: Cached>(
    sizes: Sizes,
    queries: &Heads<'_, f32>,
    keys: &Heads<'_, E>,
    values: &Heads<'_, E>,
    out: &mut [f32],
) {
    let packed = PackedHeads::new(sizes, keys, values);
    let row = sizes.n_heads * sizes.width;
    out.par_chunks_mut(sizes.seq * row)
        .enumerate()
        .for_each(|(batch, out)| {
            // The last tiles see the most keys; they go first, so that no thread waits for one.
            out.par_chunks_mut(TILE * row)
                .enumerate()
                .rev()
                .with_max_len(1)
                .for_each(|(tile, out)| {
                    let mut scratch = TileScratch::default();
                    let first = tile * TILE;
                    for head in 0..sizes.n_heads {
                        let rows = Rows {
                            elements: queries.from(batch, first, head),
                            stride: queries.strides[1],
                            count: out.len() / row,
                        };
                        let kv_head = batch * sizes.n_kv_heads + head / sizes.group();
                        let out = &mut out[head * sizes.width..];
                        scratch.run(sizes, rows, sizes.visible(first), &packed, kv_head, out);
                    }
                });
        });
}

#[derive(Default)]
struct TileScratch {
    tile: Vec<f32>,
    /// `[rows, padded places]`.
    scores: Vec<f32>,
}

impl TileScratch {
    /// Writes the output rows of one head, `n_heads * width` apart. The first row sees `visible` keys,
    /// each row after it one more.
    fn run(
        &mut self,
        sizes: Sizes,
        rows: Rows<'_, f32>,
        visible: usize,
        packed: &PackedHeads,
        kv_head: usize,
        out: &mut [f32],
    ) {
        let vectors = Vectors::detect();
        let seen = visible + rows.count - 1;
        let stride = seen.next_multiple_of(COLUMNS);
        self.scores.resize(rows.count * stride, 0.0);
        self.tile.resize(rows.count * COLUMNS, 0.0);
        let panels = packed.keys(kv_head).take(stride / COLUMNS);
        for (panel, keys) in panels.enumerate() {
            tile::multiply(vectors, rows, keys, sizes.width, &mut self.tile, false);
            let lines = self.tile.chunks_exact(COLUMNS);
            for (sums, scores) in lines.zip(self.scores.chunks_exact_mut(stride)) {
                scores[panel * COLUMNS..][..COLUMNS].copy_from_slice(sums);
            }
        }
        let scale = 1.0 / (sizes.width as f32).sqrt();
        for (row, scores) in self.scores.chunks_exact_mut(stride).enumerate() {
            let (seen, masked) = scores.split_at_mut(visible + row);
            simd::softmax(seen, scale);
            masked.fill(0.0);
        }
        let weights = Rows {
            elements: &self.scores,
            stride,
            count: rows.count,
        };
        for (panel, values) in packed.values(kv_head).enumerate() {
            tile::multiply(vectors, weights, values, seen, &mut self.tile, false);
            let first = panel * COLUMNS;
            let width = COLUMNS.min(sizes.width - first);
            let lines = self.tile.chunks_exact(COLUMNS);
            for (row, sums) in lines.enumerate() {
                let at = row * sizes.n_heads * sizes.width + first;
                out[at..at + width].copy_from_slice(&sums[..width]);
            }
        }
    }
}

/// An element type that keys and values may have.
trait Cached: Packed {
    /// `scores[place] = query · keys[place]`; keys are `stride` apart.
    fn scores(query: &[f32], keys: &[Self], stride: usize, scores: &mut [f32]);

    /// `out += Σ weights[place] * values[place]`; values are `stride` apart.
    fn mix(weights: &[f32], values: &[Self], stride: usize, out: &mut [f32]);
}

impl Cached for f32 {
    fn scores(query: &[f32], keys: &[Self], stride: usize, scores: &mut [f32]) {
        scores_f32(query, keys, stride, scores);
    }

    fn mix(weights: &[f32], values: &[Self], stride: usize, out: &mut [f32]) {
        mix_f32(weights, values, stride, out);
    }
}

impl Cached for bf16 {
    fn scores(query: &[f32], keys: &[Self], stride: usize, scores: &mut [f32]) {
        scores_bf16(query, keys, stride, scores);
    }

    fn mix(weights: &[f32], values: &[Self], stride: usize, out: &mut [f32]) {
        mix_bf16(weights, values, stride, out);
    }
}

impl Cached for f16 {
    fn scores(query: &[f32], keys: &[Self], stride: usize, scores: &mut [f32]) {
        scores_f16(query, keys, stride, scores);
    }

    fn mix(weights: &[f32], values: &[Self], stride: usize, out: &mut [f32]) {
        mix_f16(weights, values, stride, out);
    }
}

for_each_vector_width! {
    fn scores_f16(query: &[f32], keys: &[f16], stride: usize, scores: &mut [f32]) = scores_body::<f16; FUSED>
}
for_each_vector_width! {
    fn mix_f16(weights: &[f32], values: &[f16], stride: usize, out: &mut [f32]) = mix_body::<f16; FUSED>
}
for_each_vector_width! {
    fn scores_f32(query: &[f32], keys: &[f32], stride: usize, scores: &mut [f32]) = scores_body::<f32; FUSED>
}
for_each_vector_width! {
    fn scores_bf16(query: &[f32], keys: &[bf16], stride: usize, scores: &mut [f32]) = scores_body::<bf16; FUSED>
}
for_each_vector_width! {
    fn mix_f32(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) = mix_body::<f32; FUSED>
}
for_each_vector_width! {
    fn mix_bf16(weights: &[f32], values: &[bf16], stride: usize, out: &mut [f32]) = mix_body::<bf16; FUSED>
}

const LANES: usize = 16;

#[inline(always)]
fn scores_body<E: Weight, const FUSED: bool>(
    query: &[f32],
    keys: &[E],
    stride: usize,
    scores: &mut [f32],
) {
    let (query, rest) = query.as_chunks::<LANES>();
    for (place, score) in scores.iter_mut().enumerate() {
        let key = &keys[place * stride..][..query.len() * LANES + rest.len()];
        let (key, tail) = key.split_at(query.len() * LANES);
        let mut sums = [0.0_f32; LANES];
        for (query, key) in query.iter().zip(key.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                sums[lane] = fused::<FUSED>(query[lane], key[lane].widen(), sums[lane]);
            }
        }
        // A copy, as in `dot`.
        let sums = sums;
        let tail = rest.iter().zip(tail);
        *score = tail.fold(total(sums), |sum, (x, key)| {
            fused::<FUSED>(*x, key.widen(), sum)
        });
    }
}

#[inline(always)]
fn mix_body<E: Weight, const FUSED: bool>(
    weights: &[f32],
    values: &[E],
    stride: usize,
    out: &mut [f32],
) {
    /// Columns that stay in registers while all values pass by.
    const WIDTH: usize = 64;
    let width = out.len();
    let mut chunks = out.chunks_exact_mut(WIDTH);
    for (n, out) in (&mut chunks).enumerate() {
        let mut sums = [0.0_f32; WIDTH];
        sums.copy_from_slice(out);
        for (place, weight) in weights.iter().enumerate() {
            let value: &[E; WIDTH] = values[place * stride + n * WIDTH..]
                .first_chunk()
                .expect("a head is as wide as its output");
            for column in 0..WIDTH {
                sums[column] = fused::<FUSED>(*weight, value[column].widen(), sums[column]);
            }
        }
        let sums = sums;
        out.copy_from_slice(&sums);
    }
    let rest = chunks.into_remainder();
    let first = width - rest.len();
    for (place, weight) in weights.iter().enumerate() {
        let value = &values[place * stride + first..][..rest.len()];
        for (out, value) in rest.iter_mut().zip(value) {
            *out = fused::<FUSED>(*weight, value.widen(), *out);
        }
    }
}

fn dense(tensor: &FlexTensor) -> FlexTensor {
    if tensor.layout().strides()[3] == 1 {
        tensor.clone()
    } else {
        tensor.to_contiguous()
    }
}
