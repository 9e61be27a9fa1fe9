//! A writer of well-formed SVG: what is opened is closed, and text and attributes are escaped.

use std::fmt::{Display, Write as _};

/// Attributes of one element.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// An SVG fragment under construction.
#[derive(Debug, Default)]
pub(super) struct Svg {
    out: String,
    open: Vec<&'static str>,
}

impl Svg {
    /// Opens an element; [`Svg::close`] closes it.
    pub(super) fn open(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.start(tag, attributes);
        self.out.push('>');
        self.open.push(tag);
    }

    /// Closes the element opened last.
    pub(super) fn close(&mut self) {
        if let Some(tag) = self.open.pop() {
            self.end(tag);
        }
    }

    /// An element without content.
    pub(super) fn leaf(&mut self, tag: &'static str, attributes: Attributes<'_>) {
        self.start(tag, attributes);
        self.out.push_str("/>");
    }

    /// An element that holds only text.
    pub(super) fn text(&mut self, tag: &'static str, attributes: Attributes<'_>, text: &str) {
        self.start(tag, attributes);
        self.out.push('>');
        self.out.push_str(&escaped(text));
        self.end(tag);
    }

    /// A shape with a `<title>`, which browsers show on hover.
    pub(super) fn titled(&mut self, tag: &'static str, attributes: Attributes<'_>, title: &str) {
        self.open(tag, attributes);
        self.text("title", &[], title);
        self.close();
    }

    /// A line break, so that the page's source can be read and compared.
    pub(super) fn line_break(&mut self) {
        self.out.push('\n');
    }

    /// The finished fragment; elements still open are closed.
    pub(super) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.out
    }

    fn start(&mut self, tag: &str, attributes: Attributes<'_>) {
        self.out.push('<');
        self.out.push_str(tag);
        for (name, value) in attributes {
            let value = escaped(&value.to_string());
            // Writing to a String cannot fail.
            let _ = write!(self.out, " {name}=\"{value}\"");
        }
    }

    fn end(&mut self, tag: &str) {
        self.out.push_str("</");
        self.out.push_str(tag);
        self.out.push('>');
    }
}

/// A coordinate with at most two digits after the point; what is not a number becomes 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Px(pub(super) f64);

impl Display for Px {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hundredths = if self.0.is_finite() {
            (self.0 * 100.0).round()
        } else {
            0.0
        };
        // `+ 0.0` turns -0 into 0.
        write!(f, "{}", hundredths / 100.0 + 0.0)
    }
}

/// `text` with the five characters that mean something to XML replaced, and without control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Not allowed in XML in any form.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
