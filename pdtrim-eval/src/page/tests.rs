//! The page as a whole; charts have their own tests.

use super::*;

/// HTML elements that have no end tag.
const VOID: [&str; 4] = ["meta", "link", "br", "hr"];

/// Whether every tag of `markup` is closed in order, attributes are quoted and unique, text is escaped and ids are
/// unique.
pub(super) fn check_markup(markup: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut ids = Vec::new();
    let mut rest = markup;
    while let Some(start) = rest.find('<') {
        check_text(&rest[..start], open.last() == Some(&"style"))?;
        let end = rest[start..]
            .find('>')
            .ok_or_else(|| format!("no end of tag: {:.40}", &rest[start..]))?
            + start;
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if tag.starts_with('!') {
            continue;
        }
        if let Some(name) = tag.strip_prefix('/') {
            let expected = open.pop().unwrap_or("nothing");
            if expected != name {
                return Err(format!("</{name}> closes <{expected}>"));
            }
            continue;
        }
        let is_empty = tag.ends_with('/');
        let (name, attributes) = tag
            .trim_end_matches('/')
            .split_once(' ')
            .unwrap_or((tag.trim_end_matches('/'), ""));
        ids.extend(check_attributes(attributes)?);
        if !is_empty && !VOID.contains(&name) {
            open.push(name);
        }
    }
    check_text(rest, false)?;
    let count = ids.len();
    ids.sort();
    ids.dedup();
    match open.last() {
        Some(tag) => Err(format!("<{tag}> is never closed")),
        None if ids.len() < count => Err("two elements with one id".into()),
        None => Ok(()),
    }
}

fn check_text(text: &str, is_style: bool) -> Result<(), String> {
    let is_entity = |rest: &str| {
        let name = rest.split(';').next().unwrap_or_default();
        rest.len() > name.len()
            && name.len() < 7
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '#')
    };
    let is_escaped = text.split('&').skip(1).all(is_entity) && !text.contains('>');
    if is_escaped || is_style {
        Ok(())
    } else {
        Err(format!("text that is not escaped: {text:?}"))
    }
}

/// Checks `name="value"` pairs and gives the value of `id`, if there is one.
fn check_attributes(attributes: &str) -> Result<Option<String>, String> {
    let (mut names, mut id, mut rest) = (Vec::new(), None, attributes.trim());
    while !rest.is_empty() {
        let (name, value) = rest
            .split_once("=\"")
            .ok_or_else(|| format!("attribute without a value: {rest}"))?;
        let (value, after) = value
            .split_once('"')
            .ok_or_else(|| format!("attribute without an end: {rest}"))?;
        check_text(value, false)?;
        if names.contains(&name) {
            return Err(format!("two attributes called {name}"));
        }
        names.push(name);
        if name == "id" {
            id = Some(value.to_owned());
        }
        rest = after.trim_start();
    }
    Ok(id)
}

