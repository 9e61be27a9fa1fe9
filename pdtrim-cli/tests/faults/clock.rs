//! A clock that jumps.
//!
//! The time of day is asked for in two places, and both only write it down. Deadlines, times left and measured
//! times go by a clock that nobody sets, so there is nothing that a jump could do: one test keeps the list short, the
//! other runs every command while the clock jumps.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::jumping::{DAYS, JumpingClock};
use crate::scene::{CASES, Case, Scene, different, files, finished, strays};

/// Files that ask for the time of day: the date of an evaluation, and of an answer of the HTTP API.
const ASKED_IN: [&str; 2] = [
    "pdtrim-cli/src/commands/eval/mod.rs",
    "pdtrim-kv/src/serve/http/mod.rs",
];

#[test]
fn the_time_of_day_is_only_written_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    for name in ["core", "search", "kv", "eval", "cli"] {
        asking(&root.join(format!("pdtrim-{name}/src")), &mut found);
    }
    let root = format!("{}/", root.display());
    let mut found: Vec<&str> = found
        .iter()
        .map(|path| path.strip_prefix(&root).unwrap())
        .collect();
    found.sort_unstable();
    assert_eq!(found, ASKED_IN);
}

#[test]
fn a_clock_that_jumps_while_a_command_runs_changes_dates_alone() {
    let Some(clock) = JumpingClock::start() else {
        return;
    };
    let scene = Scene::new();
    for case in &CASES {
        let reference = scene.reference(case);
        let folder = scene.fresh("jumped", case);
        let mut command = scene.of(case, &folder);
        clock.set(&mut command);
        finished(&mut command);
        let found = files(&folder);
        assert_eq!(different(&found, &reference), [""; 0], "{}", case.name);
        assert_eq!(strays(&found, &reference), [""; 0], "{}", case.name);
    }
    // It did jump: the date of an evaluation is years away.
    let folder = scene.fresh("jumped", Case::named("eval"));
    let mut command = scene.of(Case::named("eval"), &folder);
    clock.set(&mut command);
    finished(&mut command);
    let results = fs::read(folder.join("out/results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let away = results["date"].as_f64().unwrap() - now.as_secs_f64();
    let jump = (DAYS * 24 * 60 * 60) as f64;
    assert!((away.abs() - jump).abs() < 1e6, "{away} s away");
}

fn asking(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            asking(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let (code, _tests) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
            if code.contains("SystemTime::now") || code.contains("UNIX_EPOCH.elapsed") {
                found.push(path.display().to_string());
            }
        }
    }
}
