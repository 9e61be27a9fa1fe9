//! What decode receives of each block's keys and values: which prompt positions, in how many bits.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};

/// The first `first` and the last `last` positions of a prompt.
///
/// A prompt of at most `first + last` positions is not trimmed.
///
/// ```
/// use pdtrim_core::TokenSpan;
///
/// let span = TokenSpan { first: 2, last: 3 };
/// assert_eq!(span.places(10), [0, 1, 7, 8, 9]);
/// assert!(!span.trims(5));
/// assert_eq!(TokenSpan::from_budget(100, 0.25)?, TokenSpan { first: 25, last: 75 });
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpan {
    /// Positions kept from the start (the attention sinks).
    pub first: usize,
    /// Positions kept from the end.
    pub last: usize,
}

impl TokenSpan {
    /// `budget` positions in all, of which the share `first_ratio`, rounded to a whole number, are the first.
    ///
    /// # Errors
    ///
    /// [`Error::FirstRatio`] for a share outside 0..=1.
    pub fn from_budget(budget: usize, first_ratio: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&first_ratio) {
            return Err(Error::FirstRatio { found: first_ratio });
        }
        let first = (budget as f64 * first_ratio).round() as usize;
        let last = budget - first;
        Ok(Self { first, last })
    }

    /// Whether a prompt of `n_positions` loses any.
    pub fn trims(self, n_positions: usize) -> bool {
        self.first.saturating_add(self.last) < n_positions
    }

    /// Positions that are kept of a prompt of `n_positions`.
    pub fn kept(self, n_positions: usize) -> usize {
        n_positions.min(self.first.saturating_add(self.last))
    }

    /// The places in a cache of `n_positions` entries that are kept, ascending.
    pub fn places(self, n_positions: usize) -> Vec<usize> {
        if !self.trims(n_positions) {
            return (0..n_positions).collect();
        }
        (0..self.first)
            .chain(n_positions - self.last..n_positions)
            .collect()
    }
}

/// How the elements of keys and values cross the wire. Every form but [`Held`](Self::Held) rounds what is
/// held in more bits.
///
/// ```
/// use pdtrim_core::{BlockId, KvEncoding, KvPlan};
///
/// let plan = KvPlan::send_all(5).encoded_everywhere(KvEncoding::Int8);
/// assert_eq!(plan.block(BlockId::new(4)).encoding.name(), "int8");
/// assert!(!plan.sends_all());
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum KvEncoding {
    /// As they are held.
    #[default]
    Held,
    /// 16 bits: the upper half of an f32.
    Bf16,
    /// 8 bits: sign, four bits of exponent and three of mantissa, up to 448.
    #[serde(rename = "fp8-e4m3")]
    Fp8E4m3,
    /// 8 bits between the lowest and the highest of a group: for keys a channel of a head over some
    /// positions, for values a head's channels at a position (KIVI, arXiv:2402.02750).
    Int8,
    /// The same in 4 bits.
    Int4,
}

impl KvEncoding {
    /// Every encoding, from the most bits to the fewest.
    pub const ALL: [Self; 5] = [
        Self::Held,
        Self::Bf16,
        Self::Fp8E4m3,
        Self::Int8,
        Self::Int4,
    ];

    /// Its name in plans and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Bf16 => "bf16",
            Self::Fp8E4m3 => "fp8-e4m3",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

impl fmt::Display for KvEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one block sends.
///
/// ```
/// use pdtrim_core::{BlockId, BlockKv, KvEncoding, KvPlan, TokenSpan};
///
/// let sends = BlockKv {
///     span: Some(TokenSpan { first: 4, last: 60 }),
///     heavy: 40,
///     encoding: KvEncoding::Bf16,
/// };
/// let plan = KvPlan::send_all(5).with_block(BlockId::new(1), sends);
/// assert_eq!(plan.positions_sent(BlockId::new(1), 1024), 104);
/// assert_eq!(plan.block(BlockId::new(0)), BlockKv::default());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKv {
    /// The prompt positions; `None` = all.
    pub span: Option<TokenSpan>,
    /// Beside those of the span, so many positions between them: of each key and value head the ones on which the
    /// attention of the prompt's queries fell most (the heavy hitters of H2O, arXiv:2306.14048). Other ones for
    /// each prompt. Without a span there is nothing between.
    pub heavy: usize,
    /// How their elements cross.
    pub encoding: KvEncoding,
}

impl BlockKv {
    /// Positions that cross of a prompt of `n_positions`.
    ///
    /// ```
    /// use pdtrim_core::{BlockKv, TokenSpan};
    ///
    /// let span = Some(TokenSpan { first: 4, last: 60 });
    /// let sends = BlockKv { span, heavy: 40, ..BlockKv::default() };
    /// assert_eq!((sends.kept(1024), sends.kept(100)), (104, 100));
    /// assert_eq!(BlockKv::default().kept(1024), 1024);
    /// ```
    pub fn kept(self, n_positions: usize) -> usize {
        self.span.map_or(n_positions, |span| {
            let kept = span.kept(n_positions).saturating_add(self.heavy);
            kept.min(n_positions)
        })
    }

