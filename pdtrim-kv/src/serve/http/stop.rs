//! Texts that end an answer.

/// Lets text through up to the first of some texts, and holds back what may become one of them.
#[derive(Debug)]
pub(super) struct StopTexts {
    texts: Vec<String>,
    held: String,
}

impl StopTexts {
    pub(super) fn new(texts: Vec<String>) -> Self {
        let held = String::new();
        Self { texts, held }
    }

    /// The text that can be given out now that `new` has come, and whether one of the texts was reached.
    pub(super) fn push(&mut self, new: &str) -> (String, bool) {
        self.held.push_str(new);
        let ends = self.texts.iter().filter_map(|text| self.held.find(text));
        if let Some(end) = ends.min() {
            let mut out = std::mem::take(&mut self.held);
            out.truncate(end);
            return (out, true);
        }
        let may_begin = |at: &usize| {
            let tail = &self.held[*at..];
            self.texts.iter().any(|text| text.starts_with(tail))
        };
        let starts = self.held.char_indices().map(|(at, _)| at);
        let keep = starts
            .into_iter()
            .find(may_begin)
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back and has become none of them.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(texts: &[&str]) -> StopTexts {
        StopTexts::new(texts.iter().map(|&text| text.to_owned()).collect())
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_text_gives(text in "[abé]{0,12}", cut in 0_usize..12, stop in "[abé]{1,3}") {
            let whole = stops(&[&stop]).push(&text);
            let cut = text.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(text.len());
            let mut stops = stops(&[&stop]);
            let (mut out, mut ended) = stops.push(&text[..cut]);
            if !ended {
                let (more, end) = stops.push(&text[cut..]);
                out += &more;
                ended = end;
            }
            prop_assert_eq!(ended, text.contains(&stop));
            prop_assert_eq!(&out, &whole.0);
            prop_assert!(!out.contains(&stop));
            if !ended {
                prop_assert_eq!(out + &stops.finish(), text);
            }
        }
    }

    #[test]
    fn what_may_become_a_stop_is_held_back() {
        let mut stops = stops(&["END", "ED"]);
        assert_eq!(stops.push("the E"), ("the ".to_owned(), false));
        assert_eq!(stops.push("N"), (String::new(), false));
        assert_eq!(stops.push("x"), ("ENx".to_owned(), false));
        assert_eq!(stops.push("yED more"), ("y".to_owned(), true));
    }
}
