//! Apache Parquet, the form in which the hub serves datasets.

mod sizes;
mod thrift;

use std::path::Path;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use pdtrim_core::caught;
use serde_json::Value;

use super::Doc;
use super::budget::Budget;
use crate::error::{Error, Result};

pub(super) fn read(path: &Path, bytes: Vec<u8>) -> Result<Vec<Doc>> {
    let bytes = Bytes::from(bytes);
    // The crate asserts what it assumes of a file.
    caught(|| records(path, &bytes)).unwrap_or_else(|said| {
        Err(Error::Parquet {
            path: path.to_owned(),
            source: Box::new(ParquetError::General(said)),
        })
    })
}

fn records(path: &Path, bytes: &Bytes) -> Result<Vec<Doc>> {
    let failed = |source| Error::Parquet {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let refused = |refusal: sizes::Refusal| Error::ParquetSize {
        path: path.to_owned(),
        what: refusal.what,
        expected: refusal.expected,
        found: refusal.found,
    };
    let mut budget = Budget::of(path, bytes.len());
    sizes::check_footer(bytes).map_err(refused)?;
    let reader = SerializedFileReader::new(bytes.clone()).map_err(failed)?;
    let groups = reader.metadata().row_groups();
    let n_values = sizes::check_pages(bytes, groups).map_err(refused)?;
    budget.check_values(n_values)?;
    let rows = reader.get_row_iter(None).map_err(failed)?;
    let mut docs = Vec::new();
    for (index, row) in rows.enumerate() {
        let value = row.map_err(failed)?.to_json_value();
        budget.take_value(&value)?;
        let Value::Object(fields) = value else {
            let said = format!("row {} is no object", index + 1);
            return Err(failed(ParquetError::General(said)));
        };
        docs.push(Doc {
            line: index + 1,
            fields,
        });
    }
    Ok(docs)
}

#[cfg(test)]
mod tests;
