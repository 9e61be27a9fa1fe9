//! Models whose blocks can be made narrower: what a choice of widths is measured on, and the narrower
//! blocks themselves.

use burn::module::Param;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::llama::Projection;
use super::{Block, BlockModel};
use crate::block::{BlockId, BlockSet};
use crate::cache::{BlockCache, TokenPosition};
use crate::error::{Error, Result};
use crate::stage::{PerStage, Stage};
use crate::width::{BlockBiases, RemovedWidth, StageBiases, StageWidths};

/// What enters the output layers of a block's attention and of its MLP.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// use pdtrim_core::model::{BlockModel, WidthModel, token_tensor};
/// use pdtrim_core::testing::TinyModel;
///
/// let model = TinyModel::default().build();
/// let start = TokenPosition(0);
/// let hidden = model.embed(token_tensor(&model, &[[1, 2, 3]])?, start);
/// let mut cache = BlockCache::with_capacity(3);
/// let (_, inputs) = model.run_observed(BlockId::new(0), hidden, start, &mut cache);
/// assert_eq!(inputs.attention.dims(), [3, 32]);
/// assert_eq!(inputs.mlp.dims(), [3, 48]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct OutputInputs {
    /// `[rows, n_heads * head_dim]`, head group by head group.
    pub attention: Tensor<2>,
    /// `[rows, intermediate]`.
    pub mlp: Tensor<2>,
}

/// Weights of the output layers of a block's attention and of its MLP.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::WidthModel;
/// use pdtrim_core::testing::TinyModel;
///
/// let layers = TinyModel::default().build().output_layers(BlockId::new(0));
/// assert_eq!(layers.attention.dims(), [32, 32]);
/// assert_eq!(layers.mlp.dims(), [32, 48]);
/// ```
#[derive(Clone, Debug)]
pub struct OutputLayers {
    /// `[hidden, n_heads * head_dim]`.
    pub attention: Tensor<2>,
    /// `[hidden, intermediate]`.
    pub mlp: Tensor<2>,
}

/// A model of blocks of grouped-query attention and gated MLPs that can do without head groups and MLP
/// channels.
///
/// ```
/// use pdtrim_core::BlockId;
/// use pdtrim_core::model::{BlockModel, WidthModel};
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::width::{RemovedWidth, StageBiases, StageWidths};
///
/// let model = TinyModel::default().build();
/// let channels = RemovedWidth { channels: "0-11".parse()?, ..RemovedWidth::default() };
/// let removed = StageWidths::from([(BlockId::new(1), channels)]);
/// let narrow = model.narrowed(&removed, &StageBiases::new());
/// assert_eq!(narrow.output_layers(BlockId::new(1)).mlp.dims(), [32, 36]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub trait WidthModel: BlockModel {
    /// As [`run_block`](BlockModel::run_block), with what enters the block's two output layers.
    fn run_observed(
        &self,
        id: BlockId,
        hidden: Tensor<3>,
        start: TokenPosition,
        cache: &mut BlockCache,
    ) -> (Tensor<3>, OutputInputs);

    /// The output layers of block `id`.
    fn output_layers(&self, id: BlockId) -> OutputLayers;

    /// The same model without what is in `removed` and with `biases` added to its output layers; it
    /// shares the weights of all other blocks with this one.
    ///
    /// # Panics
    ///
    /// Panics if a group or channel does not exist, or if a block would keep none.
    #[must_use]
    fn narrowed(&self, removed: &StageWidths, biases: &StageBiases) -> Self
    where
        Self: Sized;
}

