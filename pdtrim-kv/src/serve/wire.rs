//! Blocks of keys and values as messages, and back.

use std::collections::VecDeque;

use burn::tensor::{DType, Device, Tensor, TensorData};
use bytes::Bytes;
use pdtrim_core::KvEncoding;
use pdtrim_core::cache::{BlockCache, TokenPosition};

use super::error::{ServeError, ServeResult};
use super::identity::shown;
use super::proto::{End, Identity, KvChunk, LastHidden, Part, Range, part::Content};
use super::served::BlockOnWire;
use crate::encoding::Part as KeysOrValues;
use crate::planned::elements;

/// Bytes of keys and values in a message: large enough that framing costs nothing, small enough that
/// a reader takes them in its stride.
pub(super) const CHUNK: usize = 1 << 20;
/// What a message may hold beside them.
pub(super) const FRAME: usize = 64 << 10;
/// zstd's quickest level that still packs.
const ZSTD_LEVEL: i32 = 1;

/// The bytes of a block: which positions attention chose, if it did, then all keys and then all values.
pub(super) fn encode(block: &BlockOnWire, cache: &BlockCache) -> ServeResult<Bytes> {
    let mut bytes = Vec::with_capacity(block.bytes());
    if cache.is_empty() {
        return Ok(bytes.into());
    }
    if let Some((between, heavy)) = &block.heavy {
        let first = between.start;
        for head in 0..block.shape.heads {
            let chosen = &cache.head_positions(0, head)[first..first + heavy];
            let mut bits = vec![0_u8; block.head_choice_bytes()];
            for position in chosen {
                let place = position.0 - first;
                bits[place / 8] |= 1 << (place % 8);
            }
            bytes.extend_from_slice(&bits);
        }
    }
    for (part, tensor) in [
        (KeysOrValues::Keys, cache.keys()),
        (KeysOrValues::Values, cache.values()),
    ] {
        if block.codec.encoding == KvEncoding::Held && cfg!(target_endian = "little") {
            bytes.extend_from_slice(tensor.into_data().as_bytes());
        } else {
            let elements = elements(tensor);
            block
                .codec
                .encode(&elements, block.shape, part, &mut bytes)?;
        }
    }
    Ok(bytes.into())
}

/// The cache that `bytes` stand for, held as `dtype`.
pub(super) fn decode(
    block: &BlockOnWire,
    bytes: &[u8],
    dtype: DType,
    device: &Device,
) -> ServeResult<BlockCache> {
    let shape = block.shape;
    if shape.positions == 0 {
        return Ok(BlockCache::with_capacity(0));
    }
    let dims = [1, shape.positions, shape.heads, shape.width];
    let (chosen, bytes) = bytes.split_at(block.choice_bytes());
    let (keys, values) = bytes.split_at(block.key_bytes());
    let tensor = |bytes: &[u8], part| -> ServeResult<Tensor<4>> {
        if block.codec.encoding == KvEncoding::Held && cfg!(target_endian = "little") {
            let data = TensorData::from_bytes_vec(bytes.to_vec(), dims, dtype);
            return Ok(Tensor::from_data(data, (device, dtype)));
        }
        let elements = block.codec.decode(bytes, shape, part)?;
        let data = TensorData::new(elements, dims);
        Ok(Tensor::from_data(data, (device, dtype)))
    };
    let keys = tensor(keys, KeysOrValues::Keys)?;
    let values = tensor(values, KeysOrValues::Values)?;
    if let Some((between, heavy)) = &block.heavy {
        let last = shape.positions - between.start - heavy;
        let head = |bits| {
            let chosen = chosen_positions(bits, between, *heavy)?;
            let first = (0..between.start).map(TokenPosition);
            let last = (between.end..between.end + last).map(TokenPosition);
            Ok(first.chain(chosen).chain(last).collect())
        };
        let heads = chosen.chunks_exact(block.head_choice_bytes());
        let positions: ServeResult<Vec<Vec<TokenPosition>>> = heads.map(head).collect();
        return Ok(BlockCache::of_head_positions(keys, values, positions?));
    }
    let positions = block.ranges.iter().flat_map(|&(start, end)| start..end);
    let positions = positions.map(TokenPosition).collect();
    Ok(BlockCache::of_positions(keys, values, positions))
}

/// The positions whose bits are set, which must be `heavy` of those in `between`.
fn chosen_positions(
    bits: &[u8],
    between: &std::ops::Range<usize>,
    heavy: usize,
) -> ServeResult<Vec<TokenPosition>> {
    let is_set = |place: &usize| bits[place / 8] & (1 << (place % 8)) != 0;
    let chosen = (0..8 * bits.len()).filter(is_set);
    let chosen: Vec<TokenPosition> = chosen
        .map(|place| TokenPosition(between.start + place))
        .collect();
    let beyond = chosen.last().is_some_and(|last| last.0 >= between.end);
    if chosen.len() != heavy || beyond {
        let expected = format!("{heavy} bits of {}", between.len());
        let found = format!("{} of {}", chosen.len(), 8 * bits.len());
        return Err(wire("chosen positions", expected, found));
    }
    Ok(chosen)
}

