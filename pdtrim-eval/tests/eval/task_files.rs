//! Each bundled task on three items of our own in the published format.

use pdtrim_eval::{Dataset, Execution, Folders, Prepared, Result, Task, TaskResult};

use crate::toy::{Toy, folder, pairs, prepare};

/// The task's contexts and continuations, in the data's order, and the gold answers.
fn render(task: &str, files: &[(&str, &str)]) -> (Vec<(String, String)>, Vec<usize>) {
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, text)| (*name, text.as_bytes()))
        .collect();
    let dir = folder(&files);
    let prepared = prepare(&Task::bundled(task).unwrap(), dir.path()).unwrap();
    let mut pairs = pairs(&prepared);
    // The fixtures' contexts begin with a number: undo the sorting by length.
    pairs.sort_by_key(|(context, _)| number(context));
    (
        pairs,
        golds(
            &prepared
                .evaluate(&Toy::new(|_, _| -1.0), &Execution::default())
                .unwrap(),
        ),
    )
}

fn number(context: &str) -> Option<u32> {
    context.chars().find_map(|letter| letter.to_digit(10))
}

fn golds(result: &TaskResult) -> Vec<usize> {
    let gold = |item: &pdtrim_eval::Item| match item.outcome {
        pdtrim_eval::ItemOutcome::Choice { gold, .. } => gold,
        _ => usize::MAX,
    };
    result.items.iter().map(gold).collect()
}

fn pair(context: &str, continuation: &str) -> (String, String) {
    (context.to_owned(), continuation.to_owned())
}

#[test]
fn piqa() {
    let data = "{\"goal\": \"1 dry a cup\", \"sol1\": \"Use a cloth.\", \"sol2\": \"Use soup.\"}\n\
        {\"goal\": \"2 open a jar\", \"sol1\": \"Sing.\", \"sol2\": \"Turn the lid.\"}\n\
        {\"goal\": \"3 cut bread\", \"sol1\": \"Use a spoon.\", \"sol2\": \"Use a knife.\"}\n";
    let (pairs, golds) = render(
        "piqa",
        &[
            ("piqa/valid.jsonl", data),
            ("piqa/valid-labels.lst", "0\n1\n1\n"),
        ],
    );
    assert_eq!(
        pairs[0],
        pair("Question: 1 dry a cup\nAnswer:", " Use a cloth.")
    );
    assert_eq!(
        pairs[3],
        pair("Question: 2 open a jar\nAnswer:", " Turn the lid.")
    );
    assert_eq!((pairs.len(), golds), (6, vec![0, 1, 1]));
}

#[test]
fn hellaswag() {
    let item = |ctx_a: &str, ctx_b: &str, label: &str| {
        format!(
            "{{\"ind\": 4, \"activity_label\": \"Cooking\", \"ctx_a\": \"{ctx_a}\", \"ctx_b\": \"{ctx_b}\", \"ctx\": \"unused\", \
             \"label\": {label}, \"endings\": [\"a [substeps] b\", \"b.\", \"c.\", \"d.\"], \
                 \"source_id\": \"x\"}}\n"
        )
    };
    let data = item("1 A man boils water.", "the Man", "3")
        + &item("2 How to bake [title] Mix it. [step] Take flour.", "", "0")
        + &item("3 She stirs.", "she", "\"2\"");
    let (pairs, golds) = render("hellaswag", &[("hellaswag/hellaswag.jsonl", &data)]);
    assert_eq!(
        pairs[0],
        pair("Cooking: 1 A man boils water. The man", " a b")
    );
    // lm-evaluation-harness cleans before it appends: an empty ctx_b leaves no space behind.
    assert_eq!(
        pairs[4],
        pair("Cooking: 2 How to bake. Mix it. Take flour.", " a b")
    );
    assert_eq!(pairs[11], pair("Cooking: 3 She stirs. She", " d."));
    assert_eq!((pairs.len(), golds), (12, vec![3, 0, 2]));
}

