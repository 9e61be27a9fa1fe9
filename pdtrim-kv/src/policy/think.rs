//! A policy that drops channels of the keys.

use burn::tensor::{DType, Tensor, TensorData};
use pdtrim_core::cache::BlockCache;

use super::{Kept, KvPolicy, last_queries};
use crate::error::Result;

/// All positions, but of the keys only the channels that the last queries meet most (`ThinK`,
/// arXiv:2407.21018): channel c of a head scores `‖Q_c‖ · ‖K_c‖`, the Frobenius norm of what it adds to the
/// scores.
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, KvEncoding, KvFill, PerStage};
/// use pdtrim_kv::{PolicyTransfer, Think};
///
/// let policy = Think { channels: 0.5, window: 4 };
/// let transfer = PolicyTransfer::new(policy, BlockSet::all(5), KvEncoding::Held);
/// let (model, removed) = (TinyModel::default().build(), PerStage::dense(5));
/// let stages = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &transfer)?;
/// let prompt = [[1, 2, 3, 4, 5, 6, 7, 8]];
/// // No position is dropped, and yet fewer bytes cross.
/// let all = PdModel::dense(&model, Boundary::Prefill).prefill(&prompt)?;
/// let sent = stages.prefill(&prompt)?;
/// assert_eq!(sent.kv_positions(), all.kv_positions());
/// assert!(sent.kv_bytes() < all.kv_bytes());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Think {
    /// Share of the keys' channels that is kept, in (0, 1].
    pub channels: f64,
    /// Last positions whose queries count; the authors use 32.
    pub window: usize,
}

impl KvPolicy for Think {
    fn name(&self) -> &'static str {
        "think"
    }

    fn observes(&self) -> usize {
        self.window
    }

    fn keep(&self, cache: &BlockCache) -> Result<Kept> {
        let queries = last_queries(cache, self.window)?;
        let keys = cache.keys();
        let [batch, _, n_heads, width] = queries.dims();
        let n_kv_heads = keys.dims()[2];
        let norms = |tensor: Tensor<4>| {
            let squares = tensor.cast(DType::F32).powi_scalar(2).sum_dim(1);
            let norms: Vec<f32> = squares
                .into_data()
                .convert::<f32>()
                .try_into_vec()
                .expect("just converted");
            norms
        };
        let (by_query, by_key) = (norms(queries), norms(keys));
        let kept = ((width as f64 * self.channels + 1e-9) as usize).clamp(1, width);
        let group = n_heads / n_kv_heads;
        let head = |row: usize, head: usize| {
            let score = |channel: usize| {
                let shared = (head * group..(head + 1) * group)
                    .map(|query| by_query[(row * n_heads + query) * width + channel]);
                shared.sum::<f32>() * by_key[(row * n_kv_heads + head) * width + channel]
            };
            let mut channels: Vec<usize> = (0..width).collect();
            channels.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
            channels.truncate(kept);
            channels.sort_unstable();
            channels
        };
        let row = |row| (0..n_kv_heads).map(|of| head(row, of)).collect();
        Ok(Kept::Channels((0..batch).map(row).collect()))
    }
}

/// `keys` with zeros in all channels but `channels`.
pub(super) fn without(keys: &Tensor<4>, channels: &[Vec<Vec<usize>>]) -> Tensor<4> {
    let [batch, _, heads, width] = keys.dims();
    let mut mask = vec![0.0_f32; batch * heads * width];
    for (head, channels) in channels.iter().flatten().enumerate() {
        for channel in channels {
            mask[head * width + channel] = 1.0;
        }
    }
    let mask = TensorData::new(mask, [batch, 1, heads, width]);
    let mask = Tensor::<4>::from_data(mask, (&keys.device(), keys.dtype()));
    keys.clone() * mask
}
