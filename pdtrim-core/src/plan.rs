//! The plan: what each stage keeps and which KV moves. A versioned TOML file that anyone can repeat.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};
use crate::kv_plan::{KvGroup, KvPlan};
use crate::limits;
use crate::stage::{Boundary, KvFill, PerStage, Stage};
use crate::width::{PlanWidth, StageWidths};

/// Version of the plan file that this build reads and writes.
pub const PLAN_VERSION: u32 = 1;

/// The model a plan was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanModel {
    /// Name as the user gave it.
    pub name: String,
    /// Hash of configuration and weights; see [`Checkpoint::hash`](crate::checkpoint::Checkpoint::hash).
    pub hash: String,
    /// Number of transformer blocks.
    pub blocks: usize,
}

/// The token windows a plan was searched on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanCalibration {
    /// Where the text came from.
    pub source: String,
    /// SHA-256 of what was read: the text, the files that hold the items, or the sampled token ids.
    pub hash: String,
    /// Seed with which windows or items were drawn; plans of before it was written drew with 0.
    #[serde(default)]
    pub seed: u64,
    /// Items that were drawn and joined before windows were cut from them; absent where the source is a
    /// text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<usize>,
    /// Number of windows.
    pub windows: usize,
    /// Tokens in each window.
    pub window_tokens: usize,
    /// Tokens of each window that are its prompt.
    pub prompt_tokens: usize,
}

/// What was fitted after removal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Repair {
    /// Nothing.
    #[default]
    None,
    /// A linear map of the MLP's output in the block before each removed run.
    Linear,
    /// Training of the block before each removed run.
    Distill,
}

/// The file beside the plan that holds the repaired weights; see [`repair`](crate::repair).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairFile {
    /// Its name, in the plan's own folder.
    pub name: String,
    /// `sha256:` and the hash of its bytes.
    pub sha256: String,
}

/// A figure that was measured with the plan, kept so that a reader need not run it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanScore {
    /// Task, or `calibration` for the search's own objective.
    pub task: String,
    /// `dense`, `unified`, `pd` or `pd+kv`.
    pub mode: String,
    /// Boundary of the measurement; absent on one machine, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
    /// `acc`, `token_perplexity`, `mean_nll`, …
    pub metric: String,
    /// The value.
    pub value: f64,
}

/// The form of `plan.toml`, before its checks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Format version; [`PLAN_VERSION`].
    pub version: u32,
    /// Strategy that chose the blocks, or `manual`.
    pub method: String,
    /// Seed of everything that was drawn.
    #[serde(default)]
    pub seed: u64,
    /// Probability with which racing was allowed to remove another block than full evaluation would,
    /// for each removal; 0 = every candidate was evaluated in full.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub race_error: f64,
    /// Who computes the first new token's logits.
    #[serde(default)]
    pub boundary: Boundary,
    /// What happens to a block that only prefill removes.
    #[serde(default)]
    pub kv_fill: KvFill,
    /// What was fitted after removal.
    #[serde(default)]
    pub repair: Repair,
    /// How the KV blocks were chosen: `attention`, `loss`, `divergence`, `manual`, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kv_method: String,
    /// The model.
    pub model: PlanModel,
    /// Blocks removed from each stage.
    pub removed: PerStage<Vec<usize>>,
    /// Windows of the search; absent from a plan written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<PlanCalibration>,
    /// Where the repaired weights are; there if and only if something was repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_file: Option<RepairFile>,
    /// Windows that the repair was fitted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_calibration: Option<PlanCalibration>,
    /// First blocks of the pairs for which one repaired block stood in the search, in each stage: it is kept,
    /// and the block after it is among the removed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PerStage<Vec<usize>>>,
    /// Head groups and MLP channels that are removed inside the blocks that stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<PlanWidth>,
    /// Blocks whose KV is trimmed; the others send every prompt position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kv: Vec<KvGroup>,
    /// Figures measured with the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<PlanScore>,
}

