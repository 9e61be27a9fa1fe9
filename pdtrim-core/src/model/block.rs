//! One transformer block: attention and MLP, each behind a norm and added to the residual stream.

use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use super::attention::Attention;
use super::llama::{Projection, RmsNorm};
use super::rope::Angles;
use super::{MlpStep, OutputInputs, Segment};
use crate::cache::{BlockCache, TokenPosition};
use crate::config::ModelConfig;
use crate::kernels;

/// Gated MLP: `down(silu(gate(x)) * up(x))`.
///
/// ```
/// use burn::module::Module;
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let mlp = &model.weights().layers[0].mlp;
/// assert_eq!(mlp.num_params(), 3 * 32 * 48);
/// ```
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[intermediate, hidden]`.
    pub gate_proj: Projection,
    /// `[intermediate, hidden]`.
    pub up_proj: Projection,
    /// `[hidden, intermediate]`.
    pub down_proj: Projection,
}

impl Mlp {
    fn init(config: &ModelConfig, device: &Device) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let bias = config.mlp_bias;
        Self {
            gate_proj: Projection::init([intermediate, hidden], bias, device),
            up_proj: Projection::init([intermediate, hidden], bias, device),
            down_proj: Projection::init([hidden, intermediate], bias, device),
        }
    }

    /// What enters the output layer for normed `rows`, `[rows, intermediate]`.
    pub(super) fn gated(&self, rows: Tensor<2>) -> Tensor<2> {
        let (gate, up) = (self.gate_proj.layer(), self.up_proj.layer());
        if gate.1.is_none() && up.1.is_none() {
            return kernels::gated(rows, gate.0, up.0);
        }
        let [gate, up] = kernels::linear(&rows, [gate, up]);
        silu(gate) * up
    }

    /// `residual` plus the MLP of its normed `rows`, `[rows, hidden]` each.
    fn forward(&self, rows: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        self.down_proj.added_to(self.gated(rows), residual)
    }

    /// The MLP of normed `rows` alone, without the output layer's bias.
    fn output(&self, rows: Tensor<2>) -> Tensor<2> {
        let [output] = kernels::linear(&self.gated(rows), [(self.down_proj.weight.val(), None)]);
        output
    }
}

/// One transformer block.
///
/// ```
/// use burn::module::Module;
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let block = &model.weights().layers[0];
/// assert_eq!(block.num_params(), model.config().block_parameters());
/// ```
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Grouped-query attention.
    pub self_attn: Attention,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
    /// MLP.
    pub mlp: Mlp,
}

impl Block {
    pub(crate) fn init(config: &ModelConfig, device: &Device) -> Self {
        let norm = || RmsNorm::init(config.hidden_size, config.rms_norm_eps, device);
        Self {
            input_layernorm: norm(),
            self_attn: Attention::init(config, device),
            post_attention_layernorm: norm(),
            mlp: Mlp::init(config, device),
        }
    }

    /// `[batch, seq, hidden] -> [batch, seq, hidden]`.
    pub(super) fn forward(
        &self,
        hidden: Tensor<3>,
        start: TokenPosition,
        angles: &Angles,
        cache: &mut BlockCache,
    ) -> Tensor<3> {
        let sizes = hidden.dims();
        let rows = self.attend(hidden, start, angles, cache);
        let normed = self.post_attention_layernorm.forward(rows.clone());
        self.mlp.forward(normed, rows).reshape(sizes)
    }

    /// As [`forward`](Self::forward), with the MLP's output not yet added.
    pub(super) fn forward_to_mlp(
        &self,
        hidden: Tensor<3>,
        start: TokenPosition,
        angles: &Angles,
        cache: &mut BlockCache,
    ) -> MlpStep {
        let sizes = hidden.dims();
        let rows = self.attend(hidden, start, angles, cache);
        let normed = self.post_attention_layernorm.forward(rows.clone());
        let output = self.mlp.output(normed).reshape(sizes);
        let residual = self.mlp.down_proj.biased(rows);
        MlpStep {
            residual: residual.reshape(sizes),
            output,
        }
    }

    /// As [`forward`](Self::forward), with what enters the two output layers.
    pub(super) fn forward_observed(
        &self,
        hidden: Tensor<3>,
        start: TokenPosition,
        angles: &Angles,
        cache: &mut BlockCache,
    ) -> (Tensor<3>, OutputInputs) {
        let sizes @ [batch, seq, width] = hidden.dims();
        let rows = hidden.reshape([batch * seq, width]);
        let normed = self.input_layernorm.forward(rows.clone());
        let attention = self
            .self_attn
            .mixed(&normed, [batch, seq], angles, cache, start);
        let rows = self.self_attn.o_proj.added_to(attention.clone(), rows);
        let normed = self.post_attention_layernorm.forward(rows.clone());
        let mlp = self.mlp.gated(normed);
        let out = self.mlp.down_proj.added_to(mlp.clone(), rows);
        (out.reshape(sizes), OutputInputs { attention, mlp })
    }

    /// The residual stream `[batch * seq, hidden]` after attention.
    fn attend(
        &self,
        hidden: Tensor<3>,
        start: TokenPosition,
        angles: &Angles,
        cache: &mut BlockCache,
    ) -> Tensor<2> {
        let [batch, seq, width] = hidden.dims();
        let rows = hidden.reshape([batch * seq, width]);
        let normed = self.input_layernorm.forward(rows.clone());
        self.self_attn
            .forward(&normed, rows, [batch, seq], angles, cache, start)
    }

    /// `[Σ tokens, hidden] -> [Σ tokens, hidden]`.
    pub(super) fn forward_segments(
        &self,
        rows: Tensor<2>,
        angles: &[Angles],
        segments: &mut [Segment<'_>],
    ) -> Tensor<2> {
        let normed = self.input_layernorm.forward(rows.clone());
        let rows = self
            .self_attn
            .forward_segments(&normed, rows, angles, segments);
        let normed = self.post_attention_layernorm.forward(rows.clone());
        self.mlp.forward(normed, rows)
    }

    pub(super) fn project_kv(
        &self,
        hidden: Tensor<3>,
        start: TokenPosition,
        angles: &Angles,
        cache: &mut BlockCache,
    ) {
        let [batch, seq, width] = hidden.dims();
        let normed = self
            .input_layernorm
            .forward(hidden.reshape([batch * seq, width]));
        self.self_attn
            .append_kv(&normed, [batch, seq], angles, cache, start);
    }

    pub(super) fn queries(&self, hidden: Tensor<3>, angles: &Angles) -> Tensor<4> {
        let [batch, seq, width] = hidden.dims();
        let normed = self
            .input_layernorm
            .forward(hidden.reshape([batch * seq, width]));
        self.self_attn.queries(&normed, [batch, seq], angles)
    }
}
