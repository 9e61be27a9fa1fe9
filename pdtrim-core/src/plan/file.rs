//! The form of a plan file.

use serde::{Deserialize, Serialize};

use crate::kv_plan::KvGroup;
use crate::stage::{Boundary, KvFill, PerStage};
use crate::width::PlanWidth;

/// Version of the plan file that this build reads and writes.
pub const PLAN_VERSION: u32 = 1;

/// The model a plan was made for.
///
/// ```
/// use pdtrim_core::plan::PlanModel;
/// use pdtrim_core::{BlockSet, PerStage, import};
///
/// let model = PlanModel { name: "tiny".to_owned(), hash: "sha256:00".to_owned(), blocks: 5 };
/// let removed = PerStage::both(BlockSet::from_indices(5, [2])?);
/// let plan = import::plan(model, "manual", &removed, Vec::new())?;
/// // A plan is for one model, whatever the model is called.
/// plan.check_model("renamed", "sha256:00")?;
/// assert!(plan.check_model("tiny", "sha256:ff").is_err());
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_core::plan::PlanCalibration;
///
/// let calibration: PlanCalibration = toml::from_str(
///     r#"
///     source = "wikitext2"
///     hash = "sha256:00"
///     windows = 8
///     window_tokens = 128
///     prompt_tokens = 96
///     "#,
/// )?;
/// assert_eq!((calibration.seed, calibration.items), (0, None));
/// # Ok::<(), toml::de::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_core::plan::Repair;
///
/// // As a plan file spells it.
/// let repair: Repair = serde_json::from_str("\"linear\"")?;
/// assert_eq!(repair, Repair::Linear);
/// # Ok::<(), serde_json::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_core::plan::RepairFile;
/// use pdtrim_core::repair::RepairWeights;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file: RepairFile = RepairWeights::default().write(folder.path())?;
/// assert_eq!(file.name, "repair.safetensors");
/// assert!(file.sha256.starts_with("sha256:"));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairFile {
    /// Its name, in the plan's own folder.
    pub name: String,
    /// `sha256:` and the hash of its bytes.
    pub sha256: String,
}

/// A figure that was measured with the plan, kept so that a reader need not run it again.
///
/// ```
/// use pdtrim_core::Boundary;
/// use pdtrim_core::plan::PlanScore;
///
/// let score = PlanScore {
///     task: "heldout".to_owned(),
///     mode: "pd".to_owned(),
///     boundary: Some(Boundary::Prefill),
///     metric: "token_perplexity".to_owned(),
///     value: 43.5,
/// };
/// assert!(toml::to_string(&score)?.contains("boundary = \"prefill\""));
/// # Ok::<(), toml::ser::Error>(())
/// ```
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
///
/// ```
/// use pdtrim_core::Plan;
/// use pdtrim_core::plan::PlanFile;
///
/// let file: PlanFile = toml::from_str(
///     r#"
///     version = 1
///     method = "manual"
///     [model]
///     name = "tiny"
///     hash = "sha256:00"
///     blocks = 5
///     [removed]
///     prefill = [2]
///     decode = [2, 3]
///     "#,
/// )?;
/// // Nothing of it was checked yet.
/// let plan = Plan::new(PlanFile { version: 2, ..file });
/// assert_eq!(plan.unwrap_err().to_string(), "plan version 2 is unknown, this build reads version 1");
/// # Ok::<(), toml::de::Error>(())
/// ```
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
