//! Folders that are full, or that cannot be written to. In a mount namespace of the test's own.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::scene::{CASES, Case, Files, Scene, different, files, strays};

/// Runs `$@` in a file system of `$SIZE` bytes, and again when it has more, or, where `$SIZE` is `ro`, once
/// where nothing can be written. What each run says and leaves is put beside.
const RUN: &str = r#"
mount -t tmpfs -o size=64m tmpfs small || exit 77
cp -a before/. small
if [ "$SIZE" = ro ]; then mount -o remount,ro "$PWD/small"; else mount -o remount,size="$SIZE" "$PWD/small"; fi || exit 79
cd small
"$@" > ../first.out 2> ../first.err
status=$?
cp -a . ../first
if [ "$SIZE" != ro ]; then
    mount -o remount,size=64m "$PWD" || exit 79
    "$@" > ../second.out 2> ../second.err || exit 78
    cp -a . ../second
fi
exit $status
"#;

/// A run in a file system of its own: how it ended, and what it left.
struct Run {
    output: Output,
    first: Files,
    /// What the same command left when there was room.
    second: Option<Files>,
}

/// `None` where the system allows no file systems of one's own.
fn run(scene: &Scene, case: &Case, size: &str) -> Option<Run> {
    let place = scene.fresh("disk", Case::named("pull"));
    // The models are where the case expects them: beside the folder in which it is run.
    for name in [
        "model",
        "bytes",
        "model.toml",
        "bytes.toml",
        "prompt.txt",
        "blocks.txt",
    ] {
        std::os::unix::fs::symlink(scene.path(name), place.join(name)).unwrap();
    }
    fs::rename(scene.fresh("prepared", case), place.join("before")).unwrap();
    fs::create_dir(place.join("small")).unwrap();
    let mut command = Command::new("unshare");
    scene.set_environment(&mut command);
    let output = command
        .args(["-Urm", "sh", "-c", RUN, "sh"])
        .arg(env!("CARGO_BIN_EXE_pdtrim"))
        .args(case.words())
        .env("SIZE", size)
        .current_dir(&place)
        .output();
    let mut output = output.ok()?;
    let said = |name: &str| fs::read(place.join(name)).unwrap_or_default();
    let code = output.status.code();
    assert_ne!(code, Some(79), "{output:?}");
    if code == Some(77) || !place.join("first.err").exists() {
        return None;
    }
    assert_ne!(
        code,
        Some(78),
        "{}, with room again: {}",
        case.name,
        String::from_utf8_lossy(&said("second.err"))
    );
    (output.stdout, output.stderr) = (said("first.out"), said("first.err"));
    let left = |name: &str| {
        let folder = place.join(name);
        folder.is_dir().then(|| files(&folder))
    };
    Some(Run {
        output,
        first: left("first").unwrap(),
        second: left("second"),
    })
}

fn size_of(files: &Files) -> usize {
    // A page for each file, at least.
    files.values().map(|bytes| bytes.len() + 4096).sum()
}

#[test]
fn a_full_disk_is_one_error_that_names_a_file_and_leaves_no_half() {
    let scene = Scene::new();
    for case in &CASES {
        let reference = scene.reference(case);
        let before = size_of(&files(&scene.fresh("before", case)));
        let whole = size_of(&reference);
        let mut failed = 0;
        for eighth in [1, 3, 5, 7] {
            let size = before + whole * eighth / 8;
            let Some(run) = run(&scene, case, &size.to_string()) else {
                println!("skipped: no file systems of one's own here");
                return;
            };
            if run.output.status.success() {
                continue;
            }
            failed += 1;
            let at = format!("{} in {size} bytes", case.name);
            let error = crate::error(&run.output);
            let says = [
                "No space left on device",
                "out",
                "has room for",
                "os error 28",
            ];
            assert!(
                says.iter().any(|words| error.contains(words)) && error.contains("out"),
                "{at}: {error}"
            );
            check_left(&at, case, &scene, &run.first, &reference);
            let second = run.second.unwrap();
            assert_eq!(different(&second, &reference), [""; 0], "{at}");
            assert_eq!(strays(&second, &reference), [""; 0], "{at}");
        }
        println!("{}: failed in {failed} of 4 sizes", case.name);
    }
}

/// Every result is whole or not there; nothing is under a temporary name.
fn check_left(at: &str, case: &Case, scene: &Scene, left: &Files, reference: &Files) {
    let before = files(&scene.fresh("before", case));
    for (name, bytes) in left {
        if name.contains(".pdtrim/") || name.ends_with('/') || case.name == "pull" {
            continue;
        }
        let is_whole = reference.get(name) == Some(bytes);
        assert!(
            is_whole || before.get(name) == Some(bytes),
            "{at}: {name} has {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_is_one_error_that_names_it() {
    let scene = Scene::new();
    for case in &CASES {
        let Some(run) = run(&scene, case, "ro") else {
            println!("skipped: no file systems of one's own here");
            return;
        };
        let error = crate::error(&run.output);
        assert!(
            error.contains("Read-only file system") && error.contains("out"),
            "{}: {error}",
            case.name
        );
        let before = files(&scene.fresh("before", case));
        assert_eq!(run.first, before, "{}", case.name);
    }
}

/// Cases whose `out` is a folder of results.
fn with_folders() -> impl Iterator<Item = &'static Case> {
    let folder = |case: &&Case| case.words().last() == Some("out");
    CASES.iter().filter(folder)
}

fn refused(scene: &Scene, case: &Case, make: impl Fn(&Path)) -> String {
    let folder = scene.fresh("refused", Case::named("pull"));
    make(&folder.join("out"));
    let error = crate::error(&scene.of(case, &folder).output().unwrap());
    assert!(error.contains("out"), "{}: {error}", case.name);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "{}", case.name);
    error
}

#[test]
fn a_file_in_the_place_of_the_folder_is_refused_and_stays() {
    let scene = Scene::new();
    for case in with_folders() {
        refused(&scene, case, |out| fs::write(out, "mine").unwrap());
        let held = fs::read(scene.path("refused/out")).unwrap();
        assert_eq!(held, b"mine", "{}", case.name);
    }
}

#[test]
fn a_link_to_itself_is_refused() {
    let scene = Scene::new();
    for case in with_folders() {
        refused(&scene, case, |out| {
            std::os::unix::fs::symlink("out", out).unwrap();
        });
    }
}
