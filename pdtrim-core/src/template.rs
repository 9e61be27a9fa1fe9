//! Jinja templates that strangers wrote: those of task files, and the one for conversations that a checkpoint
//! brings. The engine bounds how long a template runs; what is here bounds how deep it nests, and how long
//! a text it writes.

use std::io::{self, Write};

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use crate::error::{Error, Result};

/// Operators in one expression, and `elif` branches in one template. The engine (minijinja 3.0) follows both by
/// recursion, without a limit of its own: 100 000 end the process. Published templates have a few dozen.
const NESTED: usize = 256;

/// What a text is.
///
/// ```
/// use pdtrim_core::template::{Source, check_nesting};
///
/// assert!(check_nesting("not done", Source::Expression).is_ok());
/// assert!(check_nesting("{{ not done }}", Source::Template).is_ok());
/// assert!(check_nesting(&"not ".repeat(1000), Source::Expression).is_err());
/// // What is not code does not count.
/// assert!(check_nesting(&"not ".repeat(1000), Source::Template).is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Text with `{{ … }}` and `{% … %}` in it.
    Template,
    /// What could stand in `{{ … }}`.
    Expression,
}

/// Refuses what would take the engine deeper than a thread's stack. What does not parse is left to the engine.
///
/// # Errors
///
/// [`Error::TemplateNesting`], with the line.
///
/// ```
/// use pdtrim_core::Error;
/// use pdtrim_core::template::{Source, check_nesting};
///
/// let deep = format!("{{{{ {}1 }}}}", "-".repeat(300));
/// let refused = check_nesting(&deep, Source::Template);
/// assert!(matches!(refused, Err(Error::TemplateNesting { line: 1, limit: 256, .. })));
/// ```
pub fn check_nesting(text: &str, source: Source) -> Result<()> {
    let tokens = tokenize(text, source == Source::Expression, SyntaxConfig::default());
    let (mut operators, mut branches) = (0, 0);
    for (token, span) in tokens.map_while(std::result::Result::ok) {
        let refused = |what| Error::TemplateNesting {
            line: usize::from(span.start_line),
            what,
            limit: NESTED,
        };
        match token {
            Token::VariableStart | Token::BlockStart => operators = 0,
            Token::Ident("elif") => branches += 1,
            ref token => operators += usize::from(nests(token)),
        }
        if operators > NESTED {
            return Err(refused("operators in an expression"));
        }
        if branches > NESTED {
            return Err(refused("`elif` branches in a template"));
        }
    }
    Ok(())
}

/// Whether what follows the token may lie deeper than what came before it.
fn nests(token: &Token<'_>) -> bool {
    match token {
        Token::Ident(name) => matches!(*name, "not" | "and" | "or" | "if" | "else" | "is" | "in"),
        Token::TemplateData(_)
        | Token::VariableStart
        | Token::VariableEnd
        | Token::BlockStart
        | Token::BlockEnd
        | Token::Str(_)
        | Token::String(_)
        | Token::Int(_)
        | Token::Int128(_)
        | Token::Float(_)
        | Token::Comma
        | Token::Colon
        | Token::Assign
        | Token::BracketClose
        | Token::ParenClose
        | Token::BraceClose => false,
        _ => true,
    }
}

/// A text as a template writes it, which breaks off where it would become too long.
///
/// ```
/// use std::io::Write;
///
/// use pdtrim_core::template::BoundedText;
///
/// let mut text = BoundedText::new(8);
/// assert!(text.write_all(b"prompt").is_ok());
/// assert!(text.write_all(b" and more").is_err());
/// assert_eq!(text.into_text(), "prompt");
/// ```
#[derive(Debug)]
pub struct BoundedText {
    bytes: Vec<u8>,
    longest: usize,
}

impl BoundedText {
    /// An empty text that may become `longest` bytes long.
    pub fn new(longest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            longest,
        }
    }

    /// What was written.
    ///
    /// # Panics
    ///
    /// If that is not UTF-8; what a template writes is.
    pub fn into_text(self) -> String {
        String::from_utf8(self.bytes).expect("a template writes text")
    }
}

impl Write for BoundedText {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if more.len() > self.longest - self.bytes.len() {
            let reason = format!("the text would be longer than {} bytes", self.longest);
            return Err(io::Error::other(reason));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` levels of each kind that the engine follows by recursion.
    fn deep(n: usize) -> [String; 10] {
        let before = |word: &str| format!("{{{{ {}a }}}}", word.repeat(n));
        let after = |word: &str| format!("{{{{ a{} }}}}", word.repeat(n));
        [
            before("-"),
            before("not "),
            before("a ~ "),
            before("1 ** "),
            before("a and "),
            before("a if a else "),
            after(" | trim"),
            after("[0]"),
            after(" is defined"),
            format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(n)),
        ]
    }

    #[test]
    fn what_would_overflow_the_stack_is_refused_by_its_line() {
        for text in deep(100_000) {
            let error = check_nesting(&format!("\n{text}"), Source::Template).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("line 2") && error.contains("256"), "{error}");
        }
    }

    #[test]
    fn what_is_let_through_parses_in_the_smallest_stack_of_a_thread() {
        for text in deep(120) {
            check_nesting(&text, Source::Template).unwrap();
            let parse = move || {
                let environment = minijinja::Environment::new();
                environment.template_from_str(&text).map(drop).unwrap();
            };
            let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(parse);
            thread.unwrap().join().unwrap();
        }
    }

    #[test]
    fn code_counts_and_text_does_not() {
        let text = "- and not ~ ".repeat(200);
        check_nesting(&text, Source::Template).unwrap();
        check_nesting(
            &format!("{{# {text} #}}{{{{ '{text}' }}}}"),
            Source::Template,
        )
        .unwrap();
        // Each expression counts for itself.
        check_nesting(&"{{ a ~ b }}".repeat(1000), Source::Template).unwrap();
        assert!(check_nesting(&text, Source::Expression).is_err());
    }
}
