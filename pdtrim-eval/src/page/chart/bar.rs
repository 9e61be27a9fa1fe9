//! Grouped bars.

use super::axis::{Axis, AxisScale};
use super::frame::{
    Frame, Layout, Reference, Y_TICKS, cut_legend, reference_legend, shown_range, text_width,
};
use super::labels::GroupLabels;
use super::scale::{Scale, number};
use super::svg::{Px, Svg};
use super::{Figure, LegendEntry, column_decimals, series_class};
use crate::page::table::{Cell, Column, Table};

/// One bar.
///
/// ```
/// use pdtrim_eval::page::Bar;
///
/// // With an error bar, and drawn hollow.
/// let bar = Bar { error: Some(0.05), marked: true, ..Bar::from(0.84) };
/// assert_eq!(bar.value, Some(0.84));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bar {
    /// Where the bar ends; `None` (or not a number) draws a dash.
    pub value: Option<f64>,
    /// Half the length of the error bar, usually one standard error.
    pub error: Option<f64>,
    /// Whether the bar is drawn hollow, with a cross under it; [`BarChart::mark`] says what that means.
    pub marked: bool,
}

impl From<f64> for Bar {
    fn from(value: f64) -> Self {
        Self {
            value: Some(value),
            ..Self::default()
        }
    }
}

impl Bar {
    fn finite_value(&self) -> Option<f64> {
        self.value.filter(|value| value.is_finite())
    }

    fn finite_error(&self) -> Option<f64> {
        self.error
            .map(f64::abs)
            .filter(|error| error.is_finite() && *error > 0.0)
    }
}

/// One bar in every group, all of the same colour and texture.
///
/// ```
/// use pdtrim_eval::page::BarSeries;
///
/// let series = BarSeries::new("pd", [0.82, 0.58]);
/// assert_eq!(series.bars.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarSeries {
    /// The name in the legend and in the table.
    pub name: String,
    /// The bars, one for each group in order; missing ones are dashes.
    pub bars: Vec<Bar>,
}

impl BarSeries {
    /// A series of unmarked bars without error bars.
    pub fn new(name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        Self {
            name: name.into(),
            bars: values.into_iter().map(Bar::from).collect(),
        }
    }
}

/// Grouped bars, with optional error bars, marks and reference lines.
///
/// ```
/// use pdtrim_eval::page::{Axis, BarChart, BarSeries, Layout, Unit};
///
/// let chart = BarChart {
///     title: "Accuracy".to_owned(),
///     group_label: "task".to_owned(),
///     groups: ["everyday", "passages"].map(String::from).to_vec(),
///     axis: Axis::new("acc").with_unit(Unit::Percent),
///     series: vec![BarSeries::new("dense", [0.84, 0.82]), BarSeries::new("pd", [0.82, 0.58])],
///     ..BarChart::default()
/// };
/// assert!(chart.render(Layout::Wide, "accuracy").starts_with("<svg"));
/// // The same numbers for readers who do not see it.
/// assert_eq!(chart.to_table().rows.len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarChart {
    /// The chart's heading.
    pub title: String,
    /// What there is to see, in a sentence or two; also what a screen reader reads.
    pub description: String,
    /// What the groups are, such as `block`.
    pub group_label: String,
    /// The name of each group.
    pub groups: Vec<String>,
    /// The vertical axis.
    pub axis: Axis,
    /// The value at which bars begin; on a logarithmic axis they begin at its low end.
    pub origin: f64,
    /// What a marked bar means, such as `removed`.
    pub mark: Option<String>,
    /// The bars.
    pub series: Vec<BarSeries>,
    /// Dashed lines across the chart.
    pub references: Vec<Reference>,
}

