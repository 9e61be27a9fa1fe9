//! From a file to its tasks: one, or one for each subject.

use pdtrim_core::hash::sha256;
use serde::Deserialize;
use toml::Value;

use super::check::Check;
use super::raw::RawTask;
use super::sources::{HubData, RawSource, Source, Where};
use super::{Examples, Task, TaskKind};
use crate::error::{Error, Result};

/// A subject and the key of the group it is in.
struct Subject<'f> {
    group: &'f str,
    name: &'f str,
}

pub(super) fn parse(text: &str, file: &str) -> Result<Vec<Task>> {
    let syntax = |source| Error::TaskSyntax {
        file: file.to_owned(),
        source: Box::new(source),
    };
    // Read as it stands first, so that what is wrong is named with its line.
    let raw: RawTask = toml::from_str(text).map_err(syntax)?;
    let sha256 = sha256(text.as_bytes());
    if raw.subjects.is_empty() {
        return Ok(vec![task(raw, Vec::new(), sha256)?]);
    }
    let table: Value = toml::from_str(text).map_err(syntax)?;
    let family = raw.name.clone();
    let subjects = raw.subjects.iter().flat_map(|(group, names)| {
        names.iter().map(move |name| Subject {
            group: group.as_str(),
            name,
        })
    });
    let mut tasks = Vec::new();
    for subject in subjects {
        let mut raw = RawTask::deserialize(filled(table.clone(), subject.name)).map_err(syntax)?;
        raw.name = format!("{family}_{}", subject.name);
        let mut groups = vec![family.clone()];
        if raw.subjects.len() > 1 {
            groups.push(format!("{family}_{}", subject.group));
        }
        tasks.push(task(raw, groups, sha256.clone())?);
    }
    tasks.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(tasks)
}

/// `value` with the subject in all of its strings.
fn filled(value: Value, subject: &str) -> Value {
    match value {
        Value::String(text) => Value::String(
            text.replace("<subject>", subject)
                .replace("<subject words>", &subject.replace('_', " ")),
        ),
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .map(|item| filled(item, subject))
                .collect(),
        ),
        Value::Table(table) => Value::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, filled(value, subject)))
                .collect(),
        ),
        other => other,
    }
}

fn task(raw: RawTask, groups: Vec<String>, sha256: String) -> Result<Task> {
    let name = raw.name;
    let check = Check { task: &name };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(check.error("name", "letters, digits, `_` and `-`", &name));
    }
    if raw.version == 0 {
        return Err(check.error("version", "a number from 1", 0));
    }
    let kinds = [
        raw.multiple_choice.map(|raw| check.multiple_choice(raw)),
        raw.loglikelihood.map(|raw| check.target(raw)),
        raw.rolling.map(|raw| check.rolling(raw)),
        raw.perplexity.map(|raw| check.perplexity(&raw)),
        raw.generation.map(|raw| check.generation(raw)),
    ];
    let mut kinds: Vec<_> = kinds.into_iter().flatten().collect();
    let (kind, metrics) = match kinds.pop() {
        Some(kind) if kinds.is_empty() => kind?,
        one => {
            let found = if one.is_some() { "several" } else { "none" };
            return Err(check.error("multiple_choice", KINDS, found));
        }
    };
    let examples = match raw.fewshot {
        None => Examples::default(),
        Some(raw) => Examples {
            count: raw.count,
            sources: sources(&check, raw.data, &kind)?,
        },
    };
    let sources = sources(&check, raw.data, &kind)?;
    if sources.is_empty() {
        return Err(check.error("data", "at least one place to look", "none"));
    }
    let task = Task {
        version: raw.version,
        description: raw.description,
        sha256,
        groups,
        preamble: raw.preamble,
        sources,
        examples: Examples {
            count: 0,
            ..examples
        },
        kind,
        metrics,
        name: name.clone(),
    };
    task.with_fewshot(examples.count)
}

const KINDS: &str = "exactly one of the tables `multiple_choice`, `loglikelihood`, `rolling`, \
                     `perplexity` and `generation`";

fn sources(check: &Check<'_>, raw: Vec<RawSource>, kind: &TaskKind) -> Result<Vec<Source>> {
    raw.into_iter()
        .map(|raw| {
            let source = Source {
                place: place(check, &raw)?,
                form: check.form(raw)?,
            };
            check.fits(&source, kind)?;
            Ok(source)
        })
        .collect()
}

fn place(check: &Check<'_>, raw: &RawSource) -> Result<Where> {
    let of_hub = raw.config.is_some() || raw.split.is_some();
    match (&raw.files[..], &raw.hub, &raw.bundled) {
        ([], None, Some(key)) if !of_hub => Ok(Where::Bundled(key.clone())),
        ([], Some(repo), None) => Ok(Where::Hub(HubData {
            repo: repo.clone(),
            config: raw.config.clone().unwrap_or_else(|| "default".to_owned()),
            split: raw.split.clone().unwrap_or_else(|| "test".to_owned()),
        })),
        (files @ [_, ..], None, None) if !of_hub => Ok(Where::Files(files.to_vec())),
        _ => Err(check.error(
            "data",
            "one of `files`, `bundled` and `hub` (with `config` and `split`)",
            "another set of keys",
        )),
    }
}
