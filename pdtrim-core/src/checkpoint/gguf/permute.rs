//! The row order of query and key weights.
//!
//! Rotary embedding turns pairs of rows of a head. Hugging Face checkpoints of Llama pair row `i`
//! with row `i + head_dim / 2`; ggml pairs neighbours, `2 i` with `2 i + 1`. llama.cpp's converter
//! therefore interleaves the two halves of each head for the architecture `llama`, and this undoes
//! it. Qwen2 and others are rotated by halves in ggml too and are stored as they are.

use super::error::GgufError;

/// Whether the query and key rows of a file with this `general.architecture` are interleaved.
/// Mistral and `SmolLM2` files carry `llama` as well.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::rope_rows_are_permuted;
///
/// assert!(rope_rows_are_permuted("llama") && !rope_rows_are_permuted("qwen2"));
/// ```
#[must_use]
pub fn rope_rows_are_permuted(architecture: &str) -> bool {
    architecture == "llama"
}

/// Restores the Hugging Face row order of a query or key weight, or of a bias.
///
/// # Shapes
///
/// - `values`: `[n_rows, in_features]` in row-major order, or `[n_rows]` for a bias, as read from
///   the file; `n_rows` is `n_heads * head_dim`
/// - `n_heads`: the attention heads for a query, the KV heads for a key
/// - result: as `values`
///
/// # Errors
///
/// [`GgufError::HeadRows`] if `n_rows` does not split into heads with an even number of rows, or
/// `values` not into rows.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::undo_rope_permutation;
///
/// // One head of four rows: neighbours become halves.
/// assert_eq!(undo_rope_permutation(&[0, 2, 1, 3], 4, 1)?, [0, 1, 2, 3]);
/// # Ok::<(), pdtrim_core::checkpoint::gguf::GgufError>(())
/// ```
pub fn undo_rope_permutation<T: Copy>(
    values: &[T],
    n_rows: usize,
    n_heads: usize,
) -> Result<Vec<T>, GgufError> {
    reorder(values, n_rows, n_heads, |place, half_dim| {
        let (half, pair) = (place / half_dim, place % half_dim);
        2 * pair + half
    })
}

/// Gives a query or key weight, or a bias, the row order of a file; shapes and errors as in
/// [`undo_rope_permutation`], which undoes it.
///
/// # Errors
///
/// [`GgufError::HeadRows`].
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{apply_rope_permutation, undo_rope_permutation};
///
/// let rows = [0, 1, 2, 3, 4, 5, 6, 7];
/// let stored = apply_rope_permutation(&rows, 8, 2)?;
/// assert_eq!(stored, [0, 2, 1, 3, 4, 6, 5, 7]);
/// assert_eq!(undo_rope_permutation(&stored, 8, 2)?, rows);
/// # Ok::<(), pdtrim_core::checkpoint::gguf::GgufError>(())
/// ```
pub fn apply_rope_permutation<T: Copy>(
    values: &[T],
    n_rows: usize,
    n_heads: usize,
) -> Result<Vec<T>, GgufError> {
    reorder(values, n_rows, n_heads, |place, half_dim| {
        let (pair, half) = (place / 2, place % 2);
        half * half_dim + pair
    })
}

/// Rows such that each place of a head has the row that `from` says, given the place and half of the head's
/// width.
fn reorder<T: Copy>(
    values: &[T],
    n_rows: usize,
    n_heads: usize,
    from: impl Fn(usize, usize) -> usize,
) -> Result<Vec<T>, GgufError> {
    let heads_fit = n_rows > 0 && n_heads > 0 && (n_rows / n_heads).is_multiple_of(2);
    if !heads_fit || !n_rows.is_multiple_of(n_heads) || !values.len().is_multiple_of(n_rows) {
        return Err(GgufError::HeadRows {
            n_values: values.len(),
            n_rows,
            n_heads,
        });
    }
    let row_len = values.len() / n_rows;
    let head_dim = n_rows / n_heads;
    let mut reordered = Vec::with_capacity(values.len());
    for row in 0..n_rows {
        let (head, place) = (row / head_dim, row % head_dim);
        let taken = head * head_dim + from(place, head_dim / 2);
        reordered.extend_from_slice(&values[taken * row_len..][..row_len]);
    }
    Ok(reordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The converter's own permutation: `[n_heads, 2, head_dim / 2, row_len]` with the two middle
    /// axes swapped.
    fn permute(values: &[u32], n_rows: usize, n_heads: usize) -> Vec<u32> {
        let row_len = values.len() / n_rows;
        let half_dim = n_rows / n_heads / 2;
        let mut permuted = Vec::new();
        for head in 0..n_heads {
            for pair in 0..half_dim {
                for half in 0..2 {
                    let row = (head * 2 + half) * half_dim + pair;
                    permuted.extend_from_slice(&values[row * row_len..][..row_len]);
                }
            }
        }
        permuted
    }

    #[test]
    fn interleaved_halves_of_each_head_are_put_one_after_the_other() {
        // Two heads of four rows with two values each; a row is written as tens = its place.
        let stored = [0, 1, 20, 21, 10, 11, 30, 31, 40, 41, 60, 61, 50, 51, 70, 71];
        let restored = undo_rope_permutation(&stored, 8, 2).unwrap();
        assert_eq!(
            restored,
            [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 50, 51, 60, 61, 70, 71]
        );
    }

    #[test]
    fn undoing_the_converters_permutation_gives_the_original() {
        for (n_heads, head_dim, row_len) in [(9, 64, 5), (3, 64, 5), (1, 2, 1), (4, 6, 3)] {
            let n_rows = n_heads * head_dim;
            let original: Vec<u32> = (0..).take(n_rows * row_len).collect();
            let stored = permute(&original, n_rows, n_heads);
            assert_eq!(
                apply_rope_permutation(&original, n_rows, n_heads).unwrap(),
                stored
            );
            assert_eq!(
                undo_rope_permutation(&stored, n_rows, n_heads).unwrap(),
                original
            );
        }
    }

    #[test]
    fn a_bias_is_a_weight_with_rows_of_one_value() {
        let stored = [0, 2, 1, 3];
        assert_eq!(undo_rope_permutation(&stored, 4, 1).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn rows_that_do_not_split_into_even_heads_are_refused() {
        for (n_values, n_rows, n_heads) in
            [(12, 6, 4), (12, 6, 2), (13, 4, 2), (4, 4, 0), (0, 0, 1)]
        {
            let refused = undo_rope_permutation(&vec![0_u8; n_values], n_rows, n_heads);
            assert!(
                matches!(refused, Err(GgufError::HeadRows { .. })),
                "{n_values} {n_rows} {n_heads}"
            );
        }
    }

    #[test]
    fn only_llama_files_are_permuted() {
        assert!(rope_rows_are_permuted("llama"));
        assert!(!rope_rows_are_permuted("qwen2"));
    }
}