impl BarChart {
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
        frame.draw_y_axis(&mut svg, &drawing.y, &self.axis.title(drawing.largest));
        for (index, series) in self.series.iter().enumerate() {
            svg.open("g", &[("class", &series_class(index))]);
            for group in 0..self.groups.len() {
                drawing.draw_bar(&mut svg, series, index, group);
            }
            svg.close();
            svg.line_break();
        }
        drawing.draw_cut_values(&mut svg);
        drawing.draw_base_line(&mut svg);
        let top = frame.bottom + strip(self);
        let middles = (0..self.groups.len()).map(|group| drawing.middle(group));
        drawing
            .labels
            .draw(&mut svg, top, self.groups.iter().zip(middles));
        frame.draw_references(&mut svg, &drawing.y, &self.references);
        frame.draw_x_title(&mut svg, &self.group_label);
        svg.finish()
    }

    /// The numbers behind the chart.
    pub fn to_table(&self) -> Table {
        let has_errors =
            |series: &BarSeries| series.bars.iter().any(|bar| bar.finite_error().is_some());
        let has_marks = |series: &BarSeries| series.bars.iter().any(|bar| bar.marked);
        let mark = self.mark.as_deref().unwrap_or("marked");
        let mut table = Table::new(
            self.axis.table_heading(),
            [Column::text(&*self.group_label)],
        );
        table.rows = self
            .groups
            .iter()
            .map(|group| vec![Cell::from(group.as_str())])
            .collect();
        for series in &self.series {
            let shown = |value: f64| self.axis.in_table(value);
            let decimals =
                column_decimals(series.bars.iter().filter_map(Bar::finite_value).map(shown));
            table.columns.push(Column::number(&*series.name));
            if has_errors(series) {
                table.columns.push(Column::number("\u{b1}"));
            }
            if has_marks(series) {
                table.columns.push(Column::text(mark));
            }
            for (group, row) in table.rows.iter_mut().enumerate() {
                let bar = series.bars.get(group).copied().unwrap_or_default();
                row.push(Cell::number(bar.finite_value().map(shown), decimals));
                if has_errors(series) {
                    row.push(Cell::number(bar.finite_error().map(shown), decimals));
                }
                if has_marks(series) {
                    row.push(Cell::from(if bar.marked { mark } else { "" }));
                }
            }
        }
        table
    }

    fn has_marks(&self) -> bool {
        self.bars().any(|bar| bar.marked)
    }

    fn bars(&self) -> impl Iterator<Item = &Bar> {
        self.series
            .iter()
            .flat_map(|series| series.bars.iter().take(self.groups.len()))
    }

    fn legend(&self) -> Vec<LegendEntry> {
        let rect = |svg: &mut Svg, class: &str| {
            svg.leaf(
                "rect",
                &[
                    ("class", &class),
                    ("x", &1),
                    ("y", &2),
                    ("width", &16),
                    ("height", &10),
                ],
            );
        };
        let mut entries: Vec<LegendEntry> = self
            .series
            .iter()
            .enumerate()
            .map(|(index, series)| {
                LegendEntry::new(&series.name, |svg| {
                    rect(svg, &format!("{} bar", series_class(index)));
                })
            })
            .collect();
        if let Some(mark) = self.mark.as_ref().filter(|_| self.has_marks()) {
            entries.push(LegendEntry::new(mark, |svg| {
                rect(svg, "any bar marked");
                draw_cross(svg, 9.0, 7.0, 3.0);
            }));
        }
        entries.extend(reference_legend(&self.references));
        let y = Drawing::new(self, Layout::Wide).y;
        entries.extend(
            self.bars()
                .filter_map(Bar::finite_value)
                .any(|value| y.cuts(value))
                .then(cut_legend),
        );
        // One series without marks is what the chart's title already says.
        if entries.len() > 1 {
            entries
        } else {
            Vec::new()
        }
    }
}

/// A bar chart laid out for one width.
struct Drawing<'a> {
    chart: &'a BarChart,
    frame: Frame,
    y: Scale,
    /// The largest value of the axis, which decides its unit's prefix.
    largest: f64,
    /// Pixels from one group to the next.
    pitch: f64,
    bar_width: f64,
    labels: GroupLabels,
    /// Whether the bars are wide enough to have their values written over them.
    has_values: bool,
}

