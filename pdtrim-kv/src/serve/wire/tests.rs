use std::sync::Arc;

use pdtrim_core::model::BlockModel;
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockId, BlockKv, BlockSet, Boundary, KvFill, KvPlan, PerStage, TokenSpan};

use prost::Message as _;

use super::*;
use crate::serve::served::{Served, ServedParts};

fn served(encoding: KvEncoding, boundary: Boundary) -> Served {
    let model: Arc<dyn BlockModel> = Arc::new(TinyModel::default().build());
    let span = TokenSpan { first: 2, last: 5 };
    let spanned = BlockSet::from_indices(5, [0, 3]).unwrap();
    let heavy = BlockKv {
        span: Some(TokenSpan { first: 1, last: 3 }),
        heavy: 4,
        encoding,
    };
    let kv = KvPlan::uniform(&spanned, span).encoded_everywhere(encoding);
    Served::new(ServedParts {
        models: PerStage::both(model),
        removed: PerStage {
            prefill: BlockSet::empty(5),
            decode: BlockSet::from_indices(5, [1]).unwrap(),
        },
        kv_fill: KvFill::Nested,
        boundary,
        kv: kv.with_block(BlockId::new(4), heavy),
        model_hash: "sha256:model".to_owned(),
        weights_hash: None,
    })
    .unwrap()
}

/// The blocks of a prompt of 12 tokens, and what prefill holds of them.
fn blocks(served: &Served) -> Vec<(BlockOnWire, BlockCache)> {
    let transfer = crate::PlannedTransfer::new(
        served
            .parts()
            .kv
            .clone()
            .encoded_everywhere(KvEncoding::Held),
    );
    let prompt: Vec<u32> = (5..17).collect();
    let handover = served.pd(&transfer).prefill(&[&prompt[..]]).unwrap();
    let blocks = served.on_wire(12).into_iter();
    blocks
        .map(|block| {
            let cache = handover.cache().block(block.id).unwrap().clone();
            (block, cache)
        })
        .collect()
}

fn parts(served: &Served, zstd: bool) -> Vec<Part> {
    let identity = served.identity();
    let mut parts = Vec::new();
    let mut total = 0;
    let blocks = blocks(served);
    for (block, cache) in &blocks {
        let bytes = encode(block, cache).unwrap();
        assert_eq!(bytes.len(), block.bytes());
        total += bytes.len() as u64;
        parts.extend(messages(identity, block, &bytes, zstd));
    }
    if served.sends_last_hidden() {
        let hidden = Tensor::ones([1, 32], served.model().device());
        parts.push(last_hidden(identity, hidden));
    }
    parts.push(end(identity, blocks.len(), total));
    parts
}

fn assembler(served: &Served) -> Assembler {
    let blocks = served.on_wire(12);
    Assembler::new(
        served.identity().clone(),
        blocks,
        served.sends_last_hidden(),
    )
}

fn values(cache: &BlockCache) -> Vec<f32> {
    let all = [cache.keys(), cache.values()].map(elements);
    all.concat()
}

#[test]
fn what_is_sent_arrives_with_its_positions() {
    for encoding in KvEncoding::ALL {
        for zstd in [false, true] {
            let served = served(encoding, Boundary::Prefill);
            let sent = blocks(&served);
            let mut assembler = assembler(&served);
            let mut arrived = Vec::new();
            let mut ended = 0;
            for part in parts(&served, zstd) {
                match assembler.push(part).unwrap() {
                    Some(Arrived::Block(block, bytes)) => arrived.push((block, bytes)),
                    Some(Arrived::Last(values)) => assert_eq!(values, [1.0; 32]),
                    Some(Arrived::End) => ended += 1,
                    None => {}
                }
            }
            assert_eq!((arrived.len(), ended), (4, 1));
            assert_eq!(assembler.kv_bytes(), served.kv_bytes(12));
            for ((block, bytes), (_, cache)) in arrived.iter().zip(&sent) {
                let device = served.model().device();
                let there = decode(block, bytes, DType::F32, device).unwrap();
                assert_eq!(there.positions().is_none(), block.heavy.is_some());
                for head in 0..2 {
                    let positions = there.head_positions(0, head);
                    assert_eq!(positions, cache.head_positions(0, head));
                    assert_eq!(positions.len(), block.shape.positions);
                }
                let (here, there) = (values(cache), values(&there));
                let tolerance = if encoding == KvEncoding::Held {
                    0.0
                } else {
                    0.3
                };
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= tolerance;
                assert!(here.iter().zip(&there).all(near), "{encoding} {block:?}");
            }
        }
    }
}

