use std::error::Error as _;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::gguf::gguf_writer::GgufWriter;
use crate::checkpoint::gguf::metadata::{Array, Value};

/// 32 bytes, so that the file ends with the last tensor and no padding.
const DATA: [u8; 32] = [1; 32];

/// A file with every kind of entry.
fn small_file() -> GgufWriter {
    GgufWriter::new()
        .string("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.rope.freq_base", 10000.0)
        .bool("tokenizer.ggml.add_bos_token", true)
        .strings("tokenizer.ggml.tokens", &["a", "", "▁b"])
        .i32s("tokenizer.ggml.token_type", &[1, -3])
        .f32s("tokenizer.ggml.scores", &[0.5])
        .tensor("norm", &[3], 0, &[0; 12])
        .tensor("w", &[4, 2], 0, &DATA)
}

fn read(writer: GgufWriter) -> Result<GgufFile, GgufError> {
    GgufFile::from_bytes(writer.build())
}

fn message(writer: GgufWriter) -> String {
    read(writer).unwrap_err().to_string()
}

#[test]
fn a_file_reads_back_as_it_was_written() {
    for version in [2, 3] {
        let file = read(small_file().version(version)).unwrap();
        let metadata = file.metadata();
        assert_eq!(file.version(), version);
        assert_eq!(
            metadata.required::<&str>("general.architecture").unwrap(),
            "llama"
        );
        assert_eq!(metadata.required::<u32>("llama.block_count").unwrap(), 2);
        assert_eq!(metadata.required::<u64>("llama.block_count").unwrap(), 2);
        assert_eq!(metadata.optional::<u32>("no such key").unwrap(), None);
        let tokens: &[String] = metadata.required("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens, ["a", "", "▁b"]);
        let types: &[i32] = metadata.required("tokenizer.ggml.token_type").unwrap();
        assert_eq!(types, [1, -3]);
        assert_eq!(metadata.iter().count(), 7);

        let names: Vec<_> = file.tensors().map(TensorInfo::name).collect();
        assert_eq!(names, ["norm", "w"]);
        let tensor = file.tensor("w").unwrap();
        assert_eq!(tensor.info().shape(), [2, 4]);
        assert_eq!(tensor.data(), DATA);
        assert!(file.tensor("v").is_none());
    }
}

#[test]
fn a_file_on_disk_reads_as_one_in_memory() {
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    disk.write_all(&small_file().build()).unwrap();
    let file = GgufFile::open(disk.path()).unwrap();
    let clone = file.clone();
    drop(file);
    assert_eq!(clone.tensor("w").unwrap().data(), DATA);
}

#[test]
fn a_missing_file_is_an_io_error_with_its_cause() {
    let error = GgufFile::open("no/such/file.gguf").unwrap_err();
    assert_eq!(error.to_string(), "cannot open the GGUF file");
    assert!(error.source().is_some());
}

#[test]
fn an_empty_file_is_too_short_for_the_magic() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    let error = GgufFile::open(disk.path()).unwrap_err();
    assert!(matches!(error, GgufError::Truncated { field: "magic", .. }));
}

#[test]
fn every_scalar_and_array_type_is_read() {
    let all_ones = [0xff; 8];
    let expected = [
        (0, Value::U8(u8::MAX), Array::U8(vec![u8::MAX])),
        (1, Value::I8(-1), Array::I8(vec![-1])),
        (2, Value::U16(u16::MAX), Array::U16(vec![u16::MAX])),
        (3, Value::I16(-1), Array::I16(vec![-1])),
        (4, Value::U32(u32::MAX), Array::U32(vec![u32::MAX])),
        (5, Value::I32(-1), Array::I32(vec![-1])),
        (10, Value::U64(u64::MAX), Array::U64(vec![u64::MAX])),
        (11, Value::I64(-1), Array::I64(vec![-1])),
    ];
    for (number, scalar, array) in expected {
        let n_bytes = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8][number as usize];
        let file = GgufWriter::new()
            .pair("scalar", number, &all_ones[..n_bytes])
            .array("array", number, 1, &all_ones[..n_bytes]);
        let file = read(file).unwrap();
        assert_eq!(file.metadata().value("scalar"), Some(&scalar));
        assert_eq!(file.metadata().value("array"), Some(&Value::Array(array)));
    }
    let file = GgufWriter::new()
        .pair("scalar", 12, &1.5_f64.to_le_bytes())
        .array("doubles", 12, 1, &1.5_f64.to_le_bytes())
        .array("bools", 7, 2, &[0, 1]);
    let file = read(file).unwrap();
    let value = |key| file.metadata().value(key).unwrap().clone();
    assert_eq!(value("scalar"), Value::F64(1.5));
    assert_eq!(value("doubles"), Value::Array(Array::F64(vec![1.5])));
    assert_eq!(value("bools"), Value::Array(Array::Bool(vec![false, true])));
}

