//! A prompt's keys and values in the form of vLLM's connector for files.
//!
//! [`ConnectorLayout`] names the releases whose sources this follows: `SharedStorageConnector` of vLLM 0.11.0 and
//! `ExampleConnector`, as it is called now, of vLLM 0.33.0. Both look for a folder whose name is the MD5 of the prompt's
//! token ids (64 bits each, little-endian), up to a multiple of the block size that leaves at least one token
//! over, and in it for `model.layers.{l}.self_attn.attn.safetensors` with one tensor `kv_cache` for each layer
//! `l` of the model that vLLM runs.
//!
//! A paged cache has every position of every layer, and attention reads them all. So a cache from which
//! positions were dropped has no exact form there, zeros in the holes would take attention mass, and
//! [`write()`] refuses it.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Tensor};
use md5::{Digest, Md5};
use pdtrim_core::cache::{BlockCache, KvCache};
use pdtrim_core::hash::hex;
use pdtrim_core::{BlockId, Bytes, NewFolder};
use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, Result};

/// The order of a layer's elements, which changed between releases.
///
/// `positions` ascend from 0, `n_kv_heads` are all heads: one worker, without tensor parallelism.
///
/// ```
/// use pdtrim_kv::vllm::ConnectorLayout;
///
/// // The newest release whose sources were followed.
/// assert_eq!(ConnectorLayout::default(), ConnectorLayout::V0_33);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectorLayout {
    /// vLLM 0.11.0, with a backend whose cache starts with the axis of keys and values (`FlashAttention`):
    /// `[2, positions, n_kv_heads * head_dim]`.
    V0_11,
    /// vLLM 0.33.0: `[positions, n_kv_heads, 2 * head_dim]`, keys before values.
    #[default]
    V0_33,
}

/// What was written.
///
/// ```
/// use pdtrim_core::Boundary;
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_kv::vllm::{ConnectorLayout, folder_name, stored_tokens, write};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
/// let stored = &prompt[..stored_tokens(prompt.len(), 4)];
/// let model = TinyModel::default().build();
/// let sent = PdModel::dense(&model, Boundary::Prefill).prefill(&[stored])?;
/// let export = write(sent.cache(), stored, ConnectorLayout::V0_33, folder.path())?;
/// assert_eq!(export.folder, folder.path().join(folder_name(stored)));
/// assert_eq!((export.layers, export.bytes), (5, sent.kv_bytes()));
/// # Ok::<(), pdtrim_kv::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorExport {
    /// The folder, named by the hash of the tokens.
    pub folder: PathBuf,
    /// Layers, each a file.
    pub layers: usize,
    /// Bytes of keys and values, without framing.
    pub bytes: Bytes,
}

/// How many of a prompt's `n_tokens` the connector stores: whole blocks of `block_size` that leave at least one
/// token over.
///
/// # Panics
///
/// If `block_size` is 0.
///
/// ```
/// use pdtrim_kv::vllm::stored_tokens;
///
/// // Whole blocks of 16, and one token is left over.
/// assert_eq!([15, 17, 32, 33].map(|n| stored_tokens(n, 16)), [0, 16, 16, 32]);
/// ```
pub fn stored_tokens(n_tokens: usize, block_size: usize) -> usize {
    n_tokens.saturating_sub(1) / block_size * block_size
}

/// The folder's name for these tokens, all of which are stored.
///
/// ```
/// use pdtrim_kv::vllm::folder_name;
///
/// assert_eq!(folder_name(&[1, 2, 3]).len(), 32);
/// assert_ne!(folder_name(&[1, 2, 3]), folder_name(&[3, 2, 1]));
/// ```
pub fn folder_name(stored: &[u32]) -> String {
    let mut hasher = Md5::new();
    for &token in stored {
        hasher.update(i64::from(token).to_le_bytes());
    }
    hex(&hasher.finalize())
}

/// The file's name for the layer that is `layer`th of those that decode runs.
///
/// ```
/// use pdtrim_kv::vllm::file_name;
///
/// assert_eq!(file_name(7), "model.layers.7.self_attn.attn.safetensors");
/// ```
pub fn file_name(layer: usize) -> String {
    format!("model.layers.{layer}.self_attn.attn.safetensors")
}