#[test]
fn arc_easy() {
    let data = r#"{"id": "a", "question": {"stem": "1 What is wet?", "choices": [{"text": "fire", "label": "A"}, {"text": "rain", "label": "B"}]}, "answerKey": "B"}
{"id": "b", "question": {"stem": "2 What is hot?", "choices": [{"text": "fire", "label": "1"}, {"text": "ice", "label": "2"}, {"text": "snow", "label": "3"}]}, "answerKey": "1"}
{"id": "c", "question": {"stem": "3 What is cold?", "choices": [{"text": "fire", "label": "A"}, {"text": "sun", "label": "B"}, {"text": "ice", "label": "C"}]}, "answerKey": "C"}
"#;
    let (pairs, golds) = render("arc_easy", &[("arc-easy/ARC-Easy-Test.jsonl", data)]);
    assert_eq!(pairs[1], pair("Question: 1 What is wet?\nAnswer:", " rain"));
    assert_eq!(pairs[2], pair("Question: 2 What is hot?\nAnswer:", " fire"));
    assert_eq!((pairs.len(), golds), (8, vec![1, 0, 2]));
}

#[test]
fn boolq_reads_both_published_forms_alike() {
    let original = r#"{"question": "is it 1", "title": "One", "answer": true, "passage": "It is 1."}
{"question": "is it 2", "title": "Two", "answer": false, "passage": "It is not."}
{"question": "is it 3", "title": "Three", "answer": true, "passage": "Yes."}
"#;
    let superglue = r#"{"question": "is it 1", "passage": "One -- It is 1.", "idx": 0, "label": "true"}
{"question": "is it 2", "passage": "Two -- It is not.", "idx": 1, "label": false}
{"question": "is it 3", "passage": "Three -- Yes.", "idx": 2, "label": true}
"#;
    let first = render("boolq", &[("boolq/dev.jsonl", original)]);
    assert_eq!(
        first,
        render("boolq", &[("superglue/BoolQ/val.jsonl", superglue)])
    );
    let (pairs, golds) = first;
    assert_eq!(
        pairs[0],
        pair("One -- It is 1.\nQuestion: is it 1?\nAnswer:", " no")
    );
    assert_eq!(
        pairs[1],
        pair("One -- It is 1.\nQuestion: is it 1?\nAnswer:", " yes")
    );
    assert_eq!(golds, [1, 0, 1]);
}

#[test]
fn winogrande_continues_two_contexts_alike() {
    let data = r#"{"qID": "1", "sentence": "1 The cup fell on the rug and the _ broke.", "option1": "cup", "option2": "rug", "answer": "1"}
{"qID": "2", "sentence": "2 Ann thanked Sue because _ had helped.", "option1": "Ann", "option2": "Sue", "answer": "2"}
{"qID": "3", "sentence": "3 The bag was too small for the box because the _ was big.", "option1": "bag", "option2": "box", "answer": "2"}
"#;
    let (pairs, golds) = render("winogrande", &[("winogrande/dev.jsonl", data)]);
    assert_eq!(
        pairs[0],
        pair("1 The cup fell on the rug and the cup", " broke.")
    );
    assert_eq!(
        pairs[1],
        pair("1 The cup fell on the rug and the rug", " broke.")
    );
    assert_eq!(
        pairs[3],
        pair("2 Ann thanked Sue because Sue", " had helped.")
    );
    assert_eq!((pairs.len(), golds), (6, vec![0, 1, 1]));
}

#[test]
fn wikitext_is_cut_into_windows_of_1024() {
    let text = "=\n".repeat(1100);
    let dir = folder(&[("wikitext-2-raw/wiki.test.raw", text.as_bytes())]);
    let lengths = |task: &str| -> Vec<(usize, usize)> {
        let prepared = prepare(&Task::bundled(task).unwrap(), dir.path()).unwrap();
        let requests = prepared.requests().iter();
        requests
            .map(|request| (request.context.len(), request.continuations[0].len()))
            .collect()
    };
    assert_eq!(lengths("wikitext_pd"), [(768, 256), (768, 256)]);
    assert_eq!(lengths("wikitext_windows"), [(1, 1023), (1, 1023)]);
}

fn own(task: &str) -> Result<Prepared> {
    let task = Task::bundled(task)?;
    Prepared::new(
        &task,
        &Dataset::load(&task, &Folders::default())?,
        &Toy::new(|_, _| 0.0),
        None,
    )
}

