//! A text in WikiText's form, cut into its articles as the hub's `wikitext_document_level` does: each
//! heading of the first level begins one.

use serde_json::{Map, Value};

use super::Doc;

pub(super) fn read(text: &str) -> Vec<Doc> {
    let mut pages = Vec::new();
    let mut page: Vec<&str> = Vec::new();
    let mut begins = 1;
    for (index, line) in text.split('\n').enumerate() {
        if is_title(line) {
            if page.iter().any(|line| !line.trim().is_empty()) {
                pages.push(doc(begins, &page));
            }
            page.clear();
            begins = index + 1;
        }
        page.push(line);
    }
    pages.push(doc(begins, &page));
    pages
}

/// ` = Title = `, and no more signs on either side.
fn is_title(line: &str) -> bool {
    let line = line.replace("= = =", "===").replace("= =", "==");
    let line = line.trim();
    line.starts_with("= ") && line.ends_with(" =")
}

fn doc(line: usize, page: &[&str]) -> Doc {
    let fields = Map::from_iter([("page".to_owned(), Value::from(page.join("\n")))]);
    Doc { line, fields }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_begin_at_headings_of_the_first_level() {
        let text = " \n = One = \n \n a \n = = Part = = \n b \n = Two = \n c ";
        let found: Vec<(usize, String)> = read(text)
            .into_iter()
            .map(|doc| (doc.line, doc.fields["page"].as_str().unwrap().to_owned()))
            .collect();
        let one = " = One = \n \n a \n = = Part = = \n b ".to_owned();
        assert_eq!(found, [(2, one), (7, " = Two = \n c ".to_owned())]);
    }
}
