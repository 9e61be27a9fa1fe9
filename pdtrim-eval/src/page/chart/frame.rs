//! What every chart draws around its data: the drawing area, grid lines, axis labels and reference lines.

use super::LegendEntry;
use super::axis::Axis;
use super::scale::{Scale, Tick};
use super::svg::{Px, Svg};

/// The two widths every chart is drawn for; the page's style sheet shows one of them.
///
/// One drawing scaled down would have unreadable text on a phone.
///
/// ```
/// use pdtrim_eval::page::{Layout, LineChart};
///
/// // A page holds both drawings, and its style sheet shows one of them.
/// let chart = LineChart::default();
/// assert_ne!(chart.render(Layout::Wide, "w"), chart.render(Layout::Narrow, "n"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// For screens and paper.
    Wide,
    /// For phones.
    Narrow,
}

impl Layout {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Wide => "chart wide",
            Self::Narrow => "chart narrow",
        }
    }

    fn size(self) -> (f64, f64) {
        match self {
            Self::Wide => (720.0, 300.0),
            Self::Narrow => (360.0, 270.0),
        }
    }

    /// About how many ticks fit along the horizontal axis.
    pub(super) fn x_ticks(self) -> usize {
        match self {
            Self::Wide => 9,
            Self::Narrow => 5,
        }
    }
}

/// About how many ticks fit along the vertical axis.
pub(super) const Y_TICKS: usize = 5;

/// A dashed line at one value, such as the score that guessing reaches.
///
/// ```
/// use pdtrim_eval::page::{LineChart, Reference};
///
/// let guessing = Reference { label: "guessing".to_owned(), value: 0.25 };
/// let chart = LineChart { references: vec![guessing], ..LineChart::default() };
/// assert_eq!(chart.references[0].value, 0.25);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// What the value is.
    pub label: String,
    /// Where the line is drawn; a value that is not a number draws none.
    pub value: f64,
}

/// Where the data is drawn, in pixels of the view box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
    width: f64,
    height: f64,
}

impl Frame {
    /// A frame with room for the vertical axis' labels and `below` pixels under the data.
    pub(super) fn new(layout: Layout, y: &Scale, below: f64) -> Self {
        let (width, height) = layout.size();
        let labels = y
            .ticks()
            .iter()
            .map(|tick| text_width(&tick.label))
            .fold(0.0, f64::max);
        // What stands below the axis makes the drawing higher instead of the data lower.
        let height = height + (below - 40.0).max(0.0);
        Self {
            left: labels + 12.0,
            right: width - 10.0,
            top: 34.0,
            bottom: height - below,
            width,
            height,
        }
    }

    /// A frame for `rows` of `row_height` pixels and `columns` that are no wider than `widest`, with room for names of
    /// `labels` pixels at the left, and `below` pixels under the data.
    pub(super) fn of_grid(
        layout: Layout,
        labels: f64,
        (rows, row_height): (usize, f64),
        (columns, widest): (usize, f64),
        below: f64,
    ) -> Self {
        let (width, _) = layout.size();
        let (left, top) = (labels + 12.0, 22.0);
        let bottom = top + rows as f64 * row_height;
        Self {
            left,
            right: (width - 10.0).min(left + columns as f64 * widest),
            top,
            bottom,
            width,
            height: bottom + below,
        }
    }

    /// Opens the drawing: the `svg` element with its title and description.
    pub(super) fn open(&self, layout: Layout, id: &str, title: &str, description: &str) -> Svg {
        let mut svg = Svg::default();
        let (title_id, desc_id) = (format!("{id}-title"), format!("{id}-desc"));
        let (view_box, named_by) = (
            format!("0 0 {} {}", self.width, Px(self.height)),
            format!("{title_id} {desc_id}"),
        );
        svg.open(
            "svg",
            &[
                ("class", &layout.class()),
                ("viewBox", &view_box),
                ("role", &"img"),
                ("aria-labelledby", &named_by),
            ],
        );
        svg.text("title", &[("id", &title_id)], title);
        svg.text("desc", &[("id", &desc_id)], description);
        svg.line_break();
        svg
    }