#[test]
fn plan_and_prompt_say_how_many_bytes_cross() {
    let all = served(KvEncoding::Held, Boundary::Prefill);
    // 4 blocks that decode runs, 2 heads of 8 channels in f32, keys and values; a block of 12
    // positions, one of 8, and two of 7. Of the 8, four were chosen from 8: a byte for each head.
    assert_eq!(all.kv_bytes(12), (12 + 8 + 7 + 7) * 2 * 8 * 4 * 2 + 2);
    assert_eq!(all.dense_bf16_bytes(12), 5 * 12 * 2 * 8 * 2 * 2);
    // Decode runs the last token itself.
    let short = served(KvEncoding::Held, Boundary::Decode);
    assert_eq!(short.kv_bytes(12), (11 + 8 + 7 + 7) * 2 * 8 * 4 * 2 + 2);
}

#[test]
fn a_flipped_bit_anywhere_in_a_message_is_noticed() {
    let served = served(KvEncoding::Held, Boundary::Prefill);
    for (at, part) in parts(&served, false).into_iter().enumerate() {
        let before = parts(&served, false);
        let bytes = part.encode_to_vec();
        for bit in (0..bytes.len() * 8).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(damaged) = Part::decode(&flipped[..]) else {
                continue;
            };
            // Fields that proto3 does not know, and defaults that are written out, change nothing.
            if damaged == part {
                continue;
            }
            let mut assembler = assembler(&served);
            for part in &before[..at] {
                assembler.push(part.clone()).unwrap();
            }
            let refused = assembler.push(damaged.clone());
            assert!(refused.is_err(), "message {at}, bit {bit}: {damaged:?}");
        }
    }
}

/// What happened to a message on its way.
type Damage<'d> = &'d dyn Fn(&mut KvChunk);

#[test]
fn messages_out_of_place_are_refused_by_name() {
    let served = served(KvEncoding::Bf16, Boundary::Prefill);
    let good = parts(&served, false);
    let refused = |parts: Vec<Part>| {
        let mut assembler = assembler(&served);
        let pushed: ServeResult<Vec<_>> =
            parts.into_iter().map(|part| assembler.push(part)).collect();
        pushed.unwrap_err().to_string()
    };
    let changed = |change: Damage<'_>| {
        let mut part = good[0].clone();
        let Some(Content::Kv(chunk)) = &mut part.content else {
            panic!("the first message is a block's");
        };
        change(chunk);
        chunk.crc32 = checksum(chunk);
        refused(vec![part])
    };
    let said = refused(vec![good[1].clone()]);
    assert!(said.contains("block: expected 0, found 2"), "{said}");
    let said = refused(vec![good[0].clone(), good[0].clone()]);
    assert!(said.contains("block: expected 2, found 0"), "{said}");
    let said = refused(vec![good[0].clone(), good[5].clone()]);
    assert!(said.contains("expected block 2, found end"), "{said}");
    let said = refused([&good[..4], &[good[3].clone()]].concat());
    assert!(said.contains("no further block"), "{said}");
    let said = refused([&good[..4], &[good[5].clone()]].concat());
    assert!(said.contains("a hidden state"), "{said}");
    let fields: [(&str, Damage<'_>); 9] = [
        ("positions", &|chunk| chunk.positions = u32::MAX),
        ("heads", &|chunk| chunk.heads += 1),
        ("width", &|chunk| chunk.width = 0),
        ("total", &|chunk| chunk.total = u64::MAX),
        ("offset", &|chunk| chunk.offset = 1),
        ("data", &|chunk| chunk.data = chunk.data.slice(1..)),
        ("data", &|chunk| chunk.inflated = 1 << 40),
        ("encoding", &|chunk| "held".clone_into(&mut chunk.encoding)),
        ("ranges", &|chunk| chunk.ranges[0].end += 1),
    ];
    for (field, change) in fields {
        let said = changed(change);
        assert!(said.contains(&format!("{field}: expected")), "{said}");
    }
    let mut other = good[0].clone();
    other.identity.as_mut().unwrap().plan = "x".repeat(5000);
    let said = refused(vec![other]);
    assert!(said.contains("identity") && said.len() < 600, "{said}");
    let empty = Part {
        content: None,
        ..good[0].clone()
    };
    assert!(refused(vec![empty]).contains("found nothing"));
}

