use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

/// A file of one column of texts, of which `None` is absent.
fn file(texts: &[Option<&str>]) -> Vec<u8> {
    let schema = "message m { optional binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let properties = Arc::new(properties.build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = texts.iter().flatten().map(|&text| text.into()).collect();
    let levels: Vec<i16> = texts.iter().map(|text| i16::from(text.is_some())).collect();
    let typed = column.typed::<ByteArrayType>();
    typed.write_batch(&values, Some(&levels), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn texts(bytes: Vec<u8>) -> Result<Vec<Value>> {
    let docs = read(Path::new("x.parquet"), bytes)?;
    Ok(docs
        .into_iter()
        .map(|mut doc| doc.fields.remove("text").unwrap_or_default())
        .collect())
}

#[test]
fn rows_are_records() {
    let found = texts(file(&[Some("a"), None, Some("bc")])).unwrap();
    assert_eq!(found, [Value::from("a"), Value::Null, Value::from("bc")]);
}

#[test]
fn a_small_file_of_many_values_is_refused_before_they_are_made() {
    let bytes = file(&vec![None; 3_400_000]);
    assert!(bytes.len() < 10_000, "{}", bytes.len());
    let error = texts(bytes).unwrap_err().to_string();
    assert!(
        error.starts_with("x.parquet: expected records of at most 10737"),
        "{error}"
    );
}

#[test]
fn no_changed_byte_is_a_panic_or_takes_more_than_the_budget() {
    let bytes = file(&[Some("abc"), None, Some("abc"), Some("d")]);
    for place in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[place] ^= change;
            // Some changes are of the text itself and give another text.
            if let Err(error) = texts(bytes) {
                assert!(error.to_string().starts_with("x.parquet"), "{error}");
            }
        }
    }
}
