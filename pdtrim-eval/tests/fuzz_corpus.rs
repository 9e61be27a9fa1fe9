//! Every file of the fuzzers' corpus through its target, inputs of the limits' own size, and what writes the corpus:
//!
//! ```text
//! cargo test --release --test fuzz_corpus -- --ignored write
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "says what each input took")]

#[path = "../../pdtrim-core/tests/support/mutations.rs"]
mod mutations;
#[path = "support/seeds.rs"]
mod seeds;
#[path = "../fuzz/src/lib.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    reason = "it is a library beside the fuzz targets"
)]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mutations::Mutations;
use pdtrim_core::limits;
use pdtrim_eval::{Dataset, Folders, Task};

type Target = fn(&[u8]);

/// What is read, and the function that reads it.
const TARGETS: [(&str, Target); 3] = [
    ("task", targets::task),
    ("records", targets::records),
    ("baseline", targets::baseline),
];

/// The allocator counts for the whole process, so tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

/// The seeds of a target, in the order of their names.
fn files(target: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{target} has {} seeds", files.len());
    files
}

#[test]
fn no_file_of_the_corpus_panics_or_takes_more_than_its_bound() {
    let _turn = alone();
    for (name, target) in TARGETS {
        for file in files(name) {
            eprintln!("{}", file.display());
            target(&fs::read(file).unwrap());
        }
    }
}

/// `PDTRIM_MUTATIONS` says how many of each seed; a failing one is kept in the temporary folder.
#[test]
fn no_changed_file_of_the_corpus_does_either() {
    let _turn = alone();
    let n: u64 = std::env::var("PDTRIM_MUTATIONS").map_or(20, |n| n.parse().unwrap());
    let kept = std::env::temp_dir().join(concat!(env!("CARGO_PKG_NAME"), "-mutation"));
    for (name, target) in TARGETS {
        for (place, file) in (0..).zip(files(name)) {
            let seed = fs::read(&file).unwrap();
            let mut mutations = Mutations::new(place);
            for _ in 0..n {
                let bytes = mutations.of(&seed);
                fs::write(&kept, &bytes).unwrap();
                let ran = catch_unwind(AssertUnwindSafe(|| target(&bytes)));
                assert!(
                    ran.is_ok(),
                    "{name}: a change of {}: {}",
                    file.display(),
                    kept.display()
                );
            }
        }
    }
    fs::remove_file(kept).unwrap();
}

#[test]
#[ignore = "replaces the seeds in fuzz/corpus"]
fn write() {
    for (target, seeds) in seeds::all() {
        let folder = corpus(target);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

/// Loads `bytes` as the data file `name`, within `fixed` bytes beside twice theirs; the refusal has `expected` in it.
fn refused(name: &str, fixed: usize, expected: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    let task = format!(
        "name = 'x'\nversion = 1\ndescription = ''\n[loglikelihood]\ncontext = 'a'\ntarget = 'b'\n\
            [[data]]\nfiles = ['{name}']\n"
    );
    let task = Task::parse(&task, "x").unwrap();
    let mut said = String::new();
    let taken = targets::bounded(bytes.len(), fixed, || {
        let loaded = Dataset::load(&task, &Folders::of(Some(folder.path())));
        said = loaded
            .err()
            .map_or_else(String::new, |error| error.to_string());
    });
    eprintln!("{name}: {} bytes took {taken}", bytes.len());
    assert!(said.contains(expected), "{name}: `{expected}` in: {said}");
}

#[test]
fn records_that_would_take_much_more_than_their_file_are_refused_for_little() {
    const SMALL: usize = 1 << 20;
    let _turn = alone();
    let numbers = ["{\"a\": [", &"0,".repeat(4 << 20), "0]}"].concat();
    refused("x.jsonl", SMALL, "records of at most", numbers.as_bytes());
    let records = "{\"a\":0}\n".repeat(2 << 20);
    refused("x.jsonl", SMALL, "records of at most", records.as_bytes());
    let late = ["{\"a\":0}\n".repeat(1 << 20), "{".to_owned()].concat();
    refused("x.jsonl", SMALL, "line 1048577", late.as_bytes());
    let commas = ",".repeat(64 << 20);
    refused("x.csv", SMALL, "records of at most", commas.as_bytes());
    // A name that every record has: 2000 times a megabyte.
    let named = ["n".repeat(1 << 20), "\nx".repeat(2000)].concat();
    refused(
        "x.csv",
        (1 << 30) + (8 << 20),
        "records of at most",
        named.as_bytes(),
    );
}

#[test]
fn tasks_larger_than_the_limit_are_refused_and_others_stay_within_the_bound() {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    let said = |text: &str, fixed: usize| {
        fs::write(&path, text).unwrap();
        let mut said = String::new();
        let taken = targets::bounded(text.len(), fixed, || {
            let tasks = Task::from_file(&path);
            said = tasks
                .err()
                .map_or_else(String::new, |error| error.to_string());
        });
        eprintln!("{} bytes took {taken}", text.len());
        said
    };
    let list = |n: u64| ["x = [", &"0,".repeat(n as usize), "]"].concat();
    let limit = limits::TASK.0;
    assert!(said(&list(limit / 2), 1 << 20).contains("expected at most 262144 bytes"));
    assert!(said(&list(limit / 2 - 8), 64 << 20).contains("is not a valid task"));
}
