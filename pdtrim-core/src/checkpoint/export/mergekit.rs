//! The recipe with which mergekit makes the form `plain` of the base model.

use std::fmt::Write as _;

use burn::tensor::DType;

use crate::block::BlockSet;

/// `mergekit_config.yml` for the blocks of `base` that are not in `removed`: a passthrough merge of half-open
/// layer ranges. It cannot make weights that the base does not have.
///
/// ```
/// use burn::tensor::DType;
/// use pdtrim_core::BlockSet;
/// use pdtrim_core::checkpoint::mergekit_config;
///
/// let removed = BlockSet::from_indices(6, [1, 2])?;
/// let text = mergekit_config("org/base", &removed, DType::BF16);
/// assert!(text.contains("layer_range: [0, 1]") && text.contains("layer_range: [3, 6]"));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
pub fn mergekit_config(base: &str, removed: &BlockSet, dtype: DType) -> String {
    let dtype = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    // A JSON string is a YAML string.
    let base = serde_json::Value::from(base).to_string();
    let mut text = format!(
        "# `model` has to be a Hugging Face folder or id of the base model.\n\
         merge_method: passthrough\ndtype: {dtype}\nslices:\n"
    );
    for (start, end) in runs(removed) {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "- sources:\n  - model: {base}\n    layer_range: [{start}, {end}]\n"
        );
    }
    text
}

/// The kept runs as half-open ranges.
fn runs(removed: &BlockSet) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for id in removed.complement().to_indices() {
        match runs.last_mut() {
            Some((_, end)) if *end == id => *end += 1,
            _ => runs.push((id, id + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_half_open_and_cover_what_is_kept() {
        for (removed, expected) in [
            (vec![], vec![(0, 6)]),
            (vec![0], vec![(1, 6)]),
            (vec![5], vec![(0, 5)]),
            (vec![1, 2, 4], vec![(0, 1), (3, 4), (5, 6)]),
        ] {
            let removed = BlockSet::from_indices(6, removed).unwrap();
            assert_eq!(runs(&removed), expected, "{removed}");
        }
    }

    #[test]
    fn a_name_that_yaml_would_read_otherwise_is_quoted() {
        let removed = BlockSet::from_indices(3, [1]).unwrap();
        let text = mergekit_config("C:\\models #1", &removed, DType::F32);
        let expected = "# `model` has to be a Hugging Face folder or id of the base model.\n\
             merge_method: passthrough\ndtype: float32\nslices:\n\
             - sources:\n  - model: \"C:\\\\models #1\"\n    layer_range: [0, 1]\n\
             - sources:\n  - model: \"C:\\\\models #1\"\n    layer_range: [2, 3]\n";
        assert_eq!(text, expected);
    }
}
