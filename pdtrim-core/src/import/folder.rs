//! The folder of an exported stage: what its `config.json` says of the plan.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Refusal;
use crate::block::BlockSet;
use crate::error::{Error, Result};
use crate::kv_plan::KvGroup;
use crate::plan::Repair;

/// What an exported folder is for.
///
/// ```
/// use pdtrim_core::import::FolderStage;
///
/// // As it is spelt in the folder's `config.json`.
/// assert_eq!(FolderStage::Unified.to_string(), "unified");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FolderStage {
    /// Prefill.
    Prefill,
    /// Decode.
    Decode,
    /// Both, of a plan whose stages are the same.
    Unified,
}

impl fmt::Display for FolderStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Unified => "unified",
        })
    }
}

/// What an exported folder says of the plan that it was made from.
///
/// ```
/// use pdtrim_core::import::{FolderStage, StageFolder};
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// # let text = r#"{"pdtrim": {"stage": "decode", "base_model": "tiny", "base_hash": "sha256:00",
/// #     "method": "manual", "removed_blocks": [2, 3]}}"#;
/// # std::fs::write(folder.path().join("config.json"), text).expect("a file");
/// // A folder that `pdtrim export PLAN --stage decode` wrote, of a model of five blocks.
/// let stage = StageFolder::read(folder.path(), 5)?;
/// assert_eq!(stage.stage, FolderStage::Decode);
/// assert_eq!(stage.removed.to_indices(), [2, 3]);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct StageFolder {
    /// What the folder is for.
    pub stage: FolderStage,
    /// What the folders of one plan have in common; empty where an older export does not say.
    pub pair: String,
    /// The model's name in the plan.
    pub base_model: String,
    /// The model's hash.
    pub base_hash: String,
    /// Strategy that chose the blocks.
    pub method: String,
    /// Blocks that the stage is without.
    pub removed: BlockSet,
    /// What was fitted after removal; the folder's weights have it, its `config.json` does not.
    pub repair: Repair,
    /// What blocks send to decode.
    pub kv: Vec<KvGroup>,
}

/// The object `pdtrim` of `config.json`.
#[derive(Deserialize)]
struct About {
    stage: FolderStage,
    #[serde(default)]
    pair: String,
    base_model: String,
    base_hash: String,
    method: String,
    removed_blocks: Vec<usize>,
    #[serde(default)]
    repair: Repair,
    #[serde(default)]
    kv: Vec<KvGroup>,
    width: Option<Value>,
}

impl StageFolder {
    /// Reads the folder of a stage of a model of `depth` blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::NotUtf8`], [`Error::Json`], or [`Error::Import`] if the folder was not
    /// exported from a plan, is for a model of another depth, or has narrower blocks, whose removed
    /// channels it does not list.
    pub fn read(folder: &Path, depth: usize) -> Result<Self> {
        let path = folder.join("config.json");
        let refusal = Refusal { path: &path };
        let json = |source| Error::Json {
            path: path.clone(),
            source,
        };
        let text = crate::text::read_text(&path, crate::limits::CONFIG_VALUES)?;
        let mut config: Map<String, Value> = serde_json::from_str(&text).map_err(json)?;
        let Some(about) = config.remove("pdtrim") else {
            let expected = "what an export of a plan's stage writes";
            return Err(refusal.error("pdtrim", expected, "nothing"));
        };
        let about: About = serde_json::from_value(about).map_err(json)?;
        if about.width.is_some_and(|width| !width.is_null()) {
            let expected = "a stage without narrower blocks: the removed channels are not listed";
            return Err(refusal.error("pdtrim.width", expected, "some"));
        }
        Ok(Self {
            stage: about.stage,
            pair: about.pair,
            base_model: about.base_model,
            base_hash: about.base_hash,
            method: about.method,
            removed: refusal.set("pdtrim.removed_blocks", depth, &about.removed_blocks)?,
            repair: about.repair,
            kv: about.kv,
        })
    }
}
