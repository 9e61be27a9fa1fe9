//! The KV cache: per block, keys and values of token positions.
//!
//! Two index spaces: a token's [`TokenPosition`] in the text, which `RoPE` used and which never
//! changes, and its place in a block's cache, which does when positions are dropped.

mod parts;

use burn::tensor::{Int, Tensor, TensorData};

use crate::block::{BlockId, BlockSet};
use crate::units::Bytes;
use parts::{KeysValues, Positions, with_room, write_places};

/// Position of a token in its text, counted from 0.
///
/// ```
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
/// # use burn::tensor::{Device, Tensor};
/// # let rows = || Tensor::<4>::zeros([1, 4, 2, 8], &Device::flex());
///
/// let mut cache = BlockCache::with_capacity(4);
/// cache.append(rows(), rows(), TokenPosition(10));
/// cache.retain_places(&[0, 3]);
/// // The place changed from 3 to 1, the position did not.
/// assert_eq!(cache.positions(), Some(&[TokenPosition(10), TokenPosition(13)][..]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenPosition(pub usize);

/// Keys and values of one block, `[batch, capacity, n_kv_heads, head_dim]`, of which the first `len`
/// places are filled. Written in place as long as nobody shares the tensors.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use pdtrim_core::Bytes;
/// use pdtrim_core::cache::{BlockCache, TokenPosition};
///
/// // Five positions of two heads of width 8, then one more.
/// let new = |seq| Tensor::<4>::ones([1, seq, 2, 8], &Device::flex());
/// let mut cache = BlockCache::with_capacity(6);
/// cache.append(new(5), new(5), TokenPosition(0));
/// cache.append(new(1), new(1), TokenPosition(5));
/// cache.retain_places(&[0, 4, 5]);
/// assert_eq!(cache.keys().dims(), [1, 3, 2, 8]);
/// assert_eq!(cache.bytes_per_row(), Bytes(2 * 3 * 2 * 8 * 4));
/// ```
#[derive(Clone, Debug)]
pub struct BlockCache {
    /// `None` while no position is held: not every backend has tensors without elements.
    held: Option<KeysValues>,
    positions: Positions,
    /// Positions to make room for when the first ones come.
    capacity: usize,
    /// Last rows of queries to keep.
    observes: usize,
    observed: Option<Tensor<4>>,
}

