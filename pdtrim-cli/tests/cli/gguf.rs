//! `pdtrim export --gguf`.

use burn::tensor::DType;
use pdtrim_core::ModelConfig;
use pdtrim_core::checkpoint::seeded;
use pdtrim_core::config::Architecture;
use pdtrim_core::testing::tiny_config;

use super::Place;

const PLAN: &str = "version = 1\nmethod = \"manual\"\n[model]\nname = \"bytes\"\nhash = \"HASH\"\nblocks = 5\n\
    [removed]\nprefill = []\ndecode = [1, 3]\n";

/// A place with a seeded model whose tokens are bytes, and a plan of it.
fn place() -> Place {
    let place = Place::new();
    let config = ModelConfig {
        vocab_size: 256,
        ..tiny_config(Architecture::Llama)
    };
    seeded::write(&config, 5, DType::F32, &place.path("bytes")).unwrap();
    let hash = place.json(&["inspect", "bytes", "--json"])["hash"].clone();
    place.file("plan.toml", PLAN.replace("HASH", hash.as_str().unwrap()));
    place
}

#[test]
fn a_gguf_file_of_a_stage_says_what_the_stages_folder_says() {
    let place = place();
    let stage = ["export", "plan.toml", "--stage", "decode", "--out"];
    place.stdout(&[&stage[..], &["folder"]].concat());
    let said = place.stdout(&[&stage[..], &["stage.gguf", "--gguf", "f32"]].concat());
    assert!(said.contains("stage.gguf: 3 blocks"), "{said}");
    let generate = |model: &str| {
        let words = [
            "generate",
            "The ",
            "--model",
            model,
            "--max-new-tokens",
            "12",
            "--json",
        ];
        place.json(&words)["tokens"].clone()
    };
    assert_eq!(generate("stage.gguf"), generate("folder"));
    for kind in ["f16", "bf16", "q8_0"] {
        let more = ["stage.gguf", "--force", "--gguf", kind];
        place.stdout(&[&stage[..], &more].concat());
        let listed = place.stdout(&["inspect", "stage.gguf", "--tensors"]);
        assert!(listed.contains(&kind.to_uppercase()), "{listed}");
    }
    place.stdout(&["export", "bytes", "--gguf", "f16", "--out", "dense.gguf"]);
    assert_eq!(
        place.json(&["inspect", "dense.gguf", "--json"])["blocks"],
        5
    );
}

#[test]
fn what_cannot_be_a_gguf_file_is_refused() {
    let place = place();
    let stage = [
        "export",
        "plan.toml",
        "--stage",
        "decode",
        "--gguf",
        "f16",
        "--out",
    ];
    let with = |out| [&stage[..], &[out]].concat();
    place.stdout(&with("there.gguf"));
    assert!(place.failure(&with("there.gguf")).contains("--force"));
    assert!(place.failure(&with("model")).contains("is a folder"));
    let both = ["export", "plan.toml", "--gguf", "f16", "--out", "x.gguf"];
    assert!(place.failure(&both).contains("--stage decode"));
    let words = ["export", "model", "--gguf", "f16", "--out", "x.gguf"];
    assert!(place.failure(&words).contains("expected BPE"));
    let words = [
        "export", "bytes", "--stage", "decode", "--gguf", "f16", "--out", "x.gguf",
    ];
    assert!(place.failure(&words).contains("--stage needs a plan"));
    assert!(!place.path("x.gguf").exists());
    place.usage(&[
        "export", "bytes", "--gguf", "f16", "--dtype", "f16", "--out", "x.gguf",
    ]);
    place.usage(&["export", "bytes", "--gguf", "q4_0", "--out", "x.gguf"]);
}
