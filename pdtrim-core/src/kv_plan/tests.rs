use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn kept_places_are_the_first_and_the_last_in_order(first in 0_usize..20, last in 0_usize..20, n in 0_usize..50) {
        let span = TokenSpan { first, last };
        let places = span.places(n);
        prop_assert_eq!(places.len(), span.kept(n));
        prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        for place in 0..n {
            let kept = place < first || place + last >= n;
            prop_assert_eq!(places.contains(&place), kept);
        }
    }

    #[test]
    fn groups_describe_the_whole_plan(
        ids in proptest::collection::btree_set(0_usize..12, 0..12), first in 0_usize..4,
        encodings in proptest::collection::vec(proptest::sample::select(&KvEncoding::ALL[..]), 12),
        heavy in proptest::collection::vec(0_usize..3, 12),
    ) {
        let blocks = BlockSet::from_indices(12, ids).unwrap();
        let plan = KvPlan::uniform(&blocks, TokenSpan { first, last: 7 });
        let encoded = encodings.into_iter().enumerate();
        let plan = encoded.fold(plan, |plan, (id, encoding)| plan.encoded(BlockId::new(id), encoding));
        let plan = heavy.into_iter().enumerate().fold(plan, |plan, (id, heavy)| {
            let sends = plan.block(BlockId::new(id));
            plan.with_block(BlockId::new(id), BlockKv { heavy, ..sends })
        });
        let groups = plan.to_groups();
        prop_assert_eq!(&KvPlan::from_groups(12, &groups).unwrap(), &plan);
        let text = serde_json::to_string(&groups).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<KvGroup>>(&text).unwrap(), groups);
    }
}

#[test]
fn a_prompt_of_first_plus_last_positions_is_not_trimmed() {
    assert!(!TokenSpan { first: 4, last: 64 }.trims(68));
    assert!(TokenSpan { first: 4, last: 64 }.trims(69));
}

#[test]
fn a_block_in_two_groups_is_refused() {
    for sends in [
        BlockKv::default(),
        BlockKv {
            span: Some(TokenSpan { first: 1, last: 1 }),
            ..BlockKv::default()
        },
    ] {
        let group = KvGroup {
            blocks: vec![1, 2],
            sends,
        };
        let refused = KvPlan::from_groups(4, &[group.clone(), group]);
        assert!(matches!(refused, Err(Error::KvBlockTwice { block: 1 })));
    }
}

#[test]
fn a_group_is_written_as_its_fields_and_half_a_span_is_refused() {
    let read = |text: &str| serde_json::from_str::<KvGroup>(text);
    let text = r#"{"blocks":[1],"first":4,"last":60,"encoding":"fp8-e4m3"}"#;
    let group = read(text).unwrap();
    assert_eq!(group.sends.encoding, KvEncoding::Fp8E4m3);
    assert_eq!(serde_json::to_string(&group).unwrap(), text);
    let text = r#"{"blocks":[1],"first":4,"last":60}"#;
    assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
    for half in [r#"{"blocks":[1],"first":4}"#, r#"{"blocks":[1],"last":4}"#] {
        let error = read(half).unwrap_err().to_string();
        assert!(
            error.contains("`first`") && error.contains("`last`"),
            "{error}"
        );
    }
    assert!(read(r#"{"blocks":[1],"encoding":"int3"}"#).is_err());
}

#[test]
fn heavy_positions_are_written_and_want_a_span() {
    let read = |text: &str| serde_json::from_str::<KvGroup>(text);
    let text = r#"{"blocks":[1],"first":4,"last":60,"heavy":40,"encoding":"int4"}"#;
    let group = read(text).unwrap();
    assert_eq!(group.sends.heavy, 40);
    assert_eq!(serde_json::to_string(&group).unwrap(), text);
    let error = read(r#"{"blocks":[1],"heavy":40}"#)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`first` and `last` beside `heavy`"),
        "{error}"
    );
    // Without a span everything crosses, and a plan does not say otherwise.
    let lone = BlockKv {
        heavy: 3,
        ..BlockKv::default()
    };
    assert!(
        KvPlan::send_all(2)
            .with_block(BlockId::new(0), lone)
            .sends_all()
    );
}

#[test]
fn a_budget_and_the_share_of_first_positions_are_another_way_to_say_it() {
    let read = |text: &str| serde_json::from_str::<KvGroup>(text);
    let group = read(r#"{"blocks":[1],"budget":64,"first_ratio":0.0625}"#).unwrap();
    assert_eq!(group.sends.span, Some(TokenSpan { first: 4, last: 60 }));
    let text = serde_json::to_string(&group).unwrap();
    assert_eq!(text, r#"{"blocks":[1],"first":4,"last":60}"#);
    for (wrong, named) in [
        (r#"{"blocks":[1],"budget":64}"#, "`first_ratio`"),
        (r#"{"blocks":[1],"first_ratio":0.5}"#, "`budget`"),
        (r#"{"blocks":[1],"budget":64,"first_ratio":1.5}"#, "1.5"),
        (
            r#"{"blocks":[1],"budget":64,"first_ratio":0.5,"first":1,"last":2}"#,
            "all of them",
        ),
    ] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    for budget in 0..40 {
        for ratio in [0.0, 0.1, 0.5, 1.0] {
            let span = TokenSpan::from_budget(budget, ratio).unwrap();
            assert_eq!(span.first + span.last, budget);
        }
    }
}
