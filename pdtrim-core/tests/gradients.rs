//! Gradients of a block's weights, against differences of the forward pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use pdtrim_core::cache::{BlockCache, TokenPosition};
use pdtrim_core::model::{Block, BlockModel, Llama, token_tensor};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockId, BlockSet};

/// All weights, larger by this part of themselves.
struct Scaled(f64);

impl ModuleMapper for Scaled {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| weight.mul_scalar(1.0 + self.0))
    }
}

/// `Σ direction * hidden` where a prompt and one more token leave the model.
fn projected(model: &Llama, direction: &Tensor<3>) -> Tensor<1> {
    let tokens = token_tensor(model, &[[5_u32, 9, 2, 7], [1, 30, 31, 8]]).unwrap();
    let parts = [(0, 3), (3, 1)];
    let mut caches = vec![BlockCache::with_capacity(0); model.dims().n_blocks];
    let mut total = Tensor::<1>::zeros([1], &Device::flex());
    for (start, seq) in parts {
        let part = tokens.clone().narrow(1, start, seq);
        let mut hidden = model.embed(part, TokenPosition(start));
        for (id, cache) in caches.iter_mut().enumerate() {
            hidden = model.run_block(BlockId::new(id), hidden, TokenPosition(start), cache);
        }
        total = total + (hidden * direction.clone().narrow(1, start, seq)).sum();
    }
    total
}

fn with_block(model: &Llama, id: usize, change: impl FnOnce(Block) -> Block) -> Llama {
    let mut weights = model.weights().clone();
    weights.layers[id] = change(weights.layers[id].clone());
    Llama::new(model.config().clone(), weights, model.device())
}

#[test]
fn the_gradient_of_a_block_is_the_slope_of_the_forward_pass() {
    let model = TinyModel::default().build();
    let direction = Tensor::random([2, 4, 32], Distribution::Normal(0.0, 1.0), &Device::flex());
    let id = BlockId::new(2);
    let followed = model.with_gradients(&BlockSet::empty(5).with(id));
    let total = projected(&followed, &direction);
    let plain = projected(&model, &direction).into_scalar::<f32>();
    assert!(
        (total.clone().inner().into_scalar::<f32>() - plain).abs() < 1e-3 * plain.abs().max(1.0)
    );

    let gradients = total.backward();
    // The slope along the weights themselves: Σ w ∂/∂w.
    let block = &followed.weights().layers[2];
    let attention = &block.self_attn;
    let mut slope = 0.0;
    for weight in [
        &attention.q_proj.weight,
        &attention.k_proj.weight,
        &attention.v_proj.weight,
        &attention.o_proj.weight,
        &block.mlp.gate_proj.weight,
        &block.mlp.up_proj.weight,
        &block.mlp.down_proj.weight,
    ] {
        let gradient = weight.val().grad(&gradients).expect("a gradient");
        slope += (gradient * weight.val().inner()).sum().into_scalar::<f32>();
    }
    for weight in [
        &block.input_layernorm.weight,
        &block.post_attention_layernorm.weight,
    ] {
        let gradient = weight.val().grad(&gradients).expect("a gradient");
        slope += (gradient * weight.val().inner()).sum().into_scalar::<f32>();
    }
    assert!(
        followed.weights().layers[1]
            .mlp
            .down_proj
            .weight
            .val()
            .grad(&gradients)
            .is_none()
    );
    let moved = |by: f64| {
        let model = with_block(&model, 2, |block| block.map(&mut Scaled(by)));
        projected(&model, &direction).into_scalar::<f32>()
    };
    let expected = (moved(1e-2) - moved(-1e-2)) / 2e-2;
    assert!(
        (slope - expected).abs() < 2e-2 * expected.abs().max(0.1),
        "{slope}, {expected}"
    );
}
