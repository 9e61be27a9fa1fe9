//! Against a server on this machine that answers as the hub does.

use std::fs;
use std::net::TcpListener;

use tempfile::TempDir;

use super::client::{INDEX, SMALL_FILES, WEIGHTS};
use super::fake::{COMMIT, FakeHub, Server};
use super::*;

/// A hub, and a folder for its cache.
struct Setup {
    server: Server,
    cache: TempDir,
    settings: SourceSettings,
}

impl Setup {
    fn new(hub: FakeHub) -> Self {
        let server = Server::start(hub);
        let cache = tempfile::tempdir().unwrap();
        let hub = HubSettings {
            endpoint: Some(server.endpoint.clone()),
            token: Some("wrong".into()),
            cache_dir: Some(cache.path().to_owned()),
        };
        let settings = SourceSettings {
            cache_dir: None,
            offline: false,
            hub,
            pip: Vec::new(),
        };
        Self {
            server,
            cache,
            settings,
        }
    }

    fn fetch(&self, id: &str) -> (Result<PathBuf, SourceError>, Vec<PullEvent>) {
        let mut events = Vec::new();
        let result = fetch(&HubId::parse(id).unwrap(), &self.settings, &mut |event| {
            events.push(event);
        });
        (result, events)
    }

    fn fail(&self, id: &str) -> SourceError {
        self.fetch(id).0.unwrap_err()
    }

    /// The same cache, and nobody who answers.
    fn unplugged(mut self) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.settings.hub.endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
        self
    }

    fn offline(mut self) -> Self {
        self.settings.offline = true;
        self
    }
}

fn text(name: &'static str) -> (&'static str, Vec<u8>) {
    (name, format!("contents of {name}").into_bytes())
}

fn single() -> FakeHub {
    let mut files: Vec<_> = SMALL_FILES
        .into_iter()
        .chain([WEIGHTS, "notes.md", "pytorch_model.bin"])
        .map(text)
        .collect();
    files.retain(|(name, _)| *name != "special_tokens_map.json");
    FakeHub {
        files,
        ..FakeHub::default()
    }
}

fn sharded(weight_map: &str) -> FakeHub {
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let mut files: Vec<_> = ["config.json", "tokenizer.json", "other.safetensors"]
        .into_iter()
        .chain(shards)
        .map(text)
        .collect();
    files.push((INDEX, weight_map.as_bytes().to_vec()));
    FakeHub {
        files,
        ..FakeHub::default()
    }
}

const WEIGHT_MAP: &str = r#"{"metadata": {"total_size": 1}, "weight_map": {
    "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}"#;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn ids_are_read_and_written_the_same() {
    for text in [
        "org/name",
        "org/name@v1.0",
        "org/name@refs/pr/1",
        "org/name/sub/model.Q4_0.gguf@main",
    ] {
        assert_eq!(HubId::parse(text).unwrap().to_string(), text);
    }
    let id = HubId::parse("org/name/m.gguf").unwrap();
    assert_eq!(
        (id.repo(), id.revision(), id.file()),
        ("org/name", "main", Some("m.gguf"))
    );
}

#[test]
fn malformed_ids_are_refused_with_the_part_that_is_wrong() {
    for (text, part) in [
        ("org/", "``"),
        ("/name", "``"),
        ("org/na me", "`na me`"),
        ("../name", "`..`"),
        ("org/name/model.bin", "`model.bin`"),
        ("org/name/../m.gguf", "`../m.gguf`"),
        ("org/name@", "``"),
        ("org/name@a/../b", "`a/../b`"),
    ] {
        let error = HubId::parse(text).unwrap_err().to_string();
        assert!(error.ends_with(part), "{text}: {error}");
    }
}

#[test]
fn a_single_file_model_is_fetched_without_what_it_does_not_need() {
    let setup = Setup::new(single());
    let (path, events) = setup.fetch("org/name");
    let path = path.unwrap();
    let expected = [
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&path), expected);
    assert_eq!(fs::read(path.join(WEIGHTS)).unwrap(), text(WEIGHTS).1);
    let origin = Origin::Hub("org/name".into());
    // The config comes first, to see what there is.
    let bytes = expected
        .iter()
        .filter(|&&name| name != "config.json")
        .map(|name| text(name).1.len() as u64)
        .sum();
    assert_eq!(
        events[0],
        PullEvent::Trying {
            origin: origin.clone()
        }
    );
    assert!(
        events.contains(&PullEvent::Size {
            origin: origin.clone(),
            bytes
        }),
        "{events:?}"
    );
    assert!(
        events.contains(&PullEvent::Progress {
            bytes,
            total_bytes: bytes
        }),
        "{events:?}"
    );
    assert_eq!(events.last(), Some(&PullEvent::Served { origin, path }));
}

