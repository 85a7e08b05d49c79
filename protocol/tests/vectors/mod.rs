//! Access to the golden vectors beside this file: JSON objects of names to texts, or to bytes in hex.
#![allow(dead_code, reason = "each test file uses the part that it needs")]

use std::collections::BTreeMap;

/// Names and texts of a vector file.
pub(crate) fn names(file: &str) -> BTreeMap<String, String> {
    serde_json::from_str(file).expect("a vector file is a JSON object of texts")
}

/// The text called `name`.
pub(crate) fn text(file: &str, name: &str) -> String {
    names(file).remove(name).unwrap_or_else(|| panic!("no vector {name}"))
}

/// The bytes called `name`.
pub(crate) fn hex_vectors(file: &str, name: &str) -> Vec<u8> {
    from_hex(&text(file, name))
}

/// Bytes of a hex text.
pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits")).collect()
}
