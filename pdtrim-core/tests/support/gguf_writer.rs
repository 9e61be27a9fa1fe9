//! Writes small GGUF files into memory, right ones and wrong ones: nothing is checked.
//!
//! Included with `#[path]` by the unit tests of the reader and by integration tests.

/// A GGUF file in the making.
pub(crate) struct GgufWriter {
    version: u32,
    alignment: usize,
    pairs: Vec<u8>,
    n_pairs: u64,
    infos: Vec<u8>,
    n_tensors: u64,
    data: Vec<u8>,
}

impl GgufWriter {
    /// An empty file of version 3 with the default alignment.
    pub(crate) fn new() -> Self {
        Self {
            version: 3,
            alignment: 32,
            pairs: Vec::new(),
            n_pairs: 0,
            infos: Vec::new(),
            n_tensors: 0,
            data: Vec::new(),
        }
    }

    pub(crate) fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets the alignment and writes it to the metadata.
    pub(crate) fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.u32("general.alignment", alignment)
    }

    /// A pair of any type, as bytes.
    pub(crate) fn pair(mut self, key: &str, value_type: u32, value: &[u8]) -> Self {
        push_string(&mut self.pairs, key);
        self.pairs.extend(value_type.to_le_bytes());
        self.pairs.extend(value);
        self.n_pairs += 1;
        self
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Self {
        self.pair(key, 7, &[u8::from(value)])
    }

    pub(crate) fn string(self, key: &str, value: &str) -> Self {
        let mut bytes = Vec::new();
        push_string(&mut bytes, value);
        self.pair(key, 8, &bytes)
    }

    /// An array of any element type, as bytes.
    pub(crate) fn array(self, key: &str, element_type: u32, len: u64, elements: &[u8]) -> Self {
        let mut bytes = element_type.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(elements);
        self.pair(key, 9, &bytes)
    }

    pub(crate) fn strings<S: AsRef<str>>(self, key: &str, values: &[S]) -> Self {
        let mut elements = Vec::new();
        for value in values {
            push_string(&mut elements, value.as_ref());
        }
        self.array(key, 8, values.len() as u64, &elements)
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        let elements: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.array(key, 5, values.len() as u64, &elements)
    }

    pub(crate) fn f32s(self, key: &str, values: &[f32]) -> Self {
        let elements: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.array(key, 6, values.len() as u64, &elements)
    }

    /// A tensor after the others; `dims` in the order of the file, innermost first.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], ggml_type: u32, data: &[u8]) -> Self {
        let padded = self.data.len().next_multiple_of(self.alignment);
        self.data.resize(padded, 0);
        self.data.extend(data);
        self.tensor_info(name, dims, ggml_type, padded as u64)
    }

    /// An entry of the tensor table without data of its own.
    pub(crate) fn tensor_info(
        mut self,
        name: &str,
        dims: &[u64],
        ggml_type: u32,
        offset: u64,
    ) -> Self {
        push_string(&mut self.infos, name);
        let rank = u32::try_from(dims.len()).expect("a test has few dimensions");
        self.infos.extend(rank.to_le_bytes());
        self.infos
            .extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        self.infos.extend(ggml_type.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self.n_tensors += 1;
        self
    }

    /// The file. The data section is not padded at its end.
    pub(crate) fn build(self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.n_tensors.to_le_bytes());
        file.extend(self.n_pairs.to_le_bytes());
        file.extend(self.pairs);
        file.extend(self.infos);
        if self.n_tensors > 0 {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
        }
        file.extend(self.data);
        file
    }
}

fn push_string(bytes: &mut Vec<u8>, string: &str) {
    bytes.extend((string.len() as u64).to_le_bytes());
    bytes.extend(string.as_bytes());
}
