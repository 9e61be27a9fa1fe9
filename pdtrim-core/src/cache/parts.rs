//! What a block's cache is made of: tensors with room, and the token position of each place.

use burn::tensor::Tensor;

use super::TokenPosition;

/// The token position of each place.
#[derive(Clone, Debug)]
pub(super) enum Positions {
    /// The same in every head of every row.
    Shared(Vec<TokenPosition>),
    /// `[batch][n_kv_heads][position]`, of which a head with fewer than the others has its first places empty.
    ByHead {
        rows: Vec<Vec<Vec<TokenPosition>>>,
        places: usize,
    },
}

impl Positions {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Shared(positions) => positions.len(),
            Self::ByHead { places, .. } => *places,
        }
    }

    pub(super) fn extend(&mut self, new: std::ops::Range<usize>) {
        let new = new.map(TokenPosition);
        match self {
            Self::Shared(positions) => positions.extend(new),
            Self::ByHead { rows, places } => {
                for positions in rows.iter_mut().flatten() {
                    positions.extend(new.clone());
                }
                *places += new.len();
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct KeysValues {
    pub(super) keys: Tensor<4>,
    pub(super) values: Tensor<4>,
}

impl KeysValues {
    pub(super) fn map(self, change: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        Self {
            keys: change(self.keys),
            values: change(self.values),
        }
    }

    pub(super) fn zip(self, other: Self, join: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>) -> Self {
        Self {
            keys: join(self.keys, other.keys),
            values: join(self.values, other.values),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.keys.dims()[1]
    }
}

/// Zeros for `capacity` positions of the batch, heads and element type of `like`.
pub(super) fn with_room(like: &KeysValues, capacity: usize) -> KeysValues {
    let [batch, _, heads, width] = like.keys.dims();
    let options = (&like.keys.device(), like.keys.dtype());
    let room = || Tensor::zeros([batch, capacity, heads, width], options);
    KeysValues {
        keys: room(),
        values: room(),
    }
}

pub(super) fn write_places(held: Tensor<4>, first: usize, new: Tensor<4>) -> Tensor<4> {
    let [batch, seq, heads, width] = new.dims();
    held.slice_assign([0..batch, first..first + seq, 0..heads, 0..width], new)
}
