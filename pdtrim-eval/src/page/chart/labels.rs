//! The names of groups of bars, under the axis.

use super::frame::text_width;
use super::svg::{Px, Svg};

/// How the names of the groups are written under the axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum GroupLabels {
    /// Every n-th, level.
    Level { every: usize },
    /// Every n-th, slanted.
    Slanted { every: usize },
}

impl GroupLabels {
    /// Writes the names at their middles, under the pixel `top`.
    pub(super) fn draw<'g>(
        self,
        svg: &mut Svg,
        top: f64,
        groups: impl Iterator<Item = (&'g String, f64)>,
    ) {
        let (every, class) = match self {
            Self::Level { every } => (every, "x-axis"),
            Self::Slanted { every } => (every, "x-axis slanted"),
        };
        svg.open("g", &[("class", &class)]);
        for (group, middle) in groups.step_by(every) {
            match self {
                Self::Level { .. } => {
                    svg.text("text", &[("x", &Px(middle)), ("y", &Px(top + 15.0))], group);
                }
                Self::Slanted { .. } => {
                    let turn = format!(
                        "translate({} {}) rotate(-35)",
                        Px(middle + 4.0),
                        Px(top + 12.0)
                    );
                    svg.text("text", &[("transform", &turn)], &shortened(group));
                }
            }
        }
        svg.close();
        svg.line_break();
    }

    /// Level where all names fit; numbers are thinned out, long names are slanted.
    pub(super) fn choose(groups: &[String], pitch: f64) -> Self {
        let widest = groups
            .iter()
            .map(|group| text_width(group))
            .fold(0.0, f64::max);
        let fits = |every: &usize, room: f64| pitch * *every as f64 >= room;
        let steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
        let first = |room: f64| {
            steps
                .into_iter()
                .find(|every| fits(every, room))
                .unwrap_or(1000)
        };
        // Numbers may be thinned out; a name that is left out cannot be guessed, so names are slanted.
        if fits(&1, widest + 6.0) || widest < 30.0 {
            Self::Level {
                every: first(widest + 6.0),
            }
        } else {
            Self::Slanted { every: first(14.0) }
        }
    }

    /// Pixels that the labels need under the axis.
    pub(super) fn height(self, groups: &[String]) -> f64 {
        match self {
            Self::Level { .. } => 20.0,
            Self::Slanted { .. } => {
                let widest = groups
                    .iter()
                    .map(|group| text_width(&shortened(group)))
                    .fold(0.0, f64::max);
                // sin 35 degrees, and the font's height.
                widest * 0.574 + 18.0
            }
        }
    }
}

/// A name short enough to be slanted under the axis; the table has it in full.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 18;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    name.chars().take(LONGEST - 1).chain(['\u{2026}']).collect()
}
