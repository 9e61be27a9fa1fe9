//! Weights in the panels of [`tile`], and activations beside them.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{Activations, COLUMNS};
use crate::kernels::dot::Weight;
use crate::kernels::widths::Vectors;
use crate::kernels::{simd, tile};

/// More rows than this are rounded to bf16 where the weights are bf16.
pub(super) const ROUNDED_FROM: usize = 16;

/// Weights that can be packed.
pub(in crate::kernels) trait Packed: Weight {
    /// The part `[first, first + depth)` of the rows as an f32 panel.
    fn pack(vectors: Vectors, rows: &[&[Self]; COLUMNS], first: usize, panel: &mut [u32]);

    /// Rows as 32-bit pairs, if the element type has products of pairs here.
    fn rounded(vectors: Vectors, x: &Activations<'_>) -> Option<Vec<u32>>;
}

impl Packed for f32 {
    fn pack(vectors: Vectors, rows: &[&[Self]; COLUMNS], first: usize, panel: &mut [u32]) {
        let rows = rows.map(|row| bytemuck::cast_slice(&row[first..]));
        tile::pack(vectors, &rows, panel);
    }

    fn rounded(_: Vectors, _: &Activations<'_>) -> Option<Vec<u32>> {
        None
    }
}

impl Packed for bf16 {
    fn pack(vectors: Vectors, rows: &[&[Self]; COLUMNS], first: usize, panel: &mut [u32]) {
        pack_narrow(vectors, rows, first, panel);
    }

    fn rounded(vectors: Vectors, x: &Activations<'_>) -> Option<Vec<u32>> {
        let pairs = x.width.is_multiple_of(2) && x.count > ROUNDED_FROM;
        (vectors.multiply_bf16() && pairs).then(|| {
            let mut out = vec![0; x.elements.len() / 2];
            out.par_chunks_mut(1 << 14)
                .zip(x.elements.par_chunks(1 << 15))
                .for_each(|(out, x)| simd::round_pairs(out, x));
            out
        })
    }
}

impl Packed for f16 {
    fn pack(vectors: Vectors, rows: &[&[Self]; COLUMNS], first: usize, panel: &mut [u32]) {
        pack_narrow(vectors, rows, first, panel);
    }

    fn rounded(_: Vectors, _: &Activations<'_>) -> Option<Vec<u32>> {
        None
    }
}

/// Packs two-byte weights, widened.
fn pack_narrow<W: Packed>(
    vectors: Vectors,
    rows: &[&[W]; COLUMNS],
    first: usize,
    panel: &mut [u32],
) {
    let depth = panel.len() / COLUMNS;
    let (pairs, odd) = (depth / 2, depth % 2);
    // Pairs go where they are overwritten last: pair i becomes lines 2 i and 2 i + 1.
    pack_pairs(vectors, rows, first, &mut panel[(pairs + odd) * COLUMNS..]);
    W::widen_pairs(panel, pairs + odd);
    if odd == 1 {
        let last = first + depth - 1;
        let line = rows.map(|row| row[last].widen().to_bits());
        panel[(depth - 1) * COLUMNS..].copy_from_slice(&line);
    }
}

/// Packs two-byte weights as 32-bit pairs, from weight `first` on.
pub(super) fn pack_pairs<W: Packed>(
    vectors: Vectors,
    weights: &[&[W]; COLUMNS],
    first: usize,
    panel: &mut [u32],
) {
    let depth = panel.len() / COLUMNS;
    let pairs: Result<Vec<&[u32]>, _> = weights
        .iter()
        .map(|row| bytemuck::try_cast_slice(&row[first..][..2 * depth]))
        .collect();
    if let Some(rows) = pairs.ok().and_then(|rows| rows.try_into().ok()) {
        return tile::pack(vectors, &rows, panel);
    }
    // Rows that begin between two pairs, in a file that aligns to two bytes only.
    let copies =
        weights.map(|row| bytemuck::pod_collect_to_vec::<W, u32>(&row[first..][..2 * depth]));
    let rows = std::array::from_fn(|column| copies[column].as_slice());
    tile::pack(vectors, &rows, panel);
}
