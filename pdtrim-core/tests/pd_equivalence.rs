//! Equivalences of the PD forward pass on small seeded models of every architecture.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pdtrim_core::cache::{KvCache, TokenPosition};
use pdtrim_core::config::{Architecture, RopeScaling};
use pdtrim_core::model::{BlockModel, Llama, LlamaWeights, token_tensor};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Objective, Rows, mean_cost};
use pdtrim_core::pipeline::{PdModel, ScoreRequest, SendAll};
use pdtrim_core::testing::{TinyModel, tiny_config};
use pdtrim_core::{BlockId, BlockSet, Boundary, Error, KvFill, PerStage, TokenScore, token_scores};
use proptest::prelude::*;

const DEPTH: usize = 5;
/// f32 rounding of sums in another order; logits of the tiny models are of order 1.
const TOLERANCE: f32 = 2e-4;

fn models() -> impl Strategy<Value = (Architecture, u64)> {
    (
        prop_oneof![
            Just(Architecture::Llama),
            Just(Architecture::Mistral),
            Just(Architecture::Qwen2)
        ],
        0_u64..50,
    )
}

fn build((architecture, seed): (Architecture, u64)) -> Llama {
    let mut config = tiny_config(architecture);
    if seed.is_multiple_of(2) {
        config.rope.scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 64,
        };
    }
    TinyModel {
        config,
        seed,
        ..TinyModel::default()
    }
    .build()
}

fn tokens(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0_u32..96, length)
}

fn removed() -> impl Strategy<Value = BlockSet> {
    proptest::collection::btree_set(0..DEPTH, 0..DEPTH)
        .prop_map(|ids| BlockSet::from_indices(DEPTH, ids).unwrap())
}

fn boundaries() -> impl Strategy<Value = Boundary> {
    prop_oneof![Just(Boundary::Prefill), Just(Boundary::Decode)]
}

/// Scores of `tokens[1..]` by one forward pass over all of them, without the blocks in `removed`.
fn plain_forward(model: &dyn BlockModel, tokens: &[u32], removed: &BlockSet) -> Vec<TokenScore> {
    let fed = &tokens[..tokens.len() - 1];
    let kept = removed.complement();
    let mut cache = KvCache::with_capacity(&kept, fed.len());
    let mut hidden = model.embed(token_tensor(model, &[fed]).unwrap(), TokenPosition(0));
    for id in kept.iter() {
        hidden = model.run_block(id, hidden, TokenPosition(0), cache.block_mut(id).unwrap());
    }
    let [_, seq, width] = hidden.dims();
    token_scores(model.logits(hidden.reshape([seq, width])), &tokens[1..])
}

fn assert_same(found: &[TokenScore], expected: &[TokenScore]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found.logprob - expected.logprob).abs() < TOLERANCE,
            "{found:?}, expected {expected:?}"
        );
    }
}

