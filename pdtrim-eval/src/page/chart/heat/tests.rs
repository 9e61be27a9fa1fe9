//! Heat maps.

use proptest::prelude::*;

use super::*;
use crate::page::chart::Unit;
use crate::page::chart::tests::{any_value, check_svg};
use crate::page::tests::attribute_values;

fn heat(cells: Vec<Vec<Option<f64>>>) -> HeatMap {
    let named = |count: usize, step: usize| (0..count).map(|n| (n * step).to_string()).collect();
    let columns = cells.iter().map(Vec::len).max().unwrap_or(0);
    HeatMap {
        title: "Exact matches".into(),
        description: "The stronger the shade, the better.".into(),
        column_label: "Prompt length".into(),
        columns: named(columns, 256),
        row_label: "Depth".into(),
        rows: named(cells.len(), 50),
        values: Axis::new("Exact matches").with_unit(Unit::Percent),
        range: (0.0, 1.0),
        cells,
    }
}

fn steps(svg: &str) -> Vec<String> {
    let classes = attribute_values(svg, "class").into_iter();
    let steps = classes.filter_map(|class| class.strip_prefix("heat ").map(str::to_owned));
    steps.collect()
}

#[test]
fn a_small_map_looks_as_before() {
    let chart = heat(vec![
        vec![Some(1.0), Some(0.6)],
        vec![Some(0.0), None],
        vec![Some(1.0 / 3.0)],
    ]);
    insta::assert_snapshot!(chart.render(Layout::Wide, "a"));
}

#[test]
fn a_higher_value_is_never_fainter_and_the_ends_are_the_faintest_and_the_strongest() {
    let row: Vec<Option<f64>> = (0..=20).map(|n| Some(f64::from(n) / 20.0)).collect();
    let shades = steps(&heat(vec![row]).render(Layout::Wide, "a"));
    assert!(shades.is_sorted(), "{shades:?}");
    assert_eq!((&*shades[0], &*shades[20]), ("h0", "h5"));
    let beyond = steps(&heat(vec![vec![Some(-3.0), Some(7.0)]]).render(Layout::Wide, "a"));
    assert_eq!(beyond, ["h0", "h5"]);
}

#[test]
fn the_legend_says_what_each_shade_stands_for() {
    let legend = heat(vec![vec![Some(0.5)]]).legend();
    let labels: Vec<String> = legend.into_iter().map(|entry| entry.label).collect();
    let by_hand = [
        "0 to 10",
        "10 to 30",
        "30 to 50",
        "50 to 70",
        "70 to 90",
        "90 to 100",
    ];
    assert_eq!(labels, by_hand.map(|label| format!("{label}\u{202f}%")));
}

#[test]
fn every_number_is_in_the_table_and_what_is_missing_is_a_dash() {
    let table = heat(vec![vec![Some(0.5), None], vec![Some(f64::NAN)]]).to_table();
    let cells: Vec<Vec<Option<&str>>> = table
        .rows
        .iter()
        .map(|row| row.iter().map(Cell::text).collect())
        .collect();
    assert_eq!(
        cells,
        [[Some("0"), Some("50"), None], [Some("50"), None, None]]
    );
}

proptest! {
    #[test]
    fn any_map_is_well_formed(
        cells in prop::collection::vec(prop::collection::vec(prop::option::of(any_value()), 0..30), 0..12),
        range in (any_value(), any_value()),
    ) {
        let chart = HeatMap { range, ..heat(cells) };
        check_svg(&chart.render(Layout::Wide, "a"));
        check_svg(&chart.render(Layout::Narrow, "b"));
        for entry in chart.legend() {
            check_svg(&entry.swatch);
        }
        chart.to_table();
    }
}