    /// The places in a cache of `n_positions` among which attention chooses, if it does: those between the span's,
    /// more than there are [`heavy`](Self::heavy) ones.
    ///
    /// ```
    /// use pdtrim_core::{BlockKv, TokenSpan};
    ///
    /// let span = Some(TokenSpan { first: 4, last: 60 });
    /// let sends = BlockKv { span, heavy: 40, ..BlockKv::default() };
    /// assert_eq!(sends.chosen_among(1024), Some(4..964));
    /// // All of a short prompt cross, and without heavy ones there is nothing to choose.
    /// assert_eq!(sends.chosen_among(104), None);
    /// assert_eq!(BlockKv { heavy: 0, ..sends }.chosen_among(1024), None);
    /// ```
    pub fn chosen_among(self, n_positions: usize) -> Option<Range<usize>> {
        let span = self.span.filter(|_| self.heavy > 0)?;
        let trims = self.kept(n_positions) < n_positions;
        trims.then(|| span.first..n_positions - span.last)
    }
}

/// What each block sends to decode: all prompt positions as they are held, or fewer of them, or in fewer
/// bits.
///
/// Every block named is below the model's depth.
///
/// ```
/// use pdtrim_core::{BlockId, BlockSet, KvPlan, TokenSpan};
///
/// let trimmed = BlockSet::from_indices(5, [1, 2, 3])?;
/// let plan = KvPlan::uniform(&trimmed, TokenSpan { first: 4, last: 60 });
/// assert_eq!(plan.positions_sent(BlockId::new(2), 1024), 64);
/// assert_eq!(plan.positions_sent(BlockId::new(0), 1024), 1024);
/// assert_eq!(plan.spanned(), trimmed);
/// // As a plan file lists it.
/// assert_eq!(KvPlan::from_groups(5, &plan.to_groups())?, plan);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPlan {
    depth: usize,
    /// Blocks that do not send everything as it is held.
    blocks: BTreeMap<BlockId, BlockKv>,
}

/// One group of blocks that send alike, as a plan file lists them: `blocks`, and `first` and `last` (or
/// `budget` positions, of which `first_ratio` are the first) with or without `heavy`, or `encoding`, or all of them.
///
/// ```
/// use pdtrim_core::{KvGroup, TokenSpan};
///
/// let group: KvGroup = toml::from_str(
///     r#"
///     blocks = [1, 2, 3]
///     first = 4
///     last = 60
///     encoding = "fp8-e4m3"
///     "#,
/// )?;
/// assert_eq!(group.sends.span, Some(TokenSpan { first: 4, last: 60 }));
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "GroupFields", into = "GroupFields")]
pub struct KvGroup {
    /// Dense indices of the blocks.
    pub blocks: Vec<usize>,
    /// What each of them sends.
    pub sends: BlockKv,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFields {
    blocks: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<usize>,
    #[serde(default, skip_serializing)]
    budget: Option<usize>,
    #[serde(default, skip_serializing)]
    first_ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heavy: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<KvEncoding>,
}

impl TryFrom<GroupFields> for KvGroup {
    type Error = String;

    fn try_from(fields: GroupFields) -> std::result::Result<Self, Self::Error> {
        let missing =
            |wanted, beside| Err(format!("kv: expected {wanted} beside {beside}, found none"));
        let counted = match (fields.first, fields.last) {
            (Some(first), Some(last)) => Some(TokenSpan { first, last }),
            (None, None) => None,
            (Some(_), None) => return missing("`last`", "`first`"),
            (None, Some(_)) => return missing("`first`", "`last`"),
        };
        let shared = match (fields.budget, fields.first_ratio) {
            (Some(budget), Some(first_ratio)) => {
                let span = TokenSpan::from_budget(budget, first_ratio);
                Some(span.map_err(|error| format!("kv: {error}"))?)
            }
            (None, None) => None,
            (Some(_), None) => return missing("`first_ratio`", "`budget`"),
            (None, Some(_)) => return missing("`budget`", "`first_ratio`"),
        };
        if counted.is_some() && shared.is_some() {
            let both =
                "kv: expected `first` and `last`, or `budget` and `first_ratio`, found all of them";
            return Err(both.to_owned());
        }
        let span = counted.or(shared);
        if span.is_none() && fields.heavy.is_some() {
            return missing("`first` and `last`", "`heavy`");
        }
        let sends = BlockKv {
            span,
            heavy: fields.heavy.unwrap_or(0),
            encoding: fields.encoding.unwrap_or_default(),
        };
        let blocks = fields.blocks;
        Ok(Self { blocks, sends })
    }
}

impl From<KvGroup> for GroupFields {
    fn from(group: KvGroup) -> Self {
        let BlockKv {
            span,
            heavy,
            encoding,
        } = group.sends;
        Self {
            blocks: group.blocks,
            first: span.map(|span| span.first),
            last: span.map(|span| span.last),
            budget: None,
            first_ratio: None,
            heavy: (heavy > 0).then_some(heavy),
            encoding: (encoding != KvEncoding::Held).then_some(encoding),
        }
    }
}

impl KvPlan {
    /// All positions of every block, as they are held.
    pub fn send_all(depth: usize) -> Self {
        Self {
            depth,
            blocks: BTreeMap::new(),
        }
    }

