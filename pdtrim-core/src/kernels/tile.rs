//! Matrix products in tiles of registers: rows of activations times a packed panel of weights.
//!
//! A panel is [`COLUMNS`] rows of weights `[out, in]`, turned so that the weights that meet one input
//! lie side by side: `[in, COLUMNS]`. It stays in the second-level cache while every row of
//! activations passes by. Loops over arrays of a constant size, compiled for each width of vector,
//! reach 98 % of a Zen 5 core's peak in f32; the bf16 product needs its own instruction.
//!
//! The `gemm` crate, which Burn's CPU backend uses, packs both sides on every call and knows no bf16
//! products; on weights `[out, in]` it reached half to nine tenths of this on the same core.

#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined would be compiled for the baseline only"
)]

use std::time::Instant;

use super::dot::fused;
use super::widths::Vectors;

/// Outputs of a panel: two vectors of AVX-512.
pub(super) const COLUMNS: usize = 32;

/// Inputs of a panel that are worked on at a time: 192 KiB of a panel, which a second-level cache
/// holds beside the rows.
pub(super) const DEPTH: usize = 1536;

/// Rows of activations, `stride` elements apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, E> {
    pub(super) elements: &'a [E],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<E> Rows<'_, E> {
    /// The rows without their first `columns` elements.
    pub(super) fn skip_columns(self, columns: usize) -> Self {
        Self {
            elements: &self.elements[columns..],
            ..self
        }
    }
}

/// `out[row] (+)= rows[row] * panel` for `depth` inputs; `out` is `[rows.count, COLUMNS]` and is added
/// to if `add`.
pub(super) fn multiply(
    vectors: Vectors,
    rows: Rows<'_, f32>,
    panel: &[f32],
    depth: usize,
    out: &mut [f32],
    add: bool,
) {
    let (panel, _) = panel[..depth * COLUMNS].as_chunks::<COLUMNS>();
    let (out, _) = out[..rows.count * COLUMNS].as_chunks_mut::<COLUMNS>();
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 | Vectors::Avx512Bf16 => wide::multiply_avx512(rows, panel, out, add),
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => wide::multiply_avx2(rows, panel, out, add),
        Vectors::Baseline => baseline(rows, panel, out, add),
    }
}