impl<'a> Drawing<'a> {
    fn new(chart: &'a BarChart, layout: Layout) -> Self {
        let ends = chart.bars().flat_map(|bar| {
            let (value, error) = (
                bar.finite_value().unwrap_or(f64::NAN),
                bar.finite_error().unwrap_or(0.0),
            );
            [value - error, value + error]
        });
        let origin = (chart.axis.scale == AxisScale::Linear).then_some(chart.origin);
        let also = chart
            .references
            .iter()
            .map(|reference| reference.value)
            .chain(origin);
        let (lo, hi) = shown_range(&chart.axis, ends, also);
        let y = Scale::new(&chart.axis, lo, hi, Y_TICKS);
        let slots = chart.groups.len().max(1) as f64;
        let strip = strip(chart);
        // The labels' height depends on the width left beside the axis' labels, hence two frames.
        let draft = Frame::new(layout, &y, 40.0);
        let pitch = (draft.right - draft.left) / slots;
        let labels = GroupLabels::choose(&chart.groups, pitch);
        let frame = Frame::new(layout, &y, strip + labels.height(&chart.groups) + 24.0);
        let bar_width = (pitch * 0.8 / chart.series.len().max(1) as f64).min(44.0);
        let y = y.over(frame.bottom, frame.top);
        let largest = lo.abs().max(hi.abs());
        Self {
            chart,
            frame,
            y,
            largest,
            pitch,
            bar_width,
            labels,
            has_values: bar_width >= 26.0,
        }
    }

    /// The middle of a group.
    fn middle(&self, group: usize) -> f64 {
        self.frame.left + (group as f64 + 0.5) * self.pitch
    }

    /// The middle of one bar.
    fn bar_middle(&self, group: usize, series: usize) -> f64 {
        let half = self.chart.series.len() as f64 / 2.0;
        self.middle(group) + self.bar_width * (series as f64 + 0.5 - half)
    }

    /// The pixel at which bars begin.
    fn base(&self) -> f64 {
        match self.chart.axis.scale {
            AxisScale::Linear if self.chart.origin.is_finite() => self.y.at(self.chart.origin),
            _ => self.frame.bottom,
        }
    }

    fn draw_bar(&self, svg: &mut Svg, series: &BarSeries, index: usize, group: usize) {
        let bar = series.bars.get(group).copied().unwrap_or_default();
        let middle = self.bar_middle(group, index);
        let left = middle - self.bar_width / 2.0;
        if bar.marked {
            draw_cross(
                svg,
                middle,
                self.frame.bottom + 8.0,
                (self.bar_width / 2.0).clamp(1.8, 3.0),
            );
        }
        let Some(value) = bar.finite_value().filter(|&value| self.y.draws(value)) else {
            svg.text(
                "text",
                &[
                    ("class", &"missing"),
                    ("x", &Px(middle)),
                    ("y", &Px(self.base() - 4.0)),
                ],
                "\u{2013}",
            );
            return;
        };
        let (base, end) = (self.base(), self.y.at(value));
        let gap = if self.bar_width > 5.0 { 1.0 } else { 0.3 };
        svg.titled(
            "rect",
            &[
                ("class", &if bar.marked { "bar marked" } else { "bar" }),
                ("x", &Px(left + gap / 2.0)),
                ("y", &Px(base.min(end))),
                ("width", &Px((self.bar_width - gap).max(0.5))),
                // A bar of no height still shows that there is a value.
                ("height", &Px((base - end).abs().max(1.0))),
            ],
            &self.bar_title(series, group, &bar, value),
        );
        if self.y.cuts(value) {
            self.frame.draw_cut(svg, middle, &self.value_text(value));
            return;
        }
        let top = bar
            .finite_error()
            .map_or(end, |error| self.draw_error(svg, middle, value, error));
        if self.has_values {
            let text = self.value_text(value);
            let at = if end > base {
                end + 13.0
            } else {
                top.min(end) - 4.0
            };
            svg.text(
                "text",
                &[("class", &"value"), ("x", &Px(middle)), ("y", &Px(at))],
                &text,
            );
        }
    }