/// The messages that carry a block's `bytes`; with `zstd` those that it makes smaller are compressed.
pub(super) fn messages<'a>(
    identity: &'a Identity,
    block: &'a BlockOnWire,
    bytes: &'a Bytes,
    zstd: bool,
) -> impl Iterator<Item = Part> + 'a {
    // A block without positions has a message too: the other side hears of each.
    let count = bytes.len().div_ceil(CHUNK).max(1);
    (0..count).map(move |number| {
        let offset = number * CHUNK;
        let raw = bytes.slice(offset..bytes.len().min(offset + CHUNK));
        let packed = zstd.then(|| zstd::bulk::compress(&raw, ZSTD_LEVEL).ok());
        let packed = packed.flatten().filter(|packed| packed.len() < raw.len());
        let inflated = packed.as_ref().map_or(0, |_| raw.len() as u64);
        let mut chunk = KvChunk {
            block: block.id.index() as u32,
            dtype: block.codec.held.name().to_owned(),
            encoding: block.codec.encoding.name().to_owned(),
            positions: block.shape.positions as u32,
            heads: block.shape.heads as u32,
            width: block.shape.width as u32,
            ranges: ranges(block),
            total: bytes.len() as u64,
            offset: offset as u64,
            data: packed.map_or(raw, Bytes::from),
            inflated,
            crc32: 0,
        };
        chunk.crc32 = checksum(&chunk);
        message(identity, Content::Kv(chunk))
    })
}

pub(super) fn last_hidden(identity: &Identity, last: Tensor<2>) -> Part {
    let data = last.into_data().convert::<f32>();
    let values: Vec<f32> = data.try_into_vec().expect("just converted");
    let data: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let crc32 = crc32fast::hash(&data);
    let data = data.into();
    message(identity, Content::Last(LastHidden { data, crc32 }))
}

pub(super) fn end(identity: &Identity, blocks: usize, kv_bytes: u64) -> Part {
    let blocks = blocks as u32;
    message(identity, Content::End(End { blocks, kv_bytes }))
}

fn message(identity: &Identity, content: Content) -> Part {
    Part {
        identity: Some(identity.clone()),
        content: Some(content),
    }
}

fn ranges(block: &BlockOnWire) -> Vec<Range> {
    let range = |&(start, end): &(usize, usize)| Range {
        start: start as u32,
        end: end as u32,
    };
    block.ranges.iter().map(range).collect()
}

/// Of every field but itself.
fn checksum(chunk: &KvChunk) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for number in [chunk.block, chunk.positions, chunk.heads, chunk.width] {
        hasher.update(&number.to_le_bytes());
    }
    for range in &chunk.ranges {
        hasher.update(&range.start.to_le_bytes());
        hasher.update(&range.end.to_le_bytes());
    }
    for number in [chunk.total, chunk.offset, chunk.inflated] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(chunk.dtype.as_bytes());
    hasher.update(chunk.encoding.as_bytes());
    hasher.update(&chunk.data);
    hasher.finalize()
}

/// What a message brought to its end.
#[derive(Debug)]
pub(super) enum Arrived {
    /// All bytes of a block.
    Block(BlockOnWire, Vec<u8>),
    /// The hidden state `[hidden]` of the last prompt token.
    Last(Vec<f32>),
    /// Everything.
    End,
}

/// Puts messages together, and refuses those that do not follow from the plan and the prompt.
#[derive(Debug)]
pub(super) struct Assembler {
    identity: Identity,
    /// Blocks that have not begun, in order.
    expected: VecDeque<BlockOnWire>,
    /// The block that has begun.
    open: Option<(BlockOnWire, Vec<u8>)>,
    wants_last: bool,
    blocks: usize,
    kv_bytes: u64,
}

impl Assembler {
    pub(super) fn new(identity: Identity, blocks: Vec<BlockOnWire>, wants_last: bool) -> Self {
        Self {
            identity,
            expected: blocks.into(),
            open: None,
            wants_last,
            blocks: 0,
            kv_bytes: 0,
        }
    }

