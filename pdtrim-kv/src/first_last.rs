//! The first and the last prompt positions of chosen blocks.

use pdtrim_core::cache::KvCache;
use pdtrim_core::pipeline::CacheTransfer;
use pdtrim_core::{KvPlan, Result};

/// Hands over what a [`KvPlan`] lets through. Kept entries keep the token position whose `RoPE` they
/// carry; nothing is renumbered.
#[derive(Clone, Debug)]
pub struct FirstLast {
    plan: KvPlan,
}

impl FirstLast {
    /// Carries out `plan`.
    pub fn new(plan: KvPlan) -> Self {
        Self { plan }
    }

    /// The plan.
    pub fn plan(&self) -> &KvPlan {
        &self.plan
    }
}

impl CacheTransfer for FirstLast {
    fn transfer(&self, mut cache: KvCache) -> Result<KvCache> {
        for (id, block) in cache.iter_mut() {
            if let Some(span) = self.plan.span(id) {
                block.retain_places(&span.places(block.len()));
            }
        }
        Ok(cache)
    }
}