#[test]
fn a_wrong_type_is_refused_with_key_expected_and_found() {
    let file = GgufWriter::new()
        .string("s", "x")
        .pair("big", 10, &u64::MAX.to_le_bytes())
        .f32s("a", &[1.0]);
    let file = read(file).unwrap();
    let refusal = |key| {
        file.metadata()
            .required::<u32>(key)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refusal("s"), "metadata key `s` is a string, expected a u32");
    assert_eq!(
        refusal("big"),
        "metadata key `big` is u64 18446744073709551615, expected a u32"
    );
    assert_eq!(
        refusal("a"),
        "metadata key `a` is an array of f32, expected a u32"
    );
    assert_eq!(refusal("none"), "metadata key `none` is missing");
}

#[test]
fn other_files_and_versions_are_refused() {
    let mut other = small_file().build();
    other[..4].copy_from_slice(b"PK\x03\x04");
    assert_eq!(
        GgufFile::from_bytes(other).unwrap_err().to_string(),
        "file starts with \"PK\\x03\\x04\", a GGUF file starts with \"GGUF\""
    );
    for version in [0, 1, 4] {
        let refused = read(small_file().version(version));
        assert!(matches!(refused, Err(GgufError::Version { found }) if found == version));
    }
    let swapped = read(small_file().version(3_u32.swap_bytes()));
    assert!(matches!(swapped, Err(GgufError::BigEndian)));
}

#[test]
fn malformed_metadata_is_refused_by_key() {
    let file = GgufWriter::new;
    assert_eq!(
        message(file().u32("k", 1).u32("k", 2)),
        "metadata key `k` occurs twice"
    );
    assert_eq!(
        message(file().pair("k", 13, &[0; 8])),
        "metadata key `k` has value type 13, GGUF defines 0 to 12"
    );
    assert_eq!(
        message(file().array("k", 14, 1, &[0; 8])),
        "metadata key `k` has value type 14, GGUF defines 0 to 12"
    );
    assert!(matches!(
        read(file().array("k", 9, 1, &[0; 16])),
        Err(GgufError::NestedArray { key }) if key == "k"
    ));
    assert!(matches!(
        read(file().array("k", 7, 2, &[1, 2])),
        Err(GgufError::BoolByte { found: 2, .. })
    ));
    let not_utf8 = [&2_u64.to_le_bytes()[..], &[0xc3, 0x28]].concat();
    assert!(matches!(
        read(file().pair("k", 8, &not_utf8)),
        Err(GgufError::Utf8 { .. })
    ));
}

