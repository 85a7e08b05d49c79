//! JSON bodies: one way in and one way out for all of them.
//!
//! Java peers write JSON that is not quite: numbers as keys, whole objects as keys, null where a list belongs. [`Body::from_json`]
//! first rewrites such text into standard JSON (`fastjson`), bounded in size and depth, and then hands it to serde. Unknown
//! members are ignored. Lists and maps are bounded while they are read: in sixteen megabytes of `{}` a million structs could hide.
//! Out goes compact standard JSON, except for the maps of [`object_map`].

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

mod bounded;
mod fastjson;
pub(crate) mod named;
pub mod object_map;

pub(crate) use bounded::{Ignored, bounded_map, bounded_vec, lenient};

/// Largest JSON body: as large as a frame can bring. A registration of 50,000 topics takes some 10 MiB.
pub const MAX_JSON_LEN: usize = crate::remoting::frame::DEFAULT_MAX_FRAME_LEN;

/// Deepest nesting of a JSON body. The deepest known one (ConsumeStatsList) has 7.
pub const MAX_JSON_DEPTH: usize = 32;

/// A body is not the JSON that was expected. The text goes into the answer's remark.
#[derive(Debug, Error)]
pub enum JsonError {
    /// Longer than [`MAX_JSON_LEN`].
    #[error("JSON of {0} bytes, the limit is {MAX_JSON_LEN}")]
    TooLong(usize),
    /// Nested deeper than [`MAX_JSON_DEPTH`].
    #[error("JSON nested deeper than {MAX_JSON_DEPTH}")]
    TooDeep,
    /// Not JSON, not even in the forms that Java peers write.
    #[error("malformed JSON at byte {at}: {problem}")]
    Malformed {
        /// Position in the body.
        at: usize,
        /// What was expected or found.
        problem: &'static str,
    },
    /// JSON, but not of the expected shape.
    #[error("unexpected JSON: {0}")]
    Shape(#[from] serde_json::Error),
}

/// A type that travels as a JSON body.
pub trait Body: DeserializeOwned {
    /// Reads a body.
    ///
    /// # Errors
    /// [`JsonError`] when it is too large, too deep, malformed or of another shape.
    fn from_json(body: &[u8]) -> Result<Self, JsonError> {
        from_json(body)
    }

    /// Writes a body: compact, members in the order of their declaration.
    fn to_json(&self) -> Bytes;
}

macro_rules! body {
    ($($type:ty),+ $(,)?) => {
        $(impl crate::json::Body for $type {
            fn to_json(&self) -> bytes::Bytes {
                crate::json::to_json(self)
            }
        })+
    };
}
pub(crate) use body;

pub(crate) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, JsonError> {
    if body.len() > MAX_JSON_LEN {
        return Err(JsonError::TooLong(body.len()));
    }
    Ok(serde_json::from_slice(&fastjson::to_standard(body)?)?)
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("our bodies hold text, numbers and maps with text keys only").into()
}
