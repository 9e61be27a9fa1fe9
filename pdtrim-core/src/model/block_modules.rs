//! Models whose blocks are Burn modules: their weights by name, and models with other ones.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

use super::BlockModel;
use crate::block::BlockId;

/// Weights of a block in f32, by their path in the module that the block is.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::{BlockModules, BlockWeights, block_weights};
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let weights: BlockWeights = block_weights(&model.block_module(BlockId::new(0)));
/// assert_eq!(weights["input_layernorm.weight"].shape().to_vec(), [32]);
/// ```
pub type BlockWeights = BTreeMap<String, TensorData>;

/// A model whose blocks are modules that can be taken out and put back with other weights.
///
/// A distilling repair asks for this; everything else is content with [`BlockModel`].
///
/// ```
/// use std::collections::BTreeMap;
///
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::{BlockModules, Llama};
/// use pdtrim_core::testing::TinyModel;
///
/// // Block 1 runs with block 0's weights; all others are shared.
/// let model = TinyModel::default().build();
/// let first = model.block_module(BlockId::new(0));
/// let changed = model.with_block_modules(&BTreeMap::from([(BlockId::new(1), first)]));
/// // A repair must not touch what decode's keys and values depend on.
/// assert!(Llama::makes_kv("self_attn.k_proj.weight"));
/// assert!(!Llama::makes_kv("mlp.down_proj.weight"));
/// # let _ = changed;
/// ```
pub trait BlockModules: BlockModel + Sized {
    /// A block. Its parameters' paths are the names of the weights.
    type Block: Module;

    /// Block `id`; its tensors are shared with the model.
    fn block_module(&self, id: BlockId) -> Self::Block;

    /// The same model with other blocks in some places; it shares all its other weights with this one.
    /// Weights that require gradients are followed through [`run_block`](BlockModel::run_block).
    #[must_use]
    fn with_block_modules(&self, blocks: &BTreeMap<BlockId, Self::Block>) -> Self;

    /// Whether a block's keys and values depend on the weight with this path. A repair leaves it as it
    /// is, since decode attends to what prefill's block of the same depth computed with it.
    fn makes_kv(path: &str) -> bool;
}

/// The weights of `block`.
///
/// # Panics
///
/// Panics if a tensor cannot be read from its device.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::{BlockModules, block_weights};
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let names: Vec<String> = block_weights(&model.block_module(BlockId::new(0))).into_keys().collect();
/// assert!(names.contains(&"self_attn.q_proj.weight".to_owned()) && names.len() == 9);
/// ```
pub fn block_weights<B: Module>(block: &B) -> BlockWeights {
    let mut reader = Reader::default();
    block.visit(&mut reader);
    reader.weights
}

/// `block` with the `weights` that it has a place for, in the element type of those that they replace.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::{BlockModules, block_weights, with_weights};
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let [first, second] = [0, 1].map(|id| model.block_module(BlockId::new(id)));
/// let weights = block_weights(&second);
/// assert_eq!(block_weights(&with_weights(first, &weights)), weights);
/// ```
pub fn with_weights<B: Module>(block: B, weights: &BlockWeights) -> B {
    block.map(&mut Writer {
        path: Vec::new(),
        weights,
    })
}

#[derive(Default)]
struct Reader {
    path: Vec<String>,
    weights: BlockWeights,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weight = Tensor::<D>::cast(plain(param), DType::F32).into_data();
        self.weights.insert(self.path.join("."), weight);
    }
}

struct Writer<'w> {
    path: Vec<String>,
    weights: &'w BlockWeights,
}

impl ModuleMapper for Writer<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(data) = self.weights.get(&self.path.join(".")) else {
            return param;
        };
        let old = plain(&param);
        let new = Tensor::<D>::from_data(data.clone(), (&old.device(), DType::F32));
        Param::initialized(param.id, Tensor::<D>::cast(new, old.dtype()))
    }
}

/// The tensor without what follows its gradient.
fn plain<const D: usize>(param: &Param<Tensor<D>>) -> Tensor<D> {
    let weight = param.val();
    if weight.is_autodiff() {
        weight.inner()
    } else {
        weight
    }
}