#[test]
fn counts_and_lengths_that_the_file_cannot_hold_are_refused() {
    let counts_at = [8, 16];
    for at in counts_at {
        for count in [u64::MAX, u64::MAX / 13, 1 << 40, 1000] {
            let mut file = small_file().build();
            file[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = GgufFile::from_bytes(file).unwrap_err();
            assert!(matches!(error, GgufError::Truncated { .. }), "{error}");
        }
    }
    for length in [u64::MAX, u64::MAX / 8 + 2, 1 << 40, 100] {
        let string = GgufWriter::new().pair("k", 8, &length.to_le_bytes());
        assert!(matches!(read(string), Err(GgufError::Truncated { .. })));
        for element_type in (0..=12).filter(|&t| t != 9) {
            let array = GgufWriter::new().array("k", element_type, length, &[0; 16]);
            let error = read(array).unwrap_err();
            assert!(matches!(error, GgufError::Truncated { .. }), "{error}");
        }
    }
}

#[test]
fn the_alignment_moves_the_data_and_must_be_a_power_of_two() {
    for alignment in [1, 8, 64, 4096] {
        let file = GgufWriter::new()
            .alignment(alignment)
            .tensor("a", &[1], 0, &[1; 4])
            .tensor("b", &[1], 0, &[2; 4]);
        let file = read(file).unwrap();
        assert_eq!(file.tensor("a").unwrap().data(), [1; 4]);
        assert_eq!(file.tensor("b").unwrap().data(), [2; 4]);
    }
    for alignment in [0, 48, u32::MAX] {
        assert_eq!(
            message(GgufWriter::new().u32("general.alignment", alignment)),
            format!("general.alignment is {alignment}, expected a power of two")
        );
    }
    let huge = GgufWriter::new().u32("general.alignment", 1 << 31);
    assert!(matches!(
        read(huge.tensor("a", &[1], 0, &DATA)),
        Err(GgufError::TensorRange { data_len: 0, .. })
    ));
}

#[test]
fn unusable_shapes_are_refused_by_tensor() {
    let info = |dims: &[u64], ggml_type| GgufWriter::new().tensor("t", dims, ggml_type, &DATA);
    for dims in [&[][..], &[1; 5]] {
        assert!(matches!(
            read(info(dims, 0)),
            Err(GgufError::Rank { found, .. }) if found as usize == dims.len()
        ));
    }
    for dims in [
        &[0][..],
        &[4, 0, 2],
        &[u64::MAX],
        &[1 << 32, 1 << 32],
        &[1 << 62],
        &[1 << 16; 4],
    ] {
        let error = read(info(dims, 0)).unwrap_err();
        assert!(matches!(error, GgufError::Dimensions { .. }), "{error}");
    }
    assert_eq!(
        message(info(&[48], 3)),
        "tensor `t` has rows of 48 values, Q4_1 needs a multiple of 32"
    );
    assert_eq!(
        message(info(&[32], 16)),
        "tensor `t` has ggml type 16 (IQ2_XXS), which cannot be read"
    );
}

#[test]
fn tensor_data_outside_the_file_or_off_the_alignment_is_refused() {
    let at = |offset| {
        GgufWriter::new()
            .tensor("first", &[8], 0, &DATA)
            .tensor_info("t", &[8], 0, offset)
    };
    for offset in [32, 64, 1 << 40, u64::MAX - 31] {
        let error = read(at(offset)).unwrap_err();
        assert!(matches!(error, GgufError::TensorRange { .. }), "{error}");
    }
    assert_eq!(
        message(at(8)),
        "tensor `t` starts at offset 8, expected a multiple of 32"
    );
    assert_eq!(message(at(0)), "tensors `first` and `t` overlap");
}

#[test]
fn a_tensor_name_may_occur_once() {
    let twice = small_file().tensor("w", &[8], 0, &DATA);
    assert_eq!(message(twice), "tensor `w` occurs twice");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = small_file().build();
    assert!(GgufFile::from_bytes(whole.clone()).is_ok());
    for len in 0..whole.len() {
        let cut = GgufFile::from_bytes(whole[..len].to_vec());
        assert!(cut.is_err(), "{len} of {} bytes", whole.len());
    }
}

proptest! {
    #[test]
    fn changed_bytes_give_an_error_or_tensors_that_can_be_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut bytes = small_file().build();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(file) = GgufFile::from_bytes(bytes) {
            for info in file.tensors() {
                let values = file.tensor(info.name()).unwrap().dequantize();
                prop_assert_eq!(values.len(), info.n_values());
                prop_assert_eq!(values.len(), info.shape().iter().product::<usize>());
            }
        }
    }

    #[test]
    fn random_bytes_after_the_magic_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let file = [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat();
        // Sixteen zero bytes would be an empty but valid file.
        prop_assume!(bytes.get(..16) != Some([0; 16].as_slice()));
        prop_assert!(GgufFile::from_bytes(file).is_err());
    }
}

/// A header with counts that the bytes after it need not bear out.
fn header(n_tensors: u64, n_pairs: u64, rest: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend(n_tensors.to_le_bytes());
    file.extend(n_pairs.to_le_bytes());
    file.extend(rest);
    file
}

#[test]
fn more_pairs_tensors_and_strings_than_a_model_has_are_refused() {
    let said = |bytes| GgufFile::from_bytes(bytes).unwrap_err().to_string();
    let zeros = vec![0; 32 * 65_537];
    let pairs = said(header(0, 4097, &zeros));
    assert_eq!(pairs, "metadata count is 4097, expected at most 4096");
    let tensors = said(header(65_537, 0, &zeros));
    assert_eq!(tensors, "tensor count is 65537, expected at most 65536");
    // Two arrays, each of which alone would be allowed.
    let n = 1_100_000;
    let many = vec![0; 8 * n];
    let writer = GgufWriter::new().array("a", 8, n as u64, &many);
    let strings = message(writer.array("b", 8, n as u64, &many));
    let expected = "number of strings in a metadata array is 1100000, expected at most 997152";
    assert_eq!(strings, expected);
}

#[test]
fn what_is_no_file_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let error = GgufFile::open(folder.path()).unwrap_err().to_string();
    assert_eq!(error, "expected a GGUF file, found a folder");
    #[cfg(unix)]
    {
        let error = GgufFile::open("/dev/null").unwrap_err().to_string();
        assert_eq!(error, "expected a GGUF file, found a device");
    }
}
