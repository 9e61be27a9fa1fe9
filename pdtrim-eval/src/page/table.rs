//! Tables of a page.

use minijinja::{Value, context};

use super::chart::number;

/// How the cells of a column are aligned.
///
/// ```
/// use pdtrim_eval::page::{Align, Column};
///
/// assert_eq!(Column::text("task").align, Align::Text);
/// assert_eq!(Column::number("acc").align, Align::Number);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// Words: from the left.
    #[default]
    Text,
    /// Numbers: from the right, in digits of equal width.
    Number,
}

/// The heading of a column and the alignment of its cells.
///
/// ```
/// use pdtrim_eval::page::{Align, Column};
///
/// let column = Column::number("KV per item");
/// assert_eq!(column, Column { name: "KV per item".to_owned(), align: Align::Number });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// The alignment.
    pub align: Align,
}

impl Column {
    /// A column of words.
    pub fn text(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            align: Align::Text,
        }
    }

    /// A column of numbers.
    pub fn number(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            align: Align::Number,
        }
    }
}

/// What stands in one cell; a missing value is shown as a dash.
///
/// ```
/// use pdtrim_eval::page::Cell;
///
/// assert_eq!(Cell::number(Some(0.8364), 2).text(), Some("0.84"));
/// assert_eq!(Cell::number(Some(f64::NAN), 2), Cell::MISSING);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell(Option<String>);

impl Cell {
    /// A value that is not there.
    pub const MISSING: Self = Self(None);

    /// A number with `decimals` digits after the point; missing when it is `None`, infinite or not a number.
    pub fn number(value: Option<f64>, decimals: usize) -> Self {
        Self(
            value
                .filter(|value| value.is_finite())
                .map(|value| number(value, decimals)),
        )
    }

    /// The text, unless the value is missing.
    pub fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self(Some(text.to_owned()))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self(Some(text))
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::MISSING, Into::into)
    }
}

/// A table; its first column names the rows.
///
/// ```
/// use pdtrim_eval::page::{Cell, Column, Table};
///
/// let table = Table::new("Accuracy", [Column::text("task"), Column::number("acc")])
///     .with_row([Cell::from("everyday"), Cell::number(Some(0.8364), 4)])
///     .with_row([Cell::from("passages"), Cell::MISSING]);
/// assert_eq!(table.rows.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What the table shows; empty for none.
    pub caption: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// The cells, row by row. Missing cells at the end of a row are dashes; cells beyond the columns are not shown.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(caption: impl Into<String>, columns: impl IntoIterator<Item = Column>) -> Self {
        Self {
            caption: caption.into(),
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// The same table with another row.
    #[must_use]
    pub fn with_row<C: Into<Cell>>(mut self, cells: impl IntoIterator<Item = C>) -> Self {
        self.rows.push(cells.into_iter().map(Into::into).collect());
        self
    }

    /// The table as the template sees it.
    pub(super) fn view(&self) -> Value {
        let class = |align| match align {
            Align::Text => "text",
            Align::Number => "number",
        };
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|column| context! { name => &column.name, align => class(column.align) })
            .collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                Value::from(
                    row.iter()
                        .map(|cell| Value::from(cell.text()))
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        context! { caption => &self.caption, columns, rows }
    }
}
