//! The bytes before the tensor data of a file of version 3.
//!
//! Our own, beside the reader: the crates that write GGUF bring a second set of metadata types and block
//! layouts along, for what are these few fields.

use super::metadata::{Array, Metadata, Value};
use super::quant::GgmlType;

/// Where tensor data starts: a multiple of this, which is also what readers take for granted.
const ALIGNMENT: usize = 32;

/// A tensor that is going to be written.
#[derive(Clone, Debug)]
pub(in crate::checkpoint) struct TensorEntry {
    /// The name in the file.
    pub(in crate::checkpoint) name: String,
    /// Outermost axis first.
    pub(in crate::checkpoint) shape: Vec<usize>,
    /// The element type.
    pub(in crate::checkpoint) ggml_type: GgmlType,
}

impl TensorEntry {
    /// Bytes of data, without what is filled up.
    pub(in crate::checkpoint) fn n_bytes(&self) -> usize {
        let n_values: usize = self.shape.iter().product();
        n_values / self.ggml_type.block_len() * self.ggml_type.block_bytes()
    }
}

/// The zeros that follow `n_bytes` of data.
pub(in crate::checkpoint) fn padding(n_bytes: usize) -> &'static [u8] {
    &[0; ALIGNMENT][..n_bytes.next_multiple_of(ALIGNMENT) - n_bytes]
}

/// Magic, counts, metadata and the table of tensors, filled up to where the first tensor's data starts.
/// Tensors lie in the order of the table, each followed by its [`padding`].
pub(in crate::checkpoint) fn header(metadata: &Metadata, tensors: &[TensorEntry]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.iter().count() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        push_string(&mut bytes, key);
        bytes.extend(value_type(value).to_le_bytes());
        push_value(&mut bytes, value);
    }
    let mut offset = 0_u64;
    for tensor in tensors {
        push_string(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for &dim in tensor.shape.iter().rev() {
            bytes.extend((dim as u64).to_le_bytes());
        }
        bytes.extend(tensor.ggml_type.number().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += tensor.n_bytes().next_multiple_of(ALIGNMENT) as u64;
    }
    let fill = padding(bytes.len());
    bytes.extend(fill);
    bytes
}

fn push_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn value_type(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn push_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => bytes.extend(value.to_le_bytes()),
        Value::I8(value) => bytes.extend(value.to_le_bytes()),
        Value::U16(value) => bytes.extend(value.to_le_bytes()),
        Value::I16(value) => bytes.extend(value.to_le_bytes()),
        Value::U32(value) => bytes.extend(value.to_le_bytes()),
        Value::I32(value) => bytes.extend(value.to_le_bytes()),
        Value::U64(value) => bytes.extend(value.to_le_bytes()),
        Value::I64(value) => bytes.extend(value.to_le_bytes()),
        Value::F32(value) => bytes.extend(value.to_le_bytes()),
        Value::F64(value) => bytes.extend(value.to_le_bytes()),
        Value::Bool(value) => bytes.push(u8::from(*value)),
        Value::String(text) => push_string(bytes, text),
        Value::Array(array) => push_array(bytes, array),
    }
}

fn push_array(bytes: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(values) => push_all(bytes, 0, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::I8(values) => push_all(bytes, 1, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::U16(values) => push_all(bytes, 2, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::I16(values) => push_all(bytes, 3, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::U32(values) => push_all(bytes, 4, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::I32(values) => push_all(bytes, 5, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::F32(values) => push_all(bytes, 6, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::Bool(values) => push_all(bytes, 7, values, |bytes, &v| bytes.push(u8::from(v))),
        Array::String(values) => push_all(bytes, 8, values, |bytes, v| push_string(bytes, v)),
        Array::U64(values) => push_all(bytes, 10, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::I64(values) => push_all(bytes, 11, values, |bytes, v| bytes.extend(v.to_le_bytes())),
        Array::F64(values) => push_all(bytes, 12, values, |bytes, v| bytes.extend(v.to_le_bytes())),
    }
}

fn push_all<T>(
    bytes: &mut Vec<u8>,
    element_type: u32,
    values: &[T],
    push: impl Fn(&mut Vec<u8>, &T),
) {
    bytes.extend(element_type.to_le_bytes());
    bytes.extend((values.len() as u64).to_le_bytes());
    for value in values {
        push(bytes, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::gguf::GgufFile;

    #[test]
    fn every_kind_of_value_and_every_tensor_is_read_back() {
        let arrays = [
            Array::U8(vec![1, 255]),
            Array::I8(vec![-1]),
            Array::U16(vec![]),
            Array::I16(vec![-300]),
            Array::U32(vec![70_000]),
            Array::I32(vec![-70_000, 3]),
            Array::U64(vec![1 << 40]),
            Array::I64(vec![-(1 << 40)]),
            Array::F32(vec![0.5]),
            Array::F64(vec![0.1]),
            Array::Bool(vec![true, false]),
            Array::String(vec![String::new(), "é".to_owned()]),
        ];
        let singles = [
            Value::U8(1),
            Value::I8(-2),
            Value::U16(3),
            Value::I16(-4),
            Value::U32(5),
            Value::I32(-6),
            Value::U64(7),
            Value::I64(-8),
            Value::F32(9.5),
            Value::F64(-10.25),
            Value::Bool(true),
            Value::String("twelve".to_owned()),
        ];
        let values = singles.into_iter().chain(arrays.map(Value::Array));
        let mut metadata = Metadata::default();
        for (n, value) in values.enumerate() {
            metadata.set(&format!("key.{n}"), value);
        }
        let entry = |name: &str, shape: &[usize], ggml_type| TensorEntry {
            name: name.to_owned(),
            shape: shape.to_vec(),
            ggml_type,
        };
        let tensors = [
            entry("a", &[3], GgmlType::F32),
            entry("b", &[2, 32], GgmlType::Q8_0),
            entry("c", &[5, 1], GgmlType::F16),
        ];
        let mut bytes = header(&metadata, &tensors);
        assert!(bytes.len().is_multiple_of(ALIGNMENT));
        for (n, tensor) in (1..).zip(&tensors) {
            bytes.extend(vec![n; tensor.n_bytes()]);
            bytes.extend(padding(tensor.n_bytes()));
        }
        let file = GgufFile::from_bytes(bytes).unwrap();
        assert_eq!(file.metadata(), &metadata);
        for (n, tensor) in (1..).zip(&tensors) {
            let read = file.tensor(&tensor.name).unwrap();
            assert_eq!(read.info().shape(), tensor.shape);
            assert_eq!(read.info().ggml_type(), tensor.ggml_type);
            assert_eq!(read.data(), vec![n; tensor.n_bytes()]);
        }
        assert_eq!(file.tensors().len(), 3);
    }
}
