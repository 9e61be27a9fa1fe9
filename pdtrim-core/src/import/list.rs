//! A list of block indices: bare, or in the result file of SLEB's script (arXiv:2402.09025).

use std::path::Path;

use super::{BlockSource, Refusal};
use crate::error::Result;

/// What SLEB's `sleb.py` puts before the list.
const ORDER: &str = "Block Removal Order:";
const TOTAL: &str = "# Total Blocks:";
const MODEL: &str = "Model Name:";

pub(super) fn read(path: &Path, text: &str, depth: usize) -> Result<BlockSource> {
    let refusal = Refusal { path };
    let lines = |key: &'static str| {
        let values = text.lines().filter_map(move |line| {
            let value = line.trim_start().strip_prefix(key)?;
            Some(value.trim())
        });
        values.collect::<Vec<_>>()
    };
    let (field, list, method) = match *lines(ORDER) {
        [] => ("the list", text.trim(), "manual"),
        [order] => ("Block Removal Order", order, "sleb"),
        // The script appends each run to the same file.
        ref orders => {
            let found = format!("{} runs", orders.len());
            return Err(refusal.error("Block Removal Order", "one run", found));
        }
    };
    if let Some(total) = lines(TOTAL).first()
        && total.parse() != Ok(depth)
    {
        let expected = format!("{depth}, as the model has");
        return Err(refusal.error("# Total Blocks", expected, *total));
    }
    let blocks = indices(&refusal, field, list)?;
    Ok(BlockSource {
        removed: refusal.set(field, depth, &blocks)?,
        method,
        model: lines(MODEL).first().map(|&name| name.to_owned()),
    })
}

/// Whole numbers between commas or white space, with or without brackets around them.
fn indices(refusal: &Refusal<'_>, field: &str, list: &str) -> Result<Vec<usize>> {
    let inner = match (list.strip_prefix('['), list.strip_suffix(']')) {
        (Some(_), Some(_)) if list.len() >= 2 => &list[1..list.len() - 1],
        _ => list,
    };
    let words = inner.split(|c: char| c == ',' || c.is_whitespace());
    let words = words.filter(|word| !word.is_empty());
    let blocks = words.map(|word| {
        word.parse().map_err(|_| {
            let shown: String = word.chars().take(40).collect();
            refusal.error(
                field,
                "block indices such as [14, 17, 13]",
                format!("`{shown}`"),
            )
        })
    });
    let blocks = blocks.collect::<Result<Vec<usize>>>()?;
    if blocks.is_empty() {
        return Err(refusal.error(field, "at least one block index", "none"));
    }
    Ok(blocks)
}
