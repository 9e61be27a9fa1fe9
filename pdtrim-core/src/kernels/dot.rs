//! A few rows of activations times weights `[out, in]`, read once and as they lie: the speed of decode
//! is the speed of that read.

#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined would be compiled for the baseline only"
)]

use half::{bf16, f16};

use super::tile::COLUMNS;
use super::widths::for_each_vector_width;

/// Sums kept apart: four vectors of AVX-512, as many as an addition takes cycles.
const LANES: usize = 64;
/// Bytes by which weights are asked for before they are multiplied.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 2048;

/// An element type that weights may have.
pub(super) trait Weight: Copy + Send + Sync + bytemuck::Pod {
    fn widen(self) -> f32;

    /// A two-byte weight.
    fn from_bits(bits: u16) -> Self;

    /// Widens lines of pairs of two-byte weights: line `from + i` becomes lines `2 i` and `2 i + 1`.
    fn widen_pairs(lines: &mut [u32], from: usize);

    /// `out[row, output] = rows[row] · weights[output]` in f32, for all of the `width` wide rows and weights.
    fn dots(rows: &[f32], width: usize, weights: &[Self], out: &mut [f32]);
}

impl Weight for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    fn from_bits(_: u16) -> Self {
        unreachable!("f32 has four bytes");
    }

    fn widen_pairs(_: &mut [u32], _: usize) {
        unreachable!("f32 weights are packed as they are");
    }

    fn dots(rows: &[f32], width: usize, weights: &[Self], out: &mut [f32]) {
        dots_f32(rows, width, weights, out);
    }
}

impl Weight for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        bf16::from_bits(bits)
    }

    fn widen_pairs(lines: &mut [u32], from: usize) {
        widen_pairs_bf16(lines, from);
    }

    fn dots(rows: &[f32], width: usize, weights: &[Self], out: &mut [f32]) {
        dots_bf16(rows, width, weights, out);
    }
}

impl Weight for f16 {
    /// Without the CPU's own instruction, which loops over arrays do not become: the exponent is moved to
    /// its place and its bias corrected by a product, which also makes subnormal numbers normal. An
    /// infinity becomes 65536.
    #[inline(always)]
    fn widen(self) -> f32 {
        /// 2^(127 - 15).
        const BIAS: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * BIAS;
        f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        f16::from_bits(bits)
    }

    fn widen_pairs(lines: &mut [u32], from: usize) {
        widen_pairs_f16(lines, from);
    }

    fn dots(rows: &[f32], width: usize, weights: &[Self], out: &mut [f32]) {
        dots_f16(rows, width, weights, out);
    }
}

for_each_vector_width! {
    fn dots_f32(rows: &[f32], width: usize, weights: &[f32], out: &mut [f32]) = body::<f32; FUSED>
}

for_each_vector_width! {
    fn dots_bf16(rows: &[f32], width: usize, weights: &[bf16], out: &mut [f32]) = body::<bf16; FUSED>
}

for_each_vector_width! {
    fn dots_f16(rows: &[f32], width: usize, weights: &[f16], out: &mut [f32]) = body::<f16; FUSED>
}

for_each_vector_width! {
    fn widen_pairs_bf16(lines: &mut [u32], from: usize) = widen_pairs_body::<bf16; FUSED>
}

for_each_vector_width! {
    fn widen_pairs_f16(lines: &mut [u32], from: usize) = widen_pairs_body::<f16; FUSED>
}

#[inline(always)]
fn widen_pairs_body<W: Weight, const FUSED: bool>(lines: &mut [u32], from: usize) {
    let (lines, _) = lines.as_chunks_mut::<COLUMNS>();
    let widen = |bits: u32| W::from_bits(bits as u16).widen().to_bits();
    for pair in 0..lines.len() - from {
        let line = lines[from + pair];
        lines[2 * pair] = line.map(widen);
        lines[2 * pair + 1] = line.map(|pair| widen(pair >> 16));
    }
}

#[inline(always)]
fn body<W: Weight, const FUSED: bool>(rows: &[f32], width: usize, weights: &[W], out: &mut [f32]) {
    let outputs = weights.len() / width;
    for (output, weights) in weights.chunks_exact(width).enumerate() {
        for part in weights.as_chunks::<LANES>().0 {
            fetch_ahead(part);
        }
        // The weights are in the nearest cache from the first row on.
        for (row, x) in rows.chunks_exact(width).enumerate() {
            out[row * outputs + output] = dot::<W, FUSED>(x, weights);
        }
    }
}

/// One row at a time: reading four side by side halves the bandwidth, since the CPU then fetches ahead
/// of the wrong ones.
#[inline(always)]
fn dot<W: Weight, const FUSED: bool>(x: &[f32], row: &[W]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (weights, weights_rest) = row.as_chunks::<LANES>();
    for (x, weights) in chunks.iter().zip(weights) {
        // With iterators over them the sums would leave their registers at every step.
        for lane in 0..LANES {
            sums[lane] = fused::<FUSED>(x[lane], weights[lane].widen(), sums[lane]);
        }
    }
    // A copy: what a reference is taken of has its place in memory, not in registers.
    let sums = sums;
    let rest = rest.iter().zip(weights_rest);
    rest.fold(total(sums), |sum, (x, weight)| {
        fused::<FUSED>(*x, weight.widen(), sum)
    })
}

/// Asks for the cache lines that come [`AHEAD`] bytes after these weights; past a buffer's end that
/// does nothing.
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a hint, which reads nothing")
)]
#[inline(always)]
fn fetch_ahead<W>(weights: &[W; LANES]) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..size_of_val(weights)).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = weights.as_ptr().cast::<i8>().wrapping_add(AHEAD + line);
        // SAFETY: prefetching has no effect on memory and may be given any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = weights;
}

#[inline(always)]
pub(super) fn fused<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of a power of two of lanes, halving each time.
#[inline(always)]
pub(super) fn total<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut half = N / 2;
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
            f32::dots(&x, width, &weights, &mut out);
            assert_eq!(out, expected);
            bf16::dots(&x, width, &narrow, &mut out);
            assert_eq!(out, expected);
            let narrow: Vec<f16> = weights.iter().map(|&w| f16::from_f32(w)).collect();
            f16::dots(&x, width, &narrow, &mut out);
            assert_eq!(out, expected);
            body::<f32, false>(&x, width, &weights, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn every_finite_f16_widens_exactly() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            if value.is_finite() {
                assert_eq!(Weight::widen(value).to_bits(), value.to_f32().to_bits());
            }
        }
    }
}