/// As [`multiply`] for pairs of bf16 along the inputs: `rows` and `panel` hold `depth` pairs, products
/// and sums are f32. Only where [`Vectors::multiply_bf16`] says so.
pub(super) fn multiply_bf16(
    rows: Rows<'_, u32>,
    panel: &[u32],
    depth: usize,
    out: &mut [f32],
    add: bool,
) {
    #[cfg(target_arch = "x86_64")]
    {
        let (panel, _) = panel[..depth * COLUMNS].as_chunks::<COLUMNS>();
        let (out, _) = out[..rows.count * COLUMNS].as_chunks_mut::<COLUMNS>();
        wide::multiply_bf16(rows, panel, out, add);
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("the caller asked `Vectors::multiply_bf16`");
}

/// Packs [`COLUMNS`] rows of 32-bit elements into a panel: `panel[k][column] = rows[column][k]`.
pub(super) fn pack(vectors: Vectors, rows: &[&[u32]; COLUMNS], panel: &mut [u32]) {
    let (panel, _) = panel.as_chunks_mut::<COLUMNS>();
    #[cfg(target_arch = "x86_64")]
    if vectors >= Vectors::Avx512 {
        return wide::pack(rows, panel);
    }
    let _ = vectors;
    pack_from(0, rows, panel);
}

fn pack_from(first: usize, rows: &[&[u32]; COLUMNS], panel: &mut [[u32; COLUMNS]]) {
    for (k, line) in panel.iter_mut().enumerate().skip(first) {
        for (out, row) in line.iter_mut().zip(rows) {
            *out = row[k];
        }
    }
}

fn baseline(rows: Rows<'_, f32>, panel: &[[f32; COLUMNS]], out: &mut [[f32; COLUMNS]], add: bool) {
    // AArch64's baseline has the fused operation; x86-64's would call a function for it.
    const FUSED: bool = cfg!(target_arch = "aarch64");
    let done = blocks::<4, 8, FUSED>(0, rows, panel, out, add);
    blocks::<1, 32, FUSED>(done, rows, panel, out, add);
}

/// Full blocks of `ROWS` rows from row `first` on; returns the first row not done.
#[inline(always)]
fn blocks<const ROWS: usize, const WIDTH: usize, const FUSED: bool>(
    first: usize,
    rows: Rows<'_, f32>,
    panel: &[[f32; COLUMNS]],
    out: &mut [[f32; COLUMNS]],
    add: bool,
) -> usize {
    let mut row = first;
    while row + ROWS <= rows.count {
        let mut inputs: [&[f32]; ROWS] = [&[]; ROWS];
        for (r, input) in inputs.iter_mut().enumerate() {
            *input = &rows.elements[(row + r) * rows.stride..][..panel.len()];
        }
        for column in (0..COLUMNS).step_by(WIDTH) {
            let mut sums = [[0.0_f32; WIDTH]; ROWS];
            for (k, line) in panel.iter().enumerate() {
                let weights: &[f32; WIDTH] =
                    line[column..].first_chunk().expect("WIDTH divides COLUMNS");
                // With iterators over them the sums would leave their registers at every step.
                for r in 0..ROWS {
                    let x = inputs[r][k];
                    for c in 0..WIDTH {
                        sums[r][c] = fused::<FUSED>(x, weights[c], sums[r][c]);
                    }
                }
            }
            // A copy: what a reference is taken of has its place in memory, not in registers.
            let sums = sums;
            for (sums, out) in sums.iter().zip(&mut out[row..]) {
                for (sum, out) in sums.iter().zip(&mut out[column..]) {
                    *out = if add { *out + sum } else { *sum };
                }
            }
        }
        row += ROWS;
    }
    row
}

/// FLOP/s of this thread at best, on operands in the nearest cache; of bf16 pairs where this CPU has
/// such products.
pub(super) fn peak_flops(bf16: bool) -> f64 {
    const DEPTH: usize = 128;
    const TRIES: usize = 400;
    const PRODUCTS: usize = 32;
    let vectors = Vectors::detect();
    let count = 28;
    let (x, panel) = (vec![0_u32; count * DEPTH], vec![0_u32; DEPTH * COLUMNS]);
    let mut out = vec![0.0; count * COLUMNS];
    let (pairs, steps) = if bf16 && vectors.multiply_bf16() {
        (true, 2 * DEPTH)
    } else {
        (false, DEPTH)
    };
    let mut once = || {
        let start = Instant::now();
        for _ in 0..PRODUCTS {
            let panel = std::hint::black_box(panel.as_slice());
            if pairs {
                let rows = Rows {
                    elements: x.as_slice(),
                    stride: DEPTH,
                    count,
                };
                multiply_bf16(rows, panel, DEPTH, &mut out, false);
            } else {
                let rows = Rows {
                    elements: bytemuck::cast_slice(&x),
                    stride: DEPTH,
                    count,
                };
                let panel = bytemuck::cast_slice(panel);
                multiply(vectors, rows, panel, DEPTH, &mut out, false);
            }
            std::hint::black_box(&mut out);
        }
        start.elapsed().as_secs_f64()
    };
    let best = (0..TRIES).map(|_| once()).fold(f64::INFINITY, f64::min);
    (2 * PRODUCTS * count * COLUMNS * steps) as f64 / best
}

#[cfg(target_arch = "x86_64")]
mod wide {
    #![expect(
        unsafe_code,
        reason = "calls code compiled for features that were just detected, and vector instructions"
    )]

    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
        _mm512_castps_si512, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512,
        _mm512_set1_epi32, _mm512_setzero_ps, _mm512_shuffle_f32x4, _mm512_storeu_ps,
        _mm512_storeu_si512, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
        _mm512_unpacklo_ps,
    };

    use super::{COLUMNS, Rows, blocks, pack_from};

    pub(super) fn multiply_avx512(
        rows: Rows<'_, f32>,
        panel: &[[f32; COLUMNS]],
        out: &mut [[f32; COLUMNS]],
        add: bool,
    ) {
        // 14 rows of two vectors leave room for two vectors of weights and one input.
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,fma")]
        fn body(
            rows: Rows<'_, f32>,
            panel: &[[f32; COLUMNS]],
            out: &mut [[f32; COLUMNS]],
            add: bool,
        ) {
            let done = blocks::<14, 32, true>(0, rows, panel, out, add);
            let done = blocks::<8, 32, true>(done, rows, panel, out, add);
            let done = blocks::<4, 32, true>(done, rows, panel, out, add);
            let done = blocks::<2, 32, true>(done, rows, panel, out, add);
            blocks::<1, 32, true>(done, rows, panel, out, add);
        }
        // SAFETY: `Vectors::detect` found these features.
        unsafe { body(rows, panel, out, add) }
    }

    pub(super) fn multiply_avx2(
        rows: Rows<'_, f32>,
        panel: &[[f32; COLUMNS]],
        out: &mut [[f32; COLUMNS]],
        add: bool,
    ) {
        #[target_feature(enable = "avx2,fma")]
        fn body(
            rows: Rows<'_, f32>,
            panel: &[[f32; COLUMNS]],
            out: &mut [[f32; COLUMNS]],
            add: bool,
        ) {
            let done = blocks::<6, 16, true>(0, rows, panel, out, add);
            let done = blocks::<2, 16, true>(done, rows, panel, out, add);
            blocks::<1, 32, true>(done, rows, panel, out, add);
        }
        // SAFETY: `Vectors::detect` found these features.
        unsafe { body(rows, panel, out, add) }
    }

    pub(super) fn multiply_bf16(
        rows: Rows<'_, u32>,
        panel: &[[u32; COLUMNS]],
        out: &mut [[f32; COLUMNS]],
        add: bool,
    ) {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn body(
            rows: Rows<'_, u32>,
            panel: &[[u32; COLUMNS]],
            out: &mut [[f32; COLUMNS]],
            add: bool,
        ) {
            let done = pairs::<14>(0, rows, panel, out, add);
            let done = pairs::<4>(done, rows, panel, out, add);
            pairs::<1>(done, rows, panel, out, add);
        }
        // SAFETY: the caller asked `Vectors::multiply_bf16`.
        unsafe { body(rows, panel, out, add) }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs<const ROWS: usize>(
        first: usize,
        rows: Rows<'_, u32>,
        panel: &[[u32; COLUMNS]],
        out: &mut [[f32; COLUMNS]],
        add: bool,
    ) -> usize {
        let bf16 = |bits: __m512i| -> __m512bh {
            // SAFETY: both are 64 bytes without invalid values.
            unsafe { std::mem::transmute(bits) }
        };
        let mut row = first;
        while row + ROWS <= rows.count {
            let mut inputs: [&[u32]; ROWS] = [&[]; ROWS];
            for (r, input) in inputs.iter_mut().enumerate() {
                *input = &rows.elements[(row + r) * rows.stride..][..panel.len()];
            }
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for (k, line) in panel.iter().enumerate() {
                let (low, high) = line.split_at(16);
                // SAFETY: each half of a line is 64 bytes.
                let (low, high) = unsafe {
                    (
                        bf16(_mm512_loadu_si512(low.as_ptr().cast())),
                        bf16(_mm512_loadu_si512(high.as_ptr().cast())),
                    )
                };
                for r in 0..ROWS {
                    let x = bf16(_mm512_set1_epi32(inputs[r][k] as i32));
                    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, low);
                    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, high);
                }
            }
            let sums = sums;
            for (sums, out) in sums.iter().zip(&mut out[row..]) {
                for (sum, out) in sums.iter().zip(out.as_chunks_mut::<16>().0) {
                    // SAFETY: `out` is 16 elements.
                    unsafe {
                        let before = if add {
                            _mm512_loadu_ps(out.as_ptr())
                        } else {
                            _mm512_setzero_ps()
                        };
                        _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(before, *sum));
                    }
                }
            }
            row += ROWS;
        }
        row
    }

    pub(super) fn pack(rows: &[&[u32]; COLUMNS], panel: &mut [[u32; COLUMNS]]) {
        let whole = panel.len() / 16 * 16;
        assert!(rows.iter().all(|row| row.len() >= panel.len()));
        for k in (0..whole).step_by(16) {
            for half in [0, 16] {
                // SAFETY: AVX-512 was detected; 16 elements from `k` on lie inside each row, and 16
                // columns from `half` on inside each of the panel's 16 lines, by the asserts above.
                unsafe { transpose16(&rows[half..half + 16], k, &mut panel[k..k + 16], half) }
            }
        }
        pack_from(whole, rows, panel);
    }

    /// `out[i][column + j] = rows[j][k + i]` for i, j below 16: three rounds of shuffles.
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose16(rows: &[&[u32]], k: usize, out: &mut [[u32; COLUMNS]], column: usize) {
        let load = |row: &[u32]| -> __m512 {
            // SAFETY: the caller vouches for 16 elements.
            unsafe { _mm512_loadu_ps(row[k..].as_ptr().cast()) }
        };
        let mut pairs = [_mm512_setzero_ps(); 16];
        for (rows, pairs) in rows.chunks_exact(2).zip(pairs.chunks_exact_mut(2)) {
            let (a, b) = (load(rows[0]), load(rows[1]));
            pairs[0] = _mm512_unpacklo_ps(a, b);
            pairs[1] = _mm512_unpackhi_ps(a, b);
        }
        // fours[4 * i + j]: columns j, j + 4, j + 8 and j + 12 of rows 4 i to 4 i + 3.
        let mut fours = [_mm512_setzero_ps(); 16];
        for (pairs, fours) in pairs.chunks_exact(4).zip(fours.chunks_exact_mut(4)) {
            for half in 0..2 {
                let (a, b) = (
                    _mm512_castps_pd(pairs[half]),
                    _mm512_castps_pd(pairs[2 + half]),
                );
                fours[2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        for j in 0..4 {
            let [first, second, third, fourth] = [0, 4, 8, 12].map(|group| fours[group + j]);
            let even = (
                _mm512_shuffle_f32x4::<0x88>(first, second),
                _mm512_shuffle_f32x4::<0x88>(third, fourth),
            );
            let odd = (
                _mm512_shuffle_f32x4::<0xdd>(first, second),
                _mm512_shuffle_f32x4::<0xdd>(third, fourth),
            );
            let lines = [
                (j, _mm512_shuffle_f32x4::<0x88>(even.0, even.1)),
                (j + 4, _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1)),
                (j + 8, _mm512_shuffle_f32x4::<0xdd>(even.0, even.1)),
                (j + 12, _mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1)),
            ];
            for (line, values) in lines {
                let target = &mut out[line][column..][..16];
                // SAFETY: `target` is 16 elements.
                unsafe {
                    _mm512_storeu_si512(target.as_mut_ptr().cast(), _mm512_castps_si512(values));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + 11) % 29) as f32 - 14.0).collect()
    }

    #[test]
    fn a_packed_panel_is_the_transpose() {
        for depth in [1, 15, 16, 37, 64] {
            let weights: Vec<u32> = (0..(depth * COLUMNS) as u32).collect();
            let rows = std::array::from_fn(|column| &weights[column * depth..][..depth]);
            let mut panel = vec![0; depth * COLUMNS];
            pack(Vectors::detect(), &rows, &mut panel);
            for (k, line) in panel.chunks_exact(COLUMNS).enumerate() {
                for (column, &value) in line.iter().enumerate() {
                    assert_eq!(value as usize, column * depth + k);
                }
            }
        }
    }

    #[test]
    fn every_width_of_vector_gives_the_same_product() {
        // Small integers: every sum is exact.
        for count in 1..32 {
            let depth = 19;
            let (x, panel) = (numbers(count * depth), numbers(depth * COLUMNS));
            let rows = Rows {
                elements: &x,
                stride: depth,
                count,
            };
            let mut expected = vec![0.0; count * COLUMNS];
            for (n, out) in expected.iter_mut().enumerate() {
                let (row, column) = (n / COLUMNS, n % COLUMNS);
                *out = (0..depth)
                    .map(|k| x[row * depth + k] * panel[k * COLUMNS + column])
                    .sum();
            }
            for vectors in all_here() {
                let mut out = vec![5.0; count * COLUMNS];
                multiply(vectors, rows, &panel, depth, &mut out, false);
                assert_eq!(out, expected);
                multiply(vectors, rows, &panel, depth, &mut out, true);
                let doubled: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
                assert_eq!(out, doubled);
            }
        }
    }

    #[test]
    fn pairs_of_bf16_give_the_same_product() {
        if !Vectors::detect().multiply_bf16() {
            return;
        }
        let bits = |x: f32| u32::from(half::bf16::from_f32(x).to_bits());
        let pair = |a: f32, b: f32| bits(a) | bits(b) << 16;
        for count in [1, 4, 14, 19] {
            let depth = 7;
            let (x, w) = (numbers(count * 2 * depth), numbers(2 * depth * COLUMNS));
            let rows: Vec<u32> = x.chunks_exact(2).map(|x| pair(x[0], x[1])).collect();
            let at = |k: usize, column: usize| w[column * 2 * depth + k];
            let panel: Vec<u32> = (0..depth * COLUMNS)
                .map(|n| (2 * (n / COLUMNS), n % COLUMNS))
                .map(|(k, column)| pair(at(k, column), at(k + 1, column)))
                .collect();
            let rows = Rows {
                elements: &rows,
                stride: depth,
                count,
            };
            let mut out = vec![0.0; count * COLUMNS];
            multiply_bf16(rows, &panel, depth, &mut out, false);
            for (n, out) in out.iter().enumerate() {
                let (row, column) = (n / COLUMNS, n % COLUMNS);
                let expected: f32 = (0..2 * depth)
                    .map(|k| x[row * 2 * depth + k] * at(k, column))
                    .sum();
                assert!((out - expected).abs() < 1e-3, "{out} {expected}");
            }
        }
    }

    fn all_here() -> Vec<Vectors> {
        let known = [
            Vectors::Baseline,
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2,
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512,
        ];
        let best = Vectors::detect();
        known.into_iter().filter(|level| *level <= best).collect()
    }
}
