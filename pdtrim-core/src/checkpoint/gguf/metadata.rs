//! The typed key-value pairs of a GGUF header.

use std::collections::BTreeMap;

use super::cursor::Cursor;
use super::error::GgufError;

/// Bytes that the shortest pair takes: the length of its key, its type and one byte of value.
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;
/// Bytes that the shortest string takes: its length.
const MIN_STRING_BYTES: usize = 8;

/// Pairs of a header; files have a few dozen.
const MAX_PAIRS: usize = 1 << 12;
/// Strings in all arrays of a header; a vocabulary of 300 000 tokens with 500 000 merges has 800 000.
const MAX_STRINGS: usize = 1 << 21;

/// One metadata value.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{OutputType, Value};
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::F16)?;
/// assert_eq!(file.metadata().value("llama.block_count"), Some(&Value::U32(5)));
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is named after its type")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array; GGUF arrays have one element type.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{Array, OutputType, Value};
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::F16)?;
/// let Some(Value::Array(Array::String(tokens))) = file.metadata().value("tokenizer.ggml.tokens")
/// else {
///     panic!("the file has a vocabulary")
/// };
/// assert_eq!(tokens.len(), 256);
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is named after its element type")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

impl Value {
    fn integer(&self) -> Option<i128> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::I8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::U64(value) => Some(value.into()),
            Self::I64(value) => Some(value.into()),
            _ => None,
        }
    }

    /// The type and, for a number, the value, as an error message shows it.
    fn describe(&self) -> String {
        match self {
            Self::U8(value) => format!("u8 {value}"),
            Self::I8(value) => format!("i8 {value}"),
            Self::U16(value) => format!("u16 {value}"),
            Self::I16(value) => format!("i16 {value}"),
            Self::U32(value) => format!("u32 {value}"),
            Self::I32(value) => format!("i32 {value}"),
            Self::U64(value) => format!("u64 {value}"),
            Self::I64(value) => format!("i64 {value}"),
            Self::F32(value) => format!("f32 {value}"),
            Self::F64(value) => format!("f64 {value}"),
            Self::Bool(value) => format!("bool {value}"),
            Self::String(_) => "a string".to_owned(),
            Self::Array(array) => format!("an array of {}", array.element_type()),
        }
    }
}

impl Array {
    fn element_type(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "strings",
        }
    }
}

/// A Rust type that a metadata value can be read as.
///
/// Integers are read from any integer type that can hold the value, since writers differ in the
/// width they choose; everything else must match exactly.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::{FromValue, Value};
///
/// // Any integer type that holds the value will do, a float will not.
/// assert_eq!(u32::from_value(&Value::U8(7)), Some(7));
/// assert_eq!(u32::from_value(&Value::I64(-7)), None);
/// assert_eq!(u32::from_value(&Value::F32(7.0)), None);
/// ```
pub trait FromValue<'a>: Sized {
    /// The type's name in error messages.
    const EXPECTED: &'static str;

    /// The value as this type, or `None` if it is of another one.
    fn from_value(value: &'a Value) -> Option<Self>;
}

impl FromValue<'_> for u32 {
    const EXPECTED: &'static str = "a u32";

    fn from_value(value: &Value) -> Option<Self> {
        value.integer()?.try_into().ok()
    }
}

impl FromValue<'_> for u64 {
    const EXPECTED: &'static str = "a u64";

    fn from_value(value: &Value) -> Option<Self> {
        value.integer()?.try_into().ok()
    }
}

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "an f32";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::F32(value) => Some(*value),
            _ => None,
        }
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a bool";

    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(value) => Some(value),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a [String] {
    const EXPECTED: &'static str = "an array of strings";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::String(values)) => Some(values),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a [f32] {
    const EXPECTED: &'static str = "an array of f32";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::F32(values)) => Some(values),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a [i32] {
    const EXPECTED: &'static str = "an array of i32";

    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::I32(values)) => Some(values),
            _ => None,
        }
    }
}

/// The key-value pairs of a GGUF header; keys are unique.
///
/// ```
/// use pdtrim_core::checkpoint::gguf::OutputType;
/// use pdtrim_core::testing::tiny_gguf;
///
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// let file = tiny_gguf(folder.path(), OutputType::F16)?;
/// let metadata = file.metadata();
/// assert_eq!(metadata.required::<&str>("general.architecture").ok(), Some("llama"));
/// let error = metadata.required::<u32>("llama.expert_count").unwrap_err();
/// assert_eq!(error.to_string(), "metadata key `llama.expert_count` is missing");
/// # Ok::<(), pdtrim_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of a key that must be there.
    ///
    /// # Errors
    ///
    /// [`GgufError::MissingKey`] or [`GgufError::KeyType`].
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, GgufError> {
        self.optional(key)?.ok_or_else(|| GgufError::MissingKey {
            key: key.to_owned(),
        })
    }

    /// The value of a key that may be absent.
    ///
    /// # Errors
    ///
    /// [`GgufError::KeyType`] if the key is there with another type.
    pub fn optional<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Some(value) => Ok(Some(value)),
            None => Err(GgufError::KeyType {
                key: key.to_owned(),
                expected: T::EXPECTED,
                found: value.describe(),
            }),
        }
    }

    /// The untyped value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Gives a key this value.
    pub(in crate::checkpoint) fn set(&mut self, key: &str, value: Value) {
        self.values.insert(key.to_owned(), value);
    }

    /// All pairs, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Reads the pairs; their number comes from [`Self::read_count`].
    pub(super) fn read(cursor: &mut Cursor<'_>, n_pairs: usize) -> Result<Self, GgufError> {
        let mut values = BTreeMap::new();
        let mut strings_left = MAX_STRINGS;
        for _ in 0..n_pairs {
            let key = cursor.string("metadata key")?;
            let value = read_value(cursor, key, &mut strings_left)?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(GgufError::DuplicateKey {
                    key: key.to_owned(),
                });
            }
        }
        Ok(Self { values })
    }

    pub(super) fn read_count(cursor: &mut Cursor<'_>) -> Result<usize, GgufError> {
        cursor.limited_count("metadata count", MIN_PAIR_BYTES, MAX_PAIRS)
    }
}

