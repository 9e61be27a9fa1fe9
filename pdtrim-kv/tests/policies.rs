//! Published policies on small seeded models, and on caches made by hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;

use burn::tensor::{Device, Tensor, TensorData};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
use pdtrim_core::pipeline::{CacheTransfer, PdModel, Received, SendAll};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{
    BlockId, BlockKv, BlockSet, Boundary, KvEncoding, KvFill, KvPlan, PerStage, TokenSpan,
};
use pdtrim_kv::{
    AdaKv, Budget, H2o, Kept, KvPolicy, PlannedTransfer, PolicyTransfer, SnapKv, StreamingLlm,
    Think, Window,
};
use proptest::prelude::*;

const DEPTH: usize = 5;
const HEADS: usize = 2;
const WIDTH: usize = 8;

fn evictions(budget: Budget) -> Vec<Box<dyn KvPolicy>> {
    vec![
        Box::new(StreamingLlm { sinks: 4, budget }),
        Box::new(Window { budget }),
        Box::new(SnapKv {
            budget,
            window: 4,
            kernel: 3,
        }),
        Box::new(H2o { budget }),
    ]
}

fn ada(budget: Budget, own: f64) -> AdaKv {
    let snap = SnapKv {
        budget,
        window: 4,
        kernel: 3,
    };
    AdaKv { snap, own }
}

/// Keeps what a transfer let through.
struct Seen<'a>(&'a dyn CacheTransfer, Mutex<Vec<BlockCache>>);

impl CacheTransfer for Seen<'_> {
    fn observes(&self) -> usize {
        self.0.observes()
    }

    fn transfer(&self, id: BlockId, cache: BlockCache) -> pdtrim_core::Result<Received> {
        let received = self.0.transfer(id, cache)?;
        self.1.lock().unwrap().push(received.cache.clone());
        Ok(received)
    }
}