    /// Bytes of keys and values so far, as the encodings have them.
    pub(super) fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }

    /// Takes the next message.
    pub(super) fn push(&mut self, part: Part) -> ServeResult<Option<Arrived>> {
        if part.identity.as_ref() != Some(&self.identity) {
            let found = part.identity.unwrap_or_default();
            let identity = |identity: &Identity| {
                format!(
                    "model {}, plan {}",
                    shown(&identity.model),
                    shown(&identity.plan)
                )
            };
            return Err(wire("identity", identity(&self.identity), identity(&found)));
        }
        match part.content {
            Some(Content::Kv(chunk)) => self.chunk(&chunk),
            Some(Content::Last(last)) => self.last(&last).map(Some),
            Some(Content::End(end)) => self.end(end).map(Some),
            None => Err(wire("content", "kv, last or end", "nothing")),
        }
    }

    fn chunk(&mut self, chunk: &KvChunk) -> ServeResult<Option<Arrived>> {
        let found = checksum(chunk);
        if chunk.crc32 != found {
            let (expected, found) = (hex(chunk.crc32), hex(found));
            return Err(wire("crc32", expected, found));
        }
        let next = || self.expected.pop_front().map(|block| (block, Vec::new()));
        let Some((block, mut bytes)) = self.open.take().or_else(next) else {
            let found = format!("block {}", chunk.block);
            return Err(wire("kv", "no further block", found));
        };
        check_block(&block, chunk)?;
        if chunk.offset != bytes.len() as u64 {
            return Err(wire("offset", bytes.len(), chunk.offset));
        }
        let left = (block.bytes() - bytes.len()).min(CHUNK);
        let length = match chunk.inflated {
            0 => chunk.data.len() as u64,
            inflated => inflated,
        };
        if length != left as u64 {
            return Err(wire("data", format!("{left} bytes"), length));
        }
        // The plan and the prompt say how many bytes these are; the message only agrees.
        bytes.reserve_exact(block.bytes() - bytes.len());
        if chunk.inflated == 0 {
            bytes.extend_from_slice(&chunk.data);
        } else {
            let inflated = zstd::bulk::decompress(&chunk.data, left);
            let inflated = inflated.ok().filter(|inflated| inflated.len() == left);
            let expected = || format!("{left} bytes compressed with zstd");
            bytes.extend(inflated.ok_or_else(|| wire("data", expected(), "others"))?);
        }
        if bytes.len() < block.bytes() {
            self.open = Some((block, bytes));
            return Ok(None);
        }
        self.blocks += 1;
        self.kv_bytes += bytes.len() as u64;
        Ok(Some(Arrived::Block(block, bytes)))
    }

    fn last(&mut self, last: &LastHidden) -> ServeResult<Arrived> {
        self.check_complete("last")?;
        if !std::mem::take(&mut self.wants_last) {
            return Err(wire("last", "no hidden state", "one"));
        }
        let found = crc32fast::hash(&last.data);
        if last.crc32 != found {
            return Err(wire("last.crc32", hex(last.crc32), hex(found)));
        }
        let (values, rest) = last.data.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(wire("last.data", "whole numbers of f32", last.data.len()));
        }
        let values = values.iter().map(|&value| f32::from_le_bytes(value));
        Ok(Arrived::Last(values.collect()))
    }

    fn end(&mut self, end: End) -> ServeResult<Arrived> {
        self.check_complete("end")?;
        if self.wants_last {
            return Err(wire("last", "a hidden state", "the end"));
        }
        let (expected, found) = (self.blocks as u64, u64::from(end.blocks));
        if expected != found {
            return Err(wire("end.blocks", expected, found));
        }
        if end.kv_bytes != self.kv_bytes {
            return Err(wire("end.kv_bytes", self.kv_bytes, end.kv_bytes));
        }
        Ok(Arrived::End)
    }

    fn check_complete(&self, what: &'static str) -> ServeResult<()> {
        let open = self.open.as_ref().map(|(block, _)| block);
        match open.or_else(|| self.expected.front()) {
            Some(block) => Err(wire("kv", format!("block {}", block.id.index()), what)),
            None => Ok(()),
        }
    }
}

/// Holds what a message says of its block against what follows from the plan and the prompt.
fn check_block(block: &BlockOnWire, chunk: &KvChunk) -> ServeResult<()> {
    let numbers = [
        ("block", block.id.index(), u64::from(chunk.block)),
        (
            "positions",
            block.shape.positions,
            u64::from(chunk.positions),
        ),
        ("heads", block.shape.heads, u64::from(chunk.heads)),
        ("width", block.shape.width, u64::from(chunk.width)),
        ("total", block.bytes(), chunk.total),
    ];
    for (field, expected, found) in numbers {
        if expected as u64 != found {
            return Err(wire(field, expected, found));
        }
    }
    let names = [
        ("dtype", block.codec.held.name(), &chunk.dtype),
        ("encoding", block.codec.encoding.name(), &chunk.encoding),
    ];
    for (field, expected, found) in names {
        if expected != found {
            return Err(wire(field, expected, shown(found)));
        }
    }
    let same = block.ranges.len() == chunk.ranges.len() && ranges(block) == chunk.ranges;
    if !same {
        let found = chunk.ranges.iter().take(4);
        let found: Vec<String> = found
            .map(|range| format!("{}..{}", range.start, range.end))
            .collect();
        return Err(wire(
            "ranges",
            format!("{:?}", block.ranges),
            found.join(", "),
        ));
    }
    Ok(())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "numbers and texts alike, mostly made for the call"
)]
fn wire(field: &'static str, expected: impl ToString, found: impl ToString) -> ServeError {
    ServeError::Wire {
        field,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

fn hex(checksum: u32) -> String {
    format!("{checksum:08x}")
}

#[cfg(test)]
mod tests;
