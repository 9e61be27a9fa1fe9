//! Models whose blocks can be run one at a time.
//!
//! [`BlockModel`] is the seam: the stage-aware parts of PDTrim (the PD forward pass, the calibration
//! loss, KV selection) see a model only through it, so a Burn model that is not ours can take part by
//! implementing it. [`Llama`] is the built-in implementation. The alternative, a forward pass with
//! hooks, would have to know every model's inside.

mod attention;
mod block;
mod llama;
mod rope;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

pub use attention::Attention;
pub use block::Block;
pub use block::Mlp;
pub use llama::{Llama, LlamaWeights, Projection, RmsNorm};
pub use rope::Angles;
pub(crate) use rope::llama3_from_factors;

use crate::block::BlockId;
use crate::cache::{BlockCache, TokenPosition};
use crate::error::{Error, Result};

/// The sizes of a model that the stages need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelDims {
    /// Number of transformer blocks.
    pub n_blocks: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence.
    pub context_length: usize,
}

/// A decoder-only transformer whose blocks can be run one at a time.
///
/// A block is addressed by its depth in the dense model. Hidden states are `[batch, seq, hidden]`,
/// keys and values `[batch, seq, n_kv_heads, head_dim]`.
pub trait BlockModel: Send + Sync {
    /// Sizes.
    fn dims(&self) -> ModelDims;

    /// Where the weights are.
    fn device(&self) -> &Device;

    /// Element type of hidden states, keys and values.
    fn dtype(&self) -> DType;

    /// Hidden states that enter the first block for `tokens` `[batch, seq]`, whose first column is at `start`.
    fn embed(&self, tokens: Tensor<2, Int>, start: TokenPosition) -> Tensor<3>;

    /// Runs block `id`: appends the keys and values of `hidden` to `cache` and attends to all of it,
    /// causally among the new positions.
    fn run_block(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> Tensor<3>;

    /// Appends block `id`'s keys and values of `hidden` to `cache` without running the block.
    fn project_kv(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    );

    /// Block `id`'s queries for `hidden`, after position embedding: `[batch, seq, n_heads, head_dim]`.
    fn queries(&self, id: BlockId, hidden: Tensor<3>, start: TokenPosition) -> Tensor<4>;

    /// Logits `[rows, vocab_size]` of hidden states `[rows, hidden]` that leave the last block.
    fn logits(&self, hidden: Tensor<2>) -> Tensor<2>;
}

/// Rows of token ids as an index tensor `[batch, seq]` on the model's device.
///
/// # Errors
///
/// [`Error::RaggedBatch`], [`Error::NoTokens`] or [`Error::TokenOutOfRange`].
pub fn token_tensor<R: AsRef<[u32]>>(model: &dyn BlockModel, rows: &[R]) -> Result<Tensor<2, Int>> {
    let Some(seq) = rows
        .first()
        .map(|row| row.as_ref().len())
        .filter(|&seq| seq > 0)
    else {
        return Err(Error::NoTokens { what: "the batch" });
    };
    let vocab_size = model.dims().vocab_size;
    let mut ids = Vec::with_capacity(rows.len() * seq);
    for row in rows {
        let row = row.as_ref();
        if row.len() != seq {
            return Err(Error::RaggedBatch {
                expected: seq,
                found: row.len(),
            });
        }
        if let Some(&token) = row.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { token, vocab_size });
        }
        ids.extend(row.iter().map(|&token| token as i32));
    }
    Ok(Tensor::from_data(
        TensorData::new(ids, [rows.len(), seq]),
        model.device(),
    ))
}
