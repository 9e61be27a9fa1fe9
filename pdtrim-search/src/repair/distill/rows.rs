//! The windows as each stage meets them, batch by batch: what enters its first trained block, and what the
//! dense model makes of it.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::model::{BlockModel, token_tensor};
use pdtrim_core::objective::Calibration;
use pdtrim_core::{BlockId, BlockSet, Boundary, PerStage, Stage};

use super::DistillRepair;
use crate::error::Result;
use pdtrim_core::draw::{shuffled, stream};

/// Hidden states `[batch, seq, hidden]`, batch by batch.
pub(super) type States = Vec<Tensor<3>>;

/// The windows in batches, and the dense model's hidden states on them.
pub(super) struct Batches {
    windows: Vec<Vec<Vec<u32>>>,
    /// Tokens that prefill reads; decode is fed the others.
    read: usize,
    seed: u64,
    /// After each end of a run and the last block, at all positions.
    dense: BTreeMap<BlockId, States>,
}

/// A stage's rows where its first trained block begins.
pub(super) struct StageRows {
    pub(super) first: BlockId,
    pub(super) hidden: States,
    start: TokenPosition,
    /// What decode received of each block that it keeps, batch by batch; nothing for prefill.
    caches: Vec<BTreeMap<BlockId, BlockCache>>,
}

impl Batches {
    pub(super) fn new(
        calibration: &Calibration,
        boundary: Boundary,
        repair: &DistillRepair,
    ) -> Self {
        let all = calibration.windows();
        let order = shuffled(all.len(), repair.seed);
        let windows: Vec<_> = order.iter().map(|&n| all[n].clone()).collect();
        let prompt = calibration.prompt_tokens();
        Self {
            windows: windows.chunks(repair.batch).map(<[_]>::to_vec).collect(),
            read: match boundary {
                Boundary::Prefill => prompt,
                Boundary::Decode => prompt - 1,
            },
            seed: repair.seed,
            dense: BTreeMap::new(),
        }
    }

    /// The batch of each of `steps` steps: all of them, in another order each time round.
    pub(super) fn order(&self, part: usize, steps: usize) -> Vec<usize> {
        let seed = stream(self.seed, part);
        let count = self.windows.len();
        let rounds = (0..steps.div_ceil(count)).map(|round| shuffled(count, stream(seed, round)));
        rounds.flatten().take(steps).collect()
    }

    /// Runs the dense model, if that was not done yet.
    pub(super) fn learn(&mut self, model: &impl BlockModel, after: &[BlockId]) -> Result<()> {
        if !self.dense.is_empty() {
            return Ok(());
        }
        let depth = model.dims().n_blocks;
        for windows in &self.windows {
            let mut hidden = embedded(model, windows, 0..windows[0].len())?;
            for id in (0..depth).map(BlockId::new) {
                let mut cache = BlockCache::with_capacity(0);
                hidden = model.run_block(id, hidden, TokenPosition(0), &mut cache);
                if after.contains(&id) || id.index() + 1 == depth {
                    self.dense.entry(id).or_default().push(hidden.clone());
                }
            }
        }
        Ok(())
    }

    /// The dense model's hidden states after `id`, at the stage's positions.
    pub(super) fn states(&self, stage: Stage, id: BlockId) -> States {
        let states = self.dense[&id].iter();
        states
            .map(|hidden| match stage {
                Stage::Prefill => hidden.clone(),
                Stage::Decode => {
                    let tokens = hidden.dims()[1];
                    hidden.clone().narrow(1, self.read, tokens - self.read)
                }
            })
            .collect()
    }

    /// Prefill's rows: whole windows, so that a window gives as many predictions as it has tokens.
    pub(super) fn prefill_rows(
        &self,
        model: &impl BlockModel,
        removed: &PerStage<BlockSet>,
        first: BlockId,
    ) -> Result<StageRows> {
        let mut hidden = States::new();
        for windows in &self.windows {
            let mut rows = embedded(model, windows, 0..windows[0].len())?;
            for id in (0..first.index()).map(BlockId::new) {
                if !removed.prefill.contains(id) {
                    let mut cache = BlockCache::with_capacity(0);
                    rows = model.run_block(id, rows, TokenPosition(0), &mut cache);
                }
            }
            hidden.push(rows);
        }
        Ok(StageRows {
            first,
            caches: vec![BTreeMap::new(); hidden.len()],
            hidden,
            start: TokenPosition(0),
        })
    }

    /// Decode's rows, on the keys and values that `prefill` makes of the prompts.
    pub(super) fn decode_rows(
        &self,
        model: &impl BlockModel,
        prefill: &impl BlockModel,
        removed: &PerStage<BlockSet>,
        first: BlockId,
    ) -> Result<StageRows> {
        let start = TokenPosition(self.read);
        let mut rows = StageRows {
            first,
            hidden: States::new(),
            start,
            caches: Vec::new(),
        };
        for windows in &self.windows {
            let tokens = windows[0].len();
            let mut prompt = match self.read {
                0 => None,
                read => Some(embedded(prefill, windows, 0..read)?),
            };
            let mut hidden = embedded(model, windows, self.read..tokens)?;
            let mut caches = BTreeMap::new();
            for id in (0..model.dims().n_blocks).map(BlockId::new) {
                let keeps = |stage| !removed.of(stage).contains(id);
                let mut cache = BlockCache::with_capacity(0);
                if let Some(rows) = prompt.take() {
                    let (at, kept) = (TokenPosition(0), keeps(Stage::Prefill));
                    if !kept && keeps(Stage::Decode) {
                        prefill.project_kv(id, rows.clone(), at, &mut cache);
                    }
                    prompt = Some(if kept {
                        prefill.run_block(id, rows, at, &mut cache)
                    } else {
                        rows
                    });
                }
                if !keeps(Stage::Decode) {
                    continue;
                }
                if id < first {
                    hidden = model.run_block(id, hidden, start, &mut cache);
                } else {
                    caches.insert(id, cache);
                }
            }
            rows.hidden.push(hidden);
            rows.caches.push(caches);
        }
        Ok(rows)
    }
}

impl StageRows {
    /// All batches after `blocks` of `model`.
    pub(super) fn run(&self, model: &impl BlockModel, blocks: &[BlockId]) -> States {
        let batches = self.hidden.iter().enumerate();
        batches
            .map(|(batch, hidden)| self.run_batch(model, batch, hidden.clone(), blocks))
            .collect()
    }

    /// `hidden` of one batch after `blocks` of `model`.
    pub(super) fn run_batch(
        &self,
        model: &impl BlockModel,
        batch: usize,
        hidden: Tensor<3>,
        blocks: &[BlockId],
    ) -> Tensor<3> {
        blocks.iter().fold(hidden, |hidden, &id| {
            let received = self.caches[batch].get(&id).cloned();
            let mut cache = received.unwrap_or_else(|| BlockCache::with_capacity(0));
            model.run_block(id, hidden, self.start, &mut cache)
        })
    }
}

fn embedded(
    model: &impl BlockModel,
    windows: &[Vec<u32>],
    part: std::ops::Range<usize>,
) -> Result<Tensor<3>> {
    let start = TokenPosition(part.start);
    let rows: Vec<&[u32]> = windows.iter().map(|window| &window[part.clone()]).collect();
    Ok(model.embed(token_tensor(model, &rows)?, start))
}
