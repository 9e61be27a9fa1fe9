//! Seeds of the fuzzers' corpus: small right files, and wrong ones of each kind of refusal.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use crate::targets::SEPARATOR;

/// Names and contents of one target's seeds.
type Seeds = Vec<(String, Vec<u8>)>;

/// The seeds of every target.
pub(crate) fn all() -> [(&'static str, Seeds); 3] {
    [
        ("task", task()),
        ("records", records()),
        ("baseline", baseline()),
    ]
}

fn named(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.into())
}

const CHOICE: &str = r#"name = "toy"
version = 1
description = "choices"
[[data]]
files = ["data.jsonl"]
[data.fields]
right = "answer | int"
[multiple_choice]
context = "{{ question }}\n"
choices = "options"
gold = "right"
metrics = ["acc", "acc_norm"]
"#;

const CHOICES: &str = r#"{"question": "one?", "options": ["a", "bc"], "answer": "0"}
{"question": "two?", "options": ["a", "bc"], "answer": "1"}
"#;

fn task() -> Seeds {
    let mut seeds = vec![
        named("choices", with(CHOICE, CHOICES)),
        named(
            "fewshot",
            changed(
                "[multiple_choice]",
                "[fewshot]\ncount = 1\n[multiple_choice]",
            ),
        ),
        named(
            "partial",
            changed(
                "context = \"{{ question }}\\n\"\nchoices = \"options\"",
                "contexts = \"options\"\ncontinuation = \"{{ question }}\"",
            ),
        ),
        named(
            "family",
            changed(
                "name = \"toy\"",
                "name = \"toy\"\nsubjects = {a = [\"b\", \"c\"], d = [\"e\"]}",
            ),
        ),
        named(
            "target",
            other(
                "[loglikelihood]\ncontext = \"{{ text }}\"\ntarget = \" {{ end }}\"",
                "data.csv",
                "text,end\na,b\n\"c\nd\",e\n",
            ),
        ),
        named(
            "rolling",
            other(
                "[rolling]\ntext = \"{{ page | wikitext_text }}\"",
                "data.txt\"]\npages = true #",
                " = One = \n a\n = Two = \n b\n",
            ),
        ),
        named(
            "perplexity",
            other(
                "[perplexity]\nwindow = 8",
                "data.txt",
                "a text of more than one window, and some more",
            ),
        ),
        named(
            "generation",
            other(
                "[generation]\ncontext = \"{{ q }}\"\nanswers = \"[a]\"\nmax_tokens = 4\nuntil = [\"\\n\"]",
                "data.jsonl",
                "{\"q\": \"x\", \"a\": \"y\"}\n",
            ),
        ),
        named(
            "grouped",
            changed("[data.fields]", "group_by = \"answer\"\n[data.fields]"),
        ),
    ];
    seeds.extend(wrong_tasks());
    seeds.extend(growing_templates());
    seeds
}

/// The task of [`CHOICE`] with `to` in place of `from`, and its records.
fn changed(from: &str, to: &str) -> Vec<u8> {
    assert!(CHOICE.contains(from), "{from}");
    with(&CHOICE.replace(from, to), CHOICES)
}

/// A task of another kind, and its records.
fn other(kind: &str, file: &str, records: &str) -> Vec<u8> {
    let head = "name = \"toy\"\nversion = 1\ndescription = \"\"\n";
    let task = format!("{head}{kind}\n[[data]]\nfiles = [\"{file}\"]\n");
    with(&task, records)
}

fn with(task: &str, records: &str) -> Vec<u8> {
    [task.as_bytes(), SEPARATOR, records.as_bytes()].concat()
}

/// Templates that would take all memory or the whole stack, and one that uses much of what is allowed.
fn growing_templates() -> Seeds {
    let doubled = |n: usize| format!("{{% set a{} = a{n} ~ a{n} %}}", n + 1);
    let doubled: String = (0..40).map(doubled).collect();
    let branches = "{% elif question %}".repeat(400);
    let templates = [
        ("repeated", "{{ 'x' * 99999999 }}".to_owned()),
        ("doubled", format!("{{% set a0 = question %}}{doubled}")),
        (
            "macro",
            "{% macro m(t) %}{{ m(t ~ t) }}{% endmacro %}{{ m(question) }}".to_owned(),
        ),
        ("deep", format!("{{{{ {}1 }}}}", "-".repeat(2000))),
        (
            "branches",
            format!("{{% if question %}}{branches}{{% endif %}}"),
        ),
        (
            "filters",
            "{{ question | split('') | join('__') | replace('o', 'oo') | list | string }}"
                .to_owned(),
        ),
    ];
    let seed = |(name, template): (&str, String)| {
        let name = format!("template-{name}");
        named(&name, changed("{{ question }}", &template))
    };
    templates.into_iter().map(seed).collect()
}

