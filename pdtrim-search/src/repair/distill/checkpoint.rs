//! A training that was stopped: one file, replaced as a whole, with all that is needed to go on.
//!
//! A line of JSON says what follows: the weights of finished parts, and of an unfinished part its
//! weights and the optimizer's state.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{DType, TensorData};
use pdtrim_core::model::BlockWeights;
use pdtrim_core::repair::RepairWeights;
use pdtrim_core::{BlockId, Stage, write_atomically};
use serde::{Deserialize, Serialize};

use super::train::Trainee;
use super::{DistillLoss, DistillRepair, DistillResume};
use crate::error::{Error, Result};

/// Where a training is, between two steps.
pub(super) struct Resumed {
    /// Parts that are finished.
    pub(super) part: usize,
    /// The next part, if it was begun.
    pub(super) within: Option<Within>,
    pub(super) weights: RepairWeights,
    pub(super) losses: Vec<DistillLoss>,
}

impl Resumed {
    pub(super) fn at_start(weights: RepairWeights) -> Self {
        Self {
            part: 0,
            within: None,
            weights,
            losses: Vec::new(),
        }
    }
}

/// A part that was begun.
pub(super) struct Within {
    /// Of each step taken.
    pub(super) losses: Vec<f64>,
    pub(super) weights: BTreeMap<BlockId, BlockWeights>,
    pub(super) optimizer: Vec<u8>,
}

/// The file.
pub(super) struct Checkpoint {
    path: PathBuf,
    training: String,
    every: Duration,
    written: Cell<Instant>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// What the file belongs to.
    distill_of: String,
    part: usize,
    losses: Vec<DistillLoss>,
    weights: Vec<(Stage, Entry)>,
    begun: Option<Begun>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begun {
    losses: Vec<f64>,
    weights: Vec<Entry>,
    optimizer_bytes: usize,
}

/// A tensor of f32.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    block: usize,
    path: String,
    shape: Vec<usize>,
}

impl Checkpoint {
    /// The file that `resume` names, and what it holds if it belongs to this training.
    pub(super) fn resume(
        resume: Option<DistillResume<'_>>,
        repair: &DistillRepair,
    ) -> Result<Option<(Self, Option<Resumed>)>> {
        let Some(DistillResume {
            path,
            fingerprint,
            every,
        }) = resume
        else {
            return Ok(None);
        };
        let checkpoint = Self {
            path: path.to_owned(),
            training: format!("{fingerprint} {repair:?}"),
            every,
            written: Cell::new(Instant::now()),
        };
        let held = match fs::read(path) {
            Ok(bytes) => checkpoint.read(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(Error::Objective(pdtrim_core::Error::Io {
                    action: "read",
                    path: path.to_owned(),
                    source,
                }));
            }
        };
        Ok(Some((checkpoint, held)))
    }

    /// Whether the file is older than it should be.
    pub(super) fn is_due(&self) -> bool {
        self.written.get().elapsed() >= self.every
    }

    /// Replaces the file.
    pub(super) fn write<B: Module>(
        &self,
        part: usize,
        weights: &RepairWeights,
        losses: &[DistillLoss],
        begun: Option<&Trainee<B>>,
    ) -> Result<()> {
        let within = begun.map(Trainee::within).transpose()?;
        let mut body = Vec::new();
        let mut entries = Vec::new();
        for stage in [Stage::Prefill, Stage::Decode] {
            for (&id, weights) in weights.of(stage) {
                let own = put(id, weights, &mut body);
                entries.extend(own.map(|entry| (stage, entry)));
            }
        }
        let begun = within.map(|within| {
            let blocks = within.weights.iter();
            let weights =
                blocks.flat_map(|(&id, weights)| put(id, weights, &mut body).collect::<Vec<_>>());
            let weights = weights.collect();
            body.extend_from_slice(&within.optimizer);
            Begun {
                losses: within.losses,
                weights,
                optimizer_bytes: within.optimizer.len(),
            }
        });
        let header = Header {
            distill_of: self.training.clone(),
            part,
            losses: losses.to_vec(),
            weights: entries,
            begun,
        };
        let line = serde_json::to_vec(&header).map_err(|source| pdtrim_core::Error::Json {
            path: self.path.clone(),
            source,
        });
        let mut bytes = line.map_err(Error::Objective)?;
        bytes.push(b'\n');
        bytes.append(&mut body);
        write_atomically(&self.path, &bytes).map_err(Error::Objective)?;
        self.written.set(Instant::now());
        Ok(())
    }

    /// `None` for a file of another training, or one that is not whole.
    fn read(&self, bytes: &[u8]) -> Option<Resumed> {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
        if header.distill_of != self.training {
            return None;
        }
        let mut rest = &bytes[end + 1..];
        let mut weights = RepairWeights::default();
        for (stage, entry) in header.weights {
            let (id, path, data) = take(entry, &mut rest)?;
            weights.insert_weights(stage, id, [(path, data)].into());
        }
        let within = match header.begun {
            None => None,
            Some(begun) => {
                let mut blocks = BTreeMap::<BlockId, BlockWeights>::new();
                for entry in begun.weights {
                    let (id, path, data) = take(entry, &mut rest)?;
                    blocks.entry(id).or_default().insert(path, data);
                }
                let (optimizer, after) = rest.split_at_checked(begun.optimizer_bytes)?;
                rest = after;
                Some(Within {
                    losses: begun.losses,
                    weights: blocks,
                    optimizer: optimizer.to_vec(),
                })
            }
        };
        rest.is_empty().then_some(Resumed {
            part: header.part,
            within,
            weights,
            losses: header.losses,
        })
    }
}

/// Appends the weights' bytes to `body`; returns what they are.
fn put<'w>(
    id: BlockId,
    weights: &'w BlockWeights,
    body: &mut Vec<u8>,
) -> impl Iterator<Item = Entry> + use<'w> {
    for data in weights.values() {
        body.extend_from_slice(data.as_bytes());
    }
    weights.iter().map(move |(path, data)| Entry {
        block: id.index(),
        path: path.clone(),
        shape: data.shape().to_vec(),
    })
}

fn take(entry: Entry, rest: &mut &[u8]) -> Option<(BlockId, String, TensorData)> {
    let bytes = entry.shape.iter().product::<usize>() * size_of::<f32>();
    let (own, after) = rest.split_at_checked(bytes)?;
    *rest = after;
    let data = TensorData::from_bytes_vec(own.to_vec(), entry.shape, DType::F32);
    Some((BlockId::new(entry.block), entry.path, data))
}
