//! What one pass over the calibration windows says of each block.

use std::collections::VecDeque;

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Tensor};

use super::CalibrationLoss;
use super::Rows;
use super::stream::{Passage, Split};
use crate::block::{BlockId, BlockSet};
use crate::cache::BlockCache;
use crate::error::Result;
use crate::stage::PerStage;

/// Redundancy of each block: mean over a stage's tokens of cos(input of the block, output of the
/// block), in [-1, 1]; higher = more redundant. `ShortGPT`'s Block Influence (arXiv:2403.03853) is 1 - it.
///
/// ```
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::Boundary;
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Prefill);
/// let redundancy = loss.redundancy()?.0;
/// // One figure for each of the five blocks in each stage.
/// assert_eq!((redundancy.prefill.len(), redundancy.decode.len()), (5, 5));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Redundancy(pub PerStage<Vec<f64>>);

/// Joint redundancy of each two neighbouring blocks l and l + 1: mean over a stage's tokens of
/// cos(input of l, output of l + 1), in [-1, 1]; higher = more redundant. The pairs from a threshold on
/// are those that one distilled block may replace (arXiv:2509.04467, distillation set).
///
/// ```
/// use pdtrim_core::PerStage;
/// use pdtrim_core::objective::PairRedundancy;
///
/// // Of three blocks there are two neighbouring pairs; d_T = 0.95 lets decode's second one pass.
/// let pairs = PairRedundancy(PerStage { prefill: vec![0.7, 0.9], decode: vec![0.8, 0.96] });
/// let candidates = pairs.0.decode.iter().filter(|&&cosine| cosine >= 0.95);
/// assert_eq!(candidates.count(), 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PairRedundancy(pub PerStage<Vec<f64>>);

/// For each block that decode keeps, the mean attention that continuation queries put on each prompt
/// position; the rest of 1 is on decode's own tokens.
///
/// ```
/// use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, Boundary, PerStage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Decode);
/// let profile = loss.attention_profile(&PerStage::dense(5))?;
/// // Prefill ran 11 of the 12 prompt positions.
/// let block = profile.block(BlockId::new(0)).expect("decode runs it");
/// assert_eq!(block.len(), 11);
/// assert!(block.iter().sum::<f64>() < 1.0);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionProfile {
    blocks: Vec<Option<Vec<f64>>>,
}

impl AttentionProfile {
    /// Mean attention on each prompt position, in [0, 1]; `None` for a block that decode does not run.
    pub fn block(&self, id: BlockId) -> Option<&[f64]> {
        self.blocks[id.index()].as_deref()
    }
}

#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, (sum, count): (f64, usize)) {
        self.sum += sum;
        self.count += count;
    }

    fn value(self) -> f64 {
        self.sum / self.count as f64
    }
}

