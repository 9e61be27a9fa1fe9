//! The KV cache: per block, keys and values of token positions.
//!
//! Two index spaces: a token's [`TokenPosition`] in the text, which `RoPE` used and which never
//! changes, and its place in a block's cache, which does when positions are dropped.

use burn::tensor::{Int, Tensor, TensorData};

use crate::block::{BlockId, BlockSet};
use crate::units::Bytes;

/// Position of a token in its text, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenPosition(pub usize);

/// Keys and values of one block, `[batch, capacity, n_kv_heads, head_dim]`, of which the first `len`
/// places are filled. Written in place as long as nobody shares the tensors.
#[derive(Clone, Debug)]
pub struct BlockCache {
    /// `None` while no position is held: not every backend has tensors without elements.
    held: Option<KeysValues>,
    positions: Vec<TokenPosition>,
    /// Positions to make room for when the first ones come.
    capacity: usize,
}

#[derive(Clone, Debug)]
struct KeysValues {
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl KeysValues {
    fn map(self, change: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        Self {
            keys: change(self.keys),
            values: change(self.values),
        }
    }

    fn zip(self, other: Self, join: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>) -> Self {
        Self {
            keys: join(self.keys, other.keys),
            values: join(self.values, other.values),
        }
    }

    fn capacity(&self) -> usize {
        self.keys.dims()[1]
    }
}

impl BlockCache {
    /// An empty cache with room for `capacity` positions. With less room than the first append needs,
    /// that append's own tensors are held: a prompt's keys and values need not be copied.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            held: None,
            positions: Vec::new(),
            capacity,
        }
    }

    /// A cache of keys and values `[batch, positions, n_kv_heads, head_dim]`, by place.
    ///
    /// # Panics
    ///
    /// Panics unless keys and values have one shape with a place for each position.
    pub fn from_parts(keys: Tensor<4>, values: Tensor<4>, positions: Vec<TokenPosition>) -> Self {
        assert_eq!(keys.dims(), values.dims(), "keys and values of one shape");
        assert_eq!(keys.dims()[1], positions.len(), "a position for each place");
        let held = (!positions.is_empty()).then_some(KeysValues { keys, values });
        Self {
            held,
            capacity: positions.len(),
            positions,
        }
    }

    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Token positions held, by place.
    pub fn positions(&self) -> &[TokenPosition] {
        &self.positions
    }

    /// Keys `[batch, len, n_kv_heads, head_dim]`, as a view where the backend has views.
    ///
    /// # Panics
    ///
    /// Panics if no position is held.
    pub fn keys(&self) -> Tensor<4> {
        self.filled(|held| &held.keys)
    }

    /// Values `[batch, len, n_kv_heads, head_dim]`, as a view where the backend has views.
    ///
    /// # Panics
    ///
    /// Panics if no position is held.
    pub fn values(&self) -> Tensor<4> {
        self.filled(|held| &held.values)
    }

    fn filled(&self, part: impl Fn(&KeysValues) -> &Tensor<4>) -> Tensor<4> {
        let held = self
            .held
            .as_ref()
            .expect("the caller asks only for what was appended");
        part(held).clone().narrow(1, 0, self.len())
    }

    /// Appends keys and values `[batch, seq, n_kv_heads, head_dim]` of `seq` positions from `start` on.
    ///
    /// In place while there is room; else the tensors grow to exactly what is needed.
    pub fn append(&mut self, keys: Tensor<4>, values: Tensor<4>, start: TokenPosition) {
        let (len, seq) = (self.len(), keys.dims()[1]);
        let new = KeysValues { keys, values };
        self.held = Some(match self.held.take() {
            None if self.capacity <= seq => new,
            None => with_room(&new, self.capacity).zip(new, |room, new| write_places(room, 0, new)),
            Some(held) if len + seq <= held.capacity() => {
                held.zip(new, |held, new| write_places(held, len, new))
            }
            Some(held) => held.zip(new, |held, new| {
                Tensor::cat(vec![held.narrow(1, 0, len), new], 1)
            }),
        });
        self.positions
            .extend((start.0..start.0 + seq).map(TokenPosition));
    }

    /// Makes room for `more` further positions, so that appending them happens in place.
    pub fn reserve(&mut self, more: usize) {
        let len = self.len();
        self.capacity = len + more;
        if let Some(held) = self.held.take_if(|held| held.capacity() < len + more) {
            let room = with_room(&held, len + more);
            let filled = held.map(|held| held.narrow(1, 0, len));
            self.held = Some(room.zip(filled, |room, filled| write_places(room, 0, filled)));
        }
    }

    /// Keeps only the given places, ascending; their token positions stay what they were.
    ///
    /// # Panics
    ///
    /// Panics if a place is not below [`len`](Self::len).
    pub fn retain_places(&mut self, places: &[usize]) {
        if places.len() == self.len() {
            return;
        }
        self.positions = places.iter().map(|&place| self.positions[place]).collect();
        self.held = self.held.take().filter(|_| !places.is_empty()).map(|held| {
            let indices: Vec<i32> = places.iter().map(|&place| place as i32).collect();
            let indices = TensorData::new(indices, [places.len()]);
            let indices = Tensor::<1, Int>::from_data(indices, &held.keys.device());
            held.map(|held| held.select(1, indices.clone()))
        });
    }

    /// Keeps only the given key and value heads, by their place, ascending.
    pub(crate) fn retain_heads(&mut self, heads: &[usize]) {
        self.held = self.held.take().map(|held| {
            let indices: Vec<i32> = heads.iter().map(|&head| head as i32).collect();
            let indices = TensorData::new(indices, [heads.len()]);
            let indices = Tensor::<1, Int>::from_data(indices, &held.keys.device());
            held.map(|held| held.select(2, indices.clone()))
        });
    }

    /// The same cache for a batch of `batch` copies of its only row.
    #[must_use]
    pub fn repeat_batch(&self, batch: usize) -> Self {
        let held = self.held.clone();
        let held =
            held.map(|held| held.map(|held| held.narrow(1, 0, self.len()).repeat_dim(0, batch)));
        Self {
            held,
            ..self.clone()
        }
    }

    /// Size of the filled part, for one row of the batch.
    pub fn bytes_per_row(&self) -> Bytes {
        let Some(held) = &self.held else {
            return Bytes(0);
        };
        let [_, _, heads, width] = held.keys.dims();
        let element = held.keys.dtype().size();
        Bytes((2 * self.len() * heads * width * element) as u64)
    }
}