#[test]
fn our_own_sets_render_every_item() {
    for task in ["everyday", "passages", "oneword"] {
        let prepared = own(task).unwrap();
        assert_eq!(prepared.items(), prepared.requests().len());
        for (context, continuation) in pairs(&prepared) {
            assert!(
                context.contains("Question: ") && context.ends_with("\nAnswer:"),
                "{context}"
            );
            assert!(
                continuation.starts_with(' ') && continuation.len() > 1,
                "{continuation}"
            );
        }
    }
}

#[test]
fn the_held_out_text_is_split_three_to_one() {
    let prepared = own("heldout").unwrap();
    assert!(
        prepared
            .requests()
            .iter()
            .all(|request| request.context.len() == 96 && request.tokens() == 128)
    );
}

#[test]
fn openbookqa() {
    let item = |number: u8, key: &str| {
        format!(
            "{{\"id\": \"{number}\", \"question\": {{\"stem\": \"{number} Ice is\", \"choices\": [{{\"text\": \"cold\", \
             \"label\": \"A\"}}, {{\"text\": \"hot\", \"label\": \"B\"}}]}}, \"answerKey\": \"{key}\"}}\n"
        )
    };
    let data = item(1, "A") + &item(2, "B") + &item(3, "A");
    let (pairs, golds) = render("openbookqa", &[("openbookqa/test.jsonl", &data)]);
    assert_eq!(pairs[0], pair("1 Ice is", " cold"));
    assert_eq!((pairs.len(), golds), (6, vec![0, 1, 0]));
}

#[test]
fn truthfulqa_mc1() {
    let item = |number: u8, choices: &str| {
        format!(
            "{{\"question\": \"{number} Can pigs fly?\", \"mc1_targets\": {{\"choices\": [{choices}], \"labels\": [1, 0]}}}}\n"
        )
    };
    let data =
        item(7, "\"No.\", \"Yes.\"") + &item(8, "\"No.\"") + &item(9, "\"No\", \"Yes\", \"So\"");
    let (pairs, golds) = render("truthfulqa_mc1", &[("truthfulqa/validation.jsonl", &data)]);
    // As lm-evaluation-harness 0.4.13 renders its template.
    let (context, choice) = &pairs[0];
    assert!(
        context
            .starts_with("Q: What is human life expectancy in the United States?\nA: Human life"),
        "{context}"
    );
    assert!(
        context.contains("were held in Barcelona, Spain.\n\nQ: ")
            && context.ends_with(" Can pigs fly?\nA:"),
        "{context}"
    );
    assert!(choice.starts_with(" No"));
    assert_eq!((pairs.len(), golds), (6, vec![0, 0, 0]));
}

#[test]
fn mmlu_reads_published_tables_without_a_header() {
    let data = "\"1 Which\nis first?\",one,two,three,four,A\n2 Which is last?,one,two,three,four,D\n\
                3 Which is even?,one,two,three,five,B\n";
    let (pairs, golds) = render("mmlu_astronomy", &[("mmlu/test/astronomy_test.csv", data)]);
    assert_eq!(
        pairs[0],
        pair(
            "The following are multiple choice questions (with answers) about astronomy.\n\n1 Which\nis first?\n\
             A. one\nB. two\nC. three\nD. four\nAnswer:",
            " A"
        )
    );
    assert_eq!((pairs.len(), golds), (12, vec![0, 3, 1]));
}

#[test]
fn race_answers_the_questions_before_the_last() {
    let row = |article: &str, question: &str, answer: &str| {
        format!(
            "{{\"example_id\": \"x\", \"article\": \"{article}\", \"answer\": \"{answer}\", \"question\": \"{question}\", \
             \"options\": [\"a tree\", \"a kite\", \"a star\", \"a lake\"]}}\n"
        )
    };
    let data = row("1 Short.", "They saw   _  .", "B")
        + &row("1 Short.", "Where was it?", "A")
        + &row("1 Short.", "What was it?", "C")
        + &row("2 Other.", "What is it?", "D")
        + &row("3 Last.", "And this?", "A");
    let (pairs, golds) = render("race_high", &[("race/test/high.jsonl", &data)]);
    // `  _  .` is filled in: the last five characters go.
    assert_eq!(
        pairs[0],
        pair(
            "Article: 1 Short.\n\nThey saw  a kite\nQuestion: Where was it?\nAnswer: a tree\nWhat was it?",
            " a tree"
        )
    );
    assert_eq!((pairs.len(), golds), (12, vec![2, 3, 0]));
}
