//! Annotations of a GitHub workflow.
//!
//! A line `::error title=…::…` on standard output becomes an annotation. The runner takes percent-encoded
//! line ends, and in a property also `:` and `,`, which separate properties (github.com/actions/toolkit,
//! `packages/core/src/command.ts`).

use super::gate::{Check, Gate, Status};
use super::wording::sentence;

pub(super) fn render(gate: &Gate) -> String {
    let checks = gate.worst_first();
    let lines = checks.into_iter().filter_map(|check| {
        let command = command(check)?;
        let title = format!("PDTrim, {} {}: {}", check.task, check.metric, check.status);
        let message = format!("{}: {}", check.task, sentence(check, gate.alpha));
        Some(format!(
            "::{command} title={}::{}\n",
            property(&title),
            data(&message)
        ))
    });
    lines.collect()
}

fn command(check: &Check) -> Option<&'static str> {
    match check.status {
        _ if check.fails() => Some("error"),
        Status::WithinNoise => Some("warning"),
        Status::New if check.limit.is_some() => Some("warning"),
        _ => None,
    }
}

fn data(text: &str) -> String {
    // The percent sign first: the others bring new ones.
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runner_would_take_for_syntax_is_escaped() {
        assert_eq!(data("2%: a,\r\nb%0A"), "2%25: a,%0D%0Ab%250A");
        assert_eq!(property("2%: a,\r\nb"), "2%25%3A a%2C%0D%0Ab");
    }
}
