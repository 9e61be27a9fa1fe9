//! `pdtrim export --onnx`.

use super::Place;

#[cfg(not(feature = "onnx"))]
#[test]
fn onnx_without_the_feature_says_in_one_line_what_is_missing() {
    let place = Place::new();
    let words = ["export", "model", "--onnx", "16", "--out", "x.onnx"];
    let error = place.failure(&words);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("--features onnx"), "{error}");
    assert!(!place.path("x.onnx").exists());
}

#[cfg(feature = "onnx")]
#[test]
fn an_onnx_file_of_a_stage_has_its_blocks_only() {
    let place = Place::new();
    let hash = place.json(&["inspect", "model", "--json"])["hash"].clone();
    let plan = "version = 1\nmethod = \"manual\"\n[model]\nname = \"model\"\nhash = \"HASH\"\nblocks = 5\n\
        [removed]\nprefill = []\ndecode = [1, 3]\n";
    place.file("plan.toml", plan.replace("HASH", hash.as_str().unwrap()));
    let words = ["export", "plan.toml", "--onnx", "16", "--stage"];
    let said = place.stdout(&[&words[..], &["prefill", "--out", "prefill.onnx"]].concat());
    assert!(said.contains("prefill.onnx: 5 blocks"), "{said}");
    let said = place.stdout(&[&words[..], &["decode", "--out", "decode.onnx"]].concat());
    assert!(said.contains("decode.onnx: 3 blocks"), "{said}");
    let names = |file: &str| {
        let bytes = std::fs::read(place.path(file)).unwrap();
        let has = |layer: usize| {
            let name = format!("layers.{layer}.down_proj.weight").into_bytes();
            bytes.windows(name.len()).any(|window| window == name)
        };
        [has(2), has(3), has(4)]
    };
    assert_eq!(names("prefill.onnx"), [true; 3]);
    assert_eq!(names("decode.onnx"), [true, false, false]);
}

#[cfg(feature = "onnx")]
#[test]
fn what_cannot_be_an_onnx_file_is_refused() {
    let place = Place::new();
    let with = |tokens, out| ["export", "model", "--onnx", tokens, "--out", out];
    for tokens in ["0", "100000"] {
        let error = place.failure(&with(tokens, "x.onnx"));
        assert!(error.contains(&format!("found {tokens}")), "{error}");
        assert!(!place.path("x.onnx").exists());
    }
    place.stdout(&with("4", "there.onnx"));
    assert!(place.failure(&with("4", "there.onnx")).contains("--force"));
    assert!(place.failure(&with("4", "model")).contains("is a folder"));
    let both = [&with("4", "x.onnx")[..], &["--gguf", "f16"]].concat();
    place.usage(&both);
    let both = [&with("4", "x.onnx")[..], &["--dtype", "f16"]].concat();
    place.usage(&both);
}
