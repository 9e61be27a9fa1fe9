//! What a block of SmolLM2-135M's shape costs to hand over, on the CPU: `cargo bench --workspace --bench transfer`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::pipeline::CacheTransfer;
use pdtrim_core::{BlockId, BlockKv, KvEncoding, KvPlan, TokenSpan};
use pdtrim_kv::PlannedTransfer;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let span = |last| Some(TokenSpan { first: 4, last });
    let sends = [
        ("first and last", span(200), 0, KvEncoding::Held),
        ("heavy", span(100), 100, KvEncoding::Held),
        ("all, int4", None, 0, KvEncoding::Int4),
        ("heavy, int4", span(100), 100, KvEncoding::Int4),
    ];
    for prompt in [512, 1024, 4096] {
        let cache = cache(prompt);
        let mut group = criterion.benchmark_group("transfer");
        group.throughput(Throughput::Elements(prompt as u64));
        for (name, span, heavy, encoding) in sends {
            let sends = BlockKv {
                span,
                heavy,
                encoding,
            };
            let block = BlockId::new(0);
            let transfer = PlannedTransfer::new(KvPlan::send_all(1).with_block(block, sends));
            group.bench_function(BenchmarkId::new(name, prompt), |bencher| {
                bencher.iter_batched(
                    || cache.clone(),
                    |cache| black_box(transfer.transfer(block, cache)),
                    BatchSize::LargeInput,
                );
            });
        }
        group.finish();
    }
    criterion.final_summary();
}

/// Keys and values of a prompt, with all of its queries.
fn cache(prompt: usize) -> BlockCache {
    let random = |heads| {
        let distribution = Distribution::Normal(0.0, 1.0);
        Tensor::<4>::random([1, prompt, heads, 64], distribution, &Device::flex())
    };
    let mut cache = BlockCache::with_capacity(0).observing(usize::MAX);
    cache.append(random(3), random(3), TokenPosition(0));
    cache.observe(&random(9));
    cache
}