/// Zeros for `capacity` positions of the batch, heads and element type of `like`.
fn with_room(like: &KeysValues, capacity: usize) -> KeysValues {
    let [batch, _, heads, width] = like.keys.dims();
    let options = (&like.keys.device(), like.keys.dtype());
    let room = || Tensor::zeros([batch, capacity, heads, width], options);
    KeysValues {
        keys: room(),
        values: room(),
    }
}

fn write_places(held: Tensor<4>, first: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, seq, heads, width] = new.dims();
    held.slice_assign([0..batch, first..first + seq, 0..heads, 0..width], new)
}

/// The cache of a whole model: a [`BlockCache`] for every block that has keys and values.
#[derive(Clone, Debug)]
pub struct KvCache {
    blocks: Vec<Option<BlockCache>>,
}

impl KvCache {
    /// An empty cache for the blocks in `blocks`, with room for `capacity` positions.
    pub fn with_capacity(blocks: &BlockSet, capacity: usize) -> Self {
        let make = |id| {
            blocks
                .contains(id)
                .then(|| BlockCache::with_capacity(capacity))
        };
        Self {
            blocks: (0..blocks.depth()).map(BlockId::new).map(make).collect(),
        }
    }

    /// A cache without a block.
    pub fn empty(depth: usize) -> Self {
        Self {
            blocks: vec![None; depth],
        }
    }

    pub(crate) fn put_block(&mut self, id: BlockId, cache: BlockCache) {
        self.blocks[id.index()] = Some(cache);
    }

    /// The cache of block `id`, if it has one.
    pub fn block(&self, id: BlockId) -> Option<&BlockCache> {
        self.blocks[id.index()].as_ref()
    }

    /// The cache of block `id`, if it has one.
    pub fn block_mut(&mut self, id: BlockId) -> Option<&mut BlockCache> {
        self.blocks[id.index()].as_mut()
    }

    /// Drops the caches of `blocks`.
    pub fn drop_blocks(&mut self, blocks: &BlockSet) {
        for id in blocks.iter() {
            self.blocks[id.index()] = None;
        }
    }

    /// Blocks that have a cache, with it.
    pub fn iter(&self) -> impl Iterator<Item = (BlockId, &BlockCache)> {
        let held = self.blocks.iter().enumerate();
        held.filter_map(|(index, cache)| cache.as_ref().map(|cache| (BlockId::new(index), cache)))
    }

    /// Blocks that have a cache, with it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (BlockId, &mut BlockCache)> {
        let held = self.blocks.iter_mut().enumerate();
        held.filter_map(|(index, cache)| cache.as_mut().map(|cache| (BlockId::new(index), cache)))
    }

    /// The same cache for a batch of `batch` copies of its only row.
    #[must_use]
    pub fn repeat_batch(&self, batch: usize) -> Self {
        let copy =
            |cache: &Option<BlockCache>| cache.as_ref().map(|cache| cache.repeat_batch(batch));
        Self {
            blocks: self.blocks.iter().map(copy).collect(),
        }
    }

    /// Makes room for `more` further positions in every block.
    pub fn reserve(&mut self, more: usize) {
        for (_, cache) in self.iter_mut() {
            cache.reserve(more);
        }
    }

    /// Size of the filled part of all blocks, for one row of the batch.
    pub fn bytes_per_row(&self) -> Bytes {
        self.iter().map(|(_, cache)| cache.bytes_per_row()).sum()
    }
}