    /// `span` in `blocks`, all positions elsewhere.
    pub fn uniform(blocks: &BlockSet, span: TokenSpan) -> Self {
        let sends = BlockKv {
            span: Some(span),
            ..BlockKv::default()
        };
        Self {
            depth: blocks.depth(),
            blocks: blocks.iter().map(|id| (id, sends)).collect(),
        }
    }

    /// The same plan, but for what block `id` sends.
    #[must_use]
    pub fn with_block(mut self, id: BlockId, sends: BlockKv) -> Self {
        self.put(id, sends);
        self
    }

    /// The same positions, with the elements of block `id` in `encoding`.
    #[must_use]
    pub fn encoded(self, id: BlockId, encoding: KvEncoding) -> Self {
        let sends = self.block(id);
        self.with_block(id, BlockKv { encoding, ..sends })
    }

    /// The same positions, with the elements of every block in `encoding`.
    #[must_use]
    pub fn encoded_everywhere(self, encoding: KvEncoding) -> Self {
        let blocks = (0..self.depth).map(BlockId::new);
        blocks.fold(self, |plan, id| plan.encoded(id, encoding))
    }

    /// The plan that `groups` describe.
    ///
    /// # Errors
    ///
    /// [`Error::BlockOutOfRange`], or [`Error::KvBlockTwice`] if two groups name one block.
    pub fn from_groups(depth: usize, groups: &[KvGroup]) -> Result<Self> {
        let mut plan = Self::send_all(depth);
        let mut named = BlockSet::empty(depth);
        for group in groups {
            for id in BlockSet::from_indices(depth, group.blocks.iter().copied())?.iter() {
                if named.contains(id) {
                    return Err(Error::KvBlockTwice { block: id.index() });
                }
                named = named.with(id);
                plan.put(id, group.sends);
            }
        }
        Ok(plan)
    }

    fn put(&mut self, id: BlockId, sends: BlockKv) {
        let heavy = sends.span.map_or(0, |_| sends.heavy);
        let sends = BlockKv { heavy, ..sends };
        if sends == BlockKv::default() {
            self.blocks.remove(&id);
        } else {
            self.blocks.insert(id, sends);
        }
    }

    /// The groups that describe this plan, in the order of what they send.
    pub fn to_groups(&self) -> Vec<KvGroup> {
        let mut groups: BTreeMap<BlockKv, Vec<usize>> = BTreeMap::new();
        for (id, sends) in &self.blocks {
            groups.entry(*sends).or_default().push(id.index());
        }
        let group = |(sends, blocks)| KvGroup { blocks, sends };
        groups.into_iter().map(group).collect()
    }

    /// Number of blocks of the model.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Whether every block sends everything as it is held.
    pub fn sends_all(&self) -> bool {
        self.blocks.is_empty()
    }

    /// What `id` sends.
    pub fn block(&self, id: BlockId) -> BlockKv {
        self.blocks.get(&id).copied().unwrap_or_default()
    }

    /// The first and last positions that `id` sends: `None` = all.
    pub fn span(&self, id: BlockId) -> Option<TokenSpan> {
        self.block(id).span
    }

    /// The blocks with a span.
    ///
    /// # Panics
    ///
    /// Never: the blocks are below the depth.
    pub fn spanned(&self) -> BlockSet {
        let spanned = self.blocks.iter().filter(|(_, sends)| sends.span.is_some());
        BlockSet::from_indices(self.depth, spanned.map(|(id, _)| id.index()))
            .expect("checked when the plan was made")
    }

    /// Whether attention chooses some of the positions that a block sends.
    pub fn looks_at_attention(&self) -> bool {
        self.blocks.values().any(|sends| sends.heavy > 0)
    }

    /// Positions of block `id` that cross for a prompt of `n_positions`.
    pub fn positions_sent(&self, id: BlockId, n_positions: usize) -> usize {
        self.block(id).kept(n_positions)
    }
}

#[cfg(test)]
mod tests;
