//! The body of SEND_BATCH_MESSAGE: elements one after the other, each with its own flag, body and properties. Big-endian.
//!
//! ```text
//! i32 total size | i32 0 (magic) | i32 0 (body CRC) | i32 flag | i32 n, n bytes body | i16 n, n bytes properties
//! ```
//!
//! The broker stores each element as a record of its own; topic, queue and the rest come from the request's header.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use super::record::MAX_PROPERTIES_LEN;

/// Most elements of one batch. Clients bound a batch by its 4 MiB; an element with its unique key takes some 80 bytes at least,
/// so none of them gets here.
pub const MAX_BATCH_MESSAGES: usize = 65_536;

/// Size of an element with empty body and properties.
const EMPTY_ELEMENT_LEN: usize = 22;

/// One message of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchElement<'a> {
    /// The user's flag.
    pub flag: i32,
    /// The body, never compressed.
    pub body: &'a [u8],
    /// The property string.
    pub properties: &'a str,
}

/// Why a batch is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// More than [`MAX_BATCH_MESSAGES`] elements.
    #[error("batch of more than {MAX_BATCH_MESSAGES} messages")]
    TooMany,
    /// An element does not fit: cut short, or its parts do not fill its size exactly.
    #[error("message {index} of the batch: {part} does not fit")]
    Part {
        /// Which element, from 0.
        index: usize,
        /// Which part of it.
        part: &'static str,
    },
    /// The properties are no UTF-8.
    #[error("message {index} of the batch: properties are not UTF-8")]
    NotUtf8 {
        /// Which element, from 0.
        index: usize,
    },
}

/// Appends one element to a batch body.
///
/// # Panics
/// If the properties are longer than [`MAX_PROPERTIES_LEN`] or the body than 31 bits: check before.
pub fn encode_element(element: &BatchElement<'_>, dst: &mut BytesMut) {
    assert!(element.properties.len() <= MAX_PROPERTIES_LEN, "properties fit their 16-bit length");
    let len = EMPTY_ELEMENT_LEN + element.body.len() + element.properties.len();
    dst.put_i32(i32::try_from(len).expect("an element fits its 31-bit size"));
    dst.put_i32(0);
    dst.put_i32(0);
    dst.put_i32(element.flag);
    dst.put_u32(element.body.len() as u32);
    dst.put_slice(element.body);
    dst.put_u16(element.properties.len() as u16);
    dst.put_slice(element.properties.as_bytes());
}

/// Walks over the elements of a batch body. Ends after the first error.
#[derive(Debug, Clone)]
pub struct BatchElements<'a> {
    rest: &'a [u8],
    index: usize,
}

impl<'a> BatchElements<'a> {
    /// Over the elements in `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body, index: 0 }
    }

    fn element(&self) -> Result<(BatchElement<'a>, usize), BatchError> {
        let index = self.index;
        if index == MAX_BATCH_MESSAGES {
            return Err(BatchError::TooMany);
        }
        let bad = |part| BatchError::Part { index, part };
        let (size, _) = self.rest.split_first_chunk::<4>().ok_or(bad("its size"))?;
        let len = u32::from_be_bytes(*size) as usize;
        let bytes = self.rest.get(..len).ok_or(bad("its size"))?;
        let (flag, after) = bytes.get(12..).and_then(|rest| rest.split_first_chunk()).ok_or(bad("its flag"))?;
        let (body_len, after) = after.split_first_chunk().ok_or(bad("its body"))?;
        let (body, after) = after.split_at_checked(u32::from_be_bytes(*body_len) as usize).ok_or(bad("its body"))?;
        let (properties_len, after) = after.split_first_chunk().ok_or(bad("properties"))?;
        let properties_len = usize::from(u16::from_be_bytes(*properties_len));
        if properties_len != after.len() || properties_len > MAX_PROPERTIES_LEN {
            return Err(bad("properties"));
        }
        let properties = std::str::from_utf8(after).map_err(|_| BatchError::NotUtf8 { index })?;
        Ok((BatchElement { flag: i32::from_be_bytes(*flag), body, properties }, len))
    }
}

impl<'a> Iterator for BatchElements<'a> {
    type Item = Result<BatchElement<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = self.element();
        self.rest = match &element {
            Ok((_, len)) => &self.rest[*len..],
            Err(_) => &[],
        };
        self.index += 1;
        Some(element.map(|(element, _)| element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An element that is not exactly filled would hide bytes from one reader and show them to another.
    #[test]
    fn sizes_must_agree() {
        let mut good = BytesMut::new();
        encode_element(&BatchElement { flag: 1, body: b"body", properties: "a\u{1}b\u{2}" }, &mut good);
        let read = |bytes: &[u8]| BatchElements::new(bytes).next().map(|element| element.map(|_| ()));
        assert_eq!(read(&good), Some(Ok(())));
        let properties_len_at = good.len() - 4 - 2;
        for (at, value, part) in [
            (3, 27, "properties"),
            (3, 200, "its size"),
            (3, 10, "its flag"),
            (3, 17, "its body"),
            (0, 0xFF, "its size"),
            (19, 200, "its body"),
            (16, 0x80, "its body"),
            (properties_len_at + 1, 3, "properties"),
            (properties_len_at + 1, 5, "properties"),
            (properties_len_at, 0x80, "properties"),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(read(&bad), Some(Err(BatchError::Part { index: 0, part })), "byte {at} = {value}");
        }
        let last = good.len() - 1;
        good[last] = 0xFF;
        assert_eq!(read(&good), Some(Err(BatchError::NotUtf8 { index: 0 })));
        assert_eq!(read(&[0; 4]), Some(Err(BatchError::Part { index: 0, part: "its flag" })));
    }

    /// The count is bounded whatever the elements hold.
    #[test]
    fn the_number_of_elements_is_bounded() {
        let mut bytes = BytesMut::new();
        for _ in 0..=MAX_BATCH_MESSAGES {
            encode_element(&BatchElement { flag: 0, body: b"", properties: "" }, &mut bytes);
        }
        assert_eq!(BatchElements::new(&bytes).last(), Some(Err(BatchError::TooMany)));
    }
}
