//! Lines and points over a numeric axis.

use std::fmt::Write as _;

use super::axis::Axis;
use super::frame::{Frame, Layout, Reference, Y_TICKS, cut_legend, reference_legend, shown_range};
use super::scale::{Scale, extent, number};
use super::svg::{Px, Svg};
use super::{Figure, LegendEntry, column_decimals, series_class};
use crate::page::table::{Cell, Column, Table};

/// How a series is drawn.
///
/// ```
/// use pdtrim_eval::page::{LineSeries, LineStyle};
///
/// // The lowest cost so far holds until a lower one is found.
/// let best = LineSeries::new("best", [(0.0, 4.2), (12.0, 4.0)]).with_style(LineStyle::Step);
/// assert_eq!(best.style, LineStyle::Step);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineStyle {
    /// Points joined by straight lines, with markers while they are few.
    #[default]
    Line,
    /// A value that holds until the next one, such as the best so far.
    Step,
    /// Markers alone.
    Points,
}

/// One line of a chart.
///
/// ```
/// use pdtrim_eval::page::LineSeries;
///
/// // A point that is not a number leaves a gap.
/// let series = LineSeries::new("loss", [(1.0, 3.3), (2.0, f64::NAN), (3.0, 3.5)]);
/// assert_eq!(series.points.len(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineSeries {
    /// The name in the legend and in the table.
    pub name: String,
    /// How the points are drawn.
    pub style: LineStyle,
    /// (x, y) in the order in which they are joined; a point that is not a number leaves a gap.
    pub points: Vec<(f64, f64)>,
}

impl LineSeries {
    /// A series of points joined by straight lines.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self {
            name: name.into(),
            style: LineStyle::Line,
            points: points.into_iter().collect(),
        }
    }

    /// The same series, drawn as `style`.
    #[must_use]
    pub fn with_style(mut self, style: LineStyle) -> Self {
        self.style = style;
        self
    }
}

/// A labelled place on the horizontal axis.
///
/// ```
/// use pdtrim_eval::page::{Annotation, LineChart};
///
/// let decode = Annotation { x: 120.0, label: "decode".to_owned() };
/// let chart = LineChart { annotations: vec![decode], ..LineChart::default() };
/// assert_eq!(chart.annotations.len(), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotation {
    /// Where.
    pub x: f64,
    /// What happened there.
    pub label: String,
}

/// Several series over one numeric axis.
///
/// ```
/// use pdtrim_eval::page::{Axis, Layout, LineChart, LineSeries};
///
/// let chart = LineChart {
///     title: "Loss over removed blocks".to_owned(),
///     x: Axis::new("removed blocks"),
///     y: Axis::new("loss").with_unit_name("nats"),
///     series: vec![LineSeries::new("sleb", [(1.0, 3.4), (2.0, 3.5), (3.0, 3.7)])],
///     ..LineChart::default()
/// };
/// assert!(chart.render(Layout::Narrow, "loss").contains("removed blocks"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// The chart's heading.
    pub title: String,
    /// What there is to see, in a sentence or two; also what a screen reader reads.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The lines.
    pub series: Vec<LineSeries>,
    /// Dashed horizontal lines.
    pub references: Vec<Reference>,
    /// Labelled places on the horizontal axis.
    pub annotations: Vec<Annotation>,
}

/// Rows that the table behind a chart shows at most; a long search has thousands of evaluations.
const MAX_TABLE_ROWS: usize = 400;

/// Lines with more points than this go without markers.
const MAX_MARKED_POINTS: usize = 40;

impl LineChart {
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

    /// The chart as an SVG element; colours and textures come from the page's style sheet.
    pub fn render(&self, layout: Layout, id: &str) -> String {
        let drawing = Drawing::new(self, layout);
        let frame = &drawing.frame;
        let mut svg = frame.open(layout, id, &self.title, &self.description);
        frame.draw_y_axis(&mut svg, &drawing.y, &self.y.title(drawing.largest.1));
        drawing.draw_x_axis(&mut svg);
        for (index, series) in self.series.iter().enumerate() {
            svg.open("g", &[("class", &series_class(index))]);
            if series.style != LineStyle::Points {
                svg.leaf("path", &[("class", &"line"), ("d", &drawing.path(series))]);
            }
            drawing.draw_points(&mut svg, series, index);
            svg.close();
            svg.line_break();
        }
        frame.draw_references(&mut svg, &drawing.y, &self.references);
        drawing.draw_annotations(&mut svg);
        frame.draw_x_title(&mut svg, &self.x.title(drawing.largest.0));
        svg.finish()
    }

