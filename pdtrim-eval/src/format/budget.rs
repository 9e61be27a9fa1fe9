//! How much the records of a file may take in memory.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// Added to the file's own size.
const FIXED_BYTES: u64 = 1 << 30;
/// What a value takes beside its text, at worst: a list of one value has room for four of 72 bytes, an
/// object of one field for three of 104 and its index.
const VALUE_BYTES: u64 = 320;

/// What is left for the records of a file: as much as the file and 1 GiB, before anything was made of it.
pub(super) struct Budget<'p> {
    path: &'p Path,
    limit: u64,
    left: u64,
}

impl<'p> Budget<'p> {
    /// For the file at `path`, of `n_bytes`.
    pub(super) fn of(path: &'p Path, n_bytes: usize) -> Self {
        let limit = FIXED_BYTES + n_bytes as u64;
        Self {
            path,
            limit,
            left: limit,
        }
    }

    /// Takes `n_values` values with `n_bytes` of names and text together.
    ///
    /// # Errors
    ///
    /// [`Error::DataSize`] if that is more than is left.
    pub(super) fn take(&mut self, n_values: u64, n_bytes: u64) -> Result<()> {
        let cost = n_values.saturating_mul(VALUE_BYTES).saturating_add(n_bytes);
        self.left = self.left.checked_sub(cost).ok_or_else(|| self.exceeded())?;
        Ok(())
    }

    /// Takes a value and all that is in it.
    pub(super) fn take_value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::String(text) => self.take(1, text.len() as u64),
            Value::Array(items) => {
                self.take(1, 0)?;
                items.iter().try_for_each(|item| self.take_value(item))
            }
            Value::Object(fields) => {
                self.take(1, 0)?;
                fields.iter().try_for_each(|(name, value)| {
                    self.take(0, name.len() as u64)?;
                    self.take_value(value)
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.take(1, 0),
        }
    }

    /// Refuses `n_values` values that are still to be made, and taken one by one.
    pub(super) fn check_values(&self, n_values: u64) -> Result<()> {
        self.check(n_values.saturating_mul(VALUE_BYTES))
    }

    /// Refuses what would take `n_bytes` for a while, beside what is kept.
    pub(super) fn check(&self, n_bytes: u64) -> Result<()> {
        if n_bytes > self.left {
            return Err(self.exceeded());
        }
        Ok(())
    }

    fn exceeded(&self) -> Error {
        Error::DataSize {
            path: self.path.to_owned(),
            limit: self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_costs_what_is_in_it() {
        let mut budget = Budget::of(Path::new("x"), 0);
        budget
            .take_value(&json!({"ab": ["c", 1], "d": null}))
            .unwrap();
        assert_eq!(budget.limit - budget.left, 5 * VALUE_BYTES + 4);
        let left = budget.left;
        budget.check(left).unwrap();
        assert!(matches!(
            budget.check(left + 1),
            Err(Error::DataSize { .. })
        ));
        let error = budget.take(u64::MAX, 1).unwrap_err().to_string();
        assert_eq!(
            error,
            "x: expected records of at most 1073741824 bytes in memory, found more"
        );
    }
}
