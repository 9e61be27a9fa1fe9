//! What lm-evaluation-harness does to the texts of single tasks, so that scores agree to the item.

use std::sync::LazyLock;

use regex::Regex;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is written out here")
}

/// `HellaSwag` (`tasks/hellaswag/utils.py`): the tags that `WikiHow` items carry go, and what they leave
/// behind is joined.
pub(crate) fn hellaswag(text: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| regex(r"\[.*?\]"));
    let text = text.trim().replace(" [title]", ". ");
    TAG.replace_all(&text, "").replace("  ", " ")
}

/// `WikiText` (`tasks/wikitext/preprocess_wikitext.py`): the spaces around signs go.
pub(crate) fn wikitext(text: &str) -> String {
    static PAIRS: LazyLock<[(Regex, &str); 5]> = LazyLock::new(|| {
        [
            (regex(r"\(\s*([^\)]*?)\s*\)"), "($1)"),
            (regex(r"\[\s*([^\]]*?)\s*\]"), "[$1]"),
            (regex(r"\{\s*([^}]*?)\s*\}"), "{$1}"),
            (regex(r#""\s*([^"]*?)\s*""#), "\"$1\""),
            (regex(r"'\s*([^']*?)\s*'"), "'$1'"),
        ]
    });
    // The slashes are part of the pattern there, too.
    static SLASHES: LazyLock<Regex> = LazyLock::new(|| regex(r"/' [0-9]/"));
    const BEFORE: [(&str, &str); 9] = [
        (" @-@ ", "-"),
        (" @,@ ", ","),
        (" @.@ ", "."),
        (" : ", ": "),
        (" ; ", "; "),
        (" . ", ". "),
        (" ! ", "! "),
        (" ? ", "? "),
        (" , ", ", "),
    ];
    const AFTER: [(&str, &str); 8] = [
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" \u{b0} ", "\u{b0}"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ];
    let replaced = |text: String, pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .fold(text, |text, (from, to)| text.replace(from, to))
    };
    let text = text.replace("s '", "s'");
    let text = SLASHES.replace_all(&text, "/'[0-9]/").into_owned();
    let text = replaced(text, &BEFORE);
    let text = PAIRS.iter().fold(text, |text, (pair, to)| {
        pair.replace_all(&text, *to).into_owned()
    });
    replaced(text, &AFTER)
}

/// Its `general_detokenize` (`utils.py`).
pub(crate) fn detokenize(text: &str) -> String {
    static SIGN: LazyLock<Regex> = LazyLock::new(|| regex(r" (['.,])"));
    let text = text
        .replace(" n't", "n't")
        .replace(" )", ")")
        .replace("( ", "(")
        .replace("\" ", "\"")
        .replace(" \"", "\"");
    SIGN.replace_all(&text, "$1").into_owned()
}

/// `text` with its word number `index` (split at white space) between stars (`tasks/super_glue/wsc`).
pub(crate) fn mark_word(text: &str, index: usize, word: &str) -> String {
    let before: Vec<&str> = text.split_whitespace().take(index).collect();
    let before = before.join(" ");
    // Counted in characters, from the joined words, as there: another run of spaces shifts it.
    let skipped = before.chars().count() + word.chars().count() + 1;
    let after: String = text.chars().skip(skipped).collect();
    format!("{before} *{word}*{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hellaswag_text_drops_tags_and_joins_what_is_left() {
        assert_eq!(
            hellaswag(" How to bake [title] Mix. [step] Stir  well "),
            "How to bake. Mix. Stir well"
        );
        assert_eq!(hellaswag("Use [substeps]Now."), "Use Now.");
        // Three spaces become two: the replacement does not look back.
        assert_eq!(hellaswag("a   b"), "a  b");
    }

    #[test]
    fn an_unclosed_bracket_stays() {
        assert_eq!(hellaswag("a [b\nc] d [e] f"), "a [b\nc] d f");
        assert_eq!(hellaswag("a [b"), "a [b");
    }

    #[test]
    fn wikitext_signs_join_their_words() {
        assert_eq!(
            wikitext(" = = A = = \n He said : \" no \" ( at 5 @.@ 5 @-@ ton ) , the boys ' 's . "),
            " == A ==\nHe said: \"no\" (at 5.5-ton), the boys''s. "
        );
    }

    #[test]
    fn wsc_words_are_marked_and_signs_joined() {
        let text = "Tom did n't hit Bob , because he ( Bob ) ran .";
        assert_eq!(
            detokenize(&mark_word(text, 7, "he")),
            "Tom didn't hit Bob, because *he* (Bob) ran."
        );
    }
}