    /// The numbers behind the chart, thinned out evenly when there are very many.
    pub fn to_table(&self) -> Table {
        let total: usize = self.series.iter().map(|series| series.points.len()).sum();
        let stride = total.div_ceil(MAX_TABLE_ROWS).max(1);
        let caption = match stride {
            1 => self.y.table_heading(),
            n => format!(
                "{}; the first, the last and every {n}th point in between",
                self.y.table_heading()
            ),
        };
        let columns = [
            Column::text("series"),
            Column::number(self.x.table_heading()),
            Column::number(self.y.table_heading()),
        ];
        let mut table = Table::new(caption, columns);
        let x_decimals = column_decimals(self.points().map(|(x, _)| self.x.in_table(x)));
        let y_decimals = column_decimals(self.points().map(|(_, y)| self.y.in_table(y)));
        for series in &self.series {
            for (index, &(x, y)) in series.points.iter().enumerate() {
                if index % stride == 0 || index + 1 == series.points.len() {
                    table.rows.push(vec![
                        Cell::from(series.name.as_str()),
                        Cell::number(Some(self.x.in_table(x)), x_decimals),
                        Cell::number(Some(self.y.in_table(y)), y_decimals),
                    ]);
                }
            }
        }
        table
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series
            .iter()
            .flat_map(|series| series.points.iter().copied())
    }

    fn legend(&self) -> Vec<LegendEntry> {
        let entry = |(index, series): (usize, &LineSeries)| {
            LegendEntry::new(&series.name, |svg| {
                svg.open("g", &[("class", &series_class(index))]);
                if series.style != LineStyle::Points {
                    svg.leaf("path", &[("class", &"line"), ("d", &"M0 7H18")]);
                }
                if has_markers(series) {
                    svg.leaf(
                        "path",
                        &[("class", &"marker"), ("d", &marker(index, 9.0, 7.0))],
                    );
                }
                svg.close();
            })
        };
        let series = self.series.iter().enumerate().map(entry);
        let y = Drawing::new(self, Layout::Wide).y;
        let marked = self
            .series
            .iter()
            .filter(|series| has_markers(series))
            .flat_map(|series| &series.points);
        let is_cut = marked
            .copied()
            .any(|(_, value)| value.is_finite() && y.cuts(value));
        let entries: Vec<_> = series
            .chain(reference_legend(&self.references))
            .chain(is_cut.then(cut_legend))
            .collect();
        // One line alone is what the chart's title already says.
        if entries.len() > 1 {
            entries
        } else {
            Vec::new()
        }
    }
}

fn has_markers(series: &LineSeries) -> bool {
    match series.style {
        LineStyle::Points => true,
        LineStyle::Line => series.points.len() <= MAX_MARKED_POINTS,
        // A step of one point has no length.
        LineStyle::Step => series.points.len() == 1,
    }
}

/// A line chart laid out for one width.
struct Drawing<'a> {
    chart: &'a LineChart,
    frame: Frame,
    x: Scale,
    y: Scale,
    /// The largest value of each axis, which decides its unit's prefix.
    largest: (f64, f64),
}

impl<'a> Drawing<'a> {
    fn new(chart: &'a LineChart, layout: Layout) -> Self {
        let references = chart.references.iter().map(|reference| reference.value);
        let (lo, hi) = shown_range(&chart.y, chart.points().map(|(_, y)| y), references);
        let y = Scale::new(&chart.y, lo, hi, Y_TICKS);
        let marks = chart.annotations.iter().map(|annotation| annotation.x);
        let (from, to) = shown_range(&chart.x, chart.points().map(|(x, _)| x), marks);
        // Lines may fill the width: unlike bars, nothing has to end at a round value.
        let x = Scale::new(&chart.x, from, to, layout.x_ticks()).tight(from, to);
        let frame = Frame::new(layout, &y, 44.0);
        let largest = (from.abs().max(to.abs()), lo.abs().max(hi.abs()));
        let (x, y) = (
            x.over(frame.left + 4.0, frame.right - 8.0),
            y.over(frame.bottom, frame.top),
        );
        Self {
            chart,
            frame,
            x,
            y,
            largest,
        }
    }

    /// The pixel of a point, when it can be drawn.
    fn place(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        (self.x.draws(x) && self.y.draws(y)).then(|| (self.x.at(x), self.y.at(y)))
    }

