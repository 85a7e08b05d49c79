//! Recall handles: what a producer is told of a delayed message so that it can take it back.
//!
//! A broker makes one for the answer to a delayed send; the client reads the broker's name out of it and sends it back with
//! RECALL_MESSAGE. It is the text `v1 topic broker due key` in base64 for URLs, padded.

use thiserror::Error;

/// Added to the due time in a handle: RocketMQ's timer rounds down and allows for it.
const DUE_SHIFT_MS: i64 = 1;
/// The only version so far.
const VERSION: &str = "v1";
/// Longest handle that is read: topic, broker name and key at their longest, with room.
const HANDLE_LEN_MAX: usize = 2_048;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a recall handle says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallHandle {
    /// The topic that the message is for.
    pub topic: String,
    /// The broker that keeps it.
    pub broker_name: String,
    /// When it is due, ms since 1970.
    pub due_ms: i64,
    /// Its unique key.
    pub unique_key: String,
}

/// Why a text is no recall handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecallError {
    /// Longer than any handle.
    #[error("recall handle of {0} bytes, the limit is {HANDLE_LEN_MAX}")]
    Length(usize),
    /// Not base64 for URLs, or not UTF-8 inside.
    #[error("recall handle is not base64 for URLs")]
    Encoding,
    /// Not the five words of a handle.
    #[error("recall handle does not hold version v1, topic, broker name, time and key")]
    Content,
}

impl RecallHandle {
    /// The text for clients. None of the parts may contain a space.
    pub fn encode(&self) -> String {
        let Self { topic, broker_name, due_ms, unique_key } = self;
        let due_ms = due_ms.saturating_add(DUE_SHIFT_MS);
        encode_base64(format!("{VERSION} {topic} {broker_name} {due_ms} {unique_key}").as_bytes())
    }

    /// Reads what a client sent.
    ///
    /// # Errors
    /// [`RecallError`] when it is no handle.
    pub fn decode(text: &str) -> Result<Self, RecallError> {
        if text.len() > HANDLE_LEN_MAX {
            return Err(RecallError::Length(text.len()));
        }
        let bytes = decode_base64(text).ok_or(RecallError::Encoding)?;
        let text = String::from_utf8(bytes).map_err(|_| RecallError::Encoding)?;
        let words: Vec<&str> = text.split(' ').collect();
        let [VERSION, topic, broker_name, due_ms, unique_key] = words[..] else {
            return Err(RecallError::Content);
        };
        let due_ms: i64 = due_ms.parse().map_err(|_| RecallError::Content)?;
        let due_ms = due_ms.checked_sub(DUE_SHIFT_MS).ok_or(RecallError::Content)?;
        if topic.is_empty() || broker_name.is_empty() || unique_key.is_empty() {
            return Err(RecallError::Content);
        }
        let (topic, broker_name, unique_key) = (topic.to_owned(), broker_name.to_owned(), unique_key.to_owned());
        Ok(Self { topic, broker_name, due_ms, unique_key })
    }
}

fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in chunk {
            bits = bits << 6 | ALPHABET.iter().position(|known| known == digit)? as u32;
        }
        bits <<= 6 * (4 - chunk.len());
        match chunk.len() {
            // Six bits are no byte.
            1 => return None,
            len => bytes.extend_from_slice(&bits.to_be_bytes()[1..len]),
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(topic: &str, key: &str) -> RecallHandle {
        RecallHandle {
            topic: topic.into(),
            broker_name: "broker-a".into(),
            due_ms: 1_700_000_000_000,
            unique_key: key.into(),
        }
    }

    /// The Java client reads the broker's name out of the handle before it sends it back.
    #[test]
    fn handles_are_base64_of_five_words() {
        let text = handle("T", "K").encode();
        assert_eq!(text, "djEgVCBicm9rZXItYSAxNzAwMDAwMDAwMDAxIEs=");
        assert_eq!(RecallHandle::decode(&text), Ok(handle("T", "K")));
        assert_eq!(RecallHandle::decode(text.trim_end_matches('=')), Ok(handle("T", "K")));
        for key in ["K", "KK", "KKK", "\u{ff}\u{fe}~?"] {
            assert_eq!(RecallHandle::decode(&handle("%RETRY%g", key).encode()), Ok(handle("%RETRY%g", key)));
        }
    }

    /// Handles come from clients.
    #[test]
    fn other_texts_are_refused() {
        assert_eq!(RecallHandle::decode("a+b/"), Err(RecallError::Encoding));
        assert_eq!(RecallHandle::decode("A"), Err(RecallError::Encoding));
        assert_eq!(RecallHandle::decode("é==="), Err(RecallError::Encoding));
        assert_eq!(RecallHandle::decode(""), Err(RecallError::Content));
        for words in ["v2 T b 5 K", "v1 T b 5", "v1 T b x K", "v1  b 5 K", "v1 T b 5 K L"] {
            assert_eq!(RecallHandle::decode(&encode_base64(words.as_bytes())), Err(RecallError::Content), "{words}");
        }
        let longest = "A".repeat(HANDLE_LEN_MAX + 1);
        assert_eq!(RecallHandle::decode(&longest), Err(RecallError::Length(HANDLE_LEN_MAX + 1)));
    }
}
