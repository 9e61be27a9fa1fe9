//! What crosses, on small seeded models.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;

use burn::tensor::Tensor;
use pdtrim_core::cache::BlockCache;
use pdtrim_core::journal::Journal;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
use pdtrim_core::pipeline::{CacheTransfer, PdModel, Received, SendAll};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockId, BlockSet, Boundary, KvEncoding, KvFill, KvPlan, PerStage, TokenSpan};
use pdtrim_kv::{
    Codec, Error, Held, KvSearch, KvShape, Part, PlannedTransfer, PositionTarget, Selection, search,
};
use proptest::prelude::*;

const DEPTH: usize = 5;

fn blocks() -> impl Strategy<Value = BlockSet> {
    proptest::collection::btree_set(0..DEPTH, 0..DEPTH)
        .prop_map(|ids| BlockSet::from_indices(DEPTH, ids).unwrap())
}

/// Keeps what a transfer let through.
struct Seen<'a>(&'a dyn CacheTransfer, Mutex<Vec<(BlockId, BlockCache)>>);

impl CacheTransfer for Seen<'_> {
    fn transfer(&self, id: BlockId, cache: BlockCache) -> pdtrim_core::Result<Received> {
        let received = self.0.transfer(id, cache)?;
        self.1.lock().unwrap().push((id, received.cache.clone()));
        Ok(received)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_crosses_is_the_first_and_last_positions_of_kept_blocks_and_is_counted(
        prompt in proptest::collection::vec(0_u32..96, 2..30), trimmed in blocks(), p in blocks(), more in blocks(),
        first in 0_usize..6, last in 0_usize..9,
    ) {
        let decode = p.union(&more);
        prop_assume!(decode.len() < DEPTH);
        let model = TinyModel::default().build();
        let policy = PlannedTransfer::new(KvPlan::uniform(&trimmed, TokenSpan { first, last }));
        let seen = Seen(&policy, Mutex::new(Vec::new()));
        let removed = PerStage { prefill: p, decode: decode.clone() };
        let pd = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &seen).unwrap();
        let scores = pd.score(&prompt, &[[1, 2], [3, 4]]).unwrap();
        let blocks = seen.1.into_inner().unwrap();
        let mut bytes = 0;
        for &(id, ref block) in &blocks {
            prop_assert!(!decode.contains(id));
            let positions: Vec<usize> = block.positions().unwrap().iter().map(|position| position.0).collect();
            let expected: Vec<usize> = (0..prompt.len())
                .filter(|&position| !trimmed.contains(id) || position < first || position + last >= prompt.len())
                .collect();
            prop_assert_eq!(&positions, &expected);
            prop_assert!(expected.is_empty() || block.keys().dims()[1] == expected.len(), "{:?}", expected);
            // keys and values, 2 heads of width 8, 4 bytes an element
            bytes += 2 * expected.len() * 2 * 8 * 4;
        }
        prop_assert_eq!(blocks.len(), DEPTH - decode.len());
        prop_assert_eq!(scores.kv_bytes.0, bytes as u64);
        let lost = |id| policy.plan().positions_sent(id, prompt.len()) < prompt.len();
        prop_assert_eq!(scores.trimmed, decode.complement().iter().any(lost));
    }

    #[test]
    fn encoded_blocks_cross_in_the_bytes_that_the_plan_counts_and_decode_sees_them_rounded(
        prompt in proptest::collection::vec(0_u32..96, 2..80),
        encodings in proptest::collection::vec(proptest::sample::select(&KvEncoding::ALL[..]), DEPTH),
        first in 0_usize..6, last in 1_usize..40,
    ) {
        let model = TinyModel::default().build();
        let span = TokenSpan { first, last };
        let every = BlockSet::all(DEPTH);
        let plan = encodings.iter().enumerate().fold(KvPlan::uniform(&every, span), |plan, (id, encoding)| plan.encoded(BlockId::new(id), *encoding));
        let (held, encoded) = (PlannedTransfer::new(KvPlan::uniform(&every, span)), PlannedTransfer::new(plan));
        let seen = [&held, &encoded].map(|policy| Seen(policy, Mutex::new(Vec::new())));
        let scores = seen.each_ref().map(|seen| {
            let pd = PdModel::new(&model, PerStage::dense(DEPTH), KvFill::Nested, Boundary::Prefill, seen).unwrap();
            pd.score(&prompt, &[[1, 2]]).unwrap()
        });
        let shape = KvShape { positions: span.kept(prompt.len()), heads: 2, width: 8 };
        let bytes = |encoding| {
            let codec = Codec { encoding, held: Held::F32 };
            codec.bytes(shape, Part::Keys) + codec.bytes(shape, Part::Values)
        };
        prop_assert_eq!(scores[1].kv_bytes.0, encodings.iter().map(|encoding| bytes(*encoding) as u64).sum::<u64>());
        prop_assert_eq!(scores[1].kv_positions, scores[0].kv_positions);
        let [held, encoded] = seen.map(|seen| seen.1.into_inner().unwrap());
        for (((_, held), (_, sent)), encoding) in held.iter().zip(&encoded).zip(&encodings) {
            prop_assert_eq!(held.positions(), sent.positions());
            let largest = |tensor: Tensor<4>| tensor.abs().max().into_scalar::<f32>();
            for (was, is) in [(held.keys(), sent.keys()), (held.values(), sent.values())] {
                let bound = match encoding {
                    KvEncoding::Held => 0.0,
                    KvEncoding::Bf16 => 0.004,
                    KvEncoding::Fp8E4m3 => 0.0626,
                    KvEncoding::Int8 => 0.02,
                    KvEncoding::Int4 => 0.15,
                } * largest(was.clone());
                prop_assert!(largest(is - was) <= bound, "{}", encoding);
            }
        }
    }

    #[test]
    fn a_span_as_long_as_the_prompt_changes_nothing(
        prompt in proptest::collection::vec(0_u32..96, 1..20), trimmed in blocks(), first in 0_usize..20,
    ) {
        let model = TinyModel::default().build();
        let span = TokenSpan { first, last: 20 };
        let policy = PlannedTransfer::new(KvPlan::uniform(&trimmed, span));
        let with = |transfer| PdModel::new(&model, PerStage::dense(DEPTH), KvFill::Nested, Boundary::Decode, transfer).unwrap();
        let scores = with(&policy).score(&prompt, &[[3, 4, 5]]).unwrap();
        prop_assert!(!scores.trimmed);
        prop_assert_eq!(scores, with(&SendAll).score(&prompt, &[[3, 4, 5]]).unwrap());
    }
}

