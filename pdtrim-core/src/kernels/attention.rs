//! Causal grouped-query attention on the CPU backend's storage.
//!
//! Tiles of query rows are shared out over the thread pool; each multiplies with the keys that its
//! last row may see and no others, so masked tiles are never computed, and no `[seq, seq]` tensor
//! exists. Keys and values are read where they lie in the cache.

use burn::tensor::TensorData;
use burn_flex::FlexTensor;
use gemm::Parallelism;
use rayon::prelude::*;

use super::simd;

/// Query rows of a tile: its scores against 2048 keys take 256 KiB, which a second-level cache holds.
const TILE: usize = 32;

/// A row-major view of a tensor `[batch, places, heads, width]` whose last axis is dense.
struct Heads<'a> {
    elements: &'a [f32],
    /// Distance between batches, places and heads, in elements.
    strides: [usize; 3],
}

impl<'a> Heads<'a> {
    fn new(tensor: &'a FlexTensor) -> Self {
        let strides = tensor.layout().strides();
        debug_assert_eq!(strides[3], 1, "made dense by the caller");
        let strides = [0, 1, 2]
            .map(|axis| usize::try_from(strides[axis]).expect("views of a cache run forward"));
        Self {
            elements: &tensor.storage::<f32>()[tensor.layout().start_offset()..],
            strides,
        }
    }

    fn from(&self, batch: usize, place: usize, head: usize) -> &'a [f32] {
        let [by_batch, by_place, by_head] = self.strides;
        &self.elements[batch * by_batch + place * by_place + head * by_head..]
    }
}

/// See [`super::attention`]; `[batch, seq, n_heads, head_dim]`.
pub(super) fn attention(
    queries: &FlexTensor,
    keys: &FlexTensor,
    values: &FlexTensor,
) -> FlexTensor {
    let shape = queries.layout().shape().clone();
    let [seq, n_heads, width] = [1, 2, 3].map(|axis| shape[axis]);
    let [places, n_kv_heads] = [1, 2].map(|axis| keys.layout().shape()[axis]);
    let [queries, keys, values] = [queries, keys, values].map(dense);
    let (queries, keys, values) = (Heads::new(&queries), Heads::new(&keys), Heads::new(&values));
    let group = n_heads / n_kv_heads;

    let mut out = vec![0.0_f32; shape.num_elements()];
    out.par_chunks_mut(seq * n_heads * width)
        .enumerate()
        .for_each(|(batch, out)| {
            out.par_chunks_mut(TILE * n_heads * width)
                .enumerate()
                .for_each(|(tile, out)| {
                    let first = tile * TILE;
                    let rows = out.len() / (n_heads * width);
                    let mut scores = vec![0.0_f32; rows * (places - seq + first + rows)];
                    for head in 0..n_heads {
                        let task = Tile {
                            rows,
                            width,
                            queries: (queries.from(batch, first, head), queries.strides[1]),
                            keys: (keys.from(batch, 0, head / group), keys.strides[1]),
                            values: (values.from(batch, 0, head / group), values.strides[1]),
                        };
                        task.run(&mut scores, &mut out[head * width..], n_heads * width);
                    }
                });
        });
    FlexTensor::from_data(TensorData::new(out, shape))
}

/// Consecutive queries of one head; each matrix with the distance between its rows.
struct Tile<'a> {
    rows: usize,
    width: usize,
    queries: (&'a [f32], usize),
    keys: (&'a [f32], usize),
    values: (&'a [f32], usize),
}

impl Tile<'_> {
    /// Writes the tile's output rows, `out_stride` apart. `scores` is `[rows, visible]` scratch; its
    /// last row sees all `visible` keys, each row before it one key fewer.
    fn run(&self, scores: &mut [f32], out: &mut [f32], out_stride: usize) {
        let (rows, width) = (self.rows, self.width);
        let visible = scores.len() / rows;
        let keys = Matrix {
            elements: self.keys.0,
            row_stride: 1,
            column_stride: self.keys.1,
        };
        let queries = Matrix {
            elements: self.queries.0,
            row_stride: self.queries.1,
            column_stride: 1,
        };
        multiply([rows, visible, width], &queries, &keys, scores, visible);
        let scale = 1.0 / (width as f32).sqrt();
        for (row, scores) in scores.chunks_exact_mut(visible).enumerate() {
            let (seen, masked) = scores.split_at_mut(visible + row + 1 - rows);
            simd::softmax(seen, scale);
            masked.fill(0.0);
        }
        let weights = Matrix {
            elements: scores,
            row_stride: visible,
            column_stride: 1,
        };
        let values = Matrix {
            elements: self.values.0,
            row_stride: self.values.1,
            column_stride: 1,
        };
        multiply([rows, width, visible], &weights, &values, out, out_stride);
    }
}

struct Matrix<'a> {
    elements: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl Matrix<'_> {
    fn holds(&self, rows: usize, columns: usize) -> bool {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.elements.len()
    }
}

/// `out = left * right` for a `[m, k]` and a `[k, n]` matrix; rows of `out` are `out_stride` apart.
#[expect(unsafe_code, reason = "the gemm crate takes pointers")]
fn multiply(
    [m, n, k]: [usize; 3],
    left: &Matrix<'_>,
    right: &Matrix<'_>,
    out: &mut [f32],
    out_stride: usize,
) {
    let out_fits = (m - 1) * out_stride + n <= out.len() && n <= out_stride;
    assert!(left.holds(m, k) && right.holds(k, n) && out_fits);
    // SAFETY: by the line above, every element that the strides reach lies inside its slice; `out` is
    // borrowed mutably, so it overlaps neither input; `read_dst` is false, so `alpha` is not used.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            left.elements.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.elements.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

fn dense(tensor: &FlexTensor) -> FlexTensor {
    if tensor.layout().strides()[3] == 1 {
        tensor.clone()
    } else {
        tensor.to_contiguous()
    }
}