/// The values of the attribute `name`, in order.
pub(super) fn attribute_values(markup: &str, name: &str) -> Vec<String> {
    let pattern = format!(" {name}=\"");
    markup
        .split(&pattern)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

fn bars() -> BarChart {
    BarChart {
        title: "Importance".into(),
        description: "Rise of the mean NLL without the block.".into(),
        group_label: "Block".into(),
        groups: vec!["0".into(), "1".into()],
        axis: Axis::new("Rise").with_unit_name("nats"),
        mark: Some("removed".into()),
        series: vec![
            BarSeries::new("prefill", [1.5, f64::NAN]),
            BarSeries {
                name: "decode".into(),
                bars: vec![Bar {
                    value: Some(0.5),
                    error: Some(0.1),
                    marked: true,
                }],
            },
        ],
        ..BarChart::default()
    }
}

fn lines() -> LineChart {
    LineChart {
        title: "Search".into(),
        x: Axis::new("Evaluation"),
        y: Axis::new("Mean NLL"),
        series: vec![
            LineSeries::new("best", [(1.0, 3.5), (2.0, 3.25)]).with_style(LineStyle::Step),
        ],
        references: vec![Reference {
            label: "dense".into(),
            value: 3.0,
        }],
        annotations: vec![Annotation {
            x: 2.0,
            label: "decode".into(),
        }],
        ..LineChart::default()
    }
}

fn page() -> Page {
    let table = Table::new("Scores", [Column::text("mode"), Column::number("acc")])
        .with_row(["dense", "0.70"])
        .with_row([Cell::from("pd"), Cell::MISSING])
        .with_row(["short"]);
    let section = Section::new("Scores", "First paragraph.\n\nSecond <paragraph>.")
        .with(Item::Table(table))
        .with(Item::Facts(vec![
            ("seed".into(), "0".into()),
            ("hash".into(), String::new()),
        ]))
        .with(Item::Code("removed = [1, 2]\nname = \"<b>\"".into()))
        .with(Item::Note("Ten prompts were short.".into()));
    let charts = Section::new("Charts", "")
        .with(Item::Bars(bars()))
        .with(Item::Lines(lines()));
    Page {
        title: "A model".into(),
        subtitle: "trimmed".into(),
        sections: vec![section, charts],
    }
}

/// The page without its style sheet.
fn body(page: &Page) -> String {
    page.render()
        .split_once("<body>")
        .map(|(_, body)| body.to_owned())
        .unwrap()
}

#[test]
fn a_small_page_looks_as_before() {
    insta::assert_snapshot!(body(&page()));
}

#[test]
fn the_page_is_well_formed_and_the_same_every_time() {
    let html = page().render();
    check_markup(&html).unwrap();
    assert_eq!(html, page().render());
    check_markup(&Page::default().render()).unwrap();
    check_markup(
        &Page {
            sections: vec![Section::default(); 3],
            ..Page::default()
        }
        .render(),
    )
    .unwrap();
}

#[test]
fn the_checker_finds_what_it_looks_for() {
    for broken in [
        "<a>",
        "<a></b>",
        "<a b=1/>",
        "<a b=\"1\" b=\"2\"/>",
        "a & b",
        "a > b",
        "<a id=\"x\"/><b id=\"x\"/>",
        "<a",
    ] {
        assert!(check_markup(broken).is_err(), "{broken}");
    }
    check_markup("<a b=\"&lt;\">x &amp; y<br></a>").unwrap();
}

#[test]
fn the_page_loads_nothing_and_runs_nothing() {
    let html = page().render();
    for outside in ["http:", "https:", "<script", "@import", "src=", "//"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn every_chart_has_a_title_a_description_and_a_table() {
    let html = page().render();
    let labelled: Vec<String> = attribute_values(&html, "aria-labelledby");
    assert_eq!(labelled.len(), 4, "two charts, each in two widths");
    for id in labelled.iter().flat_map(|ids| ids.split(' ')) {
        assert!(html.contains(&format!("id=\"{id}\"")), "{id}");
    }
    assert_eq!(html.matches("<details>").count(), 2);
}

#[test]
fn missing_values_are_dashes() {
    let html = page().render();
    assert!(html.contains("<dd>\u{2013}</dd>"));
    assert_eq!(
        html.matches("<td class=\"number\">\u{2013}</td>").count(),
        5,
        "two in the table, three behind the chart"
    );
}

#[test]
fn hostile_text_is_shown_and_never_markup() {
    let hostile = "</title></style></svg><script>alert('\"&\u{1}\u{ffff}')</script>";
    let text = || hostile.to_owned();
    let chart = BarChart {
        title: text(),
        description: text(),
        group_label: text(),
        groups: vec![text()],
        axis: Axis::new(hostile).with_unit_name(hostile),
        mark: Some(text()),
        series: vec![
            BarSeries {
                name: text(),
                bars: vec![Bar {
                    marked: true,
                    ..Bar::from(1.0)
                }]
            };
            2
        ],
        references: vec![Reference {
            label: text(),
            value: 1.0,
        }],
        ..BarChart::default()
    };
    let line = LineChart {
        title: text(),
        x: Axis::new(hostile),
        series: vec![LineSeries::new(hostile, [(1.0, 1.0)]); 2],
        annotations: vec![Annotation {
            x: 1.0,
            label: text(),
        }],
        ..LineChart::default()
    };
    let section = Section::new(hostile, hostile)
        .with(Item::Table(
            Table::new(hostile, [Column::text(hostile)]).with_row([hostile]),
        ))
        .with(Item::Bars(chart))
        .with(Item::Lines(line))
        .with(Item::Code(text()))
        .with(Item::Facts(vec![(text(), text())]))
        .with(Item::Note(text()));
    let html = Page {
        title: text(),
        subtitle: text(),
        sections: vec![section; 3],
    }
    .render();
    check_markup(&html).unwrap();
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;"));
}