    /// Horizontal grid lines with their labels, and the vertical axis' title above them.
    pub(super) fn draw_y_axis(&self, svg: &mut Svg, y: &Scale, title: &str) {
        draw_y_title(svg, title);
        svg.open("g", &[("class", &"y-axis")]);
        for Tick { at, label } in y.ticks() {
            svg.leaf(
                "line",
                &[
                    ("x1", &Px(self.left)),
                    ("x2", &Px(self.right)),
                    ("y1", &Px(at)),
                    ("y2", &Px(at)),
                ],
            );
            svg.text(
                "text",
                &[("x", &Px(self.left - 6.0)), ("y", &Px(at + 4.0))],
                &label,
            );
        }
        svg.close();
        svg.line_break();
    }

    /// The horizontal axis' title, under everything else.
    pub(super) fn draw_x_title(&self, svg: &mut Svg, title: &str) {
        let middle = f64::midpoint(self.left, self.right);
        svg.text(
            "text",
            &[
                ("class", &"axis-title middle"),
                ("x", &Px(middle)),
                ("y", &Px(self.height - 4.0)),
            ],
            title,
        );
        svg.line_break();
    }

    /// Dashed horizontal lines; what they mean is in the legend, where their names cannot cover the data.
    pub(super) fn draw_references(&self, svg: &mut Svg, y: &Scale, references: &[Reference]) {
        for (index, reference) in references
            .iter()
            .enumerate()
            .filter(|(_, reference)| y.draws(reference.value))
        {
            let at = Px(y.at(reference.value));
            svg.leaf(
                "line",
                &[
                    ("class", &reference_class(index)),
                    ("x1", &Px(self.left)),
                    ("x2", &Px(self.right)),
                    ("y1", &at),
                    ("y2", &at),
                ],
            );
        }
    }

    /// A triangle at the upper edge: the value at `x` goes on beyond it.
    pub(super) fn draw_cut(&self, svg: &mut Svg, x: f64, title: &str) {
        let tip = self.top - 8.0;
        let points = format!(
            "{},{} {},{} {},{}",
            Px(x - 4.0),
            Px(self.top - 1.0),
            Px(x + 4.0),
            Px(self.top - 1.0),
            Px(x),
            Px(tip)
        );
        svg.titled("polygon", &[("class", &"cut"), ("points", &points)], title);
    }
}

/// The vertical axis' title, above everything else.
pub(super) fn draw_y_title(svg: &mut Svg, title: &str) {
    svg.text(
        "text",
        &[("class", &"axis-title"), ("x", &0), ("y", &9)],
        title,
    );
}

/// The legend entries of reference lines.
pub(super) fn reference_legend(references: &[Reference]) -> impl Iterator<Item = LegendEntry> {
    references
        .iter()
        .enumerate()
        .filter(|(_, reference)| reference.value.is_finite())
        .map(|(index, reference)| {
            LegendEntry::new(&reference.label, |svg| {
                let class = reference_class(index);
                svg.leaf(
                    "line",
                    &[
                        ("class", &class),
                        ("x1", &0),
                        ("x2", &18),
                        ("y1", &7),
                        ("y2", &7),
                    ],
                );
            })
        })
}

/// The legend entry of the triangles over values that are cut off.
pub(super) fn cut_legend() -> LegendEntry {
    LegendEntry::new("goes on beyond the axis", |svg| {
        svg.leaf(
            "polygon",
            &[("class", &"cut"), ("points", &"5,11 13,11 9,3")],
        );
    })
}

fn reference_class(index: usize) -> String {
    format!("reference r{}", index % 3)
}

/// The values of the vertical axis that must be inside the frame, cut to the axis limit.
///
/// `also` (the origin of bars, reference lines) is shown even beyond the limit.
pub(super) fn shown_range(
    axis: &Axis,
    values: impl Iterator<Item = f64>,
    also: impl Iterator<Item = f64>,
) -> (f64, f64) {
    let is_shown = |value: &f64| axis.scale == super::AxisScale::Linear || *value > 0.0;
    let cut = values.filter(is_shown).map(|value| axis.cut(value));
    super::scale::extent(cut.chain(also.filter(is_shown))).unwrap_or((0.0, 1.0))
}

/// About how wide `text` is in the charts' 12 px font.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars()
        .map(|character| if character.is_ascii() { 6.7 } else { 12.0 })
        .sum()
}
