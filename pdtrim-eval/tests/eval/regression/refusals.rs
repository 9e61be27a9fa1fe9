//! What is refused, and in which words.

use std::path::Path;

use pdtrim_eval::regression::{Baseline, Error, compare};
use pdtrim_eval::{EvalReport, TaskResult};
use serde_json::{Value, json};

use super::{choices, limits, report, windows};

/// The message of the baseline file that `change` makes of a good one.
fn refusal(change: impl FnOnce(&mut Value)) -> String {
    let results = [
        choices("toy", "10", "11"),
        windows("text", &[(4.5, 2), (6.0, 1)]),
    ];
    let text = Baseline::of(&report(results)).unwrap().to_json();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    change(&mut value);
    let error = Baseline::parse(&value.to_string(), Path::new("b.json")).unwrap_err();
    error.to_string()
}

#[test]
fn another_form_of_baseline() {
    let field = "baseline b.json, field `pdtrim_baseline`: expected 1, found";
    // Nothing else is looked at: another form has other fields.
    assert_eq!(
        refusal(|file| *file = json!({ "pdtrim_baseline": 2, "new": [] })),
        format!("{field} 2")
    );
    assert_eq!(
        refusal(|file| *file = json!({ "results": {} })),
        format!("{field} nothing")
    );
}

#[test]
fn text_that_is_not_json() {
    let text = "{\n  \"pdtrim_baseline\": 1,\n  oops\n}";
    let error = Baseline::parse(text, Path::new("b.json")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "baseline b.json, line 3, column 3: key must be a string"
    );
}

#[test]
fn fields_that_are_unknown_or_missing() {
    let unknown = refusal(|file| file["tasks"][0]["shots"] = json!(5));
    assert!(unknown.contains("unknown field `shots`"), "{unknown}");
    let missing = refusal(|file| {
        file["run"].as_object_mut().unwrap().remove("model");
    });
    assert!(missing.contains("missing field `model`"), "{missing}");
    let number = refusal(|file| file["tasks"][0]["metrics"][0]["value"] = Value::Null);
    assert!(
        number.contains("invalid type: null, expected f64"),
        "{number}"
    );
}

#[test]
fn values_that_cannot_be() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 14] = [
        (
            |file| file["tasks"] = json!([]),
            "`tasks`: expected at least one task, found none",
        ),
        (
            |file| file["tasks"][1]["task"] = json!("toy"),
            "`tasks[1].task`: expected each task once, found a second `toy`",
        ),
        (
            |file| file["tasks"][0]["items"] = json!(0),
            "`tasks[0].items`: expected at least one item, found 0",
        ),
        (
            |file| file["tasks"][0]["metrics"][1]["name"] = json!("acc"),
            "`tasks[0].metrics[1].name`: expected each metric once, found a second `acc`",
        ),
        (
            |file| file["tasks"][0]["metrics"][0]["hits"] = json!("101"),
            "`tasks[0].metrics[0].hits`: expected one for each of 2 items, found 3",
        ),
        (
            |file| file["tasks"][0]["metrics"][0]["hits"] = json!("1x"),
            "`tasks[0].metrics[0].hits`: expected digits 0 and 1, found `x`",
        ),
        (
            |file| file["tasks"][0]["metrics"][0]["hits"] = Value::Null,
            "`tasks[0].metrics[0].hits`: expected `hits` or `values`, found neither",
        ),
        (
            |file| file["tasks"][0]["metrics"][0]["values"] = json!([1.0, 0.0]),
            "`tasks[0].metrics[0].hits`: expected `hits` or `values`, found both",
        ),
        (
            |file| file["tasks"][1]["metrics"][0]["values"] = json!([4.5]),
            "`tasks[1].metrics[0].values`: expected one for each of 2 items, found 1",
        ),
        (
            |file| file["tasks"][1]["metrics"][0]["values"][1] = Value::Null,
            "`tasks[1].metrics[0].values[1]`: expected a finite number, found null",
        ),
        (
            |file| file["tasks"][1]["metrics"][0]["weights"] = json!([1.0, 2.0, 3.0]),
            "`tasks[1].metrics[0].weights`: expected one for each of 2 items, found 3",
        ),
        (
            |file| file["tasks"][1]["metrics"][0]["weights"][0] = json!(-1.0),
            "`tasks[1].metrics[0].weights[0]`: expected a weight of 0 or more, found -1",
        ),
        (
            |file| file["tasks"][0]["metrics"][0]["value"] = json!(0.75),
            "`tasks[0].metrics[0].value`: expected 0.5, as its items give, found 0.75",
        ),
        (
            |file| file["tasks"][0]["metrics"][0]["stderr"] = Value::Null,
            "`tasks[0].metrics[0].stderr`: expected 0.5, as its items give, found none",
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(
            refusal(change),
            format!("baseline b.json, field {expected}")
        );
    }
}

