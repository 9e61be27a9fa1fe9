use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use pdtrim_core::Bytes;
use pdtrim_core::checkpoint::{Checkpoint, TensorListing};
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::progress::Progress;
use crate::{output, session};

pub(crate) fn run(args: &InspectArgs, progress: Progress) -> Result<()> {
    let path = session::fetch(&args.model, args.offline, progress)?;
    let checkpoint = Checkpoint::open(&path)?;
    let tensors = checkpoint.listing()?;
    let facts = facts(&checkpoint, &tensors)?;
    if args.json {
        let mut object: serde_json::Map<String, Value> = facts.into_iter().collect();
        if args.tensors {
            object.insert("tensors".to_owned(), serde_json::to_value(&tensors)?);
        }
        return output::json(&Value::Object(object));
    }
    let text = |value: Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.add_rows(facts.into_iter().map(|(name, value)| [name, text(value)]));
    output::result(&table.trim_fmt())?;
    if args.tensors {
        output::result(&tensor_table(&tensors))?;
    }
    Ok(())
}

fn facts(checkpoint: &Checkpoint, tensors: &[TensorListing]) -> Result<Vec<(String, Value)>> {
    let config = checkpoint.config();
    let mut element_types: Vec<&str> = tensors
        .iter()
        .map(|tensor| tensor.element_type.as_str())
        .collect();
    element_types.sort_unstable();
    element_types.dedup();
    let weight_bytes = Bytes(tensors.iter().map(|tensor| tensor.bytes).sum());
    let tokenizer = match checkpoint.tokenizer() {
        Ok(_) => "fits the vocabulary".to_owned(),
        Err(error) => error.to_string(),
    };
    let facts = [
        ("path", json!(checkpoint.path())),
        ("format", json!(checkpoint.format())),
        ("element types", json!(element_types.join(", "))),
        ("weights in the file", json!(weight_bytes.to_string())),
        ("architecture", json!(config.architecture.class_name())),
        ("parameters", json!(config.parameters())),
        ("blocks", json!(config.n_blocks)),
        ("parameters of a block", json!(config.block_parameters())),
        ("hidden size", json!(config.hidden_size)),
        ("MLP size", json!(config.intermediate_size)),
        ("query heads", json!(config.n_heads)),
        ("KV heads", json!(config.n_kv_heads)),
        ("head size", json!(config.head_dim)),
        ("vocabulary", json!(config.vocab_size)),
        ("context", json!(config.context_length)),
        (
            "RoPE",
            json!(format!(
                "theta {}, scaling {:?}",
                config.rope.theta, config.rope.scaling
            )),
        ),
        ("tied embeddings", json!(config.tied_embeddings)),
        (
            "KV bytes per token (f32)",
            json!(2 * config.kv_size() * 4 * config.n_blocks),
        ),
        ("tokenizer", json!(tokenizer)),
        ("hash", json!(checkpoint.hash()?)),
    ];
    Ok(facts.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

fn tensor_table(tensors: &[TensorListing]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(["tensor", "shape", "type", "bytes"]);
    for tensor in tensors {
        table.add_row([
            tensor.name.clone(),
            format!("{:?}", tensor.shape),
            tensor.element_type.clone(),
            tensor.bytes.to_string(),
        ]);
    }
    if let Some(column) = table.column_mut(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}
