//! Apache Parquet, the form in which the hub serves datasets.

use std::path::Path;

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use super::Doc;
use crate::error::{Error, Result};

pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<Vec<Doc>> {
    let failed = |source| Error::Parquet {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let reader = SerializedFileReader::new(Bytes::copy_from_slice(bytes)).map_err(failed)?;
    let rows = reader.get_row_iter(None).map_err(failed)?;
    rows.enumerate()
        .map(|(index, row)| match row.map_err(failed)?.to_json_value() {
            Value::Object(fields) => Ok(Doc {
                line: index + 1,
                fields,
            }),
            other => unreachable!("a row has columns, found {other}"),
        })
        .collect()
}
