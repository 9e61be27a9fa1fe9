//! One self-contained HTML page: text, tables, facts, code and charts.
//!
//! The page needs no script and loads nothing, so it can be mailed, archived and opened from a file. It follows the
//! reader's light or dark scheme, prints, and fits a phone. What it shows is the caller's: this module knows nothing
//! of models or scores, and the same [`Page`] always gives the same bytes.
//!
//! The HTML is in `page.html`, a minijinja template with auto-escaping: a model called `<script>` is shown as that.

mod chart;
mod table;
#[cfg(test)]
mod tests;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};

pub use chart::{
    Annotation, Axis, AxisScale, Bar, BarChart, BarSeries, HeatMap, Layout, LineChart, LineSeries,
    LineStyle, Reference, Unit,
};
pub use table::{Align, Cell, Column, Table};

use chart::Figure;

/// A page.
///
/// ```
/// use pdtrim_eval::page::{Item, Page, Section};
///
/// let facts = Item::Facts(vec![("model".to_owned(), "<script>".to_owned())]);
/// let page = Page {
///     title: "A run".to_owned(),
///     sections: vec![Section::new("What was run", "").with(facts)],
///     ..Page::default()
/// };
/// // Nothing that is shown can become part of the page.
/// let html = page.render();
/// assert!(html.contains("&lt;script&gt;") && !html.contains("<script>"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The heading, and the name of the browser tab.
    pub title: String,
    /// One line under the heading; empty for none.
    pub subtitle: String,
    /// The parts, in order; with more than two, the page begins with links to them.
    pub sections: Vec<Section>,
}

/// A part of a page.
///
/// ```
/// use pdtrim_eval::page::{Item, Section};
///
/// let command = Item::Code("pdtrim trim --prefill-count 2".to_owned());
/// let section = Section::new("Again", "The same run, word for word.").with(command);
/// assert_eq!(section.items.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// The heading.
    pub heading: String,
    /// Paragraphs before the items; blank lines separate them.
    pub text: String,
    /// What the section shows, in order.
    pub items: Vec<Item>,
}

impl Section {
    /// A section without items.
    pub fn new(heading: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            heading: heading.into(),
            text: text.into(),
            items: Vec::new(),
        }
    }

    /// The same section with another item.
    #[must_use]
    pub fn with(mut self, item: Item) -> Self {
        self.items.push(item);
        self
    }
}

/// Something a section shows.
///
/// ```
/// use pdtrim_eval::page::{Column, Item, Table};
///
/// let table = Table::new("", [Column::text("task"), Column::number("acc")]);
/// let items = [Item::Table(table), Item::Note("One seed only.".to_owned())];
/// assert!(matches!(&items[1], Item::Note(text) if text.ends_with('.')));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Item {
    /// A table.
    Table(Table),
    /// Grouped bars, with the numbers behind them folded away.
    Bars(BarChart),
    /// Lines, with the numbers behind them folded away.
    Lines(LineChart),
    /// A grid of shaded cells, with the numbers behind them folded away.
    Heat(HeatMap),
    /// A file or a command, word for word.
    Code(String),
    /// Names and values; an empty value is shown as a dash.
    Facts(Vec<(String, String)>),
    /// A remark that must not be overlooked.
    Note(String),
}

impl Page {
    /// The page as HTML.
    #[expect(
        clippy::missing_panics_doc,
        reason = "the template is part of the program and rendered by its tests"
    )]
    pub fn render(&self) -> String {
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        let mut environment = Environment::new();
        environment.set_syntax(syntax.expect("the usual delimiters"));
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let sections: Vec<Value> = self
            .sections
            .iter()
            .enumerate()
            .map(|(index, section)| section.view(index))
            .collect();
        environment
            .render_str(
                include_str!("page.html"),
                context! { title => &self.title, subtitle => &self.subtitle, sections, style => style() },
            )
            .expect("the embedded template fits the page's fields")
    }
}

/// The style sheet, which is not text to be escaped.
fn style() -> Value {
    Value::from_safe_string(include_str!("page.css").to_owned())
}

impl Section {
    fn view(&self, index: usize) -> Value {
        let paragraphs = self
            .text
            .split("\n\n")
            .map(str::trim)
            .filter(|text| !text.is_empty());
        let paragraphs: Vec<Value> = paragraphs.map(Value::from).collect();
        let id = format!("s{}", index + 1);
        let items: Vec<Value> = self
            .items
            .iter()
            .enumerate()
            .map(|(item, shown)| shown.view(&format!("{id}i{}", item + 1)))
            .collect();
        context! { id, heading => &self.heading, paragraphs, items }
    }
}

impl Item {
    fn view(&self, id: &str) -> Value {
        match self {
            Self::Table(table) => context! { kind => "table", table => table.view() },
            Self::Bars(chart) => figure_view(chart.figure(id)),
            Self::Lines(chart) => figure_view(chart.figure(id)),
            Self::Heat(chart) => figure_view(chart.figure(id)),
            Self::Code(code) => context! { kind => "code", code },
            Self::Facts(facts) => {
                let facts: Vec<Value> = facts
                    .iter()
                    .map(|(name, value)| context! { name => name, value => value })
                    .collect();
                context! { kind => "facts", facts }
            }
            Self::Note(text) => context! { kind => "note", text },
        }
    }
}

/// The SVG was escaped by its writer; everything else is escaped by the template.
fn figure_view(figure: Figure) -> Value {
    let legend: Vec<Value> = figure
        .legend
        .into_iter()
        .map(|entry| context! { label => entry.label, swatch => Value::from_safe_string(entry.swatch) })
        .collect();
    context! {
        kind => "figure",
        title => figure.title,
        description => figure.description,
        legend,
        wide => Value::from_safe_string(figure.wide),
        narrow => Value::from_safe_string(figure.narrow),
        table => figure.table.view(),
    }
}
