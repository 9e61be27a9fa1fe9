//! A transfer of one's own between the two stages: what crosses, and what comes out of it.
//!
//! ```text
//! cargo run --release -p pdtrim-core --example own_transfer [MODEL FOLDER OR GGUF FILE]
//! ```
//!
//! Without a model a small one is made up, with weights from a seed: its tokens mean nothing.

#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::path::Path;
use std::sync::Mutex;

use burn::tensor::{DType, Device};
use pdtrim_core::cache::BlockCache;
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::model::{BlockModel, Llama};
use pdtrim_core::pipeline::{CacheTransfer, PdModel, Received, SendAll};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockId, BlockSet, Boundary, KvFill, PerStage, Result};

/// Every other block hands over only its last positions; all say what they sent.
struct LastOfEveryOther {
    last: usize,
    sent: Mutex<Vec<(BlockId, usize)>>,
}

impl CacheTransfer for LastOfEveryOther {
    fn transfer(&self, id: BlockId, mut cache: BlockCache) -> Result<Received> {
        if id.index() % 2 == 1 {
            let from = cache.len().saturating_sub(self.last);
            cache.retain_places(&(from..cache.len()).collect::<Vec<_>>());
        }
        let mut sent = self.sent.lock().expect("no transfer panics");
        sent.push((id, cache.len()));
        Ok(cache.into())
    }
}

fn model() -> Result<Llama> {
    match std::env::args().nth(1) {
        Some(path) => Checkpoint::open(Path::new(&path))?.load(DType::F32, &Device::flex()),
        None => Ok(TinyModel::default().build()),
    }
}

fn main() -> Result<()> {
    let model = model()?;
    let depth = model.dims().n_blocks;
    let prompt: Vec<u32> = (1..25).collect();
    // Decode does without one block more than prefill.
    let removed = PerStage {
        prefill: BlockSet::from_indices(depth, [depth / 2])?,
        decode: BlockSet::from_indices(depth, [depth / 2, depth / 2 + 1])?,
    };
    let ours = LastOfEveryOther {
        last: 8,
        sent: Mutex::default(),
    };
    let all: &dyn CacheTransfer = &SendAll;
    for (name, transfer) in [("all", all), ("ours", &ours)] {
        let (fill, boundary) = (KvFill::Nested, Boundary::Decode);
        let stages = PdModel::new(&model, removed.clone(), fill, boundary, transfer)?;
        let bytes = stages.prefill(&[&prompt])?.kv_bytes();
        let scores = stages.score(&prompt, &[[7, 8, 9]])?;
        let continuation = &scores.continuations[0];
        println!(
            "{name}: {bytes} cross, log-likelihood {:.4}",
            continuation.sum()
        );
    }
    let sent = ours.sent.into_inner().expect("no transfer panics");
    let kept = depth - removed.decode.len();
    println!("of {} positions each block sent:", prompt.len() - 1);
    for (id, positions) in &sent[..kept] {
        println!("  block {id}: {positions}");
    }
    Ok(())
}
