//! Charts are well-formed and finite whatever they are given, and their ticks are the ones a reader would pick.

use proptest::prelude::*;

use super::scale::{Scale, Ticks, log_ticks, nice_ticks, number};
use super::*;
use crate::page::table::Cell;
use crate::page::tests::{attribute_values, check_markup};

pub(super) fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -100.0..100.0f64,
        1 => any::<f64>(),
        1 => prop::sample::select(vec![0.0, -0.0, 1e-300, 1e300, f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
    ]
}

fn any_axis() -> impl Strategy<Value = Axis> {
    let unit = prop::sample::select(vec![
        Unit::None,
        Unit::Named("nats".into()),
        Unit::Percent,
        Unit::Bytes,
    ]);
    (unit, any::<bool>(), prop::option::of(any_value())).prop_map(|(unit, log, limit)| {
        let axis = Axis::new("value").with_unit(unit).with_limit(limit);
        if log { axis.with_log_scale() } else { axis }
    })
}

fn any_bar() -> impl Strategy<Value = Bar> {
    let value = || prop::option::of(any_value());
    (value(), value(), any::<bool>()).prop_map(|(value, error, marked)| Bar {
        value,
        error,
        marked,
    })
}

/// Panics unless `svg` is well-formed and draws with numbers only.
pub(super) fn check_svg(svg: &str) {
    check_markup(svg).unwrap();
    for name in [
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "width",
        "height",
        "d",
        "points",
        "transform",
    ] {
        for value in attribute_values(svg, name) {
            assert!(
                !value.contains("NaN") && !value.contains("inf"),
                "{name}=\"{value}\" in {svg}"
            );
        }
    }
}

fn check_bars(chart: &BarChart) {
    check_svg(&chart.render(Layout::Wide, "a"));
    check_svg(&chart.render(Layout::Narrow, "b"));
}

fn check_lines(chart: &LineChart) {
    check_svg(&chart.render(Layout::Wide, "a"));
    check_svg(&chart.render(Layout::Narrow, "b"));
}

fn bars(values: &[f64]) -> BarChart {
    BarChart {
        title: "bars".into(),
        group_label: "Block".into(),
        groups: (0..values.len()).map(|block| block.to_string()).collect(),
        series: vec![BarSeries::new("prefill", values.iter().copied())],
        ..BarChart::default()
    }
}

fn lines(points: &[(f64, f64)]) -> LineChart {
    LineChart {
        series: vec![LineSeries::new("loss", points.iter().copied())],
        ..LineChart::default()
    }
}

/// The heights of the drawn bars.
fn heights(svg: &str) -> Vec<f64> {
    attribute_values(svg, "height")
        .iter()
        .map(|value| value.parse().unwrap())
        .collect()
}

