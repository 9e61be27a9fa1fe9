//! Removed blocks that another tool wrote down, or an exported folder, as a [`Plan`].
//!
//! - [`BlockSource::read`] reads SLEB's removal order, a bare list of blocks, or a mergekit `passthrough`
//!   file;
//! - [`StageFolder::read`] reads what [`Checkpoint::export`](crate::checkpoint::Checkpoint::export) wrote
//!   into `config.json`;
//! - [`plan`] makes a plan of removed blocks, and checks it.

mod folder;
mod list;
mod mergekit;

use std::path::Path;

pub use folder::{FolderStage, StageFolder};

use crate::block::BlockSet;
use crate::error::{Error, Result};
use crate::kv_plan::KvGroup;
use crate::plan::{PLAN_VERSION, Plan, PlanFile, PlanModel, Repair};
use crate::stage::{Boundary, KvFill, PerStage};

/// One set of removed blocks, as a file of another tool names them.
///
/// ```
/// use pdtrim_core::import::BlockSource;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let path = folder.path().join("merge.yml");
/// std::fs::write(&path, "
/// merge_method: passthrough
/// slices:
/// - sources: [{model: org/base, layer_range: [0, 2]}]
/// - sources: [{model: org/base, layer_range: [3, 5]}]
/// ").expect("a file");
/// let source = BlockSource::read(&path, 5)?;
/// assert_eq!(source.removed.to_indices(), [2]);
/// assert_eq!((source.method, source.model.as_deref()), ("mergekit", Some("org/base")));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSource {
    /// The blocks.
    pub removed: BlockSet,
    /// `sleb`, `mergekit`, or `manual` for a bare list.
    pub method: &'static str,
    /// The model that the file names, in its own spelling.
    pub model: Option<String>,
}

impl BlockSource {
    /// Reads `path` for a model of `depth` blocks: a mergekit file if it ends in `.yml` or `.yaml`, else
    /// SLEB's result file or a list of block indices.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::NotUtf8`], [`Error::Yaml`], [`Error::BlockOutOfRange`], or [`Error::Import`]
    /// with the field that says what a plan cannot: blocks that are repeated, moved, scaled, or taken from
    /// several models.
    pub fn read(path: &Path, depth: usize) -> Result<Self> {
        let text = crate::text::read_text(path, crate::limits::RECIPE)?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("yml" | "yaml") => mergekit::read(path, &text, depth),
            _ => list::read(path, &text, depth),
        }
    }
}

/// A plan that removes these blocks and repairs nothing.
///
/// A block that only prefill is without makes the plan one with [`KvFill::Project`]: such a plan runs in
/// no other way.
///
/// # Errors
///
/// As [`Plan::new`].
///
/// ```
/// use pdtrim_core::plan::PlanModel;
/// use pdtrim_core::{BlockSet, KvFill, PerStage, import};
///
/// // Only prefill is without block 1.
/// let model = PlanModel { name: "tiny".to_owned(), hash: "sha256:00".to_owned(), blocks: 5 };
/// let removed = PerStage {
///     prefill: BlockSet::from_indices(5, [1])?,
///     decode: BlockSet::empty(5),
/// };
/// let plan = import::plan(model, "manual", &removed, Vec::new())?;
/// assert_eq!(plan.kv_fill(), KvFill::Project);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn plan(
    model: PlanModel,
    method: &str,
    removed: &PerStage<BlockSet>,
    kv: Vec<KvGroup>,
) -> Result<Plan> {
    let kv_fill = if removed.prefill.is_subset(&removed.decode) {
        KvFill::Nested
    } else {
        KvFill::Project
    };
    Plan::new(PlanFile {
        version: PLAN_VERSION,
        method: method.to_owned(),
        seed: 0,
        race_error: 0.0,
        boundary: Boundary::default(),
        kv_fill,
        repair: Repair::None,
        kv_method: if kv.is_empty() { "" } else { "manual" }.to_owned(),
        model,
        removed: PerStage {
            prefill: removed.prefill.to_indices(),
            decode: removed.decode.to_indices(),
        },
        calibration: None,
        repair_file: None,
        repair_calibration: None,
        pairs: None,
        width: None,
        kv,
        scores: Vec::new(),
    })
}

/// Refusals of one file.
struct Refusal<'p> {
    path: &'p Path,
}

impl Refusal<'_> {
    fn error(
        &self,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::Import {
            path: self.path.to_owned(),
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The set of `blocks`, none of which may come twice or lie beyond the model.
    fn set(&self, field: &str, depth: usize, blocks: &[usize]) -> Result<BlockSet> {
        let mut set = BlockSet::empty(depth);
        for &block in blocks {
            if block >= depth {
                let expected = format!("blocks of a model of {depth} (0 to {})", depth - 1);
                return Err(self.error(field, expected, format!("block {block}")));
            }
            let id = crate::block::BlockId::new(block);
            if set.contains(id) {
                let found = format!("block {block} twice");
                return Err(self.error(field, "every block once", found));
            }
            set = set.with(id);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests;