/// Writes what decode received of a prompt whose first tokens are `stored`. Layers are numbered as in the exported
/// folder of the decode stage; elements are of the type that the cache is held in, which has to be
/// vLLM's. The folder appears whole or not at all, in place of one that is there.
///
/// # Errors
///
/// [`Error::Positions`] if a block does not hold exactly the positions of `stored`, [`Error::HeldIn`], and
/// [`pdtrim_core::Error::Io`].
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockSet, Boundary, KvFill, KvPlan, PerStage, TokenSpan};
/// use pdtrim_kv::vllm::{ConnectorLayout, write};
/// use pdtrim_kv::{Error, PlannedTransfer};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let prompt = [1, 2, 3, 4, 5, 6, 7, 8];
/// let plan = KvPlan::uniform(&BlockSet::all(5), TokenSpan { first: 1, last: 3 });
/// let (model, transfer) = (TinyModel::default().build(), PlannedTransfer::new(plan));
/// let removed = PerStage::dense(5);
/// let stages = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &transfer)?;
/// // Half of the positions are missing, and a paged cache has no holes.
/// let sent = stages.prefill(&[prompt])?;
/// let refused = write(sent.cache(), &prompt, ConnectorLayout::V0_33, folder.path());
/// assert!(matches!(refused, Err(Error::Positions { expected: 8, found: 4, .. })));
/// # Ok::<(), Error>(())
/// ```
pub fn write(
    cache: &KvCache,
    stored: &[u32],
    layout: ConnectorLayout,
    out: &Path,
) -> Result<ConnectorExport> {
    let blocks: Vec<(BlockId, &BlockCache)> = cache.iter().collect();
    for &(id, block) in &blocks {
        check_positions(id, block, stored.len())?;
    }
    let folder = out.join(folder_name(stored));
    let new = NewFolder::begin(&folder)?;
    let mut bytes = 0;
    for (layer, (_, block)) in blocks.iter().enumerate() {
        let (file, held) = layer_file(block, layout)?;
        let path = new.path().join(file_name(layer));
        fs::write(&path, file).map_err(|source| pdtrim_core::Error::Io {
            action: "write",
            path,
            source,
        })?;
        bytes += held;
    }
    new.finish()?;
    Ok(ConnectorExport {
        folder,
        layers: blocks.len(),
        bytes: Bytes(bytes),
    })
}

/// Refuses a block that does not hold the positions 0 to `n_tokens`.
fn check_positions(id: BlockId, block: &BlockCache, n_tokens: usize) -> Result<()> {
    let whole = block.positions().is_some_and(|positions| {
        positions.len() == n_tokens && positions.iter().enumerate().all(|(n, at)| at.0 == n)
    });
    if whole && n_tokens > 0 {
        return Ok(());
    }
    Err(Error::Positions {
        block: id.index(),
        expected: n_tokens,
        found: block.len(),
    })
}

