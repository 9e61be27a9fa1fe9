//! Every public type and free function of the library crates has a runnable example in its documentation.
//!
//! What is `pub` can be reached from outside: the lint `unreachable_pub`, which the checks of this
//! workspace turn into an error, refuses others. So the sources tell, line by line.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 4] = ["pdtrim-core", "pdtrim-kv", "pdtrim-search", "pdtrim-eval"];

/// Names of the public types and free functions in `source`, and whether each has an example.
fn items(source: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let (mut has_example, mut in_code) = (false, false);
    // What is indented belongs to an item: a method, a field, a test.
    for line in source.lines() {
        if let Some(doc) = line.strip_prefix("///") {
            if let Some(kind) = doc.trim().strip_prefix("```") {
                has_example |= !in_code && matches!(kind, "" | "no_run");
                in_code = !in_code;
            }
        } else if let Some(name) = item_name(line) {
            found.push((name.to_owned(), has_example));
            has_example = false;
        } else if line.is_empty() || line.ends_with('}') || line.ends_with(';') {
            // Between documentation and item there are attributes only.
            has_example = false;
        }
    }
    found
}

/// The name of the item that begins in this line.
fn item_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ")?;
    let kinds = ["struct ", "enum ", "trait ", "type ", "fn ", "const fn "];
    let name = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_public_type_and_function_has_an_example() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut without = Vec::new();
    for name in CRATES {
        let mut files = Vec::new();
        sources(&workspace.join(name).join("src"), &mut files);
        let mut count = 0;
        for file in files {
            for (found, has_example) in items(&fs::read_to_string(&file).unwrap()) {
                count += 1;
                if !has_example {
                    without.push(format!("{found} in {}", file.display()));
                }
            }
        }
        assert!(count > 10, "{name}: expected public items, found {count}");
    }
    without.sort();
    let list = without.join("\n");
    assert!(list.is_empty(), "items without a runnable example:\n{list}");
}

#[test]
fn an_item_without_an_example_is_found() {
    let source = "/// One.\n///\n/// ```\n/// use_of();\n/// ```\n#[derive(Debug)]\npub struct One;\n\n\
        /// Two.\n#[derive(\n    Debug,\n)]\npub enum Two {}\n\n\
        /// Three, whose example does not run.\n///\n/// ```ignore\n/// ```\npub trait Three {}\n\n\
        pub(crate) struct Four;\n\nimpl One {\n    /// Five.\n    pub fn five() {}\n}\n\n\
        /// Six.\npub fn six() {}\n";
    let found = items(source);
    let expected = [
        ("One", true),
        ("Two", false),
        ("Three", false),
        ("six", false),
    ];
    let found: Vec<(&str, bool)> = found.iter().map(|(name, has)| (&name[..], *has)).collect();
    assert_eq!(found, expected);
}
