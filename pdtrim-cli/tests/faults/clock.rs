//! A clock that jumps.
//!
//! The time of day is asked for in two places, and both only write it down. Deadlines, times left and measured
//! times go by a clock that nobody sets, so there is nothing that a jump could do. A test cannot set the
//! clock of the machine; this one keeps the list short.

use std::fs;
use std::path::Path;

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
