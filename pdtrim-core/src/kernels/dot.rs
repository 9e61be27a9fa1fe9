//! One row of activations times weights `[out, in]`, read once and as they lie: the speed of decode is
//! the speed of that read.

#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined would be compiled for the baseline only"
)]

use half::bf16;

use super::widths::for_each_vector_width;

/// Rows of weights that are read side by side.
const ROWS: usize = 4;
/// Sums kept apart in each row: two vectors of AVX-512.
const LANES: usize = 32;

/// An element type that weights may have.
pub(super) trait Weight: Copy + Send + Sync + bytemuck::Pod {
    fn widen(self) -> f32;

    /// `out[row] = weights[row] · x` for consecutive rows of `x.len()` weights, in f32.
    fn dots(x: &[f32], weights: &[Self], out: &mut [f32]);
}

impl Weight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    fn dots(x: &[f32], weights: &[Self], out: &mut [f32]) {
        dots_f32(x, weights, out);
    }
}

impl Weight for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    fn dots(x: &[f32], weights: &[Self], out: &mut [f32]) {
        dots_bf16(x, weights, out);
    }
}

for_each_vector_width! {
    fn dots_f32(x: &[f32], weights: &[f32], out: &mut [f32]) = body::<f32; FUSED>
}

for_each_vector_width! {
    fn dots_bf16(x: &[f32], weights: &[bf16], out: &mut [f32]) = body::<bf16; FUSED>
}

#[inline(always)]
fn body<W: Weight, const FUSED: bool>(x: &[f32], weights: &[W], out: &mut [f32]) {
    let width = x.len();
    let mut blocks = out.chunks_exact_mut(ROWS);
    let mut weights = weights.chunks_exact(ROWS * width);
    for (out, weights) in (&mut blocks).zip(&mut weights) {
        let sums = side_by_side::<W, ROWS, FUSED>(x, weights);
        out.copy_from_slice(&sums);
    }
    let rest = weights.remainder().chunks_exact(width);
    for (out, weights) in blocks.into_remainder().iter_mut().zip(rest) {
        *out = side_by_side::<W, 1, FUSED>(x, weights)[0];
    }
}

#[expect(
    clippy::needless_range_loop,
    reason = "with iterators over them the sums leave their registers at every step"
)]
#[inline(always)]
fn side_by_side<W: Weight, const N: usize, const FUSED: bool>(
    x: &[f32],
    weights: &[W],
) -> [f32; N] {
    let width = x.len();
    let mut rows: [&[W]; N] = [&[]; N];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &weights[r * width..][..width];
    }
    let mut sums = [[0.0_f32; LANES]; N];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for (n, x) in chunks.iter().enumerate() {
        for r in 0..N {
            let weights: &[W; LANES] = rows[r][n * LANES..].first_chunk().expect("as long as x");
            for lane in 0..LANES {
                sums[r][lane] = fused::<FUSED>(x[lane], weights[lane].widen(), sums[r][lane]);
            }
        }
    }
    // A copy: what a reference is taken of has its place in memory, not in registers.
    let sums = sums;
    let mut out = [0.0; N];
    for ((out, sums), row) in out.iter_mut().zip(sums).zip(rows) {
        let tail = rest.iter().zip(&row[chunks.len() * LANES..]);
        *out = tail.fold(total(sums), |sum, (x, weight)| {
            fused::<FUSED>(*x, weight.widen(), sum)
        });
    }
    out
}

#[inline(always)]
pub(super) fn fused<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of the lanes, halving each time.
#[inline(always)]
pub(super) fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_multiplied_whatever_its_length() {
        for (rows, width) in [(1, 1), (3, 31), (4, 32), (9, 70), (6, 576)] {
            let x: Vec<f32> = (0..width).map(|i| (i % 7) as f32 - 3.0).collect();
            let weights: Vec<f32> = (0..rows * width).map(|i| (i % 11) as f32 - 5.0).collect();
            let narrow: Vec<bf16> = weights.iter().map(|&w| bf16::from_f32(w)).collect();
            let expected: Vec<f32> = weights
                .chunks_exact(width)
                .map(|row| row.iter().zip(&x).map(|(a, b)| a * b).sum())
                .collect();
            let mut out = vec![0.0; rows];
            f32::dots(&x, &weights, &mut out);
            assert_eq!(out, expected);
            bf16::dots(&x, &narrow, &mut out);
            assert_eq!(out, expected);
            body::<f32, false>(&x, &weights, &mut out);
            assert_eq!(out, expected);
        }
    }
}
