//! Grouped-query attention over a block's KV cache.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use rayon::prelude::*;

use super::Segment;
use super::llama::Projection;
use super::rope::Angles;
use crate::cache::{BlockCache, TokenPosition};
use crate::config::ModelConfig;
use crate::kernels;

/// Grouped-query attention: `n_heads / n_kv_heads` query heads share a key and value head.
///
/// ```
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let attention = &model.weights().layers[0].self_attn;
/// // Four query heads of width 8, and half as many key heads.
/// assert_eq!(attention.q_proj.weight.val().dims(), [32, 32]);
/// assert_eq!(attention.k_proj.weight.val().dims(), [16, 32]);
/// ```
#[derive(Module, Debug)]
pub struct Attention {
    /// `[n_heads * head_dim, hidden]`.
    pub q_proj: Projection,
    /// `[n_kv_heads * head_dim, hidden]`.
    pub k_proj: Projection,
    /// `[n_kv_heads * head_dim, hidden]`.
    pub v_proj: Projection,
    /// `[hidden, n_heads * head_dim]`.
    pub o_proj: Projection,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Attention {
    pub(super) fn init(config: &ModelConfig, device: &Device) -> Self {
        let bias = config.has_qkv_bias();
        let o_bias = config.attention_bias;
        Self {
            q_proj: Projection::init([config.q_size(), config.hidden_size], bias, device),
            k_proj: Projection::init([config.kv_size(), config.hidden_size], bias, device),
            v_proj: Projection::init([config.kv_size(), config.hidden_size], bias, device),
            o_proj: Projection::init([config.hidden_size, config.q_size()], o_bias, device),
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// `residual` `[batch * seq, hidden]` plus the attention of its normed `rows`.
    pub(super) fn forward(
        &self,
        rows: &Tensor<2>,
        residual: Tensor<2>,
        [batch, seq]: [usize; 2],
        angles: &Angles,
        cache: &mut BlockCache,
        start: TokenPosition,
    ) -> Tensor<2> {
        let mixed = self.mixed(rows, [batch, seq], angles, cache, start);
        self.o_proj.added_to(mixed, residual)
    }

    /// What enters the output layer, `[batch * seq, n_heads * head_dim]`.
    pub(super) fn mixed(
        &self,
        rows: &Tensor<2>,
        [batch, seq]: [usize; 2],
        angles: &Angles,
        cache: &mut BlockCache,
        start: TokenPosition,
    ) -> Tensor<2> {
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj].map(Projection::layer);
        let [queries, keys, values] = kernels::linear(rows, layers);
        self.append(keys, values, [batch, seq], angles, cache, start);
        let queries = self.rotated_queries(queries, [batch, seq], angles);
        cache.observe(&queries);
        let mixed = attend(queries, cache);
        mixed.reshape([batch * seq, self.n_heads * self.head_dim])
    }

    /// As [`forward`](Self::forward) for segments, which share the projections only; `angles` has one
    /// entry a segment.
    pub(super) fn forward_segments(
        &self,
        rows: &Tensor<2>,
        residual: Tensor<2>,
        angles: &[Angles],
        segments: &mut [Segment<'_>],
    ) -> Tensor<2> {
        let layers = [&self.q_proj, &self.k_proj, &self.v_proj].map(Projection::layer);
        let [queries, keys, values] = kernels::linear(rows, layers);
        let ends = segments.iter().scan(0, |end, segment| {
            *end += segment.tokens;
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let mix = |((segment, angles), end): ((&mut Segment<'_>, &Angles), usize)| {
            let sizes = [1, segment.tokens];
            let part = |all: &Tensor<2>| {
                let first = end - segment.tokens;
                all.clone().narrow(0, first, segment.tokens)
            };
            let (keys, values) = (part(&keys), part(&values));
            self.append(keys, values, sizes, angles, segment.cache, segment.start);
            let queries = self.rotated_queries(part(&queries), sizes, angles);
            segment.cache.observe(&queries);
            let mixed = attend(queries, segment.cache);
            mixed.reshape([segment.tokens, self.n_heads * self.head_dim])
        };
        let mixed: Vec<Tensor<2>> = if rows.device() == Device::flex() {
            let segments = segments.par_iter_mut().zip(angles).zip(ends);
            segments.map(mix).collect()
        } else {
            let segments = segments.iter_mut().zip(angles).zip(ends);
            segments.map(mix).collect()
        };
        self.o_proj.added_to(Tensor::cat(mixed, 0), residual)
    }

    pub(super) fn append_kv(
        &self,
        rows: &Tensor<2>,
        sizes: [usize; 2],
        angles: &Angles,
        cache: &mut BlockCache,
        start: TokenPosition,
    ) {
        let [keys, values] = kernels::linear(rows, [self.k_proj.layer(), self.v_proj.layer()]);
        self.append(keys, values, sizes, angles, cache, start);
        if cache.observes() {
            cache.observe(&self.queries(rows, sizes, angles));
        }
    }

    pub(super) fn queries(
        &self,
        rows: &Tensor<2>,
        sizes: [usize; 2],
        angles: &Angles,
    ) -> Tensor<4> {
        let [queries] = kernels::linear(rows, [self.q_proj.layer()]);
        self.rotated_queries(queries, sizes, angles)
    }

    fn rotated_queries(
        &self,
        queries: Tensor<2>,
        [batch, seq]: [usize; 2],
        angles: &Angles,
    ) -> Tensor<4> {
        let queries = queries.reshape([batch, seq, self.n_heads, self.head_dim]);
        kernels::rotate(queries, angles)
    }

    fn append(
        &self,
        keys: Tensor<2>,
        values: Tensor<2>,
        [batch, seq]: [usize; 2],
        angles: &Angles,
        cache: &mut BlockCache,
        start: TokenPosition,
    ) {
        let heads = [batch, seq, self.n_kv_heads, self.head_dim];
        let dtype = self.kv_dtype();
        let keys = kernels::rotate(keys.reshape(heads), angles);
        let keys = kernels::narrow_kv(keys, dtype);
        let values = kernels::narrow_kv(values.reshape(heads), dtype);
        cache.append(keys, values, start);
    }

    /// Keys and values are held as the weights are, whatever the activations are.
    fn kv_dtype(&self) -> DType {
        self.k_proj.weight.val().dtype()
    }
}

/// Attention of queries `[batch, seq, n_heads, head_dim]`, the last positions of `cache`, to all of it.
fn attend(queries: Tensor<4>, cache: &BlockCache) -> Tensor<4> {
    match cache.empty_places() {
        Some(empty) => {
            kernels::attention_with_empty_places(queries, cache.keys(), cache.values(), &empty)
        }
        None => kernels::attention(queries, cache.keys(), cache.values()),
    }
}
