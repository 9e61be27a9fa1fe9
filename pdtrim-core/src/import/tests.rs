use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A folder with one file in it.
fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn read(name: &str, text: &str) -> Result<BlockSource> {
    let (_folder, path) = file(name, text);
    BlockSource::read(&path, 8)
}

fn removed(name: &str, text: &str) -> Vec<usize> {
    read(name, text).unwrap().removed.to_indices()
}

/// The words that a refusal must have.
fn refused(name: &str, text: &str, words: &[&str]) {
    let said = read(name, text).unwrap_err().to_string();
    for word in [name].iter().chain(words) {
        assert!(said.contains(word), "`{word}` in: {said}");
    }
}

const SLEB: &str = "Time Elapsed: 12.5\nModel Name: org/name\n# Total Blocks: 8\n# Remove Blocks: 3\n\
    Dataset: wikitext2\nSeed: 0\nBarriers: early 1 / latter 1\nBlock Removal Order: [5, 2, 6]\n\
    WikiText-2 PPL = 9.99\n\n";

#[test]
fn slebs_result_file_gives_its_removal_order_as_a_set() {
    let source = read("sleb.txt", SLEB).unwrap();
    assert_eq!(source.removed.to_indices(), [2, 5, 6]);
    assert_eq!(source.method, "sleb");
    assert_eq!(source.model.as_deref(), Some("org/name"));
}

#[test]
fn a_bare_list_may_be_json_or_words() {
    for text in ["[5, 2, 6]", " 5 2 6\n", "5,2,6", "[\n5,\n2,\n6\n]\n"] {
        assert_eq!(removed("list.json", text), [2, 5, 6], "{text:?}");
    }
    assert_eq!(read("list.json", "[1]").unwrap().method, "manual");
}

#[test]
fn a_list_that_names_no_set_of_blocks_is_refused() {
    refused("list", "[1, two]", &["the list", "`two`"]);
    refused("list", "[1, -2]", &["`-2`"]);
    refused("list", "[1.5]", &["`1.5`"]);
    refused("list", "[1, 2", &["`[1`"]);
    refused("list", "", &["at least one", "none"]);
    refused("list", "[]", &["at least one", "none"]);
    refused("list", "[8]", &["a model of 8", "block 8"]);
    refused("list", "[3, 1, 3]", &["every block once", "block 3 twice"]);
    let twice = [SLEB, SLEB].concat();
    refused(
        "sleb",
        &twice,
        &["Block Removal Order", "one run", "2 runs"],
    );
    let deeper = SLEB.replace("Blocks: 8", "Blocks: 32");
    refused("sleb", &deeper, &["# Total Blocks", "8", "32"]);
}

/// A passthrough merge of slices of one model.
fn merge(ranges: &str) -> String {
    let slices = ranges.split(' ').map(|range| {
        format!("  - sources:\n      - model: org/name\n        layer_range: {range}\n")
    });
    let slices: String = slices.collect();
    format!("slices:\n{slices}merge_method: passthrough\ndtype: bfloat16\n")
}

#[test]
fn a_passthrough_merge_removes_the_blocks_that_its_slices_leave_out() {
    assert_eq!(removed("m.yml", &merge("[0,2] [3,5] [7,8]")), [2, 5, 6]);
    assert_eq!(removed("m.yaml", &merge("[2,6]")), [0, 1, 6, 7]);
    assert_eq!(removed("m.yml", &merge("[0,4] [4,8]")), Vec::<usize>::new());
    let source = read("m.yml", &merge("[0,7]")).unwrap();
    assert_eq!(source.model.as_deref(), Some("org/name"));
    assert_eq!(source.method, "mergekit");
    let table = merge("[0,7]").replace(
        "- model: org/name",
        "- model: {model: {path: org/name, revision: main}}",
    );
    let source = read("m.yml", &table).unwrap();
    assert_eq!(source.model.as_deref(), Some("org/name@main"));
    let base = format!(
        "{}base_model: org/name\ntokenizer_source: base\n",
        merge("[0,7]")
    );
    assert_eq!(removed("m.yml", &base), [7]);
}

#[test]
fn repeated_and_moved_blocks_are_refused() {
    let field = "slices[1].sources[0].layer_range";
    refused("m.yml", &merge("[0,4] [3,8]"), &[field, "4 or more", "3"]);
    refused("m.yml", &merge("[4,8] [0,4]"), &[field, "8 or more", "0"]);
    let field = "slices[0].sources[0].layer_range";
    refused("m.yml", &merge("[0,9]"), &[field, "b <= 8", "[0, 9]"]);
    refused("m.yml", &merge("[3,3]"), &[field, "a < b"]);
    refused("m.yml", &merge("[-1,3]"), &[field, "[-1, 3]"]);
    refused("m.yml", &merge("[1,2,3]"), &[field, "[1, 2, 3]"]);
}