impl PlanFile {
    /// Names of the files that the plan cannot be run without, in its own folder.
    pub fn files_beside(&self) -> impl Iterator<Item = &str> {
        let repair = self.repair_file.iter().map(|file| file.name.as_str());
        let biases = self.width.iter().filter_map(|width| width.biases.as_ref());
        repair.chain(biases.map(|file| file.name.as_str()))
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// A checked plan.
///
/// Every block exists, each stage keeps one, and P is a subset of D unless `kv_fill` is
/// [`KvFill::Project`].
#[derive(Clone, Debug)]
pub struct Plan {
    file: PlanFile,
    removed: PerStage<BlockSet>,
    widths: PerStage<StageWidths>,
    kv: KvPlan,
}

impl Plan {
    /// Checks `file`.
    ///
    /// # Errors
    ///
    /// [`Error::PlanVersion`], [`Error::PlanDepth`], [`Error::BlockOutOfRange`], [`Error::AllBlocksRemoved`],
    /// [`Error::NotNested`], [`Error::PlanRepair`], [`Error::Width`], [`Error::PlanWidth`] or
    /// [`Error::KvBlockTwice`].
    pub fn new(file: PlanFile) -> Result<Self> {
        if file.version != PLAN_VERSION {
            return Err(Error::PlanVersion {
                expected: PLAN_VERSION,
                found: file.version,
            });
        }
        let depth = file.model.blocks;
        if depth > limits::BLOCKS {
            return Err(Error::PlanDepth {
                limit: limits::BLOCKS,
                found: depth,
            });
        }
        let set = |indices: &Vec<usize>| BlockSet::from_indices(depth, indices.iter().copied());
        let removed = PerStage {
            prefill: set(&file.removed.prefill)?,
            decode: set(&file.removed.decode)?,
        };
        check_removed(&removed, file.kv_fill)?;
        check_repair(&file)?;
        check_pairs(&file, &removed)?;
        let section = file.width.as_ref();
        let widths = section.map(|section| section.check(&removed, file.repair));
        let widths = widths.transpose()?.unwrap_or_default();
        let kv = KvPlan::from_groups(depth, &file.kv)?;
        Ok(Self {
            file,
            removed,
            widths,
            kv,
        })
    }

    /// Reads and checks a plan file.
    ///
    /// # Errors
    ///
    /// What [`read_text`](crate::read_text) and [`parse_toml`](crate::parse_toml) refuse, and [`Plan::new`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = crate::text::read_text(path, limits::PLAN)?;
        Self::new(crate::text::parse_toml(path, &text)?)
    }

    /// Writes the plan to a temporary sibling and renames it to `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; `path` is then as it was.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_toml().as_bytes())
    }

    /// The plan file's text.
    ///
    /// # Panics
    ///
    /// Never: every field of a plan can be written as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.file).expect("a plan holds only tables, numbers and strings")
    }

    /// The file form.
    pub fn file(&self) -> &PlanFile {
        &self.file
    }

    /// Blocks removed from each stage.
    pub fn removed(&self) -> &PerStage<BlockSet> {
        &self.removed
    }

    /// What each stage does without inside the blocks that it keeps.
    pub fn widths(&self) -> &PerStage<StageWidths> {
        &self.widths
    }

    /// Which prompt positions cross to decode.
    pub fn kv(&self) -> &KvPlan {
        &self.kv
    }

    /// Who computes the first new token's logits.
    pub fn boundary(&self) -> Boundary {
        self.file.boundary
    }

    /// What happens to a block that only prefill removes.
    pub fn kv_fill(&self) -> KvFill {
        self.file.kv_fill
    }

    /// Refuses a model that the plan was not made for.
    ///
    /// # Errors
    ///
    /// [`Error::PlanModel`] if the hashes differ.
    pub fn check_model(&self, name: &str, hash: &str) -> Result<()> {
        if self.file.model.hash == hash {
            return Ok(());
        }
        Err(Error::PlanModel {
            expected_name: self.file.model.name.clone(),
            expected: self.file.model.hash.clone(),
            found_name: name.to_owned(),
            found: hash.to_owned(),
        })
    }
}

