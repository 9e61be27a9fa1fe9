//! The plan: what each stage keeps and which KV moves. A versioned TOML file that anyone can repeat.

mod file;

use std::path::Path;

use crate::atomic::write_atomically;
use crate::block::{BlockId, BlockSet};
use crate::error::{Error, Result};
use crate::kv_plan::KvPlan;
use crate::limits;
use crate::stage::{Boundary, KvFill, PerStage, Stage};
use crate::width::StageWidths;

pub use file::{PLAN_VERSION, PlanCalibration, PlanFile, PlanModel, PlanScore, Repair, RepairFile};

/// A checked plan.
///
/// Every block exists, each stage keeps one, and P is a subset of D unless `kv_fill` is
/// [`KvFill::Project`].
///
/// ```
/// use pdtrim_core::plan::PlanModel;
/// use pdtrim_core::{BlockSet, PerStage, Plan, import};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let path = folder.path().join("plan.toml");
/// let model = PlanModel { name: "tiny".to_owned(), hash: "sha256:00".to_owned(), blocks: 5 };
/// let removed = PerStage {
///     prefill: BlockSet::from_indices(5, [2])?,
///     decode: BlockSet::from_indices(5, [2, 3])?,
/// };
/// import::plan(model, "manual", &removed, Vec::new())?.write(&path)?;
/// let plan = Plan::read(&path)?;
/// assert_eq!(plan.removed(), &removed);
/// assert!(plan.kv().sends_all());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_core::plan::check_removed;
/// use pdtrim_core::{BlockSet, KvFill, PerStage};
///
/// let nothing_left = PerStage { prefill: BlockSet::empty(5), decode: BlockSet::all(5) };
/// let refused = check_removed(&nothing_left, KvFill::Nested).unwrap_err();
/// let said = "decode would keep none of the model's 5 blocks; at least one must stay";
/// assert_eq!(refused.to_string(), said);
/// ```
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

#[cfg(test)]
mod tests;