fn score(pd: &PdModel<'_>, prompt: &[u32], continuation: &[u32]) -> Vec<TokenScore> {
    pd.score(prompt, &[continuation])
        .unwrap()
        .continuations
        .remove(0)
        .tokens
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn the_empty_plan_is_one_plain_forward_pass(
        model in models(), prompt in tokens(1..30), continuation in tokens(1..12), boundary in boundaries(),
    ) {
        let model = build(model);
        let whole = [prompt.clone(), continuation.clone()].concat();
        let plain = plain_forward(&model, &whole, &BlockSet::empty(DEPTH));
        let pd = score(&PdModel::dense(&model, boundary), &prompt, &continuation);
        assert_same(&pd, &plain[prompt.len() - 1..]);
    }

    #[test]
    fn one_set_for_both_stages_is_a_model_without_those_blocks(
        model in models(), prompt in tokens(1..30), continuation in tokens(1..12), set in removed(), boundary in boundaries(),
    ) {
        let model = build(model);
        // The pruned model is built anew from the kept blocks' weights; it knows nothing of block sets.
        let mut config = model.config().clone();
        config.n_blocks -= set.len();
        let weights = model.weights();
        let layers = set.complement().iter().map(|id| weights.layers[id.index()].clone()).collect();
        let pruned = LlamaWeights { layers, ..weights.clone() };
        let pruned = Llama::new(config, pruned, model.device());
        let expected = score(&PdModel::dense(&pruned, boundary), &prompt, &continuation);
        let pd = PdModel::new(&model, PerStage::both(set), KvFill::Nested, boundary, &SendAll).unwrap();
        assert_same(&score(&pd, &prompt, &continuation), &expected);
    }

    #[test]
    fn texts_of_different_lengths_score_together_as_they_do_alone(
        model in models(),
        texts in proptest::collection::vec((tokens(1..30), proptest::collection::vec(tokens(1..9), 1..4)), 1..6),
        p in removed(), more in removed(), fill in prop_oneof![Just(KvFill::Nested), Just(KvFill::Project)],
        boundary in boundaries(),
    ) {
        let model = build(model);
        let decode = if fill == KvFill::Nested { p.union(&more) } else { more };
        prop_assume!(decode.len() < DEPTH);
        let pd = PdModel::new(&model, PerStage { prefill: p, decode }, fill, boundary, &SendAll).unwrap();
        let requests: Vec<_> = texts
            .iter()
            .map(|(prompt, continuations)| ScoreRequest {
                prompt,
                continuations: continuations.iter().map(Vec::as_slice).collect(),
            })
            .collect();
        let together = pd.score_batch(&requests).unwrap();
        prop_assert_eq!(together.len(), texts.len());
        for (found, (prompt, continuations)) in together.iter().zip(&texts) {
            let alone = pd.score(prompt, continuations).unwrap();
            prop_assert_eq!((found.kv_bytes, found.kv_positions), (alone.kv_bytes, alone.kv_positions));
            for (found, alone) in found.continuations.iter().zip(&alone.continuations) {
                assert_same(&found.tokens, &alone.tokens);
            }
        }
    }

    #[test]
    fn token_by_token_equals_one_chunk(
        model in models(), prompt in tokens(1..20), p in removed(), more in removed(), boundary in boundaries(),
    ) {
        let model = build(model);
        let decode = p.union(&more);
        prop_assume!(decode.len() < DEPTH);
        let pd = PdModel::new(&model, PerStage { prefill: p, decode }, KvFill::Nested, boundary, &SendAll).unwrap();
        let generated = pd.generate_greedy(&prompt, 10, &[], |_| {}).unwrap().tokens;
        let scores = score(&pd, &prompt, &generated);
        // Each token was the most likely one after those before it, up to ties in rounding.
        for (n, token) in scores.iter().enumerate() {
            prop_assert!(token.greedy || token.logprob > -0.70, "token {n} of {scores:?}");
        }
        // And its log-probability does not depend on the tokens after it being in the same chunk.
        for n in 1..generated.len() {
            assert_same(&score(&pd, &prompt, &generated[..n]), &scores[..n]);
        }
    }

    #[test]
    fn a_batch_of_continuations_equals_single_ones(
        model in models(), prompt in tokens(1..20), continuations in proptest::collection::vec(tokens(1..9), 2..5),
        p in removed(), boundary in boundaries(),
    ) {
        let model = build(model);
        let pd = PdModel::new(&model, PerStage::both(p), KvFill::Nested, boundary, &SendAll).unwrap();
        let together = pd.score(&prompt, &continuations).unwrap();
        for (together, alone) in together.continuations.iter().zip(&continuations) {
            assert_same(&together.tokens, &score(&pd, &prompt, alone));
        }
    }

    #[test]
    fn a_batch_of_windows_equals_single_ones(
        model in models(), windows in proptest::collection::vec(tokens(14..15), 2..5), p in removed(), more in removed(),
        boundary in boundaries(),
    ) {
        let model = build(model);
        let decode = p.union(&more);
        prop_assume!(decode.len() < DEPTH);
        let removed = PerStage { prefill: p, decode };
        let together = Calibration::new(windows.clone(), 9).unwrap();
        let cost = |calibration: &Calibration| {
            let loss = CalibrationLoss::new(&model, calibration, Rows::Continuation, boundary);
            loss.cost_with(&removed, &SendAll).unwrap()
        };
        let singles = windows.iter().map(|window| cost(&Calibration::new(vec![window.clone()], 9).unwrap()));
        let mean = singles.sum::<f64>() / windows.len() as f64;
        prop_assert!((cost(&together) - mean).abs() < 1e-4);
    }

    #[test]
    fn the_objective_is_the_pd_forward_pass(
        model in models(), window in tokens(12..20), sets in proptest::collection::vec((removed(), removed()), 2..5),
        boundary in boundaries(),
    ) {
        let model = build(model);
        let prompt_tokens = window.len() / 2;
        let calibration = Calibration::new(vec![window.clone()], prompt_tokens).unwrap();
        let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, boundary);
        let nested = |(p, more): (BlockSet, BlockSet)| PerStage { decode: p.union(&more), prefill: p };
        let candidates: Vec<_> = sets.into_iter().map(nested).filter(|removed| removed.decode.len() < DEPTH).collect();
        let costs = loss.costs(&candidates, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
        for (removed, cost) in candidates.into_iter().zip(costs) {
            // Prefix reuse and sharing the prompt's KV must not show.
            let alone = loss.cost_with(&removed, &SendAll).unwrap();
            prop_assert_eq!(cost.to_bits(), alone.to_bits());
            let pd = PdModel::new(&model, removed, KvFill::Nested, boundary, &SendAll).unwrap();
            let scores = score(&pd, &window[..prompt_tokens], &window[prompt_tokens..]);
            let mean = -scores.iter().map(|token| f64::from(token.logprob)).sum::<f64>() / scores.len() as f64;
            prop_assert!((cost - mean).abs() < 1e-4, "{} against {}", cost, mean);
        }
    }

    #[test]
    fn each_stage_runs_its_own_model(
        window in tokens(12..20), other in 50_u64..60, sets in (removed(), removed()), boundary in boundaries(),
    ) {
        let models = [build((Architecture::Llama, 1)), build((Architecture::Llama, other))];
        let stages = |prefill, decode| PerStage::<&dyn BlockModel> { prefill, decode };
        let mixed = stages(&models[0], &models[1]);
        let removed = PerStage { decode: sets.0.union(&sets.1), prefill: sets.0 };
        prop_assume!(removed.decode.len() < DEPTH);
        let pd = |stages| PdModel::per_stage(stages, removed.clone(), KvFill::Nested, boundary, &SendAll).unwrap();
        let half = window.len() / 2;
        let (prompt, continuation) = window.split_at(half);
        let found = score(&pd(mixed), prompt, continuation);

        // The objective runs the same.
        let calibration = Calibration::new(vec![window.clone()], half).unwrap();
        let loss = CalibrationLoss::per_stage(mixed, &calibration, Rows::Continuation, boundary).unwrap();
        let mean = -found.iter().map(|token| f64::from(token.logprob)).sum::<f64>() / found.len() as f64;
        prop_assert!((loss.cost_with(&removed, &SendAll).unwrap() - mean).abs() < 1e-4);

        // The boundary's stage alone has a say in a first token that its own model predicts.
        let one_model = |n: usize| score(&pd(stages(&models[n], &models[n])), prompt, continuation);
        if boundary == Boundary::Prefill {
            assert_same(&found[..1], &one_model(0)[..1]);
        }
        let greedy = pd(mixed).generate_greedy(prompt, 3, &[], |_| {}).unwrap().tokens;
        let all_greedy = score(&pd(mixed), prompt, &greedy);
        prop_assert!(all_greedy.iter().all(|token| token.greedy));
        prop_assert_ne!(found, one_model(0));
    }

    #[test]
    fn costs_of_single_windows_add_up_to_the_cost_to_the_bit(
        model in models(), windows in proptest::collection::vec(tokens(14..15), 2..7),
        sets in proptest::collection::vec((removed(), removed()), 2..4), same_prefill in any::<bool>(),
        boundary in boundaries(), rows in prop_oneof![Just(Rows::All), Just(Rows::Continuation)], cut in 0_usize..7,
    ) {
        let model = build(model);
        let shared = sets[0].0.clone();
        let nested = |(p, more): (BlockSet, BlockSet)| {
            let prefill = if same_prefill { shared.clone() } else { p };
            PerStage { decode: prefill.union(&more), prefill }
        };
        let candidates: Vec<_> = sets.into_iter().map(nested).filter(|removed| removed.decode.len() < DEPTH).collect();
        let calibration = Calibration::new(windows, 9).unwrap();
        let loss = CalibrationLoss::new(&model, &calibration, rows, boundary);
        // Every other window first, and a part of the rest on its own: groups of many shapes.
        let (even, odd): (Vec<usize>, Vec<usize>) = (0..loss.units()).partition(|unit| unit % 2 == 0);
        let (left, right) = odd.split_at(cut.min(odd.len()));
        let mut parts = vec![vec![0.0; loss.units()]; candidates.len()];
        for units in [&even[..], left, right] {
            let mut heard = 0;
            let costs = loss.unit_costs(&candidates, units, &mut |_, costs| {
                heard += costs.len();
                std::ops::ControlFlow::Continue(())
            });
            for (parts, costs) in parts.iter_mut().zip(costs.unwrap()) {
                prop_assert_eq!(costs.len(), units.len());
                units.iter().zip(costs).for_each(|(&unit, cost)| parts[unit] = cost);
            }
            prop_assert_eq!(heard, candidates.len() * units.len());
        }
        let costs = loss.costs(&candidates, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
        for (cost, parts) in costs.into_iter().zip(parts) {
            prop_assert_eq!(cost.to_bits(), mean_cost(&parts).to_bits());
        }
    }

    #[test]
    fn projecting_the_kv_of_a_removed_block_equals_zeroed_outputs_during_the_prompt(
        model in models(), prompt in tokens(2..20), continuation in tokens(1..8), block in 0..DEPTH, boundary in boundaries(),
    ) {
        let dense = build(model);
        let removed = PerStage { prefill: BlockSet::from_indices(DEPTH, [block]).unwrap(), decode: BlockSet::empty(DEPTH) };
        let pd = PdModel::new(&dense, removed.clone(), KvFill::Project, boundary, &SendAll).unwrap();
        let refused = PdModel::new(&dense, removed, KvFill::Nested, boundary, &SendAll);
        prop_assert!(matches!(refused, Err(Error::NotNested { .. })), "not refused");
        // The oracle: prefill by a model whose block adds nothing, decode by the dense one.
        let mut weights = dense.weights().clone();
        let silenced = &mut weights.layers[block];
        for projection in [&mut silenced.self_attn.o_proj, &mut silenced.mlp.down_proj] {
            projection.weight = burn::module::Param::from_tensor(projection.weight.val().zeros_like());
        }
        let silent = Llama::new(dense.config().clone(), weights, dense.device());
        let read = if boundary == Boundary::Prefill { prompt.len() } else { prompt.len() - 1 };
        let mut cache = KvCache::with_capacity(&BlockSet::all(DEPTH), 64);
        let mut hidden = silent.embed(token_tensor(&silent, &[&prompt[..read]]).unwrap(), TokenPosition(0));
        for id in (0..DEPTH).map(BlockId::new) {
            hidden = silent.run_block(id, hidden, TokenPosition(0), cache.block_mut(id).unwrap());
        }
        let mut expected = Vec::new();
        let whole = [prompt.clone(), continuation.clone()].concat();
        if boundary == Boundary::Prefill {
            let width = hidden.dims()[2];
            let last = hidden.narrow(1, read - 1, 1).reshape([1, width]);
            expected = token_scores(silent.logits(last), &continuation[..1]);
        }
        if whole.len() - 1 > read {
            let mut hidden = dense.embed(token_tensor(&dense, &[&whole[read..whole.len() - 1]]).unwrap(), TokenPosition(read));
            for id in (0..DEPTH).map(BlockId::new) {
                hidden = dense.run_block(id, hidden, TokenPosition(read), cache.block_mut(id).unwrap());
            }
            let [_, seq, width] = hidden.dims();
            expected.extend(token_scores(dense.logits(hidden.reshape([seq, width])), &whole[read + 1..]));
        }
        assert_same(&score(&pd, &prompt, &continuation), &expected);
    }
}

#[test]
fn each_row_of_a_batch_generates_what_its_prompt_generates_alone() {
    let prompts: Vec<Vec<u32>> = (0..3)
        .map(|row| (0..9).map(|n| (31 * row + 7 * n + 5) % 96).collect())
        .collect();
    let removed = PerStage {
        prefill: BlockSet::from_indices(DEPTH, [3]).unwrap(),
        decode: BlockSet::from_indices(DEPTH, [1, 3]).unwrap(),
    };
    for architecture in Architecture::ALL {
        let model = build((architecture, 4));
        for boundary in [Boundary::Prefill, Boundary::Decode] {
            let removed = removed.clone();
            let pd = PdModel::new(&model, removed, KvFill::Nested, boundary, &SendAll).unwrap();
            let mut steps = Vec::new();
            let rows = pd
                .generate_greedy_batch(&prompts, 12, |step| steps.push(step))
                .unwrap();
            assert_eq!(steps, (0..12).collect::<Vec<_>>());
            for (prompt, row) in prompts.iter().zip(&rows) {
                let alone = pd.generate_greedy(prompt, 12, &[], |_| {}).unwrap();
                assert_eq!(row, &alone.tokens);
            }
        }
    }
}

#[test]
fn generation_stops_after_a_stop_token_and_takes_no_batch_of_unequal_prompts() {
    let model = TinyModel::default().build();
    let dense = PdModel::dense(&model, Boundary::Prefill);
    let free = dense.generate_greedy(&[1, 2, 3], 8, &[], |_| {}).unwrap();
    let stop = free.tokens[2];
    let until = 1 + free.tokens.iter().position(|&token| token == stop).unwrap();
    let mut heard = Vec::new();
    let stopped = dense
        .generate_greedy(&[1, 2, 3], 8, &[stop], |token| heard.push(token))
        .unwrap();
    assert_eq!(stopped.tokens, free.tokens[..until]);
    assert_eq!(heard, stopped.tokens);
    let none = dense.generate_greedy_batch(&[[1, 2], [3, 4]], 0, |_| {});
    assert_eq!(none.unwrap(), [[], []] as [[u32; 0]; 2]);

    for boundary in [Boundary::Prefill, Boundary::Decode] {
        let dense = PdModel::dense(&model, boundary);
        for other in [&[1][..], &[1, 2, 3, 4], &[1, 2, 3, 4, 5]] {
            let refused = dense.generate_greedy_batch(&[&[1, 2, 3], other], 4, |_| {});
            assert!(
                matches!(refused, Err(Error::RaggedBatch { .. })),
                "{other:?}"
            );
        }
        let long = dense.generate_greedy_batch(&[[1; 120]], 10, |_| {});
        assert!(matches!(long, Err(Error::ContextLength { .. })));
        let empty: [&[u32]; 0] = [];
        let refused = dense.generate_greedy_batch(&empty, 4, |_| {});
        assert!(matches!(refused, Err(Error::NoTokens { .. })));
    }
}

#[test]
fn all_rows_count_every_token_but_the_first() {
    let model = TinyModel::default().build();
    let window: Vec<u32> = (0..20).collect();
    let calibration = Calibration::new(vec![window.clone()], 15).unwrap();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::All, Boundary::Prefill);
    let set = BlockSet::from_indices(DEPTH, [2]).unwrap();
    let plain = plain_forward(&model, &window, &set);
    let mean = -plain
        .iter()
        .map(|token| f64::from(token.logprob))
        .sum::<f64>()
        / 19.0;
    assert!((loss.cost_with(&PerStage::both(set), &SendAll).unwrap() - mean).abs() < 1e-4);
}

