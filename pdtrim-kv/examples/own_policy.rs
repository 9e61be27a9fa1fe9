//! A KV policy of one's own on a cache that comes from anywhere: which positions stay, and what they take on a
//! wire.
//!
//! ```text
//! cargo run --release -p pdtrim-kv --example own_policy
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use burn::tensor::{Device, Distribution, Tensor};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::pipeline::CacheTransfer;
use pdtrim_core::{BlockId, BlockSet, KvEncoding};
use pdtrim_kv::{Budget, Kept, KvPolicy, PolicyTransfer, Result, StreamingLlm};

/// Keeps every n-th position, and the last ones.
struct Strided {
    stride: usize,
    last: usize,
}

impl KvPolicy for Strided {
    fn name(&self) -> &'static str {
        "strided"
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        let recent = cache.len().saturating_sub(self.last);
        let places = (0..cache.len()).filter(|place| place % self.stride == 0 || *place >= recent);
        Ok(Kept::Places(places.collect()))
    }
}

/// Keys and values of `positions` prompt positions, two heads of 64 channels, as an engine may hold them.
fn somebodys_cache(positions: usize) -> BlockCache {
    let device = Device::flex();
    let noise = Distribution::Normal(0.0, 1.0);
    let part = || Tensor::random([1, positions, 2, 64], noise, &device);
    let all = (0..positions).map(TokenPosition).collect();
    BlockCache::of_positions(part(), part(), all)
}

/// Hands 512 positions over, says what arrives, and returns how many do.
fn hand_over(name: &str, transfer: &dyn CacheTransfer) -> Result<usize, Box<dyn Error>> {
    let received = transfer.transfer(BlockId::new(0), somebodys_cache(512))?;
    let positions = received.cache.positions().unwrap_or_default();
    let shown: Vec<usize> = positions
        .iter()
        .take(6)
        .map(|position| position.0)
        .collect();
    let (kept, bytes) = (positions.len(), received.bytes);
    println!("{name}: {kept} of 512 positions, {shown:?} and on, {bytes}");
    Ok(kept)
}

fn main() -> Result<(), Box<dyn Error>> {
    let block = BlockSet::from_indices(1, [0])?;
    let ours = Strided {
        stride: 8,
        last: 32,
    };
    let ours = PolicyTransfer::new(ours, block.clone(), KvEncoding::Int4);
    let kept = hand_over("every eighth and the last 32, in int4", &ours)?;
    let theirs = StreamingLlm {
        sinks: 4,
        budget: Budget::Positions(kept),
    };
    let theirs = PolicyTransfer::new(theirs, block, KvEncoding::Int4);
    hand_over("as many, the first 4 and the last ones, in int4", &theirs)?;
    Ok(())
}
