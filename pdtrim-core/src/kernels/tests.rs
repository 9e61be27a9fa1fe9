use burn::tensor::{Distribution, Tolerance};
use proptest::prelude::*;

use super::*;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 2.0), &Device::flex())
}

fn assert_close<const D: usize>(ours: Tensor<D>, plain: Tensor<D>) {
    ours.into_data().assert_approx_eq::<f32>(
        &plain.into_data(),
        Tolerance::absolute(2e-5).set_relative(2e-5),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn norm_equals_burns_operations(rows in 1_usize..70, width in 1_usize..700) {
        let (x, weight) = (random([rows, width]), random([width]));
        assert_close(rms_norm(x.clone(), weight.clone(), 1e-5), plain::rms_norm(x, weight, 1e-5));
    }

    #[test]
    fn gate_equals_burns_operations(rows in 1_usize..40, width in 1_usize..1600) {
        let (gate, up) = (random([rows, width]), random([rows, width]));
        assert_close(silu_mul(gate.clone(), up.clone()), plain::silu_mul(gate, up));
    }

    #[test]
    fn rotation_equals_burns_operations(batch in 1_usize..4, seq in 1_usize..40, heads in 1_usize..5, half in 1_usize..33) {
        let angles = Angles { cos: random([seq + 3, half]).narrow(0, 3, seq), sin: random([seq + 3, half]).narrow(0, 3, seq) };
        let x = random([batch, seq, heads, 2 * half]);
        assert_close(rotate(x.clone(), &angles), plain::rotate(x, &angles));
    }

    #[test]
    fn attention_equals_burns_operations(
        batch in 1_usize..4,
        seq in 1_usize..80,
        before in 0_usize..70,
        unused in 0_usize..9,
        kv_heads in 1_usize..4,
        group in 1_usize..4,
        width in 1_usize..20,
    ) {
        let queries = random([batch, seq, kv_heads * group, width]);
        // A view of a larger cache, as in use.
        let cache = || random([batch, before + seq + unused, kv_heads, width]).narrow(1, 0, before + seq);
        let (keys, values) = (cache(), cache());
        assert_close(
            attention(queries.clone(), keys.clone(), values.clone()),
            plain::attention(queries, keys, values),
        );
    }

    #[test]
    fn token_scores_equal_burns_operations(rows in 1_usize..9, vocab in 1_usize..3000, seed in 0_u32..1000) {
        let logits = random([rows, vocab]);
        let targets: Vec<u32> = (0..rows as u32).map(|row| (seed * 31 + row * 7) % vocab as u32).collect();
        let ours = token_scores(logits.clone(), &targets);
        for (ours, plain) in ours.iter().zip(plain::token_scores(logits, &targets)) {
            prop_assert!((ours.logprob - plain.logprob).abs() < 2e-5 * plain.logprob.abs().max(1.0));
            prop_assert_eq!(ours.greedy, plain.greedy);
        }
    }
}

#[test]
fn the_greedy_token_has_the_largest_logit() {
    let logits = Tensor::<2>::from_floats([[0.0, 2.0, 2.0], [-1.0, -3.0, -0.5]], &Device::flex());
    assert_eq!(greedy_tokens(logits), [1, 2]);
}

#[test]
fn a_shared_tensor_is_not_written_to() {
    let gate = random([3, 5]);
    let before = gate.to_data();
    let _ = silu_mul(gate.clone(), random([3, 5]));
    assert_eq!(gate.into_data(), before);
}
