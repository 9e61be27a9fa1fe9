//! Small charts as SVG: grouped bars, lines over a numeric axis, and heat maps.
//!
//! Ours rather than `plotters`: its SVG backend writes fixed colours, so one drawing cannot follow the reader's light
//! or dark scheme through CSS variables, has no `title`/`desc` for screen readers and none for the single bar, and
//! asks for font metrics. Three chart types are all that the pages need. Colours, textures and fonts are classes that the
//! page's style sheet fills in; this module decides only where things are.
//!
//! Series differ in colour, and also in texture (bars) or in dashes and markers (lines), and cells of a heat map have
//! their numbers in them, so that nothing is said by colour alone. A value that is missing or not a number is a dash or a gap, never a zero.

mod axis;
mod bar;
mod frame;
mod heat;
mod labels;
mod line;
mod scale;
mod svg;
#[cfg(test)]
mod tests;

use super::table::Table;
use svg::Svg;

pub(super) use scale::number;

pub use axis::{Axis, AxisScale, Unit};
pub use bar::{Bar, BarChart, BarSeries};
pub use frame::{Layout, Reference};
pub use heat::HeatMap;
pub use line::{Annotation, LineChart, LineSeries, LineStyle};

/// Series that look different from each other; later ones start over.
const LOOKS: usize = 6;

/// A chart ready for the page.
pub(super) struct Figure {
    pub(super) title: String,
    pub(super) description: String,
    pub(super) legend: Vec<LegendEntry>,
    pub(super) wide: String,
    pub(super) narrow: String,
    pub(super) table: Table,
}

/// One line of a legend.
pub(super) struct LegendEntry {
    pub(super) label: String,
    /// A small drawing of what the label names.
    pub(super) swatch: String,
}

impl LegendEntry {
    fn new(label: &str, draw: impl FnOnce(&mut Svg)) -> Self {
        let mut svg = Svg::default();
        svg.open(
            "svg",
            &[
                ("class", &"swatch"),
                ("viewBox", &"0 0 18 14"),
                ("aria-hidden", &"true"),
            ],
        );
        draw(&mut svg);
        Self {
            label: label.to_owned(),
            swatch: svg.finish(),
        }
    }
}

/// The class that gives a series its colour and texture.
fn series_class(index: usize) -> String {
    format!("s{}", index % LOOKS)
}

/// Digits after the point that show five digits of the largest value; none when all values are whole.
fn column_decimals(values: impl IntoIterator<Item = f64>) -> usize {
    let values: Vec<f64> = values
        .into_iter()
        .filter(|value| value.is_finite())
        .collect();
    let largest = values
        .iter()
        .fold(0.0f64, |largest, value| largest.max(value.abs()));
    if largest == 0.0 || values.iter().all(|value| value.fract() == 0.0) {
        return 0;
    }
    (4.0 - largest.log10().floor()).clamp(0.0, 8.0) as usize
}
