//! SHA-256 in hexadecimal, as files, plans and results name what they were made from.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// `bytes` in hexadecimal, lower case.
///
/// ```
/// assert_eq!(pdtrim_core::hash::hex(&[0x0f, 0xa0]), "0fa0");
/// ```
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The SHA-256 of `bytes` in hexadecimal.
///
/// ```
/// let hash = pdtrim_core::hash::sha256(b"");
/// assert!(hash.starts_with("e3b0c442") && hash.len() == 64);
/// ```
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_nothing_is_the_standards() {
        // FIPS 180-4.
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), expected);
    }
}