/// What [`Cursor`] errors call the bytes after a key.
const VALUE: &str = "metadata value";

fn read_value(
    cursor: &mut Cursor<'_>,
    key: &str,
    strings_left: &mut usize,
) -> Result<Value, GgufError> {
    Ok(match cursor.u32("metadata value type")? {
        0 => Value::U8(u8::from_le_bytes(cursor.array(VALUE)?)),
        1 => Value::I8(i8::from_le_bytes(cursor.array(VALUE)?)),
        2 => Value::U16(u16::from_le_bytes(cursor.array(VALUE)?)),
        3 => Value::I16(i16::from_le_bytes(cursor.array(VALUE)?)),
        4 => Value::U32(u32::from_le_bytes(cursor.array(VALUE)?)),
        5 => Value::I32(i32::from_le_bytes(cursor.array(VALUE)?)),
        6 => Value::F32(f32::from_le_bytes(cursor.array(VALUE)?)),
        7 => Value::Bool(read_bool(cursor, key)?),
        8 => Value::String(cursor.string(VALUE)?.to_owned()),
        9 => Value::Array(read_array(cursor, key, strings_left)?),
        10 => Value::U64(u64::from_le_bytes(cursor.array(VALUE)?)),
        11 => Value::I64(i64::from_le_bytes(cursor.array(VALUE)?)),
        12 => Value::F64(f64::from_le_bytes(cursor.array(VALUE)?)),
        found => return Err(unknown_type(key, found)),
    })
}

fn read_array(
    cursor: &mut Cursor<'_>,
    key: &str,
    strings_left: &mut usize,
) -> Result<Array, GgufError> {
    Ok(match cursor.u32("metadata array type")? {
        0 => Array::U8(read_numbers(cursor, u8::from_le_bytes)?),
        1 => Array::I8(read_numbers(cursor, i8::from_le_bytes)?),
        2 => Array::U16(read_numbers(cursor, u16::from_le_bytes)?),
        3 => Array::I16(read_numbers(cursor, i16::from_le_bytes)?),
        4 => Array::U32(read_numbers(cursor, u32::from_le_bytes)?),
        5 => Array::I32(read_numbers(cursor, i32::from_le_bytes)?),
        6 => Array::F32(read_numbers(cursor, f32::from_le_bytes)?),
        7 => {
            let n = cursor.count(ARRAY_LENGTH, 1)?;
            Array::Bool(exactly(n, || read_bool(cursor, key))?)
        }
        8 => {
            let n = cursor.limited_count(STRINGS, MIN_STRING_BYTES, *strings_left)?;
            *strings_left -= n;
            Array::String(exactly(n, || cursor.string(VALUE).map(str::to_owned))?)
        }
        9 => {
            return Err(GgufError::NestedArray {
                key: key.to_owned(),
            });
        }
        10 => Array::U64(read_numbers(cursor, u64::from_le_bytes)?),
        11 => Array::I64(read_numbers(cursor, i64::from_le_bytes)?),
        12 => Array::F64(read_numbers(cursor, f64::from_le_bytes)?),
        found => return Err(unknown_type(key, found)),
    })
}

const ARRAY_LENGTH: &str = "metadata array length";
const STRINGS: &str = "number of strings in a metadata array";

/// `n` values in a list of just their size: collecting results would grow one by doubling, up to three
/// times of it while it moves.
fn exactly<T>(
    n: usize,
    mut read: impl FnMut() -> Result<T, GgufError>,
) -> Result<Vec<T>, GgufError> {
    let mut values = Vec::with_capacity(n);
    for _ in 0..n {
        values.push(read()?);
    }
    Ok(values)
}

fn read_numbers<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    from_le_bytes: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, GgufError> {
    let n = cursor.count(ARRAY_LENGTH, N)?;
    exactly(n, || cursor.array(VALUE).map(&from_le_bytes))
}

fn read_bool(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, GgufError> {
    match cursor.array(VALUE)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [found] => Err(GgufError::BoolByte {
            key: key.to_owned(),
            found,
        }),
    }
}

fn unknown_type(key: &str, found: u32) -> GgufError {
    GgufError::ValueType {
        key: key.to_owned(),
        found,
    }
}