#[test]
fn choices_of_attention_that_the_plan_did_not_ask_for_are_refused() {
    // 11 positions are read: one first, three last, four of the seven between them.
    let served = served(KvEncoding::Held, Boundary::Decode);
    let (block, cache) = blocks(&served).pop().unwrap();
    let bytes = encode(&block, &cache).unwrap();
    let device = served.model().device();
    let decoded = |bits: u8| {
        let mut bytes = bytes.to_vec();
        bytes[1] = bits;
        decode(&block, &bytes, DType::F32, device)
    };
    let chosen = decoded(0b110_0101).unwrap();
    let positions: Vec<usize> = chosen.head_positions(0, 1).iter().map(|at| at.0).collect();
    assert_eq!(positions, [0, 1, 3, 6, 7, 8, 9, 10]);
    for (bits, found) in [
        (0, "0 of 8"),
        (0b111_1111, "7 of 8"),
        (0b110_0001, "3 of 8"),
        // The eighth bit is no position between.
        (0b1110_0001, "4 of 8"),
    ] {
        let said = decoded(bits).unwrap_err().to_string();
        assert!(
            said.contains("chosen positions: expected 4 bits of 7") && said.contains(found),
            "{said}"
        );
    }
}

#[test]
fn a_compressed_message_that_would_swell_is_refused() {
    let served = served(KvEncoding::Held, Boundary::Prefill);
    let (block, _) = &blocks(&served)[0];
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let zeros = vec![0; block.bytes()];
    let mut part = messages(served.identity(), block, &zeros.into(), true)
        .next()
        .unwrap();
    let Some(Content::Kv(chunk)) = &mut part.content else {
        panic!("a block's message");
    };
    assert!(chunk.inflated > 0, "zeros are worth compressing");
    chunk.data = bomb.into();
    chunk.crc32 = checksum(chunk);
    let said = assembler(&served).push(part).unwrap_err().to_string();
    assert!(said.contains("data: expected"), "{said}");
}

#[test]
fn a_large_block_comes_in_messages_of_bounded_size() {
    let served = served(KvEncoding::Held, Boundary::Decode);
    let block = BlockOnWire {
        id: BlockId::new(0),
        ranges: vec![(0, 40_000)],
        heavy: None,
        shape: crate::KvShape {
            positions: 40_000,
            heads: 2,
            width: 8,
        },
        codec: served.block_on_wire(BlockId::new(0), 3).codec,
    };
    let bytes: Vec<u8> = (0..block.bytes()).map(|at| (at % 251) as u8).collect();
    let identity = served.identity().clone();
    let sent: Vec<Part> = messages(&identity, &block, &bytes.clone().into(), false).collect();
    assert_eq!(sent.len(), block.bytes().div_ceil(CHUNK));
    assert!(sent.iter().all(|part| part.encoded_len() <= CHUNK + FRAME));
    let mut assembler = Assembler::new(identity.clone(), vec![block], false);
    let mut arrived = None;
    for part in sent {
        arrived = assembler.push(part).unwrap();
    }
    let Some(Arrived::Block(_, there)) = arrived else {
        panic!("the block is complete");
    };
    assert_eq!(there, bytes);
}

#[test]
fn a_stage_of_the_dense_model_hands_over_what_it_holds() {
    let served = served(KvEncoding::Held, Boundary::Decode);
    let pd: PdModel<'_> = served.pd(&SendAll);
    assert_eq!(pd.boundary(), Boundary::Decode);
    assert_eq!(served.on_wire(1).len(), 4);
    assert!(served.on_wire(1).iter().all(|block| block.bytes() == 0));
}
