//! Loops over f32 slices, compiled once for each width of vector that a CPU may have.

#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined would be compiled for the baseline only"
)]

use half::bf16;

use super::TokenScore;
use super::dot::total;
use super::linear::LogitsSeen;
use super::tile::COLUMNS;
use super::widths::for_each_vector_width;

for_each_vector_width! {
    /// `gate[i] = silu(gate[i]) * up[i]`.
    fn silu_mul(gate: &mut [f32], up: &[f32]) = silu_mul_body
}

for_each_vector_width! {
    /// As [`silu_mul`] for lines of half gate, half up; the result takes the gate's place.
    fn silu_mul_halves(lines: &mut [f32]) = silu_mul_halves_body
}

for_each_vector_width! {
    /// Rounds pairs of elements to bf16, to nearest and ties to even, the first of a pair in the low half.
    fn round_pairs(out: &mut [u32], x: &[f32]) = round_pairs_body
}

for_each_vector_width! {
    /// Rounds elements to bf16, to nearest and ties to even.
    fn round(out: &mut [bf16], x: &[f32]) = round_body
}

for_each_vector_width! {
    /// Index of the first of the largest elements.
    fn argmax(row: &[f32]) -> usize = argmax_body
}

for_each_vector_width! {
    /// `row[i] = exp((row[i] - max) * scale)`; returns `max * scale` and the sum.
    fn exponentials(row: &mut [f32], scale: f32) -> (f32, f32) = exponentials_body
}

for_each_vector_width! {
    /// As [`exponentials`], divided by their sum; returns nothing.
    fn softmax(row: &mut [f32], scale: f32) = softmax_body
}

for_each_vector_width! {
    /// `out = x / sqrt(mean(x²) + eps) * weight`.
    fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) = rms_norm_body
}

for_each_vector_width! {
    /// Rotates the halves of one head.
    fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) = rotate_body
}

for_each_vector_width! {
    /// Log-probability of `target` under one row of logits.
    fn token_score(logits: &[f32], target: usize) -> TokenScore = token_score_body
}

for_each_vector_width! {
    /// Adds lines of logits of the tokens `[first_id, first_id + count)` to what is known of their rows.
    fn see_logits(lines: &[f32], first_id: usize, count: usize, targets: &[u32], seen: &mut [LogitsSeen]) = see_logits_body
}

/// Lanes that the reductions keep apart, so that the compiler may use vectors: sums of floats are
/// not reordered without being told.
const LANES: usize = 16;

/// e^x to 2 units in the last place for x in [-87, 88]; clamped outside. Cephes' polynomial.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let exp_r = p * r * r + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    exp_r * f32::from_bits(((exponent + 127) << 23) as u32)
}

#[inline(always)]
fn silu_mul_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = *gate / (1.0 + exp(-*gate)) * up;
    }
}

#[inline(always)]
fn silu_mul_halves_body(lines: &mut [f32]) {
    for line in lines.as_chunks_mut::<COLUMNS>().0 {
        let (gate, up) = line.split_at_mut(COLUMNS / 2);
        silu_mul_body(gate, up);
    }
}

/// The bits of the bf16 next to `x`.
#[inline(always)]
fn round_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded }
}

#[inline(always)]
fn round_pairs_body(out: &mut [u32], x: &[f32]) {
    for (out, [low, high]) in out.iter_mut().zip(x.as_chunks::<2>().0) {
        *out = round_bits(*low) | round_bits(*high) << 16;
    }
}

#[inline(always)]
fn round_body(out: &mut [bf16], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = bf16::from_bits(round_bits(*x) as u16);
    }
}

#[inline(always)]
fn argmax_body(row: &[f32]) -> usize {
    let max = max(row);
    // Not a number is no maximum; a row of nothing else has its first element.
    row.iter().position(|&x| x >= max).unwrap_or(0)
}

#[inline(always)]
fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    let rest = chunks.remainder().iter().copied();
    lanes
        .into_iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn exponentials_body(row: &mut [f32], scale: f32) -> (f32, f32) {
    let max = max(row);
    let mut lanes = [0.0_f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp((*x - max) * scale);
            *lane += *x;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for x in chunks.into_remainder() {
        *x = exp((*x - max) * scale);
        sum += *x;
    }
    (max * scale, sum)
}

#[inline(always)]
fn softmax_body(row: &mut [f32], scale: f32) {
    let (_, sum) = exponentials_body(row, scale);
    let share = 1.0 / sum;
    for x in row {
        *x *= share;
    }
}

#[inline(always)]
fn rms_norm_body(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let mut lanes = [0.0_f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
    let mean = (lanes.iter().sum::<f32>() + rest) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

#[inline(always)]
fn rotate_body(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let (a, b) = (*low, *high);
        *low = a * cos - b * sin;
        *high = b * cos + a * sin;
    }
}

#[inline(always)]
fn see_logits_body(
    lines: &[f32],
    first_id: usize,
    count: usize,
    targets: &[u32],
    seen: &mut [LogitsSeen],
) {
    let lines = lines.as_chunks::<COLUMNS>().0.iter();
    for ((line, &target), seen) in lines.zip(targets).zip(seen) {
        let mut line = *line;
        line[count..].fill(f32::NEG_INFINITY);
        let highest = max(&line);
        if highest > seen.max {
            let at = line.iter().position(|&x| x >= highest).unwrap_or(0);
            // The first part has no sum yet, and no finite maximum to scale it from.
            seen.sum = if seen.sum > 0.0 {
                seen.sum * exp(seen.max - highest)
            } else {
                0.0
            };
            (seen.max, seen.best) = (highest, (first_id + at) as u32);
        }
        let mut weights = [0.0_f32; COLUMNS];
        for (weight, x) in weights.iter_mut().zip(line) {
            *weight = exp(x - seen.max);
        }
        weights[count..].fill(0.0);
        seen.sum += total(weights);
        let place = (target as usize).wrapping_sub(first_id);
        if place < count {
            seen.chosen = line[place];
        }
    }
}

#[inline(always)]
fn token_score_body(logits: &[f32], target: usize) -> TokenScore {
    let max = max(logits);
    let mut lanes = [0.0_f32; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += exp(x - max);
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|&x| exp(x - max)).sum();
    let sum = lanes.iter().sum::<f32>() + rest;
    let chosen = logits[target];
    let greedy = chosen >= max && !logits[..target].iter().any(|&x| x >= max);
    TokenScore {
        logprob: chosen - max - sum.ln(),
        greedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut x = -86.0_f32;
        while x < 87.0 {
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                ((ours - exact) / exact).abs() < 2.4e-7,
                "exp({x}) = {ours}, expected {exact}"
            );
            x += 0.0137;
        }
        assert!(exp(-1.0e30) < 2.0e-38);
        assert!((exp(0.0) - 1.0).abs() < f32::EPSILON);
    }

    #[test]
    fn only_the_first_of_equal_logits_is_greedy() {
        let row = [0.0, 3.0, 1.0, 3.0];
        assert!(token_score(&row, 1).greedy);
        assert!(!token_score(&row, 3).greedy);
        assert!(!token_score(&row, 0).greedy);
    }
}