impl BlockCache {
    /// An empty cache with room for `capacity` positions. With less room than the first append needs,
    /// that append's own tensors are held: a prompt's keys and values need not be copied.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            held: None,
            positions: Positions::Shared(Vec::new()),
            capacity,
            observes: 0,
            observed: None,
        }
    }

    /// Keys and values `[batch, positions, n_kv_heads, head_dim]` of these token positions, by place.
    ///
    /// # Panics
    ///
    /// Panics unless both have that shape and positions ascend.
    pub fn of_positions(keys: Tensor<4>, values: Tensor<4>, positions: Vec<TokenPosition>) -> Self {
        let shape = keys.dims();
        assert!(
            shape == values.dims() && shape[1] == positions.len(),
            "keys and values of the positions"
        );
        assert!(positions.is_sorted_by(|a, b| a < b), "positions ascend");
        Self {
            held: Some(KeysValues { keys, values }),
            positions: Positions::Shared(positions),
            ..Self::with_capacity(0)
        }
    }

    /// Keys and values `[1, places, n_kv_heads, head_dim]` of positions that each head holds for itself,
    /// `[n_kv_heads][place]`.
    ///
    /// # Panics
    ///
    /// Panics unless both have that shape and each head's positions ascend.
    pub fn of_head_positions(
        keys: Tensor<4>,
        values: Tensor<4>,
        positions: Vec<Vec<TokenPosition>>,
    ) -> Self {
        let [batch, places, heads, _] = keys.dims();
        assert!(
            keys.dims() == values.dims() && batch == 1 && heads == positions.len(),
            "keys and values of one row's heads"
        );
        let are_good =
            |head: &Vec<TokenPosition>| head.len() == places && head.is_sorted_by(|a, b| a < b);
        assert!(
            positions.iter().all(are_good),
            "positions of each head ascend"
        );
        let rows = vec![positions];
        Self {
            held: Some(KeysValues { keys, values }),
            positions: Positions::ByHead { rows, places },
            ..Self::with_capacity(0)
        }
    }

    /// The same cache, to which the block also gives the queries of the last `rows` positions that run
    /// through it together: what a policy judges the prompt's positions by.
    #[must_use]
    pub fn observing(self, rows: usize) -> Self {
        Self {
            observes: rows,
            ..self
        }
    }

    /// Whether queries are wanted.
    pub fn observes(&self) -> bool {
        self.observes > 0
    }

    /// Takes the last of `queries` `[batch, seq, n_heads, head_dim]`, after position embedding, if any are
    /// wanted. A model's block calls this beside [`append`](Self::append).
    pub fn observe(&mut self, queries: &Tensor<4>) {
        if self.observes() {
            let seq = queries.dims()[1];
            let rows = self.observes.min(seq);
            self.observed = Some(queries.clone().narrow(1, seq - rows, rows));
        }
    }

    /// Queries `[batch, rows, n_heads, head_dim]` of the last rows that ran through the block; `None` if none
    /// were wanted.
    pub fn observed(&self) -> Option<&Tensor<4>> {
        self.observed.as_ref()
    }

    /// The same cache without them.
    #[must_use]
    pub fn unobserved(self) -> Self {
        Self {
            observes: 0,
            observed: None,
            ..self
        }
    }

    /// The same positions with other keys and values `[batch, len, n_kv_heads, head_dim]`.
    ///
    /// # Panics
    ///
    /// Panics unless both have the shape of those that they stand for.
    #[must_use]
    pub fn with_parts(&self, keys: Tensor<4>, values: Tensor<4>) -> Self {
        if let Some(held) = &self.held {
            let [batch, _, heads, width] = held.keys.dims();
            let shape = [batch, self.len(), heads, width];
            assert_eq!(
                [keys.dims(), values.dims()],
                [shape; 2],
                "shapes of the cache"
            );
        }
        Self {
            held: self.held.as_ref().map(|_| KeysValues { keys, values }),
            positions: self.positions.clone(),
            capacity: self.len(),
            observes: self.observes,
            observed: self.observed.clone(),
        }
    }

    /// Number of positions held.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.positions.len() == 0
    }

    /// Token positions held, by place; `None` if heads hold different ones.
    pub fn positions(&self) -> Option<&[TokenPosition]> {
        match &self.positions {
            Positions::Shared(positions) => Some(positions),
            Positions::ByHead { .. } => None,
        }
    }

    /// Token positions that one key and value head of one row of the batch holds, in order.
    ///
    /// # Panics
    ///
    /// Panics if heads hold different ones and there is no such row or head.
    pub fn head_positions(&self, row: usize, head: usize) -> &[TokenPosition] {
        match &self.positions {
            Positions::Shared(positions) => positions,
            Positions::ByHead { rows, .. } => &rows[row][head],
        }
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
        self.positions.extend(start.0..start.0 + seq);
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
    /// Panics if a place is not below [`len`](Self::len), or if heads already hold different positions.
    pub fn retain_places(&mut self, places: &[usize]) {
        if places.len() == self.len() {
            return;
        }
        let Positions::Shared(positions) = &mut self.positions else {
            panic!("heads hold different positions");
        };
        *positions = places.iter().map(|&place| positions[place]).collect();
        self.held = self.held.take().filter(|_| !places.is_empty()).map(|held| {
            let indices: Vec<i32> = places.iter().map(|&place| place as i32).collect();
            let indices = TensorData::new(indices, [places.len()]);
            let indices = Tensor::<1, Int>::from_data(indices, &held.keys.device());
            held.map(|held| held.select(1, indices.clone()))
        });
    }

    /// Keeps the given places of each key and value head, `[batch][n_kv_heads][place]`, ascending; their token
    /// positions stay what they were. Heads may keep different numbers of them: the first places of those
    /// with fewer are then empty, and [`empty_places`](Self::empty_places) says how many.
    ///
    /// # Panics
    ///
    /// Panics unless there are places for every head of every row, each below [`len`](Self::len), or if heads
    /// already hold different positions.
    pub fn retain_places_by_head(&mut self, places: &[Vec<Vec<usize>>]) {
        let Some(held) = self.held.take() else {
            return;
        };
        let [batch, _, heads, width] = held.keys.dims();
        let Positions::Shared(old) = &self.positions else {
            panic!("heads hold different positions");
        };
        let has_heads = |row: &Vec<Vec<usize>>| row.len() == heads;
        assert!(
            places.len() == batch && places.iter().all(has_heads),
            "places for every head"
        );
        let of_head = |places: &Vec<usize>| places.iter().map(|&place| old[place]).collect();
        let of_row = |row: &Vec<Vec<usize>>| row.iter().map(of_head).collect();
        let rows = places.iter().map(of_row).collect();
        let len = old.len();
        let kept = places.iter().flatten().map(Vec::len).max().unwrap_or(0);
        self.positions = Positions::ByHead { rows, places: kept };
        if kept == 0 {
            return;
        }
        let mut indices = Vec::with_capacity(batch * kept * heads * width);
        for row in places {
            for place in 0..kept {
                for head in row {
                    // What an empty place holds is never looked at.
                    let from = (place + head.len()).checked_sub(kept);
                    let from = from.map_or(0, |place| head[place]);
                    indices.extend(std::iter::repeat_n(from as i32, width));
                }
            }
        }
        let indices = TensorData::new(indices, [batch, kept, heads, width]);
        let indices = Tensor::<4, Int>::from_data(indices, &held.keys.device());
        self.held = Some(held.map(|held| held.narrow(1, 0, len).gather(1, indices.clone())));
    }

    /// How many first places of each key and value head, `[batch][n_kv_heads]`, are empty; `None` if none is.
    pub fn empty_places(&self) -> Option<Vec<Vec<usize>>> {
        let Positions::ByHead { rows, places } = &self.positions else {
            return None;
        };
        let of_row = |row: &Vec<Vec<TokenPosition>>| {
            let empty = row.iter().map(|positions| places - positions.len());
            empty.collect::<Vec<usize>>()
        };
        let empty: Vec<Vec<usize>> = rows.iter().map(of_row).collect();
        empty
            .iter()
            .flatten()
            .any(|&places| places > 0)
            .then_some(empty)
    }

    /// Keeps only the given key and value heads, by their place, ascending, and the queries that share them.
    pub(crate) fn retain_heads(&mut self, heads: &[usize]) {
        let Some(held) = self.held.take() else {
            return;
        };
        let (all, device) = (held.keys.dims()[2], held.keys.device());
        let select = |tensor: Tensor<4>, places: Vec<i32>| {
            let n = places.len();
            let places = Tensor::<1, Int>::from_data(TensorData::new(places, [n]), &device);
            tensor.select(2, places)
        };
        let kept = || heads.iter().map(|&head| head as i32).collect();
        self.held = Some(held.map(|held| select(held, kept())));
        self.observed = self.observed.take().map(|queries| {
            let group = queries.dims()[2] / all;
            let shared = heads
                .iter()
                .flat_map(|head| head * group..(head + 1) * group);
            select(queries, shared.map(|head| head as i32).collect())
        });
    }

    /// The same cache for a batch of `batch` copies of its only row.
    #[must_use]
    pub fn repeat_batch(&self, batch: usize) -> Self {
        let held = self.held.clone();
        let held =
            held.map(|held| held.map(|held| held.narrow(1, 0, self.len()).repeat_dim(0, batch)));
        let positions = match &self.positions {
            Positions::Shared(positions) => Positions::Shared(positions.clone()),
            Positions::ByHead { rows, places } => Positions::ByHead {
                rows: vec![rows[0].clone(); batch],
                places: *places,
            },
        };
        Self {
            held,
            positions,
            ..self.clone()
        }
    }

    /// Size of the filled part, for one row of the batch: the first, where rows hold different numbers of
    /// positions.
    pub fn bytes_per_row(&self) -> Bytes {
        let Some(held) = &self.held else {
            return Bytes(0);
        };
        let [_, _, heads, width] = held.keys.dims();
        let element = held.keys.dtype().size();
        let filled = match &self.positions {
            Positions::Shared(positions) => positions.len() * heads,
            Positions::ByHead { rows, .. } => rows[0].iter().map(Vec::len).sum(),
        };
        Bytes((2 * filled * width * element) as u64)
    }
}