fn wrong_tasks() -> Seeds {
    vec![
        named("no-such-field", changed("{{ question }}", "{{ quest }}")),
        named("template-cut", changed("{{ question }}", "{{ question")),
        named(
            "loops",
            changed(
                "{{ question }}",
                "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
            ),
        ),
        named(
            "long-text",
            changed("{{ question }}", "{{ 'x' * 99999999999 }}"),
        ),
        named(
            "gold-beyond",
            changed("answer | int", "99999999999999999999"),
        ),
        named(
            "window-of-nothing",
            other("[perplexity]\nwindow = 0", "data.txt", "x"),
        ),
        named(
            "window-of-all",
            other(
                "[perplexity]\nwindow = 9223372036854775807",
                "data.txt",
                "x",
            ),
        ),
        named(
            "tokens-of-all",
            other(
                "[generation]\ncontext = \"a\"\nanswers = \"['b']\"\nmax_tokens = 9223372036854775807",
                "data.jsonl",
                "{}\n",
            ),
        ),
        named("bad-key", changed("gold", "golden")),
        named("lists-in-lists", format!("x = {}", "[".repeat(2000))),
        named("no-data", CHOICE),
    ]
}

fn parquet(texts: &[Option<&str>], compression: Compression) -> Vec<u8> {
    let schema = "message m { optional binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(compression);
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = texts.iter().flatten().map(|&text| text.into()).collect();
    let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
    let typed = column.typed::<ByteArrayType>();
    typed.write_batch(&values, Some(&levels), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn records() -> Seeds {
    let of = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    let whole = parquet(
        &[Some("abc"), None, Some("abc"), Some("d")],
        Compression::SNAPPY,
    );
    let plain = parquet(&[Some("abc"), None], Compression::UNCOMPRESSED);
    let many = parquet(&vec![None; 3_400_000], Compression::SNAPPY);
    let footer = [b"PAR1".as_slice(), &[0xff, 0xff, 0xff, 0x7f], b"PAR1"].concat();
    vec![
        named(
            "jsonl",
            of(
                b'j',
                b"{\"text\": \"a\"}\n\n{\"text\": [1, null, {\"b\": 1e9}]}\n",
            ),
        ),
        named("jsonl-cut", of(b'j', b"{\"text\": \"a\"}\n{\"text\": ")),
        named("jsonl-array", of(b'j', b"[1]\n")),
        named("jsonl-deep", of(b'j', "[".repeat(3000).as_bytes())),
        named("jsonl-no-utf8", of(b'j', b"{\"text\": \"\xff\"}")),
        named("csv", of(b'c', b"text,b\na,1\n\"x\ny\",\"\"\"q\"\n")),
        named("csv-short", of(b'c', b"text,b\na\n")),
        named("csv-empty", of(b'c', b"")),
        named(
            "pages",
            of(b't', b" \n = One = \n a\n = = Part = = \n = Two = \n b "),
        ),
        named("parquet", of(b'p', &whole)),
        named("parquet-plain", of(b'p', &plain)),
        named("parquet-many", of(b'p', &many)),
        named("parquet-cut", of(b'p', &whole[..whole.len() / 2])),
        named("parquet-footer", of(b'p', &footer)),
        named("parquet-magic", of(b'p', b"PAR1")),
    ]
}

const BASELINE: &str = r#"{
  "pdtrim_baseline": 1,
  "run": {"pdtrim_version": "0.1.0", "model": "org/toy", "model_sha256": "00ff", "plan": "plan.toml", "dtype": "f32"},
  "tasks": [
    {
      "task": "toy", "version": 3, "task_sha256": "7e", "data": [{"path": "t.jsonl", "sha256": "fa"}],
      "fewshot": 0, "items": 3, "mode": "pd+kv", "boundary": "decode",
      "metrics": [
        {"name": "acc", "value": 0.6666666666666666, "stderr": 0.3333333333333333, "hits": "110"}
      ]
    },
    {
      "task": "text", "version": 1, "task_sha256": "95", "data": [], "fewshot": 0, "items": 2, "mode": "dense",
      "metrics": [
        {"name": "token_perplexity", "value": 33.11545195869231, "stderr": 55.19241993115386, "values": [4.5, 6.0], "weights": [2.0, 1.0]}
      ]
    }
  ]
}"#;

fn baseline() -> Seeds {
    let change = |from: &str, to: &str| {
        assert!(BASELINE.contains(from), "{from}");
        BASELINE.replace(from, to)
    };
    vec![
        named("whole", BASELINE),
        named("another-form", change("baseline\": 1", "baseline\": 2")),
        named(
            "many-items",
            change("\"items\": 3", "\"items\": 18446744073709551615"),
        ),
        named("no-items", change("\"items\": 3", "\"items\": 0")),
        named("not-finite", change("[4.5, 6.0]", "[4.5, null]")),
        named("too-large", change("[4.5, 6.0]", "[1e308, 1e308]")),
        named("no-hit", change("\"110\"", "\"1é0\"")),
        named("weights", change("[2.0, 1.0]", "[0, -0.0]")),
        named("cut", &BASELINE[..300]),
    ]
}