impl Block {
    /// The block without `removed`: smaller matrices, and `biases` in its output layers.
    pub(super) fn narrow(&mut self, removed: &RemovedWidth, biases: &BlockBiases) {
        let attention = &mut self.self_attn;
        if !removed.groups.is_empty() {
            let groups = removed.groups.kept(attention.n_kv_heads);
            let in_group = attention.n_heads / attention.n_kv_heads;
            let places = |width: usize| -> Vec<usize> {
                let group = |&group: &usize| group * width..(group + 1) * width;
                groups.iter().flat_map(group).collect()
            };
            let (keys, queries) = (
                places(attention.head_dim),
                places(in_group * attention.head_dim),
            );
            attention.q_proj.keep_outputs(&queries);
            attention.k_proj.keep_outputs(&keys);
            attention.v_proj.keep_outputs(&keys);
            attention.o_proj.keep_inputs(&queries);
            attention.n_kv_heads = groups.len();
            attention.n_heads = groups.len() * in_group;
        }
        if !removed.channels.is_empty() {
            let [channels, _] = self.mlp.gate_proj.weight.val().dims();
            let channels = removed.channels.kept(channels);
            self.mlp.gate_proj.keep_outputs(&channels);
            self.mlp.up_proj.keep_outputs(&channels);
            self.mlp.down_proj.keep_inputs(&channels);
        }
        let like = self.input_layernorm.weight.val();
        attention.o_proj.add_bias(&biases.attention, &like);
        self.mlp.down_proj.add_bias(&biases.mlp, &like);
    }
}

impl Projection {
    fn keep_outputs(&mut self, outputs: &[usize]) {
        self.weight = selected(&self.weight, 0, outputs);
        self.bias = self.bias.as_ref().map(|bias| selected(bias, 0, outputs));
    }

    fn keep_inputs(&mut self, inputs: &[usize]) {
        self.weight = selected(&self.weight, 1, inputs);
    }

    /// Adds `values` to the bias, which has the element type of the norm weight `like`.
    fn add_bias(&mut self, values: &[f32], like: &Tensor<1>) {
        if values.is_empty() {
            return;
        }
        let data = TensorData::new(values.to_vec(), [values.len()]);
        let added = Tensor::<1>::from_data(data, (&like.device(), DType::F32));
        let added = Tensor::<1>::cast(added, like.dtype());
        self.bias = Some(Param::from_tensor(match &self.bias {
            Some(bias) => bias.val() + added,
            None => added,
        }));
    }
}

/// The given places of an axis of a weight, in memory of their own.
fn selected<const D: usize>(
    weight: &Param<Tensor<D>>,
    axis: usize,
    places: &[usize],
) -> Param<Tensor<D>> {
    let held = weight.val();
    let indices: Vec<i32> = places.iter().map(|&place| place as i32).collect();
    let indices = TensorData::new(indices, [places.len()]);
    let indices = Tensor::<1, Int>::from_data(indices, &held.device());
    Param::initialized(weight.id, held.select(axis, indices))
}

/// Takes from prefill's `cache` of block `id` the head groups that decode is without.
pub(crate) fn hand_groups(models: PerStage<&dyn BlockModel>, id: BlockId, cache: &mut BlockCache) {
    let Some(decode) = models.decode.kept_groups(id) else {
        return;
    };
    let held = models.prefill.kept_groups(id);
    let held = held.unwrap_or_else(|| (0..models.prefill.dims().n_kv_heads).collect());
    let places = held.iter().enumerate();
    let places = places.filter(|(_, group)| decode.binary_search(group).is_ok());
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    if places.len() < held.len() {
        cache.retain_heads(&places);
    }
}

/// Refuses stages of which decode has a head group that prefill is without, in a block that decode runs.
///
/// # Errors
///
/// [`Error::Width`].
pub(crate) fn check_groups(
    models: PerStage<&dyn BlockModel>,
    removed_from_decode: &BlockSet,
) -> Result<()> {
    for id in removed_from_decode.complement().iter() {
        let Some(prefill) = models.prefill.kept_groups(id) else {
            continue;
        };
        let decode = models.decode.kept_groups(id);
        let nested = decode.as_ref().is_some_and(|decode| {
            let held = |group| prefill.binary_search(group).is_ok();
            decode.iter().all(held)
        });
        if !nested {
            return Err(Error::Width {
                stage: Stage::Decode,
                block: id.index(),
                expected: format!("head groups that prefill has ({prefill:?})"),
                found: decode.map_or_else(|| "all".to_owned(), |decode| format!("{decode:?}")),
            });
        }
    }
    Ok(())
}
