//! The only place that writes to stdout, and to stderr apart from progress bars.

#![expect(
    clippy::print_stderr,
    reason = "this module is where a command line program prints"
)]

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};

/// Writes a result to stdout.
pub(crate) fn result(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .context("cannot write to stdout")?;
    if !text.ends_with('\n') {
        out.write_all(b"\n").context("cannot write to stdout")?;
    }
    out.flush().context("cannot write to stdout")
}

/// Writes a part of a result that goes on, without a line end.
pub(crate) fn part(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to stdout")
}

/// Writes one JSON object to stdout.
pub(crate) fn json(value: &serde_json::Value) -> Result<()> {
    result(&serde_json::to_string_pretty(value)?)
}

/// The error, then each cause of it.
pub(crate) fn error(error: &anyhow::Error) {
    let mut said = error.to_string();
    eprintln!("error: {said}");
    for cause in error.chain().skip(1) {
        // A wrapper whose message is its cause's adds nothing.
        let cause = cause.to_string();
        if !said.contains(&cause) {
            eprintln!("caused by: {cause}");
        }
        said = cause;
    }
}

/// A line for the reader, not a result.
pub(crate) fn note(line: &str) {
    eprintln!("{line}");
}

/// Whether the reader of stdout went away (`pdtrim … | head`), which is no failure.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
}