fn scored(
    transfer: &dyn CacheTransfer,
    prompt: &[u32],
) -> (pdtrim_core::pipeline::PromptScores, Vec<BlockCache>) {
    let model = TinyModel::default().build();
    let seen = Seen(transfer, Mutex::new(Vec::new()));
    let pd = PdModel::new(
        &model,
        PerStage::dense(DEPTH),
        KvFill::Nested,
        Boundary::Decode,
        &seen,
    );
    let scores = pd.unwrap().score(prompt, &[[1, 2, 3]]).unwrap();
    (scores, seen.1.into_inner().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_plan_with_heavy_positions_and_no_first_ones_keeps_what_h2o_keeps(
        prompt in proptest::collection::vec(0_u32..96, 3..40), budget in 1_usize..50,
        encoding in proptest::sample::select(&KvEncoding::ALL[..]),
    ) {
        let budget = budget.min(prompt.len() - 2);
        let sends = BlockKv {
            span: Some(TokenSpan { first: 0, last: budget.div_ceil(2) }),
            heavy: budget / 2,
            encoding,
        };
        let plan = (0..DEPTH).fold(KvPlan::send_all(DEPTH), |plan, id| plan.with_block(BlockId::new(id), sends));
        let policy = H2o { budget: Budget::Positions(budget) };
        let policy = PolicyTransfer::new(policy, BlockSet::all(DEPTH), encoding);
        let (by_policy, seen_by_policy) = scored(&policy, &prompt);
        let (by_plan, seen_by_plan) = scored(&PlannedTransfer::new(plan), &prompt);
        for (one, other) in seen_by_plan.iter().zip(&seen_by_policy) {
            for head in 0..HEADS {
                prop_assert_eq!(one.head_positions(0, head), other.head_positions(0, head));
            }
        }
        prop_assert_eq!(by_plan.continuations, by_policy.continuations);
        // Of the positions before the last ones, a bit for each says whether it was chosen.
        let read = prompt.len() - 1;
        let chooses = budget / 2 > 0 && budget < read;
        let bits = if chooses { HEADS * (read - budget.div_ceil(2)).div_ceil(8) } else { 0 };
        prop_assert_eq!(by_plan.kv_bytes.0, by_policy.kv_bytes.0 + (DEPTH * bits) as u64);
    }

    #[test]
    fn every_head_keeps_the_budget_and_the_last_position(
        prompt in proptest::collection::vec(0_u32..96, 2..60), share in 0.05_f64..1.0,
        blocks in proptest::collection::btree_set(0..DEPTH, 1..=DEPTH),
    ) {
        let (read, budget) = (prompt.len() - 1, Budget::Share(share));
        let set = BlockSet::from_indices(DEPTH, blocks.iter().copied()).unwrap();
        for policy in evictions(budget) {
            let name = policy.name();
            let transfer = PolicyTransfer::new(policy, set.clone(), KvEncoding::Held);
            let (scores, caches) = scored(&transfer, &prompt);
            let kept = budget.of(read);
            for (id, cache) in caches.iter().enumerate() {
                let expected = if blocks.contains(&id) { kept } else { read };
                prop_assert_eq!(cache.len(), expected, "{}", name);
                for head in 0..HEADS {
                    let positions = cache.head_positions(0, head);
                    prop_assert!(positions.is_sorted_by(|a, b| a < b), "{}", name);
                    prop_assert_eq!(positions.last(), Some(&TokenPosition(read - 1)), "{}", name);
                }
                prop_assert!(cache.observed().is_none());
            }
            let positions = kept * blocks.len() + read * (DEPTH - blocks.len());
            prop_assert_eq!(scores.kv_bytes.0 as usize, positions * 2 * HEADS * WIDTH * 4, "{}", name);
        }
    }

    #[test]
    fn heads_that_share_a_budget_keep_it_together(
        prompt in proptest::collection::vec(0_u32..96, 2..60), share in 0.1_f64..1.0, own in 0.0_f64..1.0,
    ) {
        let (read, budget) = (prompt.len() - 1, Budget::Share(share));
        let with = |own, encoding| scored(&PolicyTransfer::new(ada(budget, own), BlockSet::all(DEPTH), encoding), &prompt);
        let (scores, caches) = with(own, KvEncoding::Held);
        let (encoded, _) = with(own, KvEncoding::Bf16);
        for cache in &caches {
            let kept: Vec<usize> = (0..HEADS).map(|head| cache.head_positions(0, head).len()).collect();
            prop_assert_eq!(kept.iter().sum::<usize>(), budget.of(read) * HEADS);
            prop_assert_eq!(kept.iter().copied().max(), Some(cache.len()));
        }
        let elements = budget.of(read) * HEADS * 2 * WIDTH * DEPTH;
        prop_assert_eq!(scores.kv_bytes.0 as usize, 4 * elements);
        prop_assert_eq!(encoded.kv_bytes.0 as usize, 2 * elements);
        // With nothing to share they are as SnapKV's.
        let snap = PolicyTransfer::new(ada(budget, 1.0).snap, BlockSet::all(DEPTH), KvEncoding::Held);
        prop_assert_eq!(with(1.0, KvEncoding::Held).0, scored(&snap, &prompt).0);
    }

    #[test]
    fn a_budget_of_everything_changes_nothing(prompt in proptest::collection::vec(0_u32..96, 2..40)) {
        let (all, _) = scored(&SendAll, &prompt);
        for policy in evictions(Budget::Share(1.0)) {
            let name = policy.name();
            let transfer = PolicyTransfer::new(policy, BlockSet::all(DEPTH), KvEncoding::Held);
            prop_assert_eq!(&scored(&transfer, &prompt).0, &all, "{}", name);
        }
        let think = Think { channels: 1.0, window: 8 };
        let (scores, _) = scored(&PolicyTransfer::new(think, BlockSet::all(DEPTH), KvEncoding::Held), &prompt);
        prop_assert_eq!(&scores.continuations, &all.continuations);
    }
}

/// A block's cache of one row: keys as given `[place][head]`, and queries for the last places.
fn by_hand(keys: &[[f32; HEADS]], queries: usize) -> BlockCache {
    let places = keys.len();
    let wide = |value: f32| [value].into_iter().chain([0.0; WIDTH - 1]);
    let data = keys.iter().flatten().flat_map(|&key| wide(key)).collect();
    let tensor = |data: Vec<f32>, rows: usize| {
        let data = TensorData::new(data, [1, rows, HEADS, WIDTH]);
        Tensor::<4>::from_data(data, &Device::flex())
    };
    let keys = tensor(data, places);
    let mut cache = BlockCache::with_capacity(0).observing(queries);
    cache.append(keys.clone(), keys, TokenPosition(0));
    let asked = (0..places * HEADS).flat_map(|_| wide(1.0)).collect();
    cache.observe(&tensor(asked, places));
    cache
}

fn positions(kept: Kept) -> Vec<Vec<usize>> {
    match kept {
        Kept::ByHead(mut rows) => rows.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_head_keeps_where_its_own_queries_look() {
    // Head 0 looks at place 2, head 1 at place 5.
    let mut keys = [[0.0; HEADS]; 12];
    keys[2][0] = 20.0;
    keys[5][1] = 20.0;
    let cache = by_hand(&keys, usize::MAX);
    let budget = Budget::Positions(3);
    let snap = SnapKv {
        budget,
        window: 2,
        kernel: 1,
    };
    let kept = positions(snap.keep(&cache).unwrap());
    assert_eq!(kept, [[2, 10, 11], [5, 10, 11]]);
    let kept = positions(H2o { budget }.keep(&cache).unwrap());
    assert_eq!(kept, [[2, 10, 11], [5, 10, 11]]);
    // What surrounds an important place stays with a wider kernel.
    let wide = SnapKv {
        budget: Budget::Positions(5),
        window: 2,
        kernel: 3,
    };
    let kept = positions(wide.keep(&cache).unwrap());
    assert_eq!(kept, [[1, 2, 3, 10, 11], [4, 5, 6, 10, 11]]);
}

#[test]
fn channels_that_queries_do_not_meet_go_and_their_bytes_are_not_counted() {
    let cache = by_hand(&[[3.0, 1.0]; 6], 4);
    let think = Think {
        channels: 0.125,
        window: 4,
    };
    assert_eq!(
        think.keep(&cache).unwrap(),
        Kept::Channels(vec![vec![vec![0]; HEADS]])
    );
    let transfer = PolicyTransfer::new(think, BlockSet::all(DEPTH), KvEncoding::Held);
    let received = transfer.transfer(BlockId::new(0), cache.clone()).unwrap();
    // 6 positions: one channel of the keys, eight of the values, 4 bytes each, and a byte a head.
    assert_eq!(
        received.bytes.0 as usize,
        6 * HEADS * (1 + WIDTH) * 4 + HEADS
    );
    // Only channel 0 held anything.
    let difference = (received.cache.keys() - cache.keys()).abs().max();
    assert!(difference.into_scalar::<f32>() < 1e-6);
}

#[test]
fn a_policy_that_looks_at_queries_says_when_there_are_none() {
    let cache = by_hand(&[[1.0; HEADS]; 4], 0);
    let refused = H2o {
        budget: Budget::Positions(2),
    }
    .keep(&cache);
    assert!(matches!(refused, Err(pdtrim_kv::Error::NoQueries)));
}

#[test]
fn the_loss_sees_policies_as_the_pipeline_does() {
    let model = TinyModel::default().build();
    let window = |n: u32| (0..36).map(|m| (m * m + 7 * n + 1) % 96).collect();
    let windows: Vec<Vec<u32>> = (0..3).map(window).collect();
    let calibration = Calibration::new(windows.clone(), 30).unwrap();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Decode);
    let removed = PerStage::dense(DEPTH);
    let mut policies = evictions(Budget::Positions(8));
    policies.push(Box::new(ada(Budget::Positions(8), 0.2)));
    policies.push(Box::new(Think {
        channels: 0.5,
        window: 8,
    }));
    for policy in policies {
        let name = policy.name();
        let transfer = PolicyTransfer::new(policy, BlockSet::all(DEPTH), KvEncoding::Int8);
        let measured = loss.cost_with(&removed, &transfer).unwrap();
        let pd = PdModel::new(
            &model,
            removed.clone(),
            KvFill::Nested,
            Boundary::Decode,
            &transfer,
        );
        let pd = pd.unwrap();
        let scores = windows.iter().map(|window| {
            let scores = pd.score(&window[..30], &[&window[30..]]).unwrap();
            -scores.continuations[0].sum() / 6.0
        });
        let mean = scores.sum::<f64>() / 3.0;
        assert!((measured - mean).abs() < 2e-5, "{name}: {measured} {mean}");
    }
}