/// A layer's file, and the bytes of its keys and values.
fn layer_file(block: &BlockCache, layout: ConnectorLayout) -> Result<(Vec<u8>, u64)> {
    let (keys, values) = (block.keys(), block.values());
    let [_, positions, heads, width] = keys.dims();
    // [1, positions, n_kv_heads, head_dim] each
    let joined = match layout {
        ConnectorLayout::V0_11 => {
            let flat = |part: Tensor<4>| part.reshape([1, positions, heads * width]);
            Tensor::cat(vec![flat(keys), flat(values)], 0)
        }
        ConnectorLayout::V0_33 => {
            Tensor::cat(vec![keys, values], 3).reshape([positions, heads, 2 * width])
        }
    };
    let data = joined.into_data();
    let dtype = match data.dtype() {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        found => {
            let found = format!("{found:?}");
            return Err(Error::HeldIn { found });
        }
    };
    let shape = data.shape().to_vec();
    let view = TensorView::new(dtype, shape, data.as_bytes()).expect("a tensor's own bytes");
    let file = safetensors::serialize([("kv_cache", view)], None).expect("one valid tensor");
    Ok((file, data.as_bytes().len() as u64))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use pdtrim_core::BlockSet;
    use pdtrim_core::cache::TokenPosition;
    use safetensors::SafeTensors;

    use super::*;

    /// Keys and values of two heads of two channels: a key is 100 · position + 10 · head + channel, a value
    /// is 1000 more.
    fn block(positions: &[usize]) -> BlockCache {
        let keys: Vec<f32> = positions
            .iter()
            .flat_map(|position| [0, 1, 10, 11].map(|rest| (100 * position + rest) as f32))
            .collect();
        let values: Vec<f32> = keys.iter().map(|key| key + 1000.0).collect();
        let tensor = |values: Vec<f32>| {
            let data = TensorData::new(values, [1, positions.len(), 2, 2]);
            Tensor::from_data(data, &Device::flex())
        };
        let positions = positions.iter().map(|&at| TokenPosition(at)).collect();
        BlockCache::of_positions(tensor(keys), tensor(values), positions)
    }

    fn cache(positions: &[usize]) -> KvCache {
        let blocks = [0, 2].map(|id| (BlockId::new(id), block(positions)));
        let mut cache = KvCache::from_blocks(3, blocks);
        cache.drop_blocks(&BlockSet::from_indices(3, [1]).unwrap());
        cache
    }

    fn read(path: &Path) -> (Vec<usize>, Vec<f32>) {
        let bytes = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.names(), ["kv_cache"]);
        let tensor = file.tensor("kv_cache").unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32);
        let values = tensor.data().as_chunks().0.iter();
        let values = values.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (tensor.shape().to_vec(), values)
    }

    #[test]
    fn tokens_are_stored_in_whole_blocks_that_leave_one_over() {
        // `(n - 1) // 16 * 16`, vLLM's align_to_block_size.
        let expected = [
            (0, 0),
            (1, 0),
            (16, 0),
            (17, 16),
            (32, 16),
            (33, 32),
            (100, 96),
        ];
        for (n_tokens, stored) in expected {
            assert_eq!(stored_tokens(n_tokens, 16), stored, "{n_tokens}");
        }
        assert_eq!(stored_tokens(5, 1), 4);
    }

    #[test]
    fn a_folder_has_the_name_that_the_connector_computes() {
        // hashlib.md5(torch.tensor(ids).numpy().tobytes()).hexdigest(), with numpy's int64.
        let ids: Vec<u32> = (5..21).collect();
        assert_eq!(folder_name(&ids), "949086f214c0787b915e615725cf7be1");
        assert_eq!(
            folder_name(&[1, 49_151]),
            "4453cce3680936e9fd9585132e437d92"
        );
    }

    #[test]
    fn layers_are_renumbered_and_hold_keys_and_values_in_the_releases_order() {
        let out = tempfile::tempdir().unwrap();
        let tokens = [7, 8];
        let flat = vec![0., 1., 10., 11., 100., 101., 110., 111.];
        let flat = [flat.clone(), flat.iter().map(|v| v + 1000.0).collect()].concat();
        let joined = [
            [0., 1., 1000., 1001.],
            [10., 11., 1010., 1011.],
            [100., 101., 1100., 1101.],
            [110., 111., 1110., 1111.],
        ];
        for (layout, expected) in [
            (ConnectorLayout::V0_11, (vec![2, 2, 4], flat)),
            (ConnectorLayout::V0_33, (vec![2, 2, 4], joined.concat())),
        ] {
            // The second time it replaces the first.
            let wrote = write(&cache(&[0, 1]), &tokens, layout, out.path()).unwrap();
            assert_eq!(wrote.folder, out.path().join(folder_name(&tokens)));
            assert_eq!(
                (wrote.layers, wrote.bytes),
                (2, Bytes(2 * 2 * 2 * 2 * 2 * 4))
            );
            for layer in [0, 1] {
                let name = format!("model.layers.{layer}.self_attn.attn.safetensors");
                assert_eq!(read(&wrote.folder.join(name)), expected, "{layout:?}");
            }
            assert_eq!(fs::read_dir(&wrote.folder).unwrap().count(), 2);
            assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_cache_with_holes_is_refused_and_nothing_is_written() {
        let out = tempfile::tempdir().unwrap();
        for (positions, tokens) in [
            (&[0, 2][..], &[7, 8, 9][..]),
            (&[1, 2], &[7, 8]),
            (&[0, 1], &[7]),
        ] {
            let error = write(
                &cache(positions),
                tokens,
                ConnectorLayout::V0_33,
                out.path(),
            );
            assert!(
                matches!(error, Err(Error::Positions { block: 0, .. })),
                "{error:?}"
            );
        }
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }
}
