//! One block and the vocabulary head of a random model of SmolLM2-135M's shape, on the CPU:
//! `cargo bench --workspace --bench kernels`.

use std::hint::black_box;

use burn::tensor::{Device, Int, Tensor, TensorData};
use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::config::{Architecture, ModelConfig};
use pdtrim_core::model::{BlockModel, Llama};
use pdtrim_core::testing::{TinyModel, tiny_config};
use pdtrim_core::{BlockId, token_scores};

/// Context at which decode steps are measured.
const CONTEXT: usize = 512;

fn main() {
    let config = ModelConfig {
        hidden_size: 576,
        intermediate_size: 1536,
        n_blocks: 1,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        vocab_size: 49152,
        context_length: 8192,
        ..tiny_config(Architecture::Llama)
    };
    let model = TinyModel {
        config,
        ..TinyModel::default()
    }
    .build();
    let mut criterion = Criterion::default().configure_from_args();
    prefill(&mut criterion, &model);
    decode(&mut criterion, &model);
    ends(&mut criterion, &model);
    criterion.final_summary();
}

/// Hidden states `[batch, seq, hidden]` of seeded tokens.
fn hidden(model: &Llama, batch: usize, seq: usize) -> Tensor<3> {
    model.embed(ids(batch, seq), TokenPosition(0))
}

fn ids(batch: usize, seq: usize) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..(batch * seq) as i32).map(|n| n * 31 % 49152).collect();
    Tensor::from_data(TensorData::new(ids, [batch, seq]), &Device::flex())
}

fn block() -> BlockId {
    BlockId::new(0)
}

fn prefill(criterion: &mut Criterion, model: &Llama) {
    let mut group = criterion.benchmark_group("cpu/block_prefill");
    for seq in [128, 512, 2048] {
        let hidden = hidden(model, 1, seq);
        let run = |bencher: &mut Bencher<'_>| {
            bencher.iter(|| {
                let mut cache = BlockCache::with_capacity(0);
                let out = model.run_block(block(), hidden.clone(), TokenPosition(0), &mut cache);
                black_box((out, cache))
            });
        };
        group.throughput(Throughput::Elements(seq as u64));
        group.bench_function(BenchmarkId::from_parameter(seq), run);
    }
}

/// One token of each row of a batch at context [`CONTEXT`], whose keys and values lie in one
/// preallocated cache.
fn decode(criterion: &mut Criterion, model: &Llama) {
    let mut group = criterion.benchmark_group(format!("cpu/block_decode_at_{CONTEXT}"));
    for batch in [1, 8] {
        let prompt = hidden(model, batch, CONTEXT);
        let one = hidden(model, batch, 1);
        let filled = || {
            let mut cache = BlockCache::with_capacity(CONTEXT + 1);
            model.project_kv(block(), prompt.clone(), TokenPosition(0), &mut cache);
            cache
        };
        let run = |bencher: &mut Bencher<'_>| {
            bencher.iter_batched_ref(
                filled,
                |cache| {
                    let at = TokenPosition(CONTEXT);
                    black_box(model.run_block(block(), one.clone(), at, cache))
                },
                BatchSize::LargeInput,
            );
        };
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::from_parameter(batch), run);
    }
}

/// What stands before and after the blocks.
fn ends(criterion: &mut Criterion, model: &Llama) {
    let mut group = criterion.benchmark_group("cpu");
    let tokens = ids(1, CONTEXT);
    group.bench_function(format!("embed/{CONTEXT}"), |bencher| {
        bencher.iter(|| black_box(model.embed(tokens.clone(), TokenPosition(0))));
    });
    for rows in [1, 8, 256] {
        let hidden = hidden(model, 1, rows).reshape([rows, 576]);
        group.bench_function(format!("head/{rows}"), |bencher| {
            bencher.iter(|| black_box(model.logits(hidden.clone())));
        });
    }
    let logits = model.logits(hidden(model, 1, 256).reshape([256, 576]));
    let targets = [17; 256];
    group.bench_function("token_scores/256", |bencher| {
        bencher.iter(|| black_box(token_scores(logits.clone(), &targets)));
    });
    let hidden = hidden(model, 1, CONTEXT).reshape([CONTEXT, 576]);
    group.bench_function(format!("rms_norm/{CONTEXT}"), |bencher| {
        bencher.iter(|| black_box(model.weights().norm.forward(hidden.clone())));
    });
}
