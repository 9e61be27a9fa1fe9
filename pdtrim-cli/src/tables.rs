//! A page's table on a terminal: what a command prints is what its page shows.

use comfy_table::{CellAlignment, Table as Text, presets};
use pdtrim_eval::page::{Align, Table};
use serde_json::Value;

/// The table as text, without its caption; missing cells are dashes.
pub(crate) fn plain(table: &Table) -> String {
    let mut text = Text::new();
    text.load_style(presets::NOTHING);
    text.set_header(table.columns.iter().map(|column| column.name.clone()));
    for row in &table.rows {
        let cell = |n: usize| row.get(n).and_then(|cell| cell.text()).unwrap_or("-");
        text.add_row((0..table.columns.len()).map(|n| cell(n).to_owned()));
    }
    for (column, shown) in table.columns.iter().zip(text.column_iter_mut()) {
        if column.align == Align::Number {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    text.trim_fmt()
}

/// The blocks that settings list as removed from each stage.
pub(crate) fn removed_in_words(removed: &Value) -> String {
    let blocks = |stage: &str| {
        let ids = removed[stage].as_array().into_iter().flatten();
        or_none(ids.map(Value::to_string).collect::<Vec<_>>().join(","))
    };
    format!("prefill {}, decode {}", blocks("prefill"), blocks("decode"))
}

/// A list of blocks as people read it.
pub(crate) fn or_none(blocks: String) -> String {
    if blocks.is_empty() {
        "none".to_owned()
    } else {
        blocks
    }
}

/// A setting as a page shows it: strings without their quotes.
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// A number as a CSV holds it; nothing for one that is missing.
pub(crate) fn or_empty(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_shown_without_brackets_and_quotes() {
        let removed = json!({"prefill": [], "decode": [6, 17]});
        assert_eq!(removed_in_words(&removed), "prefill none, decode 6,17");
        assert_eq!(text(&json!("f32")), "f32");
        assert_eq!(text(&json!(20)), "20");
    }
}