#[test]
fn a_second_fetch_downloads_nothing() {
    let setup = Setup::new(single());
    let first = setup.fetch("org/name").0.unwrap();
    let before = setup.server.requests().len();
    let (second, events) = setup.fetch("org/name");
    assert_eq!(second.unwrap(), first);
    assert_eq!(events.last(), Some(&PullEvent::Cached { path: first }));
    let later = setup.server.requests().split_off(before);
    assert!(
        later.iter().all(|request| !request.starts_with("GET /org")),
        "{later:?}"
    );
}

#[test]
fn a_sharded_model_is_fetched_as_its_index_says() {
    let setup = Setup::new(sharded(WEIGHT_MAP));
    let path = setup.fetch("org/name").0.unwrap();
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    assert_eq!(
        names(&path),
        ["config.json", shards[0], shards[1], INDEX, "tokenizer.json"]
    );
}

#[test]
fn an_index_that_cannot_be_used_is_named() {
    for (index, found) in [
        ("{", "EOF"),
        (r#"{"weight_map": {}}"#, "no tensors"),
        (
            r#"{"weight_map": {"a": "../../secret"}}"#,
            "the file `../../secret`",
        ),
    ] {
        let error = Setup::new(sharded(index)).fail("org/name");
        assert!(
            matches!(error, SourceError::BadIndex { .. }) && error.to_string().contains(found),
            "{error}"
        );
    }
    let error =
        Setup::new(sharded(r#"{"weight_map": {"a": "gone.safetensors"}}"#)).fail("org/name");
    assert!(
        matches!(&error, SourceError::FileNotFound { file, .. } if file == "gone.safetensors"),
        "{error}"
    );
}

#[test]
fn missing_repositories_revisions_and_files_are_told_apart() {
    let setup = Setup::new(FakeHub {
        files: vec![text(WEIGHTS), text("m.gguf")],
        ..FakeHub::default()
    });
    let error = setup.fail("org/other");
    assert!(
        matches!(&error, SourceError::RepoNotFound { repo } if repo == "org/other"),
        "{error}"
    );
    let error = setup.fail("org/name@v2");
    assert!(
        matches!(&error, SourceError::RevisionNotFound { revision, .. } if revision == "v2"),
        "{error}"
    );
    let error = setup.fail("org/name");
    assert!(
        matches!(&error, SourceError::FileNotFound { file, .. } if file == "config.json"),
        "{error}"
    );
    let error = setup.fail("org/name/other.gguf");
    assert!(
        error.to_string().contains("no file other.gguf") && error.to_string().contains("m.gguf"),
        "{error}"
    );
}

#[test]
fn a_token_is_asked_for_and_used() {
    let hub = FakeHub {
        token: Some("right"),
        ..single()
    };
    let mut setup = Setup::new(hub);
    let error = setup.fail("org/name");
    assert!(
        matches!(error, SourceError::AccessRefused { status: 401, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("HF_TOKEN") && error.to_string().contains("org/name"),
        "{error}"
    );
    setup.settings.hub.token = Some("right".into());
    setup.fetch("org/name").0.unwrap();
}

#[test]
fn a_gguf_repository_says_how_to_choose() {
    let setup = Setup::new(FakeHub {
        files: vec![text("README.md"), text("b/m.gguf"), text("a.gguf")],
        ..FakeHub::default()
    });
    let error = setup.fail("org/name").to_string();
    assert!(
        error.ends_with("choose one: org/name/b/m.gguf, org/name/a.gguf")
            || error.ends_with("org/name/a.gguf, org/name/b/m.gguf"),
        "{error}"
    );
    let (path, events) = setup.fetch("org/name/b/m.gguf");
    let path = path.unwrap();
    assert_eq!(fs::read(&path).unwrap(), text("b/m.gguf").1);
    let bytes = text("b/m.gguf").1.len() as u64;
    assert!(
        events.contains(&PullEvent::Size {
            origin: Origin::Hub("org/name".into()),
            bytes
        }),
        "{events:?}"
    );
    assert_eq!(
        events.last(),
        Some(&PullEvent::Served {
            origin: Origin::Hub("org/name".into()),
            path
        })
    );
}

#[test]
fn a_repository_without_weights_lists_what_it_has() {
    let error = Setup::new(FakeHub {
        files: vec![text("pytorch_model.bin")],
        ..FakeHub::default()
    })
    .fail("org/name");
    assert!(
        matches!(error, SourceError::NoWeights { .. })
            && error.to_string().contains("pytorch_model.bin"),
        "{error}"
    );
}

#[test]
fn an_answer_that_is_not_the_file_is_not_kept() {
    let setup = Setup::new(FakeHub {
        broken: Some(WEIGHTS),
        ..single()
    });
    let error = setup.fail("org/name");
    assert!(
        matches!(
            error,
            SourceError::WrongSize { .. } | SourceError::Hub { .. }
        ),
        "{error}"
    );
    assert!(error.to_string().contains(WEIGHTS), "{error}");
    let folder = setup
        .cache
        .path()
        .join("models--org--name/snapshots")
        .join(COMMIT);
    assert!(!folder.join(WEIGHTS).exists());
    let again = setup.fail("org/name");
    assert!(again.to_string().contains(WEIGHTS), "{again}");
}

#[test]
fn offline_uses_the_cache_and_nothing_else() {
    let setup = Setup::new(single()).offline();
    let error = setup.fail("org/name");
    assert!(
        matches!(&error, SourceError::NotCached { file, .. } if file == "config.json"),
        "{error}"
    );
    assert!(
        error.to_string().contains("--offline") && error.to_string().contains("org/name"),
        "{error}"
    );
    assert!(setup.server.requests().is_empty());

    for (hub, id) in [
        (single(), "org/name"),
        (sharded(WEIGHT_MAP), "org/name@main"),
    ] {
        let setup = Setup::new(hub);
        let path = setup.fetch(id).0.unwrap();
        let setup = setup.offline();
        let before = setup.server.requests().len();
        let (cached, events) = setup.fetch(id);
        assert_eq!(cached.unwrap(), path);
        assert_eq!(events, [PullEvent::Cached { path }]);
        assert_eq!(setup.server.requests().len(), before);
    }
}

#[test]
fn offline_names_the_first_shard_that_is_missing() {
    let setup = Setup::new(sharded(WEIGHT_MAP));
    let path = setup.fetch("org/name").0.unwrap();
    fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    let error = setup.offline().fail("org/name");
    assert!(
        matches!(&error, SourceError::NotCached { file, .. } if file == "model-00002-of-00002.safetensors"),
        "{error}"
    );
}

#[test]
fn a_commit_in_the_cache_is_used_without_asking() {
    let setup = Setup::new(single());
    let path = setup.fetch("org/name").0.unwrap();
    let before = setup.server.requests().len();
    assert_eq!(setup.fetch(&format!("org/name@{COMMIT}")).0.unwrap(), path);
    assert_eq!(setup.server.requests().len(), before);
}

#[test]
fn without_network_a_complete_cache_is_used_and_an_empty_one_is_an_error() {
    let setup = Setup::new(single());
    let path = setup.fetch("org/name").0.unwrap();
    let setup = setup.unplugged();
    let (cached, events) = setup.fetch("org/name");
    assert_eq!(cached.unwrap(), path);
    assert!(
        matches!(&events[1], PullEvent::Failed { reason, .. } if !reason.contains('\n')),
        "{events:?}"
    );

    let error = Setup::new(single()).unplugged().fail("org/name");
    assert!(
        matches!(error, SourceError::HubUnreachable { .. })
            && error.to_string().contains("org/name"),
        "{error}"
    );
}

#[test]
fn a_file_of_a_dataset_comes_from_its_branch_once() {
    let file = "default/test/0000.parquet";
    let setup = Setup::new(FakeHub {
        files: vec![text(file)],
        ..FakeHub::default()
    });
    let fetch = |setup: &Setup, file| {
        fetch_dataset_file(
            "org/name",
            "refs/convert/parquet",
            file,
            &setup.settings,
            &mut |_| {},
        )
    };
    let path = fetch(&setup, file).unwrap();
    assert_eq!(fs::read(&path).unwrap(), text(file).1);
    let asked = setup.server.requests();
    assert!(
        asked
            .iter()
            .all(|request| request.contains("/datasets/org/name/")),
        "{asked:?}"
    );
    let error = fetch(&setup, "default/train/0000.parquet").unwrap_err();
    assert!(matches!(error, SourceError::FileNotFound { .. }), "{error}");
    // Without a network the cache answers.
    let setup = setup.unplugged();
    assert_eq!(fetch(&setup, file).unwrap(), path);
    let error = fetch(&setup.offline(), "default/train/0000.parquet").unwrap_err();
    assert!(matches!(error, SourceError::NotCached { .. }), "{error}");
}