/// The cache of a whole model: a [`BlockCache`] for every block that has keys and values.
///
/// ```
/// use pdtrim_core::pipeline::PdModel;
/// use pdtrim_core::testing::TinyModel;
/// use pdtrim_core::{BlockId, BlockSet, Boundary};
///
/// let model = TinyModel::default().build();
/// let handover = PdModel::dense(&model, Boundary::Prefill).prefill(&[[1, 2, 3]])?;
/// let mut cache = handover.cache().clone();
/// assert_eq!(cache.block(BlockId::new(0)).map(|block| block.len()), Some(3));
/// cache.drop_blocks(&BlockSet::from_indices(5, [1, 2])?);
/// assert_eq!(cache.iter().count(), 3);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KvCache {
    blocks: Vec<Option<BlockCache>>,
}

impl KvCache {
    /// An empty cache for the blocks in `blocks`, with room for `capacity` positions.
    pub fn with_capacity(blocks: &BlockSet, capacity: usize) -> Self {
        Self::of_blocks(blocks, &BlockCache::with_capacity(capacity))
    }

    /// Copies of `cache` for the blocks in `blocks`.
    pub(crate) fn of_blocks(blocks: &BlockSet, cache: &BlockCache) -> Self {
        let make = |id| blocks.contains(id).then(|| cache.clone());
        Self {
            blocks: (0..blocks.depth()).map(BlockId::new).map(make).collect(),
        }
    }

    /// The given blocks' caches, in a model of `depth` blocks.
    ///
    /// # Panics
    ///
    /// Panics if a block is not below the depth.
    pub fn from_blocks(
        depth: usize,
        blocks: impl IntoIterator<Item = (BlockId, BlockCache)>,
    ) -> Self {
        let mut cache = Self::empty(depth);
        for (id, block) in blocks {
            cache.put_block(id, block);
        }
        cache
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
