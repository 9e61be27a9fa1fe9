//! The published files, where the checkout has them beside it.

use std::path::PathBuf;

use pdtrim_eval::{Dataset, Prepared, Task};

use crate::toy::{Toy, pairs};

/// The folder with the published files; none in a checkout that stands alone.
fn published() -> Option<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if !dir.is_dir() {
        println!("skipped: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}

/// Checks the counts of all of `task` and gives the pairs of its first item.
fn check(
    task: &str,
    records: usize,
    requests: usize,
    choices: usize,
) -> Option<Vec<(String, String)>> {
    let dir = published()?;
    let task = Task::bundled(task).unwrap();
    let dataset = Dataset::load(&task, Some(&dir)).unwrap();
    assert_eq!(dataset.records(), Some(records));
    let toy = Toy::new(|_, _| 0.0);
    let all = Prepared::new(&task, &dataset, &toy, None).unwrap();
    assert_eq!(
        (all.items(), all.requests().len(), pairs(&all).len()),
        (records, requests, choices)
    );
    let first = Prepared::new(&task, &dataset, &toy, std::num::NonZeroUsize::new(1)).unwrap();
    Some(pairs(&first))
}

fn assert_first(found: Option<Vec<(String, String)>>, context: &str, continuations: &[&str]) {
    if let Some(pairs) = found {
        assert_eq!(pairs[0].0, context);
        let texts: Vec<_> = pairs
            .iter()
            .map(|(_, continuation)| continuation.as_str())
            .collect();
        assert_eq!(texts, continuations);
    }
}

#[test]
fn piqa() {
    assert_first(
        check("piqa", 1838, 1838, 3676),
        "Question: How do I ready a guinea pig cage for it's new occupants?\nAnswer:",
        &[
            " Provide the guinea pig with a cage full of a few inches of bedding made of \
                ripped paper strips, you will also need to supply it with a water bottle and a \
                food dish.",
            " Provide the guinea pig with a cage full of a few inches of bedding made of \
                ripped jeans material, you will also need to supply it with a water bottle and \
                a food dish.",
        ],
    );
}

#[test]
fn hellaswag() {
    assert_first(
        check("hellaswag", 1000, 1000, 4000),
        "Pole vault: Pole vault is a sport where you run with a pole and stop and swing your \
            body. A few women",
        &[
            " go down a rock and stop.",
            " watch from around a pole vault.",
            " are in the wading pool.",
            " are in the gym practicing to do this pole vault, trying to do their best.",
        ],
    );
}

#[test]
fn arc_easy() {
    // 2,365 items with four choices, 7 with three and 4 with five.
    assert_first(
        check("arc_easy", 2376, 2376, 2365 * 4 + 7 * 3 + 4 * 5),
        "Question: Which statement best explains why photosynthesis is the foundation of most \
            food webs?\nAnswer:",
        &[
            " Sunlight is the source of energy for nearly all ecosystems.",
            " Most ecosystems are found on land instead of in water.",
            " Carbon dioxide is more available than other gases.",
            " The producers in all ecosystems are plants.",
        ],
    );
}

#[test]
fn boolq() {
    if let Some(pairs) = check("boolq", 3270, 3270, 6540) {
        let context = &pairs[0].0;
        assert!(
            context.starts_with("Ethanol fuel -- All biomass goes through"),
            "{context}"
        );
        assert!(
            context.ends_with(
                "\nQuestion: does ethanol take more energy make that produces?\nAnswer:"
            ),
            "{context}"
        );
        assert_eq!((pairs[0].1.as_str(), pairs[1].1.as_str()), (" no", " yes"));
    }
}

#[test]
fn winogrande() {
    if let Some(mut pairs) = check("winogrande", 1267, 2534, 2534) {
        pairs.sort();
        let end = " always got the easier cases.".to_owned();
        let context = |name| format!("Sarah was a much better surgeon than Maria so {name}");
        assert_eq!(
            pairs,
            [(context("Maria"), end.clone()), (context("Sarah"), end)]
        );
    }
}

#[test]
fn wikitext() {
    let Some(dir) = published() else { return };
    let task = Task::bundled("wikitext_full").unwrap();
    let dataset = Dataset::load(&task, Some(&dir)).unwrap();
    let sha256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08";
    assert_eq!(dataset.files()[0].sha256, sha256);
    let prepared = Prepared::new(&task, &dataset, &Toy::new(|_, _| 0.0), None).unwrap();
    assert!(
        prepared
            .requests()
            .iter()
            .all(|request| request.tokens() == 1024)
    );
}
