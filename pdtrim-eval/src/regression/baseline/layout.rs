//! JSON that is indented down to a depth and runs on below it.

use std::io::{self, Write};

use serde_json::ser::Formatter;

/// Values nested deeper than this stand on one line: a file reference, a metric with all its items.
const INDENTED: usize = 4;

/// Indents by two, as `serde_json`'s own pretty form, which would give each item of each metric a line.
#[derive(Default)]
pub(super) struct Layout {
    depth: usize,
}

impl Layout {
    fn open(&mut self, out: &mut (impl Write + ?Sized), bracket: u8) -> io::Result<()> {
        self.depth += 1;
        out.write_all(&[bracket])
    }

    fn next(&self, out: &mut (impl Write + ?Sized), first: bool) -> io::Result<()> {
        if !first {
            out.write_all(b",")?;
        }
        if self.depth <= INDENTED {
            self.line(out)
        } else if first {
            Ok(())
        } else {
            out.write_all(b" ")
        }
    }

    fn close(&mut self, out: &mut (impl Write + ?Sized), bracket: u8) -> io::Result<()> {
        self.depth -= 1;
        if self.depth < INDENTED {
            self.line(out)?;
        }
        out.write_all(&[bracket])
    }

    fn line(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        writeln!(out)?;
        write!(out, "{:1$}", "", 2 * self.depth)
    }
}

impl Formatter for Layout {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b'[')
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b']')
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b'{')
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b'}')
    }
}
