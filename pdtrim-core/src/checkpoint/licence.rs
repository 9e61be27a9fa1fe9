//! The licence that a checkpoint says it has.

use super::{Checkpoint, Source};
use crate::error::Result;

/// A licence as a model card names it.
///
/// ```
/// use pdtrim_core::testing::tiny_checkpoint;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let checkpoint = tiny_checkpoint(folder.path())?;
/// assert_eq!(checkpoint.licence()?, None);
///
/// let card = "---\nlicense: apache-2.0\n---\n# A tiny model\n";
/// std::fs::write(folder.path().join("README.md"), card).expect("a file");
/// let licence = checkpoint.licence()?.expect("the card names one");
/// assert_eq!((licence.id.as_str(), licence.found_in), ("apache-2.0", "README.md"));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Licence {
    /// Its identifier (`apache-2.0`, `llama3.2`), or `other`.
    pub id: String,
    /// Its own name, where the identifier is `other`.
    pub name: Option<String>,
    /// The file or the address of its text, where one is given.
    pub link: Option<String>,
    /// Where it was found.
    pub found_in: &'static str,
}

impl Checkpoint {
    /// The licence in the front matter of the folder's `README.md`, else in its `config.json`, else its
    /// file `LICENSE`; of a GGUF file, `general.license`. `None` if it names none.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::chat_template`].
    pub fn licence(&self) -> Result<Option<Licence>> {
        let folder = match &self.source {
            Source::Gguf(file) => return file.licence(),
            Source::Hf(folder) => folder,
        };
        let card = self.path().join("README.md");
        if card.is_file() {
            let bytes = crate::text::read_bytes(&card, crate::limits::CARD)?;
            if let Some(licence) = of_card(&String::from_utf8_lossy(&bytes)) {
                return Ok(Some(licence));
            }
        }
        let fields = folder.config_json()?;
        if let Some(id) = fields.get("license").and_then(|value| value.as_str()) {
            return Ok(Some(named(id, "config.json")));
        }
        let file = ["LICENSE", "LICENSE.txt"]
            .into_iter()
            .find(|name| self.path().join(name).is_file());
        Ok(file.map(|name| Licence {
            id: "other".to_owned(),
            name: None,
            link: Some(name.to_owned()),
            found_in: name,
        }))
    }
}

/// A licence of which only the identifier is known.
pub(super) fn named(id: &str, found_in: &'static str) -> Licence {
    Licence {
        id: id.to_owned(),
        name: None,
        link: None,
        found_in,
    }
}

/// The licence in a card's front matter: the lines between its first two lines of `---`, of which three keys
/// with plain values are read.
fn of_card(text: &str) -> Option<Licence> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let front: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let value = |key: &str| {
        let place = front.iter().position(|line| {
            line.strip_prefix(key)
                .is_some_and(|rest| rest.starts_with(':'))
        })?;
        let own = plain(&front[place][key.len() + 1..]);
        // A list of one, in lines of its own.
        own.or_else(|| plain(front.get(place + 1)?.trim_start().strip_prefix("- ")?))
    };
    Some(Licence {
        name: value("license_name"),
        link: value("license_link"),
        ..named(&value("license")?, "README.md")
    })
}

/// A value without its quotes; nothing for an empty one.
fn plain(value: &str) -> Option<String> {
    let value = value.trim();
    let quoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let value = quoted.unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cards_front_matter_names_the_licence() {
        for (text, expected) in [
            ("---\nlicense: apache-2.0\n---\n# x", Some("apache-2.0")),
            ("---\r\ntags: [a]\r\nlicense: 'mit'\r\n---\r\n", Some("mit")),
            ("---\nlicense:\n- bsd-3-clause\n---\n", Some("bsd-3-clause")),
            ("---\nlicense_name: x\n---\n", None),
            ("# license: mit\n", None),
            ("---\ntags: []\n---\nlicense: mit\n", None),
            ("", None),
        ] {
            let found = of_card(text).map(|licence| licence.id);
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
        let text =
            "---\nlicense: other\nlicense_name: tongyi\nlicense_link: https://x/y # z\n---\n";
        let licence = of_card(text).unwrap();
        assert_eq!(licence.name.as_deref(), Some("tongyi"));
        assert!(licence.link.is_some());
    }
}