proptest! {
    #[test]
    fn ticks_enclose_the_range_in_equal_nice_steps(lo in -1e6..1e6f64, width in 1e-3..1e6f64, target in 2usize..12) {
        let Ticks { values, decimals } = nice_ticks(lo, lo + width, target);
        let step = values[1] - values[0];
        prop_assert!(values[0] <= lo + 1e-6 * step && *values.last().unwrap() >= lo + width - 1e-6 * step);
        prop_assert!(values[1] > lo && values[values.len() - 2] < lo + width, "a tick too many: {values:?}");
        prop_assert!((2..=2 * target + 2).contains(&values.len()), "{} ticks", values.len());
        prop_assert!(values.windows(2).all(|pair| (pair[1] - pair[0] - step).abs() < 1e-6 * step));
        let mantissa = step / 10f64.powf(step.log10().floor());
        let is_nice = |nice: f64| (mantissa - nice).abs() < 1e-3;
        prop_assert!([1.0, 2.0, 2.5, 5.0, 10.0].into_iter().any(is_nice), "step {step}");
        let mut labels: Vec<String> = values.iter().map(|&value| number(value, decimals)).collect();
        labels.dedup();
        prop_assert_eq!(labels.len(), values.len(), "two ticks with one label");
    }

    #[test]
    fn ticks_of_any_range_are_few_finite_and_rising(lo in any_value(), hi in any_value(), target in 0usize..20) {
        let ticks = nice_ticks(lo, hi, target).values;
        prop_assert!(ticks.len() >= 2 && ticks.len() <= 2 * target + 4, "{} ticks", ticks.len());
        prop_assert!(ticks.iter().all(|tick| tick.is_finite()));
        prop_assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn log_ticks_enclose_the_range(exponent in -9.0..9.0f64, decades in 0.0..9.0f64) {
        let (lo, hi) = (10f64.powf(exponent), 10f64.powf(exponent + decades));
        let ticks = log_ticks(lo, hi);
        prop_assert!(ticks[0] <= lo * 1.001 && *ticks.last().unwrap() >= hi * 0.999, "{lo}..{hi}: {ticks:?}");
        prop_assert!(ticks.windows(2).all(|pair| pair[0] < pair[1]) && ticks.len() <= 14, "{ticks:?}");
    }

    #[test]
    fn a_scale_keeps_the_order_of_values_and_stays_in_its_pixels(
        axis in any_axis(),
        a in any_value(),
        b in any_value(),
    ) {
        let (a, b) = if a > b { (b, a) } else { (a, b) };
        let scale = Scale::new(&axis, a, b, 5).over(300.0, 20.0);
        let (low, high) = (scale.at(a), scale.at(b));
        if scale.draws(a) && scale.draws(b) {
            prop_assert!((20.0..=300.0).contains(&low) && (20.0..=300.0).contains(&high) && low >= high);
        }
    }

    #[test]
    fn bar_charts_of_any_numbers_are_well_formed(
        axis in any_axis(),
        origin in any_value(),
        groups in 0usize..40,
        series in prop::collection::vec(prop::collection::vec(any_bar(), 0..40), 0..5),
        reference in any_value(),
    ) {
        let series = series.into_iter().map(|bars| BarSeries { name: "s".into(), bars });
        let chart = BarChart {
            axis,
            origin,
            groups: (0..groups).map(|group| format!("group {group}")).collect(),
            series: series.collect(),
            references: vec![Reference { label: "here".into(), value: reference }],
            ..BarChart::default()
        };
        check_bars(&chart);
        prop_assert_eq!(chart.to_table().rows.len(), groups);
    }

    #[test]
    fn line_charts_of_any_numbers_are_well_formed(
        x in any_axis(),
        y in any_axis(),
        series in prop::collection::vec(prop::collection::vec((any_value(), any_value()), 0..60), 0..5),
        style in prop::sample::select(vec![LineStyle::Line, LineStyle::Step, LineStyle::Points]),
        at in any_value(),
    ) {
        let series = series.into_iter().map(|points| LineSeries::new("s", points).with_style(style)).collect();
        let annotations = vec![Annotation { x: at, label: "here".into() }];
        check_lines(&LineChart { x, y, series, annotations, ..LineChart::default() });
    }
}

#[test]
fn ticks_of_familiar_ranges_are_the_familiar_ones() {
    assert_eq!(
        nice_ticks(0.0, 1.0, 5).values,
        [0.0, 0.2, 0.4, 0.600_000_000_000_000_1, 0.8, 1.0]
    );
    assert_eq!(
        nice_ticks(0.0, 29.0, 6).values,
        [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    );
    assert_eq!(nice_ticks(3.0, 3.0, 5).values.first(), Some(&2.6));
    assert_eq!(
        nice_ticks(0.0, 0.0, 5).values,
        nice_ticks(0.0, 1.0, 5).values
    );
    assert_eq!(log_ticks(1.0, 5.3), [1.0, 2.0, 5.0, 10.0]);
    assert_eq!(log_ticks(0.0, 0.0).len(), log_ticks(1e-300, 1e-300).len());
}

#[test]
fn numbers_have_a_minus_sign_and_no_negative_zero() {
    assert_eq!(number(-0.25, 2), "\u{2212}0.25");
    assert_eq!(number(-0.001, 2), "0.00");
    assert_eq!(number(12_345_678.0, 0), "1.235e7");
}

#[test]
fn charts_without_data_are_drawn_empty() {
    check_bars(&BarChart::default());
    check_bars(&BarChart {
        series: vec![BarSeries::default()],
        ..bars(&[])
    });
    check_lines(&LineChart::default());
    check_lines(&lines(&[]));
}

#[test]
fn one_value_and_equal_values_are_drawn() {
    check_bars(&bars(&[2.0]));
    check_lines(&lines(&[(3.0, 7.0)]));
    let equal = bars(&[0.5; 4]);
    let svg = equal.render(Layout::Wide, "a");
    let heights = heights(&svg);
    assert!(
        heights.len() == 4
            && heights[0] > 50.0
            && heights
                .iter()
                .all(|height| height.to_bits() == heights[0].to_bits())
    );
    check_lines(&lines(&[(1.0, 0.5), (2.0, 0.5)]));
}

#[test]
fn bars_are_as_long_as_their_values_on_both_sides_of_the_origin() {
    let svg = bars(&[1.0, -0.5]).render(Layout::Wide, "a");
    let heights = heights(&svg);
    assert!((heights[0] / heights[1] - 2.0).abs() < 1e-3, "{heights:?}");
    let tops: Vec<f64> = svg
        .split("<rect")
        .skip(1)
        .map(|rect| attribute_values(rect, "y")[0].parse().unwrap())
        .collect();
    assert!(
        (tops[0] + heights[0] - tops[1]).abs() < 0.02,
        "the bars meet at the origin"
    );
}

#[test]
fn bars_begin_at_the_given_origin() {
    let svg = BarChart {
        origin: 3.0,
        ..bars(&[3.5, 4.0])
    }
    .render(Layout::Wide, "a");
    let heights = heights(&svg);
    assert!((heights[1] / heights[0] - 2.0).abs() < 1e-3, "{heights:?}");
}

#[test]
fn a_missing_value_is_a_dash_and_not_a_bar() {
    let mut chart = bars(&[1.0, f64::NAN, f64::INFINITY]);
    chart.series[0].bars[0].value = None;
    let svg = chart.render(Layout::Wide, "a");
    assert_eq!(
        (
            svg.matches("<rect").count(),
            svg.matches("class=\"missing\"").count()
        ),
        (0, 3)
    );
    assert!(
        chart
            .to_table()
            .rows
            .iter()
            .all(|row| row[1] == Cell::MISSING)
    );
}

#[test]
fn a_value_beyond_the_limit_is_cut_marked_and_labelled() {
    let mut chart = bars(&[8.25, 0.1, 0.2, 0.15, 0.1, 0.2]);
    chart.axis = chart
        .axis
        .with_outliers_cut([8.25, 0.1, 0.2, 0.15, 0.1, 0.2]);
    assert_eq!(chart.axis.limit, Some(0.2));
    let svg = chart.render(Layout::Wide, "a");
    assert_eq!(svg.matches("class=\"cut\"").count(), 1);
    assert!(svg.contains(">8.250</text>"), "{svg}");
    assert_eq!(
        Axis::new("").with_outliers_cut([0.1, 0.2, 0.3, 0.4]).limit,
        None
    );
    assert_eq!(Axis::new("").with_outliers_cut([]).limit, None);
}

#[test]
fn marked_bars_are_hollow_crossed_and_named_in_legend_and_table() {
    let mut chart = BarChart {
        mark: Some("removed".into()),
        ..bars(&[1.0, 2.0])
    };
    chart.series[0].bars[1].marked = true;
    let svg = chart.render(Layout::Wide, "a");
    assert_eq!(
        (
            svg.matches("bar marked").count(),
            svg.matches("class=\"cross\"").count()
        ),
        (1, 1)
    );
    assert!(svg.contains("Block 1, prefill: 2 (removed)"));
    assert_eq!(chart.figure("a").legend.len(), 2);
    let marks: Vec<_> = chart
        .to_table()
        .rows
        .iter()
        .map(|row| row[2].text().map(str::to_owned))
        .collect();
    assert_eq!(marks, [Some(String::new()), Some("removed".to_owned())]);
}

#[test]
fn a_log_axis_leaves_out_what_it_cannot_show() {
    let mut chart = bars(&[100.0, 1.0, 0.0, -1.0]);
    chart.axis = chart.axis.with_log_scale();
    let svg = chart.render(Layout::Wide, "a");
    assert_eq!(
        (
            svg.matches("<rect").count(),
            svg.matches("class=\"missing\"").count()
        ),
        (2, 2)
    );
}

#[test]
fn a_gap_in_a_line_lifts_the_pen() {
    let svg = lines(&[
        (1.0, 1.0),
        (2.0, 2.0),
        (3.0, f64::NAN),
        (4.0, 4.0),
        (5.0, 5.0),
    ])
    .render(Layout::Wide, "a");
    let path = attribute_values(&svg, "d").remove(0);
    assert_eq!(
        (path.matches('M').count(), path.matches('L').count()),
        (2, 2),
        "{path}"
    );
}

#[test]
fn a_step_holds_its_value_to_the_end_of_the_data() {
    let series = |name: &str, points: &[(f64, f64)]| LineSeries::new(name, points.iter().copied());
    let best = series("best", &[(0.0, 2.0), (1.0, 1.0)]).with_style(LineStyle::Step);
    let chart = LineChart {
        series: vec![best, series("all", &[(0.0, 2.0), (10.0, 3.0)])],
        ..LineChart::default()
    };
    let svg = chart.render(Layout::Wide, "a");
    let paths = attribute_values(&svg, "d");
    let end = |path: &str| {
        path.rsplit(['H', 'L'])
            .next()
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(end(&paths[0]), end(&paths[1]));
}

#[test]
fn bytes_and_shares_are_shown_in_their_units_and_exact_in_the_table() {
    let mut chart = bars(&[3072.0, 1024.0]);
    chart.axis = Axis::new("Sent").with_unit(Unit::Bytes);
    assert!(
        chart
            .render(Layout::Wide, "a")
            .contains(">Sent (KiB)</text>")
    );
    assert_eq!(chart.to_table().rows[0][1].text(), Some("3072"));
    let mut chart = bars(&[0.5, 0.25]);
    chart.axis = Axis::new("Accuracy").with_unit(Unit::Percent);
    assert!(
        chart
            .render(Layout::Wide, "a")
            .contains(">50\u{202f}%</text>")
    );
    assert_eq!(chart.to_table().rows[1][1].text(), Some("25"));
}

#[test]
fn the_table_behind_a_long_search_is_thinned_out() {
    let points: Vec<(f64, f64)> = (0..5000).map(|i| (f64::from(i), 1.0)).collect();
    let table = lines(&points).to_table();
    assert!(
        table.rows.len() <= 402 && table.caption.contains("13th"),
        "{} rows, {}",
        table.rows.len(),
        table.caption
    );
    assert_eq!(table.rows.last().unwrap()[1].text(), Some("4999"));
}

#[test]
fn crowded_numbers_are_thinned_out_and_long_names_slanted() {
    let svg = bars(&[1.0; 80]).render(Layout::Narrow, "a");
    let axis = svg
        .split("<g class=\"x-axis\">")
        .nth(1)
        .unwrap()
        .split("</g>")
        .next()
        .unwrap();
    assert_eq!(axis.matches("<text").count(), 16, "every fifth of 80");
    let mut named = bars(&[1.0; 12]);
    named.groups = (0..12)
        .map(|task| format!("a task with a long name, number {task}"))
        .collect();
    let svg = named.render(Layout::Narrow, "a");
    assert!(svg.contains("x-axis slanted") && svg.contains("a task with a lon\u{2026}"));
}
