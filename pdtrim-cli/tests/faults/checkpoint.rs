//! A checkpoint that changes while it is used.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use pdtrim_core::ModelConfig;
use pdtrim_core::config::Architecture;
use pdtrim_core::testing::{TinyModel, tiny_config};

use crate::scene::{Case, Scene};
use crate::{Stopped, tiny_checkpoint};

const PROMPT: &str = "w5 w17";

/// A model that takes some milliseconds for a token, written a minute ago; its weights' file.
fn large(scene: &Scene) -> PathBuf {
    let config = ModelConfig {
        hidden_size: 512,
        intermediate_size: 1536,
        n_blocks: 8,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 64,
        vocab_size: 4096,
        ..tiny_config(Architecture::Llama)
    };
    let model = TinyModel {
        config,
        ..TinyModel::default()
    };
    tiny_checkpoint::write_folder(&scene.path("large"), &model.build());
    let weights = scene.path("large/model.safetensors");
    set_written(&weights, Duration::from_mins(1));
    weights
}

fn set_written(path: &Path, ago: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - ago).unwrap();
}

/// A generation that has made its first token and stands still. Its weights are mapped.
fn generating(scene: &Scene) -> Stopped {
    let folder = scene.fresh("generate", Case::named("pull"));
    let words = [
        "generate",
        PROMPT,
        "--model",
        "../large",
        "--max-new-tokens",
        "60",
    ];
    let mut command = scene.command(&folder, words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The prompt, and what follows it at once.
    let mut first = [0; PROMPT.len() + 1];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    let stopped = Stopped::new(child);
    assert!(first.starts_with(PROMPT.as_bytes()), "{first:?}");
    stopped
}

/// Writes other bytes over the last ones.
fn overwrite(weights: &Path) {
    let mut file = File::options().write(true).open(weights).unwrap();
    file.seek(SeekFrom::End(-64)).unwrap();
    file.write_all(&[7; 64]).unwrap();
}

#[test]
fn a_checkpoint_that_becomes_shorter_ends_the_run_with_an_error() {
    let scene = Scene::new();
    let weights = large(&scene);
    let stopped = generating(&scene);
    let file = File::options().write(true).open(&weights).unwrap();
    file.set_len(4096).unwrap();
    let error = crate::error(&stopped.go_on());
    // Elsewhere the signal ends it without a word.
    if cfg!(all(target_os = "linux", target_env = "gnu")) {
        assert!(
            error.contains("became shorter") && error.contains("../large"),
            "{error}"
        );
    }
}

#[test]
fn a_checkpoint_that_is_written_to_in_place_is_an_error_at_the_end() {
    let scene = Scene::new();
    let weights = large(&scene);
    let stopped = generating(&scene);
    overwrite(&weights);
    let error = crate::error(&stopped.go_on());
    assert!(
        error.contains("model.safetensors changed while it was in use")
            && error.contains("written later"),
        "{error}"
    );
}

#[test]
fn no_plan_is_written_of_a_checkpoint_that_changed_and_nothing_of_it_is_reused() {
    let scene = Scene::new();
    let weights = scene.path("model/model.safetensors");
    set_written(&weights, Duration::from_mins(1));
    let case = Case::named("trim");
    let reference = scene.reference(case);
    let folder = scene.fresh("changed", case);
    let stopped = stopped_early(&scene, case, &folder);
    let before = fs::read(&weights).unwrap();
    overwrite(&weights);
    let error = crate::error(&stopped.go_on());
    assert!(error.contains("changed while it was in use"), "{error}");
    let left: Vec<_> = fs::read_dir(folder.join("out")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let kept = fs::read_dir(folder.join("out/.pdtrim")).unwrap();
    assert_eq!(kept.count(), 0);
    // With the old bytes, whenever they were written, everything is as it was.
    fs::write(&weights, before).unwrap();
    crate::scene::finished(&mut scene.of(case, &folder));
    let found = crate::scene::files(&folder);
    assert_eq!(crate::scene::different(&found, &reference), [""; 0]);
}

/// The case's command, standing still as soon as it has kept something.
pub(crate) fn stopped_early(scene: &Scene, case: &Case, folder: &Path) -> Stopped {
    let state = folder.join("out/.pdtrim");
    let has_kept = || fs::read_dir(&state).is_ok_and(|mut entries| entries.next().is_some());
    let mut command = scene.of(case, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while !has_kept() {
        assert!(child.try_wait().unwrap().is_none(), "over too soon");
        std::thread::sleep(Duration::from_micros(100));
    }
    Stopped::new(child)
}

#[test]
fn a_checkpoint_of_other_bytes_is_not_the_one_that_a_plan_names() {
    let scene = Scene::new();
    let case = Case::named("eval");
    let folder = scene.fresh("other", case);
    overwrite(&scene.path("model/model.safetensors"));
    let error = crate::error(&scene.of(case, &folder).output().unwrap());
    assert!(
        error.contains("model.toml") && error.contains("the plan is for model"),
        "{error}"
    );
}