    fn path(&self, series: &LineSeries) -> String {
        let mut path = String::new();
        let mut pen_is_down = false;
        for &point in &series.points {
            let Some((x, y)) = self.place(point) else {
                pen_is_down = false;
                continue;
            };
            let (x, y) = (Px(x), Px(y));
            // Writing to a String cannot fail.
            let _ = match (pen_is_down, series.style) {
                (false, _) => write!(path, "M{x} {y}"),
                (true, LineStyle::Step) => write!(path, "H{x}V{y}"),
                (true, _) => write!(path, "L{x} {y}"),
            };
            pen_is_down = true;
        }
        // The last value holds to the end of the data.
        if pen_is_down && series.style == LineStyle::Step {
            let last = extent(self.chart.points().map(|(x, _)| x)).map_or(0.0, |(_, hi)| hi);
            let _ = write!(path, "H{}", Px(self.x.at(last)));
        }
        path
    }

    fn draw_points(&self, svg: &mut Svg, series: &LineSeries, index: usize) {
        if !has_markers(series) {
            return;
        }
        for &(x, y) in &series.points {
            let Some((at_x, at_y)) = self.place((x, y)) else {
                continue;
            };
            let title = format!(
                "{}: {}, {}",
                series.name,
                value_text(&self.chart.x, x),
                value_text(&self.chart.y, y)
            );
            if self.y.cuts(y) {
                self.frame.draw_cut(svg, at_x, &title);
            } else {
                svg.titled(
                    "path",
                    &[("class", &"marker"), ("d", &marker(index, at_x, at_y))],
                    &title,
                );
            }
        }
    }

    fn draw_x_axis(&self, svg: &mut Svg) {
        let Frame {
            left,
            right,
            bottom,
            ..
        } = self.frame;
        svg.leaf(
            "line",
            &[
                ("class", &"base"),
                ("x1", &Px(left)),
                ("x2", &Px(right)),
                ("y1", &Px(bottom)),
                ("y2", &Px(bottom)),
            ],
        );
        svg.open("g", &[("class", &"x-axis")]);
        for tick in self.x.ticks() {
            let at = Px(tick.at);
            svg.leaf(
                "line",
                &[
                    ("x1", &at),
                    ("x2", &at),
                    ("y1", &Px(bottom)),
                    ("y2", &Px(bottom + 4.0)),
                ],
            );
            svg.text(
                "text",
                &[("x", &at), ("y", &Px(bottom + 17.0))],
                &tick.label,
            );
        }
        svg.close();
        svg.line_break();
    }

    fn draw_annotations(&self, svg: &mut Svg) {
        let Frame {
            left,
            right,
            top,
            bottom,
            ..
        } = self.frame;
        let drawn = self
            .chart
            .annotations
            .iter()
            .filter(|annotation| self.x.draws(annotation.x));
        for (index, annotation) in drawn.enumerate() {
            let x = self.x.at(annotation.x);
            svg.leaf(
                "line",
                &[
                    ("class", &"reference"),
                    ("x1", &Px(x)),
                    ("x2", &Px(x)),
                    ("y1", &Px(top)),
                    ("y2", &Px(bottom)),
                ],
            );
            // Beside the line, on the side with more room; neighbours on different heights.
            let (class, shift) = if x > f64::midpoint(left, right) {
                ("note end", -4.0)
            } else {
                ("note", 4.0)
            };
            let y = top + 11.0 + 14.0 * (index % 3) as f64;
            svg.text(
                "text",
                &[("class", &class), ("x", &Px(x + shift)), ("y", &Px(y))],
                &annotation.label,
            );
        }
    }
}

/// A coordinate of a point, as the browser shows it when the pointer rests there.
fn value_text(axis: &Axis, value: f64) -> String {
    let shown = axis.in_table(value);
    let decimals = column_decimals([shown]);
    format!("{} {}", axis.label, number(shown, decimals))
}

/// The outline of a series' marker: circle, square, triangle or diamond.
fn marker(series: usize, x: f64, y: f64) -> String {
    let r = 3.2;
    let (left, right, top, bottom) = (Px(x - r), Px(x + r), Px(y - r), Px(y + r));
    match series % 4 {
        0 => format!(
            "M{left} {0}a{r} {r} 0 1 0 {1} 0a{r} {r} 0 1 0 -{1} 0z",
            Px(y),
            Px(2.0 * r)
        ),
        1 => format!("M{left} {top}H{right}V{bottom}H{left}z"),
        2 => format!("M{} {top}L{right} {bottom}H{left}z", Px(x)),
        _ => format!(
            "M{0} {top}L{right} {1}L{0} {bottom}L{left} {1}z",
            Px(x),
            Px(y)
        ),
    }
}
