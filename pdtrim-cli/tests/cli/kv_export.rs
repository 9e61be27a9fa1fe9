//! `pdtrim kv export`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use half::bf16;
use pdtrim_core::pipeline::{PdModel, SendAll};
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockSet, Boundary, KvFill, PerStage};
use safetensors::{Dtype, SafeTensors};

use super::{Place, said};

/// md5 of the 64-bit ids 5 to 20, as Python's hashlib gives it.
const FOLDER: &str = "949086f214c0787b915e615725cf7be1";

fn ids(n_tokens: u32) -> String {
    format!("{:?}", (5..5 + n_tokens).collect::<Vec<u32>>())
}

fn export<'w>(more: &[&'w str]) -> Vec<&'w str> {
    let words = [
        "kv",
        "export",
        "--model",
        "model",
        "--ids",
        "--prompt-file",
        "ids",
        "--out",
        "kv",
    ];
    [&words[..], more].concat()
}

/// A layer's tensor, by file name.
fn files(folder: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let read = entries.map(|entry| {
        let bytes = fs::read(entry.path()).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor("kv_cache").unwrap();
        let held = (
            tensor.dtype(),
            tensor.shape().to_vec(),
            tensor.data().to_vec(),
        );
        (entry.file_name().into_string().unwrap(), held)
    });
    read.collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let chunks = bytes.as_chunks().0.iter();
    chunks.map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// Keys and values `[16, 2, 8]` that decode's kept blocks receive of the first 16 tokens, in order.
fn received() -> Vec<[Vec<f32>; 2]> {
    let model = TinyModel::default().build();
    let removed = PerStage {
        prefill: BlockSet::from_indices(5, [3]).unwrap(),
        decode: BlockSet::from_indices(5, [1, 3]).unwrap(),
    };
    let pd = PdModel::new(&model, removed, KvFill::Nested, Boundary::Prefill, &SendAll).unwrap();
    let prompt: Vec<u32> = (5..21).collect();
    let handover = pd.prefill(&[prompt]).unwrap();
    let values = |part: Tensor<4>| part.into_data().iter::<f32>().collect::<Vec<f32>>();
    let blocks = handover.cache().iter();
    blocks
        .map(|(_, block)| [values(block.keys()), values(block.values())])
        .collect()
}

const REMOVED: [&str; 4] = ["--prefill-remove", "3", "--decode-remove", "1,3"];

#[test]
fn files_hold_what_decode_receives_in_decodes_numbering() {
    let place = Place::new();
    place.file("ids", ids(20));
    let expected = received();
    assert_eq!(expected.len(), 3);
    for (connector, shape) in [
        ("vllm-0.33", vec![16, 2, 16]),
        ("vllm-0.11", vec![2, 16, 16]),
    ] {
        let more = [&REMOVED[..], &["--force", "--connector", connector]].concat();
        let table = place.stdout(&export(&more));
        assert!(
            table.contains("3 layers, 16 of 20 prompt tokens"),
            "{table}"
        );
        let found = files(&place.path("kv").join(FOLDER));
        assert_eq!(found.len(), 3);
        for (layer, [keys, values]) in expected.iter().enumerate() {
            let file = &found[&format!("model.layers.{layer}.self_attn.attn.safetensors")];
            assert_eq!((file.0, &file.1), (Dtype::F32, &shape));
            let floats = floats(&file.2);
            let joined = if connector == "vllm-0.11" {
                [keys.clone(), values.clone()].concat()
            } else {
                // Of each head at each position, eight keys and then eight values.
                let heads = keys.chunks(8).zip(values.chunks(8));
                heads
                    .flat_map(|(key, value)| [key, value].concat())
                    .collect()
            };
            assert_eq!(floats, joined, "{connector}, layer {layer}");
        }
    }
}

#[test]
fn elements_are_of_the_type_that_is_run_in_and_what_their_encoding_leaves() {
    let place = Place::new();
    place.file("ids", ids(17));
    let (_, notes) = said(&mut place.pdtrim(&export(&["--dtype", "bf16"])));
    assert!(notes.contains("not for the prompt alone"), "{notes}");
    let found = files(&place.path("kv").join(FOLDER));
    assert_eq!(found.len(), 5);
    assert!(found.values().all(|(dtype, ..)| *dtype == Dtype::BF16));

    place.stdout(&export(
        &[&REMOVED[..], &["--force", "--kv-encoding", "bf16"]].concat(),
    ));
    let found = files(&place.path("kv").join(FOLDER));
    let first = floats(&found["model.layers.0.self_attn.attn.safetensors"].2);
    let key = received()[0][0][0];
    assert_ne!(key.to_bits(), bf16::from_f32(key).to_f32().to_bits());
    assert_eq!(first[0].to_bits(), bf16::from_f32(key).to_f32().to_bits());
}

#[test]
fn dropped_positions_are_refused_unless_all_are_asked_for() {
    let place = Place::new();
    place.file("ids", ids(18));
    let trimmed = ["--kv-blocks", "2-3", "--kv-first", "2", "--kv-last", "6"];
    let error = place.failure(&export(&trimmed));
    assert!(error.contains("block 2 sends 8 of 16 positions"), "{error}");
    assert!(error.contains("--all-positions"), "{error}");
    assert!(!place.path("kv").exists());
    place.stdout(&export(&[&trimmed[..], &["--all-positions"]].concat()));
    let all = files(&place.path("kv").join(FOLDER));
    place.stdout(&export(&["--force"]));
    assert_eq!(files(&place.path("kv").join(FOLDER)), all);
    // Blocks that decode is without send nothing, and spans that hold all of this prompt drop nothing.
    let more = [
        "--decode-remove",
        "2-3",
        "--kv-blocks",
        "2-3",
        "--kv-first",
        "2",
        "--kv-last",
        "6",
        "--force",
    ];
    place.stdout(&export(&more));
    let more = [
        "--kv-blocks",
        "2-3",
        "--kv-first",
        "2",
        "--kv-last",
        "14",
        "--force",
    ];
    place.stdout(&export(&more));
}

#[test]
fn prompts_that_fill_no_block_and_folders_that_are_there_are_refused() {
    let place = Place::new();
    place.file("ids", ids(16));
    let error = place.failure(&export(&[]));
    assert!(
        error.contains("at least 17 tokens") && error.contains("found 16"),
        "{error}"
    );
    assert!(!place.path("kv").exists());
    place.stdout(&export(&["--block-size", "5"]));
    let error = place.failure(&export(&["--block-size", "5"]));
    assert!(error.contains("--force"), "{error}");
    let error = place.failure(&export(&["--boundary", "decode"]));
    assert!(error.contains("--boundary changes nothing"), "{error}");
    place.file("ids", ids(32));
    let (_, notes) = said(&mut place.pdtrim(&export(&["--force"])));
    assert!(notes.contains("for the prompt alone"), "{notes}");
    place.file("text", "w5 w6 w7 w8 w9 w10");
    let words = [
        "kv",
        "export",
        "--model",
        "model",
        "--prompt-file",
        "text",
        "--out",
        "kv",
        "--block-size",
        "4",
    ];
    assert!(place.stdout(&words).contains("4 of 6 prompt tokens"));
}
