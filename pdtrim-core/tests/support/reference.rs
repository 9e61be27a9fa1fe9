//! The reference numbers and the model they were made with, for tests of any crate of the workspace.
//! Both lie outside the project; a test that needs one that is not there says so and passes.

#![allow(dead_code, reason = "each test file uses a part of this module")]

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use pdtrim_core::Tokenizer;
use pdtrim_core::checkpoint::Checkpoint;
use pdtrim_core::model::Llama;
use serde_json::Value;

pub(crate) struct Reference {
    pub(crate) golden: Value,
    pub(crate) data: PathBuf,
    pub(crate) model: Llama,
    pub(crate) tokenizer: Tokenizer,
}

/// The reference, or `None` with a line that says what is missing.
#[allow(clippy::print_stdout, reason = "a skipped test says so")]
pub(crate) fn reference() -> Option<Reference> {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let golden = shared.join("golden/golden.json");
    let model = model_path();
    for (what, path) in [("reference numbers", &golden), ("model", &model)] {
        if !path.is_file() {
            println!("skipped: no {what} at {}", path.display());
            return None;
        }
    }
    let golden = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&model).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let model = checkpoint.load(DType::F32, &Device::flex()).unwrap();
    Some(Reference {
        golden,
        data: shared.join("data"),
        model,
        tokenizer,
    })
}

/// Where `pdtrim pull smollm2-135m-instruct` puts its file.
pub(crate) fn model_path() -> PathBuf {
    let cache = std::env::var_os("PDTRIM_CACHE").map(PathBuf::from);
    let home = || {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
    };
    let cache = cache
        .or_else(|| Some(home()?.join("pdtrim")))
        .unwrap_or_default();
    cache.join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")
}

impl Reference {
    /// Token ids of a text file of the reference.
    pub(crate) fn text_tokens(&self, file: &str) -> Vec<u32> {
        let text = std::fs::read_to_string(self.data.join("wikitext-2-raw").join(file)).unwrap();
        self.tokenizer.encode(&text).unwrap()
    }
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect()
}

pub(crate) fn indices(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .map(|ids| ids.iter().map(|id| id.as_u64().unwrap() as usize).collect())
        .unwrap_or_default()
}
