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

fn narrowings() -> impl Strategy<Value = Option<DType>> {
    prop_oneof![Just(None), Just(Some(DType::BF16)), Just(Some(DType::F16))]
}

fn narrowed(weight: Tensor<2>, narrow: Option<DType>) -> Tensor<2> {
    match narrow {
        Some(dtype) => weight.cast(dtype),
        None => weight,
    }
}

/// The same elements at the start of an allocation of their own.
fn copy_of(tensor: &Tensor<2>) -> Tensor<2> {
    let dtype = tensor.dtype();
    Tensor::from_data(tensor.to_data(), (&Device::flex(), dtype))
}

/// Whether activations are rounded to bf16 on this CPU.
fn rounds(rows: usize, inputs: usize, narrow: Option<DType>) -> bool {
    narrow == Some(DType::BF16)
        && rows > 16
        && inputs.is_multiple_of(2)
        && widths::Vectors::detect().multiply_bf16()
}

fn assert_products_close(ours: Tensor<2>, plain: Tensor<2>, rounded: bool) {
    // Sums of up to 90 products of values around 4; bf16 has 8 bits.
    let tolerance = if rounded { 0.5 } else { 2e-4 };
    ours.into_data().assert_approx_eq::<f32>(
        &plain.into_data(),
        Tolerance::absolute(tolerance).set_relative(tolerance / 50.0),
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
    fn layers_equal_burns_operations(
        rows in 1_usize..60, inputs in 1_usize..90, q in 1_usize..100, k in 1_usize..50, narrow in narrowings(),
    ) {
        let weight = |outputs| narrowed(random([outputs, inputs]), narrow);
        let x = random([rows, inputs]);
        let layers = [(weight(q), Some(random([q]))), (weight(k), None), (weight(k), Some(random([k])))];
        let expected = layers.clone().map(|layer| plain::linear(x.clone(), layer));
        for (ours, plain) in linear(&x, layers).into_iter().zip(expected) {
            assert_products_close(ours, plain, rounds(rows, inputs, narrow));
        }
    }

    #[test]
    fn a_layer_on_the_residual_stream_equals_burns_operations(
        rows in 1_usize..60, inputs in 1_usize..90, outputs in 1_usize..100, narrow in narrowings(),
    ) {
        let weight = narrowed(random([outputs, inputs]), narrow);
        let (x, residual) = (random([rows, inputs]), random([rows, outputs]));
        let expected = residual.clone() + plain::linear(x.clone(), (weight.clone(), None));
        assert_products_close(linear_add(x, weight, residual), expected, rounds(rows, inputs, narrow));
    }

    #[test]
    fn the_gate_equals_burns_operations(
        rows in 1_usize..60, inputs in 1_usize..40, outputs in 1_usize..100, narrow in narrowings(),
    ) {
        let weight = || narrowed(random([outputs, inputs]) * 0.1, narrow);
        let (x, gate, up) = (random([rows, inputs]), weight(), weight());
        let expected = plain::gated(x.clone(), gate.clone(), up.clone());
        assert_products_close(gated(x, gate, up), expected, rounds(rows, inputs, narrow));
    }

    #[test]
    fn views_that_start_anywhere_give_what_copies_of_them_give(
        rows in 1_usize..40, inputs in 1_usize..70, outputs in 1_usize..70, (down, along) in (0_usize..4, 0_usize..4),
        narrow in narrowings(),
    ) {
        // No whole number of vectors from the start of the allocation, and rows that are apart.
        let view = |rows, width| random([rows + down, width + along]).narrow(0, down, rows).narrow(1, along, width);
        let (x, residual) = (view(rows, inputs), view(rows, outputs));
        let weight = || narrowed(random([outputs + down, inputs]), narrow).narrow(0, down, outputs);
        let (weight, gate) = (weight(), weight());
        let of_views = [
            linear(&x, [(weight.clone(), None)])[0].clone(),
            linear_add(x.clone(), weight.clone(), residual.clone()),
            gated(x.clone(), gate.clone(), weight.clone()),
        ];
        let [x, residual, weight, gate] = [x, residual, weight, gate].map(|tensor| copy_of(&tensor));
        let of_copies = [
            linear(&x, [(weight.clone(), None)])[0].clone(),
            linear_add(x.clone(), weight.clone(), residual),
            gated(x, gate, weight),
        ];
        for (view, copy) in of_views.into_iter().zip(of_copies) {
            prop_assert_eq!(view.dims(), copy.dims());
            prop_assert_eq!(view.into_data(), copy.into_data());
        }
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
        width in 1_usize..70,
        narrow in narrowings(),
    ) {
        let queries = random([batch, seq, kv_heads * group, width]);
        // A view of a larger cache, as in use.
        let cache = || random([batch, before + seq + unused, kv_heads, width]).narrow(1, 0, before + seq);
        let (mut keys, mut values) = (cache(), cache());
        let mut wide = (keys.clone(), values.clone());
        if let Some(dtype) = narrow {
            keys = narrow_kv(keys, dtype);
            values = narrow_kv(values, dtype);
            wide = (Tensor::<4>::cast(keys.clone(), DType::F32), Tensor::<4>::cast(values.clone(), DType::F32));
        }
        assert_close(attention(queries.clone(), keys, values), plain::attention(queries, wide.0, wide.1, None));
    }

    #[test]
    fn empty_places_are_as_if_they_were_not_there(
        batch in 1_usize..3, seq in 1_usize..12, before in 1_usize..20, kv_heads in 1_usize..4, group in 1_usize..3,
        empty in proptest::collection::vec(0_usize..20, 9),
    ) {
        let queries = random([batch, seq, kv_heads * group, 8]);
        let (keys, values) = (random([batch, before + seq, kv_heads, 8]), random([batch, before + seq, kv_heads, 8]));
        let empty: Vec<Vec<usize>> = (0..batch)
            .map(|row| (0..kv_heads).map(|head| empty[(row * kv_heads + head) % 9].min(before)).collect())
            .collect();
        let all = attention_with_empty_places(queries.clone(), keys.clone(), values.clone(), &empty);
        for (row, empty) in empty.iter().enumerate() {
            for (head, &empty) in empty.iter().enumerate() {
                let left = |tensor: &Tensor<4>| {
                    tensor.clone().narrow(0, row, 1).narrow(1, empty, before + seq - empty).narrow(2, head, 1)
                };
                let of_group = |tensor: &Tensor<4>| tensor.clone().narrow(0, row, 1).narrow(2, head * group, group);
                let alone = attention(of_group(&queries), left(&keys), left(&values));
                assert_close(of_group(&all), alone);
            }
        }
    }

    #[test]
    fn scores_without_logits_equal_burns_operations(
        rows in 1_usize..40, width in 1_usize..20, vocab in 1_usize..300, seed in 0_u32..1000, narrow in narrowings(),
    ) {
        let (x, head) = (random([rows, width]), narrowed(random([vocab, width]), narrow));
        let targets: Vec<u32> = (0..rows as u32).map(|row| (seed * 31 + row * 7) % vocab as u32).collect();
        let ours = scored_logits(x.clone(), head.clone(), &targets);
        let tolerance = if rounds(rows, width, narrow) { 0.2 } else { 2e-4 };
        for (ours, plain) in ours.iter().zip(plain::token_scores(plain::linear(x, (head, None)), &targets)) {
            prop_assert!((ours.logprob - plain.logprob).abs() < tolerance, "{} {}", ours.logprob, plain.logprob);
            prop_assert!(ours.greedy == plain.greedy || tolerance > 0.1);
        }
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
fn without_rows_products_are_empty() {
    let none = |width| {
        let data = TensorData::new(Vec::<f32>::new(), [0, width]);
        Tensor::<2>::from_data(data, &Device::flex())
    };
    let weight = || random([4, 6]);
    let [product] = linear(&none(6), [(weight(), Some(random([4])))]);
    assert_eq!(product.dims(), [0, 4]);
    assert_eq!(linear_add(none(6), weight(), none(4)).dims(), [0, 4]);
    assert_eq!(gated(none(6), weight(), weight()).dims(), [0, 4]);
    assert!(scored_logits(none(6), weight(), &[]).is_empty());
}

#[test]
fn a_shared_tensor_is_not_written_to() {
    let residual = random([3, 5]);
    let before = residual.to_data();
    let _ = linear_add(random([3, 4]), random([5, 4]), residual.clone());
    assert_eq!(residual.into_data(), before);
}

#[test]
fn products_larger_than_a_panel_and_a_tile_equal_burns_operations() {
    let (x, weight) = (random([600, 3100]), random([50, 3100]) * 0.05);
    for narrow in [None, Some(DType::BF16), Some(DType::F16)] {
        let weight = narrowed(weight.clone(), narrow);
        let [ours] = linear(&x, [(weight.clone(), None)]);
        let tolerance = if rounds(600, 3100, narrow) { 0.3 } else { 2e-3 };
        let plain = plain::linear(x.clone(), (weight, None));
        let tolerance = Tolerance::absolute(tolerance);
        ours.into_data()
            .assert_approx_eq::<f32>(&plain.into_data(), tolerance);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_before_anything_is_written() {
    let refuses =
        |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
    for rows in [1, 20] {
        let x = || random([rows, 6]);
        assert!(refuses(&|| drop(linear(&x(), [(random([4, 5]), None)]))));
        assert!(refuses(&|| drop(linear_add(
            x(),
            random([9, 6]),
            random([rows, 4])
        ))));
        assert!(refuses(&|| drop(gated(
            x(),
            random([4, 7]),
            random([4, 7])
        ))));
        assert!(refuses(&|| drop(scored_logits(
            x(),
            random([9, 6]),
            &[1, 2]
        ))));
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for narrow in [None, Some(DType::BF16), Some(DType::F16)] {
        for rows in [1, 5, 33, 130] {
            let (inputs, outputs, vocab) = (259, 1031, 5003);
            let x = random([rows, inputs]);
            let weight = |outputs| narrowed(random([outputs, inputs]) * 0.1, narrow);
            let (gate, up, head) = (weight(outputs), weight(outputs), weight(vocab));
            let residual = random([rows, outputs]);
            // Decode reads a long cache, prefill tiles of it.
            let queries = random([2, rows, 6, 34]);
            let cache = || random([2, 700, 3, 34]);
            let (mut keys, mut values) = (cache(), cache());
            if let Some(dtype) = narrow {
                (keys, values) = (narrow_kv(keys, dtype), narrow_kv(values, dtype));
            }
            let targets: Vec<u32> = (0..rows as u32).map(|row| row * 37).collect();
            let bits = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.unwrap().install(|| {
                    let [plain] = linear(&x, [(gate.clone(), None)]);
                    let added = linear_add(x.clone(), gate.clone(), residual.clone());
                    let gated = gated(x.clone(), gate.clone(), up.clone());
                    let attended = attention(queries.clone(), keys.clone(), values.clone());
                    let normed = rms_norm(added.clone(), random([outputs]) * 0.0 + 1.0, 1e-5);
                    let scores = scored_logits(x.clone(), head.clone(), &targets);
                    let scores: Vec<u32> = scores.iter().map(|one| one.logprob.to_bits()).collect();
                    let tensors = [plain, added, gated, normed].map(Tensor::into_data);
                    (tensors, attended.into_data(), scores)
                })
            };
            let alone = bits(1);
            for threads in [2, 3, 4, 7] {
                assert!(
                    bits(threads) == alone,
                    "{threads} threads, {rows} rows, {narrow:?}"
                );
            }
        }
    }
}
