use super::*;
use crate::checkpoint::gguf::GgufFile;
use crate::checkpoint::gguf::gguf_writer::GgufWriter;

/// Written by `tests/golden/gguf_quants.py` with the Python package `gguf`.
const REFERENCE: &str = include_str!("../../../../tests/golden/gguf_quants.json");

fn from_hex(hex: &serde_json::Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Every readable type with its number.
const NUMBERS: [(GgmlType, u32); 11] = [
    (GgmlType::F32, 0),
    (GgmlType::F16, 1),
    (GgmlType::Q4_0, 2),
    (GgmlType::Q4_1, 3),
    (GgmlType::Q5_0, 6),
    (GgmlType::Q5_1, 7),
    (GgmlType::Q8_0, 8),
    (GgmlType::Q4_K, 12),
    (GgmlType::Q5_K, 13),
    (GgmlType::Q6_K, 14),
    (GgmlType::BF16, 30),
];

#[test]
fn every_type_decodes_to_the_bits_that_the_python_package_gives() {
    let reference: serde_json::Value = serde_json::from_str(REFERENCE).unwrap();
    let cases = reference["types"].as_array().unwrap();
    assert_eq!(cases.len(), NUMBERS.len());
    for case in cases {
        let number = u32::try_from(case["number"].as_u64().unwrap()).unwrap();
        let data = from_hex(&case["data"]);
        let expected: Vec<u32> = from_hex(&case["f32"])
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
            .collect();

        let dims = [expected.len() as u64 / 2, 2];
        let file = GgufWriter::new().tensor("w", &dims, number, &data).build();
        let file = GgufFile::from_bytes(file).unwrap();
        let tensor = file.tensor("w").unwrap();
        assert_eq!(tensor.info().ggml_type().to_string(), case["name"]);
        assert_eq!(tensor.info().ggml_type().number(), number);
        assert_eq!(tensor.info().n_values(), expected.len());
        let bits: Vec<u32> = tensor.dequantize().iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, expected, "{}", case["name"]);
    }
}

#[test]
fn a_q4_1_block_decodes_to_values_worked_by_hand() {
    let mut block = [0; 20];
    block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(-1.0).to_le_bytes());
    block[4] = 0xf2; // value 0 has q = 2, value 16 has q = 15
    let mut values = [0.0; 32];
    GgmlType::Q4_1.dequantize(&block, &mut values);
    let mut expected = [-1.0_f32; 32];
    expected[0] = 0.0;
    expected[16] = 6.5;
    assert_eq!(values.map(f32::to_bits), expected.map(f32::to_bits));
}

#[test]
fn rows_longer_than_a_parallel_task_keep_their_order() {
    let n = 3 * MIN_TASK_VALUES + 100;
    let expected: Vec<f32> = (0..2048_u16).cycle().take(n).map(f32::from).collect();
    let data: Vec<u8> = expected
        .iter()
        .flat_map(|&value| f16::from_f32(value).to_le_bytes())
        .collect();
    let mut values = vec![0.0; n];
    GgmlType::F16.dequantize(&data, &mut values);
    assert!(values == expected);
}

#[test]
fn decoding_into_a_used_vector_replaces_its_contents() {
    let data: Vec<u8> = [1.0_f32, 2.0]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let file = GgufWriter::new().tensor("w", &[2], 0, &data).build();
    let file = GgufFile::from_bytes(file).unwrap();
    let mut values = vec![7.0; 5];
    file.tensor("w").unwrap().dequantize_into(&mut values);
    assert_eq!(values, [1.0, 2.0]);
}

#[test]
fn numbers_outside_the_readable_types_are_refused_by_number_and_name() {
    let readable = NUMBERS.map(|(_, number)| number);
    for (ggml_type, number) in NUMBERS {
        assert_eq!(GgmlType::try_from(number), Ok(ggml_type));
    }
    for number in (0..64).filter(|number| !readable.contains(number)) {
        assert_eq!(GgmlType::try_from(number).unwrap_err().number(), number);
    }
    let message = |number: u32| GgmlType::try_from(number).unwrap_err().to_string();
    assert_eq!(message(16), "ggml type 16 (IQ2_XXS)");
    assert_eq!(message(999), "ggml type 999 (unknown)");
}