    /// Writes the values of bars that are cut off over them, from the left, as far as there is room.
    fn draw_cut_values(&self, svg: &mut Svg) {
        let mut free_from = 0.0;
        for group in 0..self.chart.groups.len() {
            for (index, series) in self.chart.series.iter().enumerate() {
                let value = series
                    .bars
                    .get(group)
                    .and_then(Bar::finite_value)
                    .filter(|&value| self.y.cuts(value));
                let Some(value) = value else { continue };
                let (text, middle) = (self.value_text(value), self.bar_middle(group, index));
                let half = text_width(&text) / 2.0;
                if middle - half >= free_from {
                    let y = Px(self.frame.top - 10.0);
                    svg.text(
                        "text",
                        &[("class", &"value"), ("x", &Px(middle)), ("y", &y)],
                        &text,
                    );
                    free_from = middle + half + 3.0;
                }
            }
        }
    }

    /// Draws the error bar and gives the pixel of its upper end.
    fn draw_error(&self, svg: &mut Svg, middle: f64, value: f64, error: f64) -> f64 {
        let low = if self.y.draws(value - error) {
            self.y.at(value - error)
        } else {
            self.frame.bottom
        };
        let high = self.y.at(value + error);
        let cap = (self.bar_width / 3.0).clamp(1.5, 6.0);
        let (x, left, right) = (Px(middle), Px(middle - cap), Px(middle + cap));
        let path = format!(
            "M{x} {0}V{1}M{left} {0}H{right}M{left} {1}H{right}",
            Px(low),
            Px(high)
        );
        svg.leaf("path", &[("class", &"error"), ("d", &path)]);
        high
    }

    /// What the browser shows when the pointer rests on a bar.
    fn bar_title(&self, series: &BarSeries, group: usize, bar: &Bar, value: f64) -> String {
        let error = bar
            .finite_error()
            .map(|error| format!(" \u{b1} {}", self.value_text(error)))
            .unwrap_or_default();
        let mark = if bar.marked {
            format!(" ({})", self.chart.mark.as_deref().unwrap_or("marked"))
        } else {
            String::new()
        };
        let group = format!("{} {}", self.chart.group_label, self.chart.groups[group]);
        format!(
            "{}, {}: {}{error}{mark}",
            group.trim(),
            series.name,
            self.value_text(value)
        )
    }

    /// `value` in the unit of the axis, with three digits of the longest bar.
    fn value_text(&self, value: f64) -> String {
        let divisor = self.chart.axis.unit.shown(self.largest).divisor;
        let is_whole = self
            .chart
            .bars()
            .filter_map(Bar::finite_value)
            .all(|value| (value / divisor).fract() == 0.0);
        let digits = (2.0 - (self.largest / divisor).log10().floor()).clamp(0.0, 5.0);
        number(value / divisor, if is_whole { 0 } else { digits as usize })
    }

    fn draw_base_line(&self, svg: &mut Svg) {
        let (frame, base) = (&self.frame, Px(self.base()));
        svg.leaf(
            "line",
            &[
                ("class", &"base"),
                ("x1", &Px(frame.left)),
                ("x2", &Px(frame.right)),
                ("y1", &base),
                ("y2", &base),
            ],
        );
    }
}

/// Pixels under the bars that the crosses of marked ones need.
fn strip(chart: &BarChart) -> f64 {
    if chart.has_marks() { 12.0 } else { 0.0 }
}

fn draw_cross(svg: &mut Svg, x: f64, y: f64, half: f64) {
    let (left, right, top, bottom) = (Px(x - half), Px(x + half), Px(y - half), Px(y + half));
    let path = format!("M{left} {top}L{right} {bottom}M{left} {bottom}L{right} {top}");
    svg.leaf("path", &[("class", &"cross"), ("d", &path)]);
}
