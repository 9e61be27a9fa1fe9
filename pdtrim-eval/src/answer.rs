//! Generated answers and what is accepted.

use crate::result::ItemOutcome;
use crate::task::Matching;

/// What makes a generated text a right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// At least one.
    pub(crate) answers: Vec<String>,
    /// Texts at which an answer ends.
    pub(crate) until: Vec<String>,
    pub(crate) matching: Matching,
}

impl Accepted {
    pub(crate) fn outcome(&self, generated: &str) -> ItemOutcome {
        let end = self
            .until
            .iter()
            .filter_map(|end| generated.find(end.as_str()))
            .min();
        let answer = generated[..end.unwrap_or(generated.len())].trim();
        let own = self.matching.plain(answer);
        ItemOutcome::Answer {
            answer: answer.to_owned(),
            accepted: self.answers.clone(),
            exact_match: self
                .answers
                .iter()
                .any(|accepted| self.matching.plain(accepted) == own),
        }
    }
}

impl Matching {
    /// `text` without what makes no difference.
    fn plain(self, text: &str) -> String {
        let text = text.trim();
        let kept = text
            .chars()
            .filter(|letter| !(self.ignore_punctuation && letter.is_ascii_punctuation()));
        if self.ignore_case {
            kept.flat_map(char::to_lowercase).collect()
        } else {
            kept.collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_right(matching: Matching, generated: &str) -> bool {
        let accepted = Accepted {
            answers: vec!["Marble".to_owned(), "a stone".to_owned()],
            until: vec!["\n".to_owned(), ".".to_owned()],
            matching,
        };
        matches!(
            accepted.outcome(generated),
            ItemOutcome::Answer {
                exact_match: true,
                ..
            }
        )
    }

    #[test]
    fn an_answer_ends_at_the_first_of_its_ends() {
        let strict = Matching::default();
        assert!(is_right(strict, " Marble. And more\n"));
        assert!(is_right(strict, "a stone\nMarble"));
        assert!(!is_right(strict, "marble"));
        assert!(!is_right(strict, "Marble stone."));
    }

    #[test]
    fn case_and_punctuation_may_make_no_difference() {
        let loose = Matching {
            ignore_case: true,
            ignore_punctuation: true,
        };
        assert!(is_right(loose, "\"MARBLE\"."));
        assert!(!is_right(loose, "marbles"));
    }
}
