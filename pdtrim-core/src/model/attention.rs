//! Grouped-query attention over a block's KV cache.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::llama::Projection;
use super::rope::Angles;
use crate::cache::{BlockCache, TokenPosition};
use crate::config::ModelConfig;
use crate::kernels;

/// Grouped-query attention: `n_heads / n_kv_heads` query heads share a key and value head.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[hidden, n_heads * head_dim]`.
    pub q_proj: Projection,
    /// `[hidden, n_kv_heads * head_dim]`.
    pub k_proj: Projection,
    /// `[hidden, n_kv_heads * head_dim]`.
    pub v_proj: Projection,
    /// `[n_heads * head_dim, hidden]`.
    pub o_proj: Projection,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

impl Attention {
    pub(super) fn init(config: &ModelConfig, device: &Device) -> Self {
        let bias = config.architecture.has_qkv_bias();
        Self {
            q_proj: Projection::init([config.hidden_size, config.q_size()], bias, device),
            k_proj: Projection::init([config.hidden_size, config.kv_size()], bias, device),
            v_proj: Projection::init([config.hidden_size, config.kv_size()], bias, device),
            o_proj: Projection::init([config.q_size(), config.hidden_size], false, device),
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// Normed rows `[batch * seq, hidden]` to the attention's output of the same shape.
    pub(super) fn forward(
        &self,
        rows: Tensor<2>,
        [batch, seq]: [usize; 2],
        start: TokenPosition,
        angles: &Angles,
        cache: &mut BlockCache,
    ) -> Tensor<2> {
        self.append_kv(&rows, [batch, seq], start, angles, cache);
        let queries = self.queries(rows, [batch, seq], angles);
        let mixed = kernels::attention(queries, cache.keys(), cache.values());
        self.o_proj
            .forward(mixed.reshape([batch * seq, self.n_heads * self.head_dim]))
    }

    pub(super) fn append_kv(
        &self,
        rows: &Tensor<2>,
        [batch, seq]: [usize; 2],
        start: TokenPosition,
        angles: &Angles,
        cache: &mut BlockCache,
    ) {
        let heads = [batch, seq, self.n_kv_heads, self.head_dim];
        let keys = self.k_proj.forward(rows.clone()).reshape(heads);
        let values = self.v_proj.forward(rows.clone()).reshape(heads);
        cache.append(kernels::rotate(keys, angles), values, start);
    }

    pub(super) fn queries(
        &self,
        rows: Tensor<2>,
        [batch, seq]: [usize; 2],
        angles: &Angles,
    ) -> Tensor<4> {
        let queries = self
            .q_proj
            .forward(rows)
            .reshape([batch, seq, self.n_heads, self.head_dim]);
        kernels::rotate(queries, angles)
    }
}
