use proptest::prelude::*;

use super::*;

/// Two groups of two inputs, four channels: 40 + 40 + 4 · 5 parameters.
const SIZE: BlockSize = BlockSize {
    groups: 2,
    channels: 4,
    group_parameters: 40,
    channel_parameters: 5,
};

fn table(blocks: &[([f64; 4], [f64; 4])]) -> Vec<BlockScores> {
    let rows = blocks.iter().enumerate();
    rows.map(|(block, (attention, mlp))| BlockScores {
        block: BlockId::new(block),
        attention: attention.to_vec(),
        mlp: mlp.to_vec(),
    })
    .collect()
}

fn choose(
    strategy: &dyn WidthStrategy,
    scores: &[BlockScores],
    size: BlockSize,
    ratio: f64,
    given: &StageWidths,
) -> Result<StageWidths> {
    strategy.choose(&WidthProblem {
        scores,
        size,
        ratio,
        given,
    })
}

fn removed(block: usize, groups: &[usize], channels: &str) -> (BlockId, RemovedWidth) {
    let width = RemovedWidth {
        groups: groups.iter().copied().collect(),
        channels: channels.parse().unwrap(),
    };
    (BlockId::new(block), width)
}

#[test]
fn flap_ranks_standardised_scores_over_all_blocks() {
    // Attention of block 0: mean 2.5, deviation √1.25: -1.34, -0.45, 0.45, 1.34; groups -0.894, 0.894.
    // Block 1, ten times the scale: the same. MLP of block 0: mean 1.5, deviation √1.25, so -1.34, -0.45,
    // 0.45, 1.34; of block 1: mean 4, deviation √12: three of -0.58 and one of 1.73.
    let scores = table(&[
        ([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]),
        ([40.0, 30.0, 20.0, 10.0], [2.0, 2.0, 10.0, 2.0]),
    ]);
    let none = StageWidths::new();
    let chosen = |ratio| choose(&Flap, &scores, SIZE, ratio, &none).unwrap();
    // 5 of 200: the lowest is channel 0 of block 0.
    assert_eq!(chosen(0.025), [removed(0, &[], "0")].into());
    // 45: then group 0 of block 0.
    assert_eq!(chosen(0.225), [removed(0, &[0], "0")].into());
    // 85: then group 1 of block 1, the one of its lower scores.
    assert_eq!(
        chosen(0.425),
        [removed(0, &[0], "0"), removed(1, &[1], "")].into()
    );
    // 100: then channels of block 1, in order.
    assert_eq!(
        chosen(0.5),
        [removed(0, &[0], "0"), removed(1, &[1], "0-1,3")].into()
    );
    // 10: a group would overshoot by 35, so the next channels go instead.
    assert_eq!(
        chosen(0.05),
        [removed(0, &[], "0"), removed(1, &[], "0")].into()
    );
}

#[test]
fn a_block_keeps_a_group_and_some_channels() {
    let scores = table(&[([0.0; 4], [0.0; 4]); 2]);
    let none = StageWidths::new();
    // Of 100 parameters of a block, 40 and 5 always stay.
    let chosen = choose(&Flap, &scores, SIZE, 0.55, &none).unwrap();
    for width in chosen.values() {
        assert_eq!((width.groups.len(), width.channels.len()), (1, 3));
    }
    let refused = choose(&Flap, &scores, SIZE, 0.8, &none);
    assert!(
        matches!(refused, Err(Error::WidthRatio { .. })),
        "{refused:?}"
    );
}

#[test]
fn llm_pruner_takes_the_same_share_of_the_middle_blocks() {
    let size = BlockSize {
        channels: 32,
        ..SIZE
    };
    let row = |block| BlockScores {
        block: BlockId::new(block),
        attention: vec![2.0, 1.0],
        mlp: (0..32).map(f64::from).rev().collect(),
    };
    let scores: Vec<BlockScores> = (0..16).map(row).collect();
    // 240 · 16 parameters; blocks 2 to 14 are the middle: 13 · 240.
    let chosen = choose(&LlmPruner, &scores, size, 0.25, &StageWidths::new()).unwrap();
    let blocks: Vec<usize> = chosen.keys().map(|id| id.index()).collect();
    assert_eq!(blocks, (2..15).collect::<Vec<_>>());
    // 0.25 · 16 / 13 of two groups is one, the lower; 960 - 13 · 40 = 440 parameters are 88 channels.
    for width in chosen.values() {
        assert_eq!(width.groups.to_string(), "1");
        assert!((6..=7).contains(&width.channels.len()));
        assert!(width.channels.iter().all(|channel| channel >= 25));
    }
    let channels: usize = chosen.values().map(|width| width.channels.len()).sum();
    assert_eq!(channels, 88);
}

#[test]
fn tables_and_ratios_that_make_no_sense_are_refused() {
    let none = StageWidths::new();
    let mut scores = table(&[([0.0, 1.0, 2.0, 3.0], [0.0; 4])]);
    for strategy in [&Flap as &dyn WidthStrategy, &LlmPruner] {
        for ratio in [-0.1, 1.0, f64::NAN] {
            let refused = choose(strategy, &scores, SIZE, ratio, &none);
            assert!(matches!(refused, Err(Error::WidthRatio { .. })));
        }
    }
    scores[0].mlp[2] = f64::NAN;
    let refused = choose(&Flap, &scores, SIZE, 0.1, &none);
    assert!(matches!(refused, Err(Error::WidthScores { block: 0 })));
    scores[0].mlp.pop();
    let refused = choose(&Flap, &scores, SIZE, 0.1, &none);
    assert!(matches!(refused, Err(Error::WidthScores { block: 0 })));
}

proptest! {
    #[test]
    fn decode_is_without_the_groups_of_prefill_and_the_ratio_is_reached(
        values in proptest::collection::vec(0.0_f64..1.0, 8 * (4 + 64)),
        prefill in 0.02_f64..0.3,
        more in 0.0_f64..0.2,
    ) {
        let size = BlockSize { channels: 64, ..SIZE };
        let rows = values.chunks(4 + 64).enumerate();
        let scores: Vec<BlockScores> = rows
            .map(|(block, row)| BlockScores {
                block: BlockId::new(block),
                attention: row[..4].to_vec(),
                mlp: row[4..].to_vec(),
            })
            .collect();
        let mut reversed = scores.clone();
        for row in &mut reversed {
            row.attention.reverse();
            row.mlp.reverse();
        }
        let none = StageWidths::new();
        let given = choose(&Flap, &scores, size, prefill, &none).unwrap();
        let chosen = choose(&Flap, &reversed, size, prefill + more, &given).unwrap();
        for (id, width) in &given {
            prop_assert!(width.groups.is_empty() || width.groups.is_subset(&chosen[id].groups));
        }
        for (widths, ratio) in [(&given, prefill), (&chosen, prefill + more)] {
            let gone: usize = widths.values().map(|width| size.removed_parameters(width)).sum();
            let target = ratio * (8 * size.parameters()) as f64;
            // Within one channel.
            prop_assert!((gone as f64 - target).abs() <= 5.0, "{gone} of {target}");
        }
    }
}
