//! First-order importance of coupled weights (arXiv:2305.11627, LLM-Pruner), for each stage.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Gradients, Int, Tensor, TensorData};

use super::stream::{Passage, Split, Stream, last_position};
use super::{Calibration, InputScores, Rows};
use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};
use crate::model::{Block, BlockModel, Llama, Projection};
use crate::stage::{Boundary, PerStage, Stage};

/// |Σ w · ∂NLL/∂w| over the weights of each head group and of each MLP channel, in the blocks that
/// `removed` keeps: the sum is over the structure's rows and columns, over the windows and over `stages`,
/// the absolute value comes last. The loss is the continuation's, and a stage's gradient goes through that
/// stage's own rows only; both stages together are one machine.
///
/// # Errors
///
/// [`Error::TokenOutOfRange`] or [`Error::ContextLength`].
///
/// # Panics
///
/// Panics if the model reads its blocks one at a time.
///
/// ```
/// use pdtrim_core::objective::{Calibration, coupled_importance};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, Boundary, PerStage, Stage};
///
/// let model = TinyModel::default().build();
/// let calibration = Calibration::new(vec![(1..17).collect()], 12)?;
/// let (boundary, removed) = (Boundary::Prefill, PerStage::dense(5));
/// let stages = [Stage::Prefill, Stage::Decode];
/// let scores = coupled_importance(&model, &calibration, boundary, &removed, &stages)?;
/// // Two head groups and 48 channels.
/// let block = &scores[&BlockId::new(0)];
/// assert_eq!((block.attention.len(), block.mlp.len()), (2, 48));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn coupled_importance(
    model: &Llama,
    calibration: &Calibration,
    boundary: Boundary,
    removed: &PerStage<BlockSet>,
    stages: &[Stage],
) -> Result<BTreeMap<BlockId, InputScores>> {
    let (tokens, limit) = (calibration.window_tokens(), model.dims().context_length);
    if tokens > limit {
        return Err(Error::ContextLength { tokens, limit });
    }
    let mut sums = BTreeMap::<BlockId, InputScores>::new();
    for &stage in stages {
        let blocks = removed.of(stage).complement();
        let followed = model.with_gradients(&blocks);
        let mut models = PerStage::both(model as &dyn BlockModel);
        match stage {
            Stage::Prefill => models.prefill = &followed,
            Stage::Decode => models.decode = &followed,
        }
        let split = Split::new(calibration, Rows::Continuation, boundary);
        let passage = Passage::new(models, split);
        for window in calibration.windows() {
            let gradients = loss(&passage, window, removed)?.backward();
            for id in blocks.iter() {
                let block = &followed.weights().layers[id.index()];
                add(&mut sums, id, signed(block, model, &gradients));
            }
        }
    }
    for scores in sums.values_mut() {
        for score in scores.attention.iter_mut().chain(&mut scores.mlp) {
            *score = score.abs();
        }
    }
    Ok(sums)
}

/// Σ -log p of the window's targets, on Burn's own operations.
fn loss(passage: &Passage<'_>, window: &[u32], removed: &PerStage<BlockSet>) -> Result<Tensor<1>> {
    let depth = passage.models.decode.dims().n_blocks;
    // Operands of one operation must all be known to autodiff.
    let known = |hidden: Option<Tensor<3>>| hidden.map(Tensor::autodiff);
    let mut streams: Vec<Stream> = passage.enter(&[window])?;
    for stream in &mut streams {
        stream.prompt = known(stream.prompt.take());
        stream.continuation = known(stream.continuation.take());
        for id in (0..depth).map(BlockId::new) {
            passage.step(id, removed, stream);
        }
    }
    let Split { read, fed, .. } = passage.split;
    let mut total = Vec::new();
    for stream in streams {
        if let Some(prompt) = stream.prompt.filter(|_| passage.split.prefill_predicts()) {
            let logits = passage.models.prefill.logits(last_position(&prompt));
            total.push(nll(logits, &window[read..=read]));
        }
        if let Some(continuation) = stream.continuation {
            let [batch, seq, width] = continuation.dims();
            let rows = continuation.reshape([batch * seq, width]);
            let logits = passage.models.decode.logits(rows);
            total.push(nll(logits, &window[read + 1..=fed]));
        }
    }
    Ok(Tensor::cat(total, 0).sum())
}

fn nll(logits: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let logits = Tensor::<2>::cast(logits, DType::F32);
    let ids: Vec<i32> = targets.iter().map(|&id| id as i32).collect();
    let ids = TensorData::new(ids, [targets.len(), 1]);
    let ids = Tensor::<2, Int>::from_data(ids, &logits.device());
    log_softmax(logits, 1).gather(1, ids).sum().neg()
}

/// Σ w · ∂NLL/∂w of each head group and each channel.
fn signed(block: &Block, model: &Llama, gradients: &Gradients) -> InputScores {
    let attention = &block.self_attn;
    let mut groups = vec![0.0; model.config().n_kv_heads];
    for sums in [
        outputs(&attention.q_proj, gradients),
        outputs(&attention.k_proj, gradients),
        outputs(&attention.v_proj, gradients),
        inputs(&attention.o_proj, gradients),
    ] {
        let in_group = (sums.len() / groups.len()).max(1);
        for (group, sums) in groups.iter_mut().zip(sums.chunks(in_group)) {
            *group += sums.iter().sum::<f64>();
        }
    }
    let mut channels = inputs(&block.mlp.down_proj, gradients);
    for sums in [
        outputs(&block.mlp.gate_proj, gradients),
        outputs(&block.mlp.up_proj, gradients),
    ] {
        for (channel, sum) in channels.iter_mut().zip(sums) {
            *channel += sum;
        }
    }
    InputScores {
        attention: groups,
        mlp: channels,
    }
}

/// Σ over each row of weights, with its bias.
fn outputs(layer: &Projection, gradients: &Gradients) -> Vec<f64> {
    let mut sums = sums(&layer.weight, gradients, 1);
    if let Some(bias) = &layer.bias
        && let Some(gradient) = bias.val().grad(gradients)
    {
        let products = Tensor::<1>::cast(bias.val().inner() * gradient, DType::F32).into_data();
        let products = products.iter::<f32>();
        sums.iter_mut()
            .zip(products)
            .for_each(|(sum, product)| *sum += f64::from(product));
    }
    sums
}

/// Σ over each column of weights.
fn inputs(layer: &Projection, gradients: &Gradients) -> Vec<f64> {
    sums(&layer.weight, gradients, 0)
}

/// Sums of w · ∂NLL/∂w over an axis; zeros for a weight that the loss does not depend on.
fn sums(weight: &Param<Tensor<2>>, gradients: &Gradients, axis: usize) -> Vec<f64> {
    let weight = weight.val();
    let Some(gradient) = weight.grad(gradients) else {
        return vec![0.0; weight.dims()[1 - axis]];
    };
    let wide = |tensor: Tensor<2>| Tensor::<2>::cast(tensor, DType::F32);
    let products = wide(weight.inner()) * wide(gradient);
    let data = products.sum_dim(axis).into_data();
    data.iter::<f32>().map(f64::from).collect()
}

fn add(sums: &mut BTreeMap<BlockId, InputScores>, id: BlockId, new: InputScores) {
    let Some(known) = sums.get_mut(&id) else {
        sums.insert(id, new);
        return;
    };
    let pairs = known.attention.iter_mut().zip(new.attention);
    for (sum, new) in pairs.chain(known.mlp.iter_mut().zip(new.mlp)) {
        *sum += new;
    }
}