impl CalibrationLoss<'_> {
    /// Redundancy of every block of the dense model. With [`Rows::All`] both stages get the figure over
    /// all tokens of the windows.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange).
    pub fn redundancy(&self) -> Result<Redundancy> {
        Ok(Redundancy(self.run_redundancy(1)?))
    }

    /// Joint redundancy of every two neighbouring blocks of the dense model, the first of them being
    /// its place in the table. With [`Rows::All`] both stages get the figure over all tokens.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange).
    pub fn pair_redundancy(&self) -> Result<PairRedundancy> {
        Ok(PairRedundancy(self.run_redundancy(2)?))
    }

    /// Mean cosine of what enters and what leaves each run of `blocks` neighbouring blocks, by the first
    /// of them.
    fn run_redundancy(&self, blocks: usize) -> Result<PerStage<Vec<f64>>> {
        let depth = self.model().dims().n_blocks;
        let dense = PerStage::dense(depth);
        let split = Split::new(self.calibration, self.rows, self.boundary).with_last_token();
        let passage = Passage::new(self.models, split);
        let runs = (depth + 1).saturating_sub(blocks);
        let mut means = PerStage::both(vec![Mean::default(); runs]);
        let mut streams = passage.enter(&self.windows(&self.all_units()))?;
        // What entered each of the last blocks.
        let mut entered = VecDeque::with_capacity(blocks);
        for id in (0..depth).map(BlockId::new) {
            entered.push_back(streams.clone());
            for stream in &mut streams {
                passage.step(id, &dense, stream);
            }
            let Some(inputs) = (entered.len() == blocks)
                .then(|| entered.pop_front())
                .flatten()
            else {
                continue;
            };
            let first = id.index() + 1 - blocks;
            for (input, output) in inputs.into_iter().zip(&streams) {
                if let (Some(input), Some(output)) = (input.prompt, &output.prompt) {
                    means.prefill[first].add(cosines(input, output.clone()));
                }
                if let (Some(input), Some(output)) = (input.continuation, &output.continuation) {
                    means.decode[first].add(cosines(input, output.clone()));
                }
            }
        }
        if self.rows == Rows::All {
            means.prefill.clone_from(&means.decode);
        }
        let values = |means: Vec<Mean>| means.into_iter().map(Mean::value).collect();
        Ok(PerStage {
            prefill: values(means.prefill),
            decode: values(means.decode),
        })
    }

    /// Where the continuations of the windows look in their prompts, with `removed` and all KV sent.
    ///
    /// # Errors
    ///
    /// [`Error::TokenOutOfRange`](crate::Error::TokenOutOfRange).
    pub fn attention_profile(&self, removed: &PerStage<BlockSet>) -> Result<AttentionProfile> {
        let passage = self.passage();
        let units = self.all_units();
        let run = self.prompt_run(&removed.prefill, &units, 0)?;
        let mut sums: Vec<Option<Vec<f64>>> = vec![None; self.model().dims().n_blocks];
        let mut streams = self.continuations(&passage, &units)?;
        let fed = streams.iter().filter_map(|stream| {
            let [batch, seq, _] = stream.continuation.as_ref()?.dims();
            Some(batch * seq)
        });
        let queries: usize = fed.sum();
        for id in removed.decode.complement().iter() {
            for (stream, group) in streams.iter_mut().zip(&run.groups) {
                let Some(hidden) = stream.continuation.take() else {
                    continue;
                };
                let mut cache = match group.cache.block(id) {
                    Some(cache) => cache.clone(),
                    None => BlockCache::with_capacity(0),
                };
                let start = crate::cache::TokenPosition(passage.split.read);
                let asked = self.model().queries(id, hidden.clone(), start);
                let hidden = self.model().run_block(id, hidden, start, &mut cache);
                stream.continuation = Some(hidden);
                let mass = attention_by_position(asked, cache.keys(), passage.split.read);
                match &mut sums[id.index()] {
                    Some(sum) => sum
                        .iter_mut()
                        .zip(mass)
                        .for_each(|(sum, mass)| *sum += mass),
                    empty => *empty = Some(mass),
                }
            }
        }
        let mean = |sum: Vec<f64>| sum.into_iter().map(|sum| sum / queries as f64).collect();
        Ok(AttentionProfile {
            blocks: sums.into_iter().map(|sum| sum.map(mean)).collect(),
        })
    }
}

/// Sum over tokens of cos(input, output), and the number of tokens; in f64.
fn cosines(input: Tensor<3>, output: Tensor<3>) -> (f64, usize) {
    let [batch, seq, width] = input.dims();
    let host = |hidden: Tensor<3>| hidden.cast(DType::F32).into_data();
    let (input, output) = (host(input), host(output));
    let rows =
        |data: &burn::tensor::TensorData| data.as_slice::<f32>().expect("cast to f32").to_vec();
    let (input, output) = (rows(&input), rows(&output));
    let cosine = |(a, b): (&[f32], &[f32])| {
        let dot = |a: &[f32], b: &[f32]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum::<f64>()
        };
        dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()).max(f64::MIN_POSITIVE)
    };
    let sum = input
        .chunks_exact(width)
        .zip(output.chunks_exact(width))
        .map(cosine)
        .sum();
    (sum, batch * seq)
}

/// Sum over batch and queries of the mean over heads of the attention on each of the first `n_prompt` places.
fn attention_by_position(queries: Tensor<4>, keys: Tensor<4>, n_prompt: usize) -> Vec<f64> {
    if n_prompt == 0 {
        return Vec::new();
    }
    let [batch, seq, n_heads, width] = queries.dims();
    let [_, places, n_kv_heads, _] = keys.dims();
    let group = n_heads / n_kv_heads;
    let spread = keys
        .unsqueeze_dim::<5>(3)
        .expand([batch, places, n_kv_heads, group, width]);
    // [batch, n_heads, head_dim, places]
    let keys = spread
        .reshape([batch, places, n_heads, width])
        .permute([0, 2, 3, 1]);
    let scale = 1.0 / (width as f64).sqrt();
    // On the CPU queries are f32 where keys are held as bf16.
    let keys = keys.cast(queries.dtype());
    let scores = queries
        .swap_dims(1, 2)
        .matmul(keys)
        .cast(DType::F32)
        .mul_scalar(scale);
    let hidden_from = (places - seq) as i64;
    let masked = Tensor::<2, Bool>::tril_mask([seq, places], hidden_from, &scores.device());
    let masked = masked
        .unsqueeze::<4>()
        .expand([batch, n_heads, seq, places]);
    let weights = softmax(scores.mask_fill(masked, f32::NEG_INFINITY), 3);
    let mass = weights
        .narrow(3, 0, n_prompt)
        .mean_dim(1)
        .sum_dim(2)
        .sum_dim(0)
        .into_data();
    mass.as_slice::<f32>()
        .expect("cast to f32")
        .iter()
        .map(|&mass| f64::from(mass))
        .collect()
}