#[test]
fn files_that_cannot_be_read_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("none.json");
    let error = Baseline::read(&nowhere).unwrap_err();
    let expected = format!("cannot read the baseline {}", nowhere.display());
    assert_eq!(error.to_string(), expected);
    let baseline = Baseline::of(&report([choices("toy", "10", "11")])).unwrap();
    let error = baseline.write(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Write(_)), "{error:?}");
}

#[test]
fn reports_without_tasks_and_without_finite_items() {
    let error = Baseline::of(&EvalReport::default()).unwrap_err();
    assert!(matches!(error, Error::NoTasks), "{error:?}");
    let infinite = report([windows("text", &[(1.0, 1), (f64::INFINITY, 1)])]);
    assert_eq!(
        Baseline::of(&infinite).unwrap_err().to_string(),
        "task `text`, metric `token_perplexity`, item 1: expected a finite number, found inf"
    );
    let mut short = choices("toy", "10", "11");
    short.summary.items = 3;
    assert_eq!(
        Baseline::of(&report([short])).unwrap_err().to_string(),
        "task `toy`, metric `acc`: expected a value for each of 3 items, found 2"
    );
}

fn compared(old: TaskResult, new: TaskResult, limits_: &[&str], alpha: f64) -> String {
    let baseline = Baseline::of(&report([old])).unwrap();
    let error = compare(&report([new]), &baseline, &limits(limits_), alpha).unwrap_err();
    error.to_string()
}

#[test]
fn tasks_whose_items_cannot_be_paired() {
    let refusal = |change: fn(&mut TaskResult)| {
        let mut new = choices("toy", "10", "11");
        change(&mut new);
        compared(choices("toy", "10", "11"), new, &[], 0.05)
    };
    let old = choices("toy", "10", "11").summary;
    let tail = "their items cannot be paired";
    assert_eq!(
        refusal(|new| new.summary.version = 4),
        format!("task `toy`, version: the baseline has 3, this run has 4; {tail}")
    );
    assert_eq!(
        refusal(|new| new.summary.task_sha256 = "00".to_owned()),
        format!(
            "task `toy`, task file: the baseline has {}, this run has 00; {tail}",
            old.task_sha256
        )
    );
    assert_eq!(
        refusal(|new| new.summary.data[0].sha256 = "00".to_owned()),
        format!(
            "task `toy`, data: the baseline has t.jsonl with sha256 {}, this run has t.jsonl \
             with sha256 00; {tail}",
            old.data[0].sha256
        )
    );
    assert_eq!(
        refusal(|new| new.summary.fewshot = 5),
        format!(
            "task `toy`, few-shot examples: the baseline has {}, this run has 5; {tail}",
            old.fewshot
        )
    );
    assert_eq!(
        refusal(|new| {
            new.summary.items = 1;
            new.items.pop();
        }),
        format!("task `toy`, items: the baseline has 2, this run has 1; {tail}")
    );
}

#[test]
fn items_of_other_weights() {
    let (old, new) = ([(4.0, 2), (8.0, 4)], [(4.0, 2), (8.0, 3)]);
    assert_eq!(
        compared(windows("text", &old), windows("text", &new), &[], 0.05),
        "task `text`, metric `token_perplexity`, item 1: the baseline has weight 4, this run has \
         3; was another tokenizer used?"
    );
}

#[test]
fn limits_that_check_nothing_or_twice() {
    let refusal = |limits: &[&str]| {
        let toy = || choices("hellaswag", "10", "11");
        compared(toy(), toy(), limits, 0.05)
    };
    let unused = "applies to no metric that is in both the run and the baseline";
    assert_eq!(
        refusal(&["acc=0.1", "helaswag:acc=0.1"]),
        format!("limit `helaswag:acc=0.1` {unused}; did you mean `hellaswag`?")
    );
    assert_eq!(
        refusal(&["hellaswag:perplexity=2%"]),
        format!("limit `hellaswag:perplexity=2%` {unused}; the known ones are acc, acc_norm")
    );
    assert_eq!(
        refusal(&["acc=0.1", "acc=0.2"]),
        "limit `acc=0.2`: expected one limit for this task and metric, found also `acc=0.1`"
    );
}

#[test]
fn a_limit_for_what_only_the_run_has() {
    let baseline = Baseline::of(&report([choices("old", "10", "11")])).unwrap();
    let now = report([choices("old", "10", "11"), choices("fresh", "10", "11")]);
    let error = compare(&now, &baseline, &limits(&["fresh:acc=0"]), 0.05).unwrap_err();
    assert!(matches!(error, Error::LimitUnused { .. }), "{error:?}");
}

#[test]
fn an_alpha_that_is_no_probability() {
    for alpha in [0.0, -0.1, 1.1, f64::NAN] {
        let toy = || choices("toy", "10", "11");
        let expected = format!("alpha must be above 0 and at most 1, found {alpha}");
        assert_eq!(compared(toy(), toy(), &["acc=0"], alpha), expected);
    }
}