#[test]
fn attention_on_prompt_positions_sums_to_at_most_one_and_early_blocks_see_all_of_them() {
    let model = TinyModel::default().build();
    let calibration = Calibration::new(vec![(0..24).collect(), (24..48).collect()], 16).unwrap();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
    let removed = PerStage::both(BlockSet::from_indices(DEPTH, [3]).unwrap());
    let profile = loss.attention_profile(&removed).unwrap();
    assert!(profile.block(BlockId::new(3)).is_none());
    for id in removed.decode.complement().iter() {
        let mass = profile.block(id).unwrap();
        assert_eq!(mass.len(), 16);
        assert!(mass.iter().all(|&mass| mass > 0.0));
        // Seven queries over 16 prompt positions and up to seven own ones.
        assert!((0.3..1.0).contains(&mass.iter().sum::<f64>()), "{mass:?}");
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let model = TinyModel::default().build();
    let dense = PdModel::dense(&model, Boundary::Prefill);
    assert!(matches!(
        dense.score(&[], &[[1]]),
        Err(Error::NoTokens { .. })
    ));
    assert!(matches!(
        dense.score(&[1], &[[]]),
        Err(Error::NoTokens { .. })
    ));
    assert!(matches!(
        dense.score(&[1], &[[96]]),
        Err(Error::TokenOutOfRange {
            token: 96,
            vocab_size: 96
        })
    ));
    assert!(matches!(
        dense.score(&[1; 128], &[[1, 2]]),
        Err(Error::ContextLength {
            tokens: 129,
            limit: 128
        })
    ));
    assert!(dense.score(&[1; 128], &[[1]]).is_ok());
    let all = PerStage::both(BlockSet::all(DEPTH));
    let refused = PdModel::new(&model, all, KvFill::Nested, Boundary::Prefill, &SendAll);
    assert!(matches!(refused, Err(Error::AllBlocksRemoved { .. })));
    let other = PerStage::dense(DEPTH + 1);
    let refused = PdModel::new(&model, other, KvFill::Nested, Boundary::Prefill, &SendAll);
    assert!(matches!(refused, Err(Error::Depth { .. })));
}

#[test]
fn stages_with_models_of_different_sizes_are_refused() {
    let mut config = tiny_config(Architecture::Llama);
    config.n_blocks = 4;
    let (five, four) = (
        TinyModel::default().build(),
        TinyModel {
            config,
            ..TinyModel::default()
        }
        .build(),
    );
    let stages = PerStage::<&dyn BlockModel> {
        prefill: &five,
        decode: &four,
    };
    let refused = PdModel::per_stage(
        stages,
        PerStage::dense(5),
        KvFill::Nested,
        Boundary::Prefill,
        &SendAll,
    );
    assert!(matches!(
        refused.map(|_| ()),
        Err(Error::StageModels { .. })
    ));
    let calibration = Calibration::new(vec![vec![1; 8]], 4).unwrap();
    let refused =
        CalibrationLoss::per_stage(stages, &calibration, Rows::Continuation, Boundary::Prefill);
    assert!(matches!(
        refused.map(|_| ()),
        Err(Error::StageModels { .. })
    ));
}
