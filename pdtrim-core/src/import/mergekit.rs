//! mergekit's YAML: a `passthrough` merge whose slices leave blocks of one model out.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{BlockSource, Refusal};
use crate::block::BlockSet;
use crate::error::{Error, Result};

/// Values, those that aliases repeat included: 4096 slices have ten each. Aliases of aliases make a second's work of 400 bytes otherwise.
const NODES: usize = 1 << 16;

/// What this reader looks at; mergekit ignores keys that it does not know, and so does this.
#[derive(Deserialize)]
struct Merge {
    #[serde(rename = "merge_method")]
    method: Option<String>,
    slices: Option<Vec<OutputSlice>>,
    models: Option<Value>,
    modules: Option<Value>,
    base_model: Option<ModelReference>,
    tokenizer: Option<Value>,
    tokenizer_source: Option<ModelReference>,
    parameters: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct OutputSlice {
    #[serde(default)]
    sources: Vec<InputSlice>,
    base_model: Option<ModelReference>,
    residual_weight: Option<Value>,
    parameters: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct InputSlice {
    model: ModelReference,
    layer_range: Vec<i64>,
    parameters: Option<Map<String, Value>>,
}

/// A name, or a table with a path and what is put on top of the model.
#[derive(Deserialize)]
#[serde(untagged)]
enum ModelReference {
    Name(String),
    Table {
        model: ModelPath,
        lora: Option<Value>,
        override_architecture: Option<Value>,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ModelPath {
    Name(String),
    Path {
        path: String,
        revision: Option<String>,
    },
}

impl ModelReference {
    /// The model's name; refused if weights of another one are added.
    fn name(&self, refusal: &Refusal<'_>, field: &str) -> Result<String> {
        match self {
            Self::Name(name) if name.contains('+') => {
                let expected = "a model without an adapter";
                Err(refusal.error(field, expected, format!("`{name}`")))
            }
            Self::Name(name) => Ok(name.clone()),
            Self::Table {
                model,
                lora,
                override_architecture,
            } => {
                for (key, value) in [
                    ("lora", lora),
                    ("override_architecture", override_architecture),
                ] {
                    if let Some(value) = value.as_ref().filter(|value| !value.is_null()) {
                        let field = format!("{field}.{key}");
                        return Err(refusal.error(field, "nothing", value.to_string()));
                    }
                }
                Ok(match model {
                    ModelPath::Name(name) => name.clone(),
                    ModelPath::Path { path, revision } => match revision {
                        Some(revision) => format!("{path}@{revision}"),
                        None => path.clone(),
                    },
                })
            }
        }
    }
}

pub(super) fn read(path: &Path, text: &str, depth: usize) -> Result<BlockSource> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: NODES,
            max_recorded_anchor_events: NODES,
        },
    };
    let merge: Merge =
        serde_saphyr::from_str_with_options(text, options).map_err(|source| Error::Yaml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
    let refusal = Refusal { path };
    check_method(&refusal, &merge)?;
    let slices = merge.slices.as_deref().unwrap_or_default();
    if slices.is_empty() {
        return Err(refusal.error("slices", "at least one slice", "none"));
    }
    let mut model = None;
    let mut kept = Vec::new();
    for (n, slice) in slices.iter().enumerate() {
        let field = format!("slices[{n}]");
        let (name, range) = read_slice(&refusal, &field, slice, depth)?;
        one_model(
            &refusal,
            &format!("{field}.sources[0].model"),
            &mut model,
            name,
        )?;
        let next = kept.last().map_or(0, |&last: &usize| last + 1);
        if range.start < next {
            let expected =
                format!("a start of {next} or more: a plan neither repeats nor moves blocks");
            let field = format!("{field}.sources[0].layer_range");
            return Err(refusal.error(field, expected, range.start.to_string()));
        }
        kept.extend(range);
    }
    check_other_models(&refusal, &merge, slices, &mut model)?;
    let kept = BlockSet::from_indices(depth, kept)?;
    Ok(BlockSource {
        removed: kept.complement(),
        method: "mergekit",
        model,
    })
}

/// The model and the blocks of a slice.
fn read_slice(
    refusal: &Refusal<'_>,
    field: &str,
    slice: &OutputSlice,
    depth: usize,
) -> Result<(String, std::ops::Range<usize>)> {
    no_parameters(
        refusal,
        &format!("{field}.parameters"),
        slice.parameters.as_ref(),
    )?;
    if let Some(weight) = slice
        .residual_weight
        .as_ref()
        .filter(|value| !value.is_null())
    {
        let field = format!("{field}.residual_weight");
        return Err(refusal.error(field, "nothing", weight.to_string()));
    }
    let [source] = slice.sources.as_slice() else {
        let found = slice.sources.len().to_string();
        return Err(refusal.error(format!("{field}.sources"), "one source", found));
    };
    let field = format!("{field}.sources[0]");
    no_parameters(
        refusal,
        &format!("{field}.parameters"),
        source.parameters.as_ref(),
    )?;
    let name = source.model.name(refusal, &format!("{field}.model"))?;
    let range = match *source.layer_range {
        [start, end] => usize::try_from(start)
            .ok()
            .zip(usize::try_from(end).ok())
            .filter(|&(start, end)| start < end && end <= depth),
        _ => None,
    };
    let Some((start, end)) = range else {
        let expected = format!("[a, b] with 0 <= a < b <= {depth}, the model's blocks");
        let found = format!("{:?}", source.layer_range);
        return Err(refusal.error(format!("{field}.layer_range"), expected, found));
    };
    Ok((name, start..end))
}

fn check_method(refusal: &Refusal<'_>, merge: &Merge) -> Result<()> {
    let method = merge.method.as_deref();
    if method != Some("passthrough") {
        let found = method.map_or("nothing".to_owned(), |method| format!("`{method}`"));
        return Err(refusal.error("merge_method", "passthrough", found));
    }
    for (field, value) in [("models", &merge.models), ("modules", &merge.modules)] {
        if value.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(refusal.error(field, "slices instead", field));
        }
    }
    if let Some(tokenizer) = merge.tokenizer.as_ref().filter(|value| !value.is_null()) {
        let expected = "nothing: a plan keeps the model's tokenizer";
        return Err(refusal.error("tokenizer", expected, tokenizer.to_string()));
    }
    no_parameters(refusal, "parameters", merge.parameters.as_ref())
}

/// Other places that may name a model name the same one.
fn check_other_models(
    refusal: &Refusal<'_>,
    merge: &Merge,
    slices: &[OutputSlice],
    model: &mut Option<String>,
) -> Result<()> {
    if let Some(base) = &merge.base_model {
        let name = base.name(refusal, "base_model")?;
        one_model(refusal, "base_model", model, name)?;
    }
    for (n, slice) in slices.iter().enumerate() {
        if let Some(base) = &slice.base_model {
            let field = format!("slices[{n}].base_model");
            let name = base.name(refusal, &field)?;
            one_model(refusal, &field, model, name)?;
        }
    }
    if let Some(source) = &merge.tokenizer_source {
        let name = source.name(refusal, "tokenizer_source")?;
        if name != "base" && name != "union" {
            one_model(refusal, "tokenizer_source", model, name)?;
        }
    }
    Ok(())
}

fn one_model(
    refusal: &Refusal<'_>,
    field: &str,
    model: &mut Option<String>,
    name: String,
) -> Result<()> {
    match model {
        Some(first) if *first != name => {
            let expected = format!("the one model `{first}`");
            Err(refusal.error(field, expected, format!("`{name}`")))
        }
        _ => {
            *model = Some(name);
            Ok(())
        }
    }
}

/// A passthrough merge has one parameter, `scale`, and a plan does not scale weights.
fn no_parameters(
    refusal: &Refusal<'_>,
    field: &str,
    parameters: Option<&Map<String, Value>>,
) -> Result<()> {
    match parameters.and_then(|parameters| parameters.iter().next()) {
        None => Ok(()),
        Some((key, value)) => {
            let expected = "nothing: a plan does not change weights";
            Err(refusal.error(format!("{field}.{key}"), expected, value.to_string()))
        }
    }
}
