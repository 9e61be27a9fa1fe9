//! Which files each source reads, and what it makes of them.

use std::path::Path;

use super::corpus::Part;
use super::records::{Needed, Pool, Reader, c4, fields, piqa_mmlu};
use super::{BUNDLED_HELD_OUT_PROSE, BUNDLED_PROSE, CalibrationSource};
use crate::error::Result;

const WIKITEXT2: Needed = Needed {
    source_name: "wikitext2",
    what: "WikiText-2's raw training or validation text",
    candidates: &[
        "wikitext-2-raw/wiki.train.raw",
        "wiki.train.raw",
        "wikitext-2-raw/wikitext2_train.txt",
        "wikitext-2-raw/wiki.valid.raw",
        "wiki.valid.raw",
    ],
};

const WIKITEXT2_TEST: Needed = Needed {
    source_name: "wikitext2",
    what: "WikiText-2's raw test text",
    candidates: &["wikitext-2-raw/wiki.test.raw", "wiki.test.raw"],
};

/// What a part of a source has to draw windows from.
pub(super) enum Content {
    Text { text: String, shared: Shared },
    Items(Vec<Pool>),
    Model,
}

/// Whether a text is there for both parts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shared {
    /// One text, of which a slot of each stratum is held out.
    Both,
    /// There is another text for the other part.
    OnePart,
}

/// Reads `part` of `source`; also gives it the name that plans and reports have.
pub(super) fn read(
    source: &CalibrationSource,
    data: Option<&Path>,
    part: Part,
    reader: &mut Reader,
) -> Result<(String, Content)> {
    Ok(match source {
        CalibrationSource::Prose => prose(part, reader),
        CalibrationSource::WikiText2 => wikitext2(data, part, reader)?,
        CalibrationSource::PiqaMmlu => of(part, items(source, piqa_mmlu(data, reader)?)),
        CalibrationSource::C4 => of(part, items(source, c4(data, reader)?)),
        CalibrationSource::Sampled => of(part, (source.to_string(), Content::Model)),
        CalibrationSource::Text(path) => {
            check_known(source, path)?;
            of(part, (file_name(path), shared_text(reader.read(path)?)))
        }
        CalibrationSource::Jsonl { path, fields } => {
            check_known(source, path)?;
            of(part, jsonl(path, fields, reader)?)
        }
    })
}

/// A source that has the same content for both parts says so in its name.
fn of(part: Part, (name, content): (String, Content)) -> (String, Content) {
    match part {
        Part::Calibration => (name, content),
        Part::HeldOut => (format!("{name}, held out"), content),
    }
}

fn jsonl(path: &Path, names: &[String], reader: &mut Reader) -> Result<(String, Content)> {
    let items = fields(path, names, reader)?;
    let name = format!("{}#{}", file_name(path), names.join("+"));
    Ok((name.clone(), Content::Items(vec![Pool { name, items }])))
}

fn shared_text(text: String) -> Content {
    Content::Text {
        text,
        shared: Shared::Both,
    }
}

fn prose(part: Part, reader: &mut Reader) -> (String, Content) {
    let (name, text) = match part {
        Part::Calibration => ("bundled prose", BUNDLED_PROSE),
        Part::HeldOut => ("bundled held-out prose", BUNDLED_HELD_OUT_PROSE),
    };
    reader.add(text);
    let content = Content::Text {
        text: text.to_owned(),
        shared: Shared::OnePart,
    };
    (name.to_owned(), content)
}

fn wikitext2(data: Option<&Path>, part: Part, reader: &mut Reader) -> Result<(String, Content)> {
    let needed = match part {
        Part::Calibration => WIKITEXT2,
        Part::HeldOut => WIKITEXT2_TEST,
    };
    let (name, path) = needed.find(data)?;
    let content = Content::Text {
        text: reader.read(&path)?,
        shared: Shared::OnePart,
    };
    Ok((format!("wikitext2 ({name})"), content))
}

fn items(source: &CalibrationSource, pools: Vec<Pool>) -> (String, Content) {
    let names: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    let name = format!("{source} ({})", names.join(", "));
    (name, Content::Items(pools))
}

fn check_known(source: &CalibrationSource, path: &Path) -> Result<()> {
    if path.exists() {
        Ok(())
    } else {
        Err(source.unknown())
    }
}

/// Not the whole path: a plan should read the same on another machine.
fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
