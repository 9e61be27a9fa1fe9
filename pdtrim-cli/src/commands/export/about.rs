//! What `config.json` of an export says of the plan, under `pdtrim`.

use pdtrim_core::Plan;
use pdtrim_core::checkpoint::{ExportForm, StageWeights};
use pdtrim_core::hash::sha256;
use serde_json::{Value, json};

use super::chosen::Chosen;

pub(super) fn about(plan: &Plan, chosen: &Chosen, form: ExportForm) -> Value {
    let file = plan.file();
    let repaired: Vec<usize> = match &chosen.weights {
        StageWeights::Repaired(repair) => repair.keys().map(|id| id.index()).collect(),
        StageWeights::Own | StageWeights::Narrow(..) => Vec::new(),
    };
    let mut about = json!({
        "stage": chosen.name,
        "form": form.name(),
        "pair": pair(plan),
        "base_model": file.model.name,
        "base_hash": file.model.hash,
        "method": file.method,
        "seed": file.seed,
        "boundary": file.boundary,
        "calibration": file.calibration,
        "removed_blocks": chosen.removed.to_indices(),
        "kept_blocks": chosen.removed.complement().to_indices(),
        "repair": file.repair,
        "repaired_blocks": repaired,
        "kv": plan.kv().to_groups(),
    });
    if let Some(section) = &file.width {
        let blocks = section
            .blocks
            .iter()
            .filter(|block| block.stage == chosen.stage);
        let blocks = blocks.map(|block| {
            json!({
                "block": block.block,
                "removed_groups": block.removed_groups,
                "removed_channels": block.removed_channels.len(),
            })
        });
        about["width"] = json!({
            "method": section.method,
            "form": "zeros in the dense model's shapes; biases in o_proj and down_proj where the plan has them",
            "blocks": blocks.collect::<Vec<_>>(),
        });
    }
    about
}

/// What both stages of one plan have in common and those of another have not.
pub(super) fn pair(plan: &Plan) -> String {
    format!("sha256:{}", sha256(plan.to_toml().as_bytes()))
}