#[test]
fn merges_that_are_more_than_removal_are_refused() {
    let good = merge("[0,4] [5,8]");
    let change = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replacen(from, to, 1)
    };
    let slerp = change("passthrough", "slerp");
    refused("m.yml", &slerp, &["merge_method", "passthrough", "`slerp`"]);
    let none = change("merge_method: passthrough", "");
    refused("m.yml", &none, &["merge_method", "nothing"]);
    let two = change("org/name", "org/other");
    refused(
        "m.yml",
        &two,
        &["slices[1].sources[0].model", "`org/other`", "`org/name`"],
    );
    let base = format!("{good}base_model: org/base\n");
    refused("m.yml", &base, &["base_model", "`org/base`"]);
    let adapter = change("org/name", "org/name+org/lora");
    refused(
        "m.yml",
        &adapter,
        &["slices[0].sources[0].model", "adapter"],
    );
    let scaled = format!("{good}parameters:\n  scale: 0.5\n");
    refused("m.yml", &scaled, &["parameters.scale", "0.5"]);
    let scaled = change(
        "[0,4]\n",
        "[0,4]\n        parameters: {scale: [{value: 0.0}]}\n",
    );
    refused("m.yml", &scaled, &["slices[0].sources[0].parameters.scale"]);
    let scaled = change("  - sources", "  - parameters: {scale: 2}\n    sources");
    refused("m.yml", &scaled, &["slices[0].parameters.scale"]);
    let residual = change("  - sources", "  - residual_weight: 0.1\n    sources");
    refused("m.yml", &residual, &["slices[0].residual_weight", "0.1"]);
    let models = "models: [{model: a}, {model: b}]\nmerge_method: passthrough\n";
    refused("m.yml", models, &["models", "slices instead"]);
    refused("m.yml", "merge_method: passthrough\n", &["slices", "none"]);
    let both = "slices:\n  - sources:\n      - {model: a, layer_range: [0, 4]}\n      \
        - {model: a, layer_range: [0, 4]}\nmerge_method: passthrough\n";
    refused("m.yml", both, &["slices[0].sources", "one source", "2"]);
    let tokens = format!("{good}tokenizer: {{source: union}}\n");
    refused("m.yml", &tokens, &["tokenizer", "the model's tokenizer"]);
}

#[test]
fn what_is_no_merge_at_all_says_where_reading_stopped() {
    for text in [
        "slices: [",
        "- 1\n- 2\n",
        "slices: 3\nmerge_method: passthrough\n",
    ] {
        let error = read("m.yml", text).unwrap_err();
        assert!(matches!(error, Error::Yaml { .. }), "{text:?}: {error}");
        assert!(error.to_string().contains("m.yml"), "{error}");
    }
}

fn about() -> serde_json::Value {
    json!({
        "stage": "decode", "base_model": "org/name", "base_hash": "sha256:0", "method": "sleb",
        "removed_blocks": [1, 6], "kept_blocks": [0, 2, 3, 4, 5, 7], "repair": "none",
        "repaired_blocks": [], "kv": [{"blocks": [2, 3], "first": 4, "last": 8}],
    })
}

fn folder(about: &serde_json::Value) -> Result<StageFolder> {
    let config = json!({"architectures": ["LlamaForCausalLM"], "pdtrim": about});
    let (folder, _path) = file("config.json", &config.to_string());
    StageFolder::read(folder.path(), 8)
}

#[test]
fn an_exported_folder_says_its_stage_blocks_and_kv() {
    let read = folder(&about()).unwrap();
    assert_eq!(read.stage, FolderStage::Decode);
    assert_eq!(read.removed.to_indices(), [1, 6]);
    assert_eq!(read.kv[0].blocks, [2, 3]);
    let mut removed = PerStage::dense(8);
    removed.decode = read.removed;
    let model = PlanModel {
        name: read.base_model,
        hash: read.base_hash,
        blocks: 8,
    };
    let made = plan(model, &read.method, &removed, read.kv).unwrap();
    assert_eq!(made.removed(), &removed);
    assert_eq!(made.file().method, "sleb");
    assert_eq!(made.kv().span(crate::BlockId::new(3)).unwrap().last, 8);
}

#[test]
fn a_folder_without_a_whole_plan_in_it_is_refused() {
    let said = |about| folder(&about).unwrap_err().to_string();
    let (path, _) = file("config.json", "{}");
    let error = StageFolder::read(path.path(), 8).unwrap_err();
    assert!(error.to_string().contains("`pdtrim`"), "{error}");
    let mut deeper = about();
    deeper["removed_blocks"] = json!([1, 8]);
    assert!(said(deeper).contains("block 8"));
    let mut narrow = about();
    narrow["width"] = json!({"method": "flap"});
    assert!(said(narrow).contains("pdtrim.width"));
    let mut broken = about();
    broken["stage"] = json!("both");
    let mut unified = about();
    unified["stage"] = json!("unified");
    unified["pair"] = json!("sha256:7");
    let unified = folder(&unified).unwrap();
    assert_eq!(unified.stage.to_string(), "unified");
    assert_eq!(unified.pair, "sha256:7");
    assert!(matches!(folder(&broken), Err(Error::Json { .. })));
}

#[test]
fn a_plan_fills_kv_of_blocks_that_only_prefill_is_without() {
    let model = || PlanModel {
        name: "m".to_owned(),
        hash: "sha256:0".to_owned(),
        blocks: 4,
    };
    let set = |blocks: &[usize]| BlockSet::from_indices(4, blocks.iter().copied()).unwrap();
    let fill = |prefill: &[usize], decode: &[usize]| {
        let removed = PerStage {
            prefill: set(prefill),
            decode: set(decode),
        };
        plan(model(), "manual", &removed, Vec::new())
            .unwrap()
            .kv_fill()
    };
    assert_eq!(fill(&[1], &[1, 2]), KvFill::Nested);
    assert_eq!(fill(&[1, 2], &[2]), KvFill::Project);
    let all = PerStage::both(set(&[0, 1, 2, 3]));
    let error = plan(model(), "manual", &all, Vec::new()).unwrap_err();
    assert!(matches!(error, Error::AllBlocksRemoved { .. }), "{error}");
}
