//! Heat maps: a grid of cells, shaded by their values.
//!
//! One hue in six steps, so that readers who confuse colours see the same order of shades. The step of a cell is
//! coarse and its number exact: each cell has its number in it where there is room, and always in the table.

#[cfg(test)]
mod tests;

use super::axis::Axis;
use super::frame::{Frame, Layout, draw_y_title, text_width};
use super::labels::GroupLabels;
use super::scale::number;
use super::svg::{Px, Svg};
use super::{Figure, LegendEntry, column_decimals};
use crate::page::table::{Cell, Column, Table};

/// Shades that can be told apart, and on each of which one of the two text colours can be read.
const STEPS: usize = 6;
/// From this step on text has the colour of the page's ground.
const FIRST_STRONG: usize = 4;
const ROW_HEIGHT: f64 = 22.0;
const WIDEST_CELL: f64 = 96.0;

/// A grid of values, such as a score by two things that were varied.
///
/// ```
/// use pdtrim_eval::page::{Axis, HeatMap, Layout, Unit};
///
/// let map = HeatMap {
///     title: "Needles found".to_owned(),
///     column_label: "prompt length".to_owned(),
///     columns: ["512", "1024"].map(String::from).to_vec(),
///     row_label: "depth".to_owned(),
///     rows: ["0 %", "50 %"].map(String::from).to_vec(),
///     values: Axis::new("right answers").with_unit(Unit::Percent),
///     range: (0.0, 1.0),
///     cells: vec![vec![Some(1.0), Some(0.95)], vec![Some(0.4), None]],
///     ..HeatMap::default()
/// };
/// assert!(map.render(Layout::Wide, "needles").contains("95"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeatMap {
    /// The chart's heading.
    pub title: String,
    /// What there is to see, in a sentence or two; also what a screen reader reads.
    pub description: String,
    /// What the columns are, such as `prompt length`.
    pub column_label: String,
    /// The name of each column.
    pub columns: Vec<String>,
    /// What the rows are.
    pub row_label: String,
    /// The name of each row, from the top.
    pub rows: Vec<String>,
    /// What the values are; only the label and the unit count.
    pub values: Axis,
    /// The values of the faintest and of the strongest shade; what lies beyond them has the same shades.
    pub range: (f64, f64),
    /// The values of each row; `None`, or not a number, draws a dash, and so does a value that is not there.
    pub cells: Vec<Vec<Option<f64>>>,
}

impl HeatMap {
    /// The chart for the page; `id` is unique on it.
    pub(in crate::page) fn figure(&self, id: &str) -> Figure {
        Figure {
            title: self.title.clone(),
            description: self.description.clone(),
            legend: self.legend(),
            wide: self.render(Layout::Wide, &format!("{id}w")),
            narrow: self.render(Layout::Narrow, &format!("{id}n")),
            table: self.to_table(),
        }
    }

    /// The chart as an SVG element; colours come from the page's style sheet.
    pub fn render(&self, layout: Layout, id: &str) -> String {
        let drawing = Drawing::new(self, layout);
        let frame = &drawing.frame;
        let mut svg = frame.open(layout, id, &self.title, &self.description);
        draw_y_title(&mut svg, &self.row_label);
        drawing.draw_row_names(&mut svg);
        for row in 0..self.rows.len() {
            for column in 0..self.columns.len() {
                drawing.draw_cell(&mut svg, row, column);
            }
            svg.line_break();
        }
        let middles = (0..self.columns.len()).map(|column| drawing.middle(column));
        let columns = self.columns.iter().zip(middles);
        drawing.labels.draw(&mut svg, frame.bottom, columns);
        frame.draw_x_title(&mut svg, &self.column_label);
        svg.finish()
    }

    /// The numbers behind the chart.
    pub fn to_table(&self) -> Table {
        let columns = self.columns.iter().map(|name| Column::number(&**name));
        let columns = [Column::text(&*self.row_label)].into_iter().chain(columns);
        let mut table = Table::new(self.values.table_heading(), columns);
        let shown = |value: f64| self.values.in_table(value);
        let decimals = column_decimals(self.finite_values().map(shown));
        for (row, name) in self.rows.iter().enumerate() {
            let value = |column| Cell::number(self.value(row, column).map(shown), decimals);
            let values = (0..self.columns.len()).map(value);
            let cells = [Cell::from(name.as_str())].into_iter().chain(values);
            table.rows.push(cells.collect());
        }
        table
    }

    fn value(&self, row: usize, column: usize) -> Option<f64> {
        let value = *self.cells.get(row)?.get(column)?;
        value.filter(|value| value.is_finite())
    }

    fn finite_values(&self) -> impl Iterator<Item = f64> {
        let row =
            move |row| (0..self.columns.len()).filter_map(move |column| self.value(row, column));
        (0..self.rows.len()).flat_map(row)
    }

    /// The shade of a value, from 0 to `STEPS - 1`.
    fn step(&self, value: f64) -> usize {
        let (lo, hi) = self.range;
        let share = ((value - lo) / (hi - lo)).clamp(0.0, 1.0);
        // A range without extent gives NaN, which becomes 0.
        (share * (STEPS - 1) as f64).round() as usize
    }

