//! Loops over f32 slices, compiled once for each width of vector that a CPU may have.

#![expect(
    clippy::inline_always,
    reason = "a body that is not inlined would be compiled for the baseline only"
)]

use super::TokenScore;

/// Gives a function a body for AVX-512, one for AVX2 and one for the baseline, and picks at run time.
macro_rules! for_each_vector_width {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $body:ident) => {
        $(#[$doc])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calls code compiled for features that were just detected")
        )]
        pub(super) fn $name($($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,fma")]
                fn avx512($($arg: $ty),*) $(-> $out)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $out)? {
                    $body($($arg),*)
                }
                let fma = is_x86_feature_detected!("fma");
                if fma
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                {
                    // SAFETY: all four features were detected on this CPU.
                    return unsafe { avx512($($arg),*) };
                }
                if fma && is_x86_feature_detected!("avx2") {
                    // SAFETY: both features were detected on this CPU.
                    return unsafe { avx2($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}

for_each_vector_width! {
    /// `gate[i] = silu(gate[i]) * up[i]`.
    fn silu_mul(gate: &mut [f32], up: &[f32]) = silu_mul_body
}

for_each_vector_width! {
    /// `row[i] = exp(row[i] * scale - max)`, normalised to sum 1; returns nothing.
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
fn softmax_body(row: &mut [f32], scale: f32) {
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
