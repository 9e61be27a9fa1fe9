//! Broken files: each error names file, line and field.

use std::error::Error as _;

use pdtrim_eval::{Dataset, Error, Folders, Task};

use crate::toy::{Toy, choice_task, folder, prepare};

fn failure(task: &Task, files: &[(&str, &[u8])]) -> Error {
    let dir = folder(files);
    prepare(task, dir.path()).unwrap_err()
}

/// The message for the toy task on this data, without the temporary folder's path.
fn message(data: &[u8]) -> String {
    let message = failure(&choice_task(), &[("t.jsonl", data)]).to_string();
    message[message.find("t.jsonl").unwrap()..].to_owned()
}

#[test]
fn a_line_that_is_not_json_is_named_with_its_column() {
    let data = b"{\"q\": \"a\", \"c\": [\"y\"], \"g\": 0}\n\n{\"q\": \"a\" \"c\"}\n";
    assert_eq!(
        message(data),
        "t.jsonl, line 3: expected a JSON object, found an error at column 11: expected `,` or `}`"
    );
}

#[test]
fn a_line_that_is_not_an_object_is_named() {
    assert_eq!(
        message(b"[1, 2]\n"),
        "t.jsonl, line 1: expected a JSON object, found an array"
    );
}

#[test]
fn a_missing_field_is_named() {
    let expected = |key, field| {
        format!(
            "t.jsonl, line 1: the field `{field}`, which `{key}` of task `toy` needs, is missing"
        )
    };
    assert_eq!(
        message(br#"{"c": ["y"], "g": 0}"#),
        expected("context", "q")
    );
    assert_eq!(
        message(br#"{"q": "a", "c": ["y"]}"#),
        "t.jsonl, line 1: `gold` of task `toy` should give a whole number, found nothing"
    );
    let arc = Task::bundled("arc_easy").unwrap();
    let item: &[u8] = br#"{"question": {"stem": "s"}, "answerKey": "A"}"#;
    let error = failure(&arc, &[("arc-easy/ARC-Easy-Test.jsonl", item)]).to_string();
    assert!(
        error.ends_with(
            "the field `question.choices`, which `data.fields` of task `arc_easy` needs, is missing"
        ),
        "{error}"
    );
}

#[test]
fn a_label_outside_the_choices_is_refused() {
    assert_eq!(
        message(br#"{"q": "a", "c": ["y", "n"], "g": 2}"#),
        "t.jsonl, line 1: expected a gold answer in 0..2, found 2"
    );
    assert_eq!(
        message(br#"{"q": "a", "c": ["y", "n"], "g": -1}"#),
        "t.jsonl, line 1: expected a gold answer in 0..2, found -1"
    );
    let found = "t.jsonl, line 1: `gold` of task `toy` should give a whole number, found `A`";
    assert_eq!(message(br#"{"q": "a", "c": ["y", "n"], "g": "A"}"#), found);
}

#[test]
fn an_unknown_label_letter_is_named_with_those_there_are() {
    let item: &[u8] =
        br#"{"question": {"stem": "s", "choices": [{"text": "t", "label": "A"}]}, "answerKey": "E"}"#;
    let error = failure(
        &Task::bundled("arc_easy").unwrap(),
        &[("arc-easy/ARC-Easy-Test.jsonl", item)],
    );
    assert!(
        error.to_string().ends_with(
            "ARC-Easy-Test.jsonl, line 1: `gold` of task `arc_easy` fails on this record"
        )
    );
    let source = error.source().unwrap().to_string();
    assert!(source.contains("label 'E' is not one of ['A']"), "{source}");
}

#[test]
fn choices_have_to_be_strings_with_text() {
    let expected = "t.jsonl, line 1: `choices` of task `toy` should give a list of strings, found ";
    assert_eq!(
        message(br#"{"q": "a", "c": "yes", "g": 0}"#),
        format!("{expected}`yes`")
    );
    assert_eq!(
        message(br#"{"q": "a", "c": [1, 2], "g": 0}"#),
        format!("{expected}`1`")
    );
    assert_eq!(
        message(br#"{"q": "a", "c": [], "g": 0}"#),
        format!("{expected}`[]`")
    );
    assert_eq!(
        message(br#"{"q": "a", "c": ["y", ""], "g": 0}"#),
        "t.jsonl, line 1: choice 1 is empty"
    );
}

#[test]
fn a_file_that_is_not_utf8_is_named_with_its_line() {
    assert_eq!(
        message(b"{}\n{\"q\": \"\xff\"}\n"),
        "t.jsonl, line 2: expected UTF-8 text, found the byte 0xff"
    );
}

#[test]
fn an_empty_file_is_refused() {
    assert_eq!(
        message(b""),
        "t.jsonl: expected at least one record, found none"
    );
    assert_eq!(
        message(b"\n \n"),
        "t.jsonl: expected at least one record, found none"
    );
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let data = "\u{feff}{\"q\": \"a\", \"c\": [\"y\"], \"g\": 0}\r\n";
    let dir = folder(&[("t.jsonl", data.as_bytes())]);
    assert_eq!(prepare(&choice_task(), dir.path()).unwrap().items(), 1);
}

#[test]
fn labels_have_to_be_as_many_as_records() {
    let piqa = Task::bundled("piqa").unwrap();
    let item: &[u8] = br#"{"goal": "g", "sol1": "a", "sol2": "b"}"#;
    let error = failure(
        &piqa,
        &[
            ("piqa/valid.jsonl", item),
            ("piqa/valid-labels.lst", b"0\n1\n"),
        ],
    )
    .to_string();
    assert!(
        error.contains("valid-labels.lst: expected 1 labels, one per record of "),
        "{error}"
    );
    assert!(error.ends_with("valid.jsonl, found 2"), "{error}");
    let error = failure(&piqa, &[("piqa/valid.jsonl", item)]).to_string();
    assert!(
        error.starts_with("cannot read ") && error.ends_with("valid-labels.lst"),
        "{error}"
    );
}

#[test]
fn data_that_is_not_there_is_one_error_with_task_paths_and_flag() {
    let boolq = Task::bundled("boolq").unwrap();
    let error = Dataset::load(&boolq, &Folders::default())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "task `boolq` needs data that is not there; looked for superglue/BoolQ/val.jsonl, BoolQ/val.jsonl, \
         boolq/dev.jsonl, aps/super_glue on the hub; name the folder that has it with --data DIR"
    );
    let dir = folder(&[]);
    let error = Dataset::load(&boolq, &Folders::of(Some(dir.path())))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&dir.path().join("boolq/dev.jsonl").display().to_string()),
        "{error}"
    );
}

fn csv_task(columns: &str) -> Task {
    let text = format!(
        "name = \"c\"\nversion = 1\ndescription = \"d\"\n[[data]]\nfiles = [\"t.csv\"]\n{columns}\n\
         [multiple_choice]\ncontext = \"{{{{q}}}}\"\nchoices = \"[A, B]\"\ngold = \
             \"index_of(['A', 'B'], answer)\"\n"
    );
    Task::parse(&text, "c.toml").unwrap()
}

#[test]
fn csv_rows_may_span_lines_and_have_a_header_or_named_columns() {
    let header = folder(&[(
        "t.csv",
        b"q,A,B,answer\n\"two\nlines\",x,y,B\nq,x,y,A\n".as_slice(),
    )]);
    assert_eq!(
        Dataset::load(&csv_task(""), &Folders::of(Some(header.path())))
            .unwrap()
            .records(),
        Some(2)
    );
    let named = folder(&[("t.csv", b"\"two\nlines\",x,y,B\n".as_slice())]);
    let prepared = prepare(
        &csv_task("columns = [\"q\", \"A\", \"B\", \"answer\"]"),
        named.path(),
    )
    .unwrap();
    assert_eq!(
        crate::toy::pairs(&prepared)[1],
        ("two\nlines".to_owned(), " y".to_owned())
    );
}

#[test]
fn a_csv_row_with_a_field_too_many_is_named_by_the_line_it_begins_on() {
    let error = failure(
        &csv_task(""),
        &[("t.csv", b"q,A,B,answer\n\"two\nlines\",x,y,B\nq,x,y,A,z\n")],
    )
    .to_string();
    assert!(
        error.ends_with("t.csv, line 4: expected 4 fields, found 5"),
        "{error}"
    );
}

fn windows_task(window: usize) -> Task {
    let text = format!(
        "name = \"w\"\nversion = 1\ndescription = \"d\"\n[[data]]\nfiles = [\"t.txt\"]\n\
         [perplexity]\nwindow = {window}\nprompt_tokens = 1\n"
    );
    Task::parse(&text, "w.toml").unwrap()
}

#[test]
fn a_text_shorter_than_a_window_is_refused() {
    let error = failure(&windows_task(9), &[("t.txt", b"12345678")]).to_string();
    assert!(
        error.ends_with("t.txt: expected at least one window of 9 tokens, found 8 tokens"),
        "{error}"
    );
}

#[test]
fn windows_longer_than_the_models_context_are_refused() {
    let dir = folder(&[("t.txt", b"12345678".as_slice())]);
    let task = windows_task(8);
    let dataset = Dataset::load(&task, &Folders::of(Some(dir.path()))).unwrap();
    let toy = Toy {
        max_tokens: 7,
        ..Toy::new(|_, _| 0.0)
    };
    let error = pdtrim_eval::Prepared::new(&task, &dataset, &toy, None)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "task `w` has windows of 8 tokens, but the model takes 7"
    );
}

#[test]
fn a_task_is_not_prepared_with_the_data_of_another_kind() {
    let dir = folder(&[("t.txt", b"12345678".as_slice())]);
    let text = Dataset::load(&windows_task(8), &Folders::of(Some(dir.path()))).unwrap();
    let toy = Toy::new(|_, _| 0.0);
    let error = pdtrim_eval::Prepared::new(&choice_task(), &text, &toy, None)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "task `toy`, key `data`: expected the data that this task names, found a text"
    );
}