    /// What each shade stands for.
    fn legend(&self) -> Vec<LegendEntry> {
        let (lo, hi) = self.range;
        if !(hi > lo && (hi - lo).is_finite()) {
            return Vec::new();
        }
        let edge = |step: f64| (lo + (hi - lo) * step / (STEPS - 1) as f64).clamp(lo, hi);
        let edges = (0..=STEPS).map(|step| edge(step as f64 - 0.5));
        let edges: Vec<f64> = edges.collect();
        let entry = |step: usize| {
            let label = self.in_words(edges[step], edges[step + 1]);
            LegendEntry::new(&label, |svg| {
                svg.leaf(
                    "rect",
                    &[
                        ("class", &format!("heat h{step}")),
                        ("x", &1),
                        ("y", &2),
                        ("width", &16),
                        ("height", &10),
                    ],
                );
            })
        };
        (0..STEPS).map(entry).collect()
    }

    fn in_words(&self, from: f64, to: f64) -> String {
        let shown = self.values.unit.shown(self.range.1);
        let numbers = [from, to].map(|value| value / shown.divisor);
        // Edges come out of a division: 10 is 10.000000000000002.
        let is_whole = |value: f64| (value - value.round()).abs() < 1e-9 * value.abs().max(1e-9);
        let decimals = if numbers.into_iter().all(is_whole) {
            0
        } else {
            column_decimals(numbers)
        };
        let [from, to] = numbers.map(|value| number(value, decimals));
        let name = shown.name.map(|name| format!(" {name}"));
        format!(
            "{from} to {to}{}{}",
            shown.tick_suffix,
            name.unwrap_or_default()
        )
    }
}

/// A heat map laid out for one width.
struct Drawing<'a> {
    chart: &'a HeatMap,
    frame: Frame,
    labels: GroupLabels,
    /// Pixels from one column to the next.
    pitch: f64,
    /// Digits after the point of the numbers in cells.
    decimals: usize,
}

impl<'a> Drawing<'a> {
    fn new(chart: &'a HeatMap, layout: Layout) -> Self {
        let names = chart.rows.iter().map(|name| text_width(name));
        let names = names.fold(0.0, f64::max).min(120.0);
        let (rows, columns) = (chart.rows.len(), chart.columns.len());
        let frame = |below| {
            let columns = (columns, WIDEST_CELL);
            Frame::of_grid(layout, names, (rows, ROW_HEIGHT), columns, below)
        };
        let draft = frame(0.0);
        let pitch = (draft.right - draft.left) / columns.max(1) as f64;
        let labels = GroupLabels::choose(&chart.columns, pitch);
        Self {
            chart,
            frame: frame(labels.height(&chart.columns) + 24.0),
            labels,
            pitch,
            decimals: decimals(chart),
        }
    }

    /// The middle of a column.
    fn middle(&self, column: usize) -> f64 {
        self.frame.left + (column as f64 + 0.5) * self.pitch
    }

    /// The base line of text in a row.
    fn base_line(&self, row: usize) -> f64 {
        self.frame.top + (row as f64 + 0.5) * ROW_HEIGHT + 4.0
    }

    fn draw_row_names(&self, svg: &mut Svg) {
        svg.open("g", &[("class", &"y-axis")]);
        for (row, name) in self.chart.rows.iter().enumerate() {
            let (x, y) = (Px(self.frame.left - 6.0), Px(self.base_line(row)));
            svg.text("text", &[("x", &x), ("y", &y)], name);
        }
        svg.close();
        svg.line_break();
    }

    fn draw_cell(&self, svg: &mut Svg, row: usize, column: usize) {
        let Some(value) = self.chart.value(row, column) else {
            self.draw_text(svg, "missing", row, column, "\u{2013}");
            return;
        };
        let (step, text) = (self.chart.step(value), self.text(value));
        svg.titled(
            "rect",
            &[
                ("class", &format!("heat h{step}")),
                ("x", &Px(self.frame.left + column as f64 * self.pitch + 0.5)),
                ("y", &Px(self.frame.top + row as f64 * ROW_HEIGHT + 0.5)),
                ("width", &Px((self.pitch - 1.0).max(0.5))),
                ("height", &Px(ROW_HEIGHT - 1.0)),
            ],
            &self.cell_title(row, column, &text),
        );
        if text_width(&text) + 2.0 <= self.pitch {
            let is_strong = step >= FIRST_STRONG;
            let class = if is_strong { "cell on-strong" } else { "cell" };
            self.draw_text(svg, class, row, column, &text);
        }
    }

    fn draw_text(&self, svg: &mut Svg, class: &str, row: usize, column: usize, text: &str) {
        svg.text(
            "text",
            &[
                ("class", &class),
                ("x", &Px(self.middle(column))),
                ("y", &Px(self.base_line(row))),
            ],
            text,
        );
    }

    /// What the browser shows when the pointer rests on a cell.
    fn cell_title(&self, row: usize, column: usize, text: &str) -> String {
        let chart = self.chart;
        let shown = chart.values.unit.shown(chart.range.1);
        let name = shown.name.map(|name| format!(" {name}"));
        format!(
            "{} {}, {} {}: {text}{}{}",
            chart.row_label,
            chart.rows[row],
            chart.column_label,
            chart.columns[column],
            shown.tick_suffix,
            name.unwrap_or_default()
        )
    }

    /// The number in a cell, without its unit.
    fn text(&self, value: f64) -> String {
        let divisor = self.chart.values.unit.shown(self.chart.range.1).divisor;
        number(value / divisor, self.decimals)
    }
}

/// Three digits of the range's high end; none after the point when all values are whole.
fn decimals(chart: &HeatMap) -> usize {
    let high = chart.range.1;
    let divisor = chart.values.unit.shown(high).divisor;
    let is_whole = |value: f64| (value / divisor).fract() == 0.0;
    if chart.finite_values().all(is_whole) {
        return 0;
    }
    (2.0 - (high.abs() / divisor).log10().floor()).clamp(0.0, 5.0) as usize
}