/// A repair has a file, in the plan's own folder, and without a repair there is none.
fn check_repair(file: &PlanFile) -> Result<()> {
    let refused = |expected, found: &str| {
        let found = found.to_owned();
        Err(Error::PlanRepair { expected, found })
    };
    match (file.repair, &file.repair_file) {
        (Repair::None, None) => Ok(()),
        (Repair::None, Some(file)) => refused(
            "no [repair_file] in a plan with repair = \"none\"",
            &file.name,
        ),
        (Repair::Linear | Repair::Distill, None) => {
            refused("a [repair_file] with its name and sha256", "none")
        }
        (Repair::Linear | Repair::Distill, Some(file)) => {
            let name = Path::new(&file.name);
            if name.file_name() == Some(name.as_os_str()) {
                Ok(())
            } else {
                refused("the name of a file in the plan's own folder", &file.name)
            }
        }
    }
}

/// Pairs need a repair, and are where a kept block is before a removed one.
fn check_pairs(file: &PlanFile, removed: &PerStage<BlockSet>) -> Result<()> {
    let Some(pairs) = &file.pairs else {
        return Ok(());
    };
    let refused = |expected, found| Err(Error::PlanRepair { expected, found });
    if file.repair == Repair::None {
        return refused(
            "no [pairs] without a repair",
            "repair = \"none\"".to_owned(),
        );
    }
    for stage in [Stage::Prefill, Stage::Decode] {
        let removed = removed.of(stage);
        let stands =
            |&block: &usize| block < removed.depth() && removed.starts_after(BlockId::new(block));
        if let Some(block) = pairs.of(stage).iter().find(|block| !stands(block)) {
            let expected = "[pairs] of blocks that are kept before a removed one";
            return refused(expected, format!("block {block} in {stage}"));
        }
    }
    Ok(())
}

/// Refuses block sets with which no pass can be run.
///
/// # Errors
///
/// [`Error::AllBlocksRemoved`], or [`Error::NotNested`] if prefill removes a block that decode keeps
/// and `kv_fill` is [`KvFill::Nested`].
pub fn check_removed(removed: &PerStage<BlockSet>, kv_fill: KvFill) -> Result<()> {
    for stage in [Stage::Prefill, Stage::Decode] {
        let set = removed.of(stage);
        if set.len() == set.depth() {
            return Err(Error::AllBlocksRemoved {
                stage,
                depth: set.depth(),
            });
        }
    }
    let missing = removed.prefill.difference(&removed.decode);
    if kv_fill == KvFill::Nested && !missing.is_empty() {
        return Err(Error::NotNested { missing });
    }
    Ok(())
}

/// Writes `bytes` to a temporary sibling of `path`, flushes it and renames it, so that a reader
/// sees the old file or the whole new one.
///
/// # Errors
///
/// [`Error::Io`]; the temporary file is removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    let mut file = temporary_sibling(folder)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_data())
        .map_err(Error::io("write", path))?;
    file.persist(path).map_err(|failed| Error::Io {
        action: "write",
        path: path.to_owned(),
        source: failed.error,
    })?;
    Ok(())
}

/// A temporary file in `folder` that goes when it is dropped, with the permissions of an ordinary new
/// file: what is written here is for other users' engines too.
pub(crate) fn temporary_sibling(folder: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".pdtrim-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
        builder
            .tempfile_in(folder)
            .map_err(Error::io("write to", folder))
    }
    #[cfg(not(unix))]
    builder
        .tempfile_in(folder)
        .map_err(Error::io("write to", folder))
}

#[cfg(test)]
mod tests;