fn calibration() -> Calibration {
    let window = |seed: u32| (0..24).map(|n| (n * n * 7 + seed * 13 + n) % 96).collect();
    Calibration::new((0..3).map(window).collect(), 18).unwrap()
}

#[test]
fn both_selections_meet_the_target_and_cost_no_more_than_any_plan_they_measured() {
    let model = TinyModel::default().build();
    let calibration = calibration();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Decode);
    let removed = PerStage::both(BlockSet::from_indices(DEPTH, [2]).unwrap());
    let target = PositionTarget::new(2.0, vec![17; 4]).unwrap();
    for selection in [Selection::Attention, Selection::Loss] {
        let problem = KvSearch {
            loss: &loss,
            removed: &removed,
            target: &target,
            selection,
        };
        let choice = search(&problem, None, &mut |_| {}).unwrap();
        assert!(choice.sent_share <= 0.5, "{choice:?}");
        assert!(!choice.plan.sends_all());
        let again = loss
            .cost_with(&removed, &PlannedTransfer::new(choice.plan.clone()))
            .unwrap();
        assert_eq!(choice.cost.to_bits(), again.to_bits());
        for other in &choice.trace {
            let plan = KvPlan::from_groups(DEPTH, &other.kv).unwrap();
            let meets = target.sent_share(&plan, &removed.decode) <= 0.5;
            assert!(
                !meets || choice.cost <= other.cost,
                "{other:?} beats {choice:?}"
            );
        }
    }
}

#[test]
fn a_kv_search_cut_short_and_resumed_decides_the_same() {
    let model = TinyModel::default().build();
    let calibration = calibration();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
    let removed = PerStage::dense(DEPTH);
    let target = PositionTarget::new(1.7, vec![18; 2]).unwrap();
    let problem = KvSearch {
        loss: &loss,
        removed: &removed,
        target: &target,
        selection: Selection::Loss,
    };
    let whole = search(&problem, None, &mut |_| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv.jsonl");
    search(
        &problem,
        Some(Journal::resume(&path, "kv").unwrap()),
        &mut |_| {},
    )
    .unwrap();
    let journal = std::fs::read(&path).unwrap();
    for cut in [0, journal.len() / 3, journal.len() / 2, journal.len()] {
        std::fs::write(&path, &journal[..cut]).unwrap();
        let mut measured = 0;
        let resumed = search(
            &problem,
            Some(Journal::resume(&path, "kv").unwrap()),
            &mut |_| measured += 1,
        )
        .unwrap();
        assert_eq!(resumed.plan, whole.plan);
        assert_eq!(measured == 0, cut == journal.len());
    }
}

#[test]
fn a_target_that_prompts_cannot_meet_is_refused() {
    let model = TinyModel::default().build();
    let calibration = calibration();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
    let removed = PerStage::dense(DEPTH);
    let target = PositionTarget::new(40.0, vec![18, 20]).unwrap();
    let problem = KvSearch {
        loss: &loss,
        removed: &removed,
        target: &target,
        selection: Selection::Attention,
    };
    let refused = search(&problem, None, &mut |_| {});
    assert!(
        matches!(
            refused,
            Err(Error::Unreachable {
                prompts: 2,
                positions: 38,
                ..
            })
        ),
        "{refused:?}"
    );
}
