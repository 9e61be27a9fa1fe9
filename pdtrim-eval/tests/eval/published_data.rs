//! The published files, where the checkout has them beside it.

use std::path::PathBuf;

use pdtrim_eval::{Dataset, Execution, Folders, Prepared, Task};

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
    let dataset = Dataset::load(&task, &Folders::of(Some(&dir))).unwrap();
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
fn wikitext_windows() {
    let Some(dir) = published() else { return };
    let task = Task::bundled("wikitext_windows").unwrap();
    let dataset = Dataset::load(&task, &Folders::of(Some(&dir))).unwrap();
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

#[test]
fn wikitext_has_62_articles_whose_ends_are_read_after_what_fits() {
    let Some(dir) = published() else { return };
    let task = Task::bundled("wikitext").unwrap();
    let dataset = Dataset::load(&task, &Folders::of(Some(&dir))).unwrap();
    assert_eq!(dataset.records(), Some(62));
    let toy = Toy {
        max_tokens: 2049,
        ..Toy::new(|_, _| 0.0)
    };
    let two = Prepared::new(&task, &dataset, &toy, std::num::NonZeroUsize::new(2)).unwrap();
    // No token is scored twice or left out.
    let scored: usize = two
        .requests()
        .iter()
        .map(|request| request.continuations[0].len())
        .sum();
    let result = two.evaluate(&toy, &Execution::default()).unwrap();
    assert_eq!(result.summary.scored_tokens, scored);
    assert!(
        two.requests()
            .iter()
            .all(|request| request.tokens() <= 2049)
    );
    let begins = pairs(&two)
        .into_iter()
        .find(|(context, _)| context == "\0")
        .unwrap();
    assert!(
        begins.1.contains("= Robert Boulter =") || begins.1.contains("= Du Fu ="),
        "{begins:?}"
    );
}

/// The first items were rendered by lm-evaluation-harness 0.4.13 from the same files.
#[test]
fn super_glue() {
    assert_first(
        check("copa", 100, 100, 200),
        "The man turned on the faucet therefore",
        &[
            "  the toilet filled with water.",
            "  water flowed from the spout.",
        ],
    );
    assert_first(
        check("wsc", 104, 104, 208),
        "Passage: Bernard, who had not told the government official that he was less than 21 when he filed for a \
         homestead claim, did not consider that he had done anything dishonest. Still, anyone who knew that he was \
         19 years old could take his claim away from *him*.\nQuestion: In the passage above, does the pronoun \
         \"*him*\" refer to \"*anyone*\"?\nAnswer:",
        &[" no", " yes"],
    );
    if let Some(pairs) = check("rte", 277, 277, 554) {
        let (context, _) = &pairs[0];
        assert!(context.ends_with(" True or False?\nAnswer:"), "{context}");
        assert_eq!(
            (pairs[0].1.as_str(), pairs[1].1.as_str()),
            (" True", " False")
        );
    }
}

#[test]
fn commonsense_qa() {
    if let Some(pairs) = check("commonsense_qa", 1221, 1221, 6105) {
        let (context, _) = &pairs[0];
        assert!(
            context.starts_with("Question: ") && context.ends_with("\nAnswer:"),
            "{context}"
        );
        assert!(
            context.contains("\nA. ") && context.contains("\nE. "),
            "{context}"
        );
        assert_eq!(pairs[4].1, " E");
    }
}

#[test]
fn race_asks_the_last_question_on_an_article() {
    let Some(pairs) = check("race_middle", 362, 362, 1448) else {
        return;
    };
    let (context, choice) = &pairs[0];
    assert!(context.starts_with("Article: ") && context.ends_with(
        "\n\nQuestion: In which country is the prom called a \"formal\"?\nAnswer: Canada.\nQuestion: Why is the \
         prom important in the students' lives?\nAnswer: It's the sign of becoming an adult.\nWhat is the passage \
         mainly about?"), "{context}");
    assert_eq!(choice, " The history of the prom.");
}

#[test]
fn mmlu_has_the_subjects_that_are_there() {
    let Some(dir) = published() else { return };
    let folders = Folders::of(Some(&dir));
    let tasks = Task::bundled_all("mmlu").unwrap();
    let here: Vec<_> = tasks
        .iter()
        .filter_map(|task| Dataset::load(task, &folders).ok())
        .collect();
    let items: usize = here.iter().filter_map(Dataset::records).sum();
    // 29 subjects; 7,803 records with the five of each for examples.
    assert_eq!((here.len(), items), (29, 7803 - 29 * 5));
    let task = Task::bundled("mmlu_astronomy")
        .unwrap()
        .with_fewshot(5)
        .unwrap();
    let dataset = Dataset::load(&task, &folders).unwrap();
    let one = Prepared::new(
        &task,
        &dataset,
        &Toy::new(|_, _| 0.0),
        std::num::NonZeroUsize::new(1),
    )
    .unwrap();
    let (context, choice) = pairs(&one).remove(0);
    assert!(
        context.starts_with(
            "The following are multiple choice questions (with answers) about astronomy.\n\n"
        ),
        "{context}"
    );
    assert_eq!(context.matches("\nAnswer: ").count(), 5);
    assert!(context.ends_with("\nAnswer:"), "{context}");
    assert_eq!(choice, " A");
}
