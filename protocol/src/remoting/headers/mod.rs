//! Typed headers: the parameters of each request kind, out of a command's fields and back.
//!
//! A handler decodes the one that belongs to the request code; the client encodes it. Field names are the protocol's, from which
//! a missing or malformed one is named in the error. Fields that a header does not know are ignored: 5.x clients send `ns`, `bname`
//! and others with most requests.

use thiserror::Error;

use super::command::RemotingCommand;
use super::ext_fields::ExtFields;

pub mod admin;
pub mod group;
pub mod offset;
pub mod pull;
pub mod register;
pub mod route;
pub mod send;
pub mod topic;

/// A request or response lacks a field, or a field cannot be read. The text goes into the answer's remark.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FieldError {
    /// A required field is absent.
    #[error("field {field} is missing")]
    Missing {
        /// The field's name on the wire.
        field: &'static str,
    },
    /// A number is none, or out of range.
    #[error("field {field} is not {expected}: {value:?}")]
    Malformed {
        /// The field's name on the wire.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What came, cut to 64 characters.
        value: String,
    },
}

impl FieldError {
    fn malformed(field: &'static str, expected: &'static str, value: &str) -> Self {
        FieldError::Malformed { field, expected, value: value.chars().take(64).collect() }
    }
}

/// A typed header.
pub trait Header: Sized {
    /// Reads the header out of a command's fields.
    ///
    /// # Errors
    /// [`FieldError`] naming the first field that is missing or malformed.
    fn from_ext(ext: &ExtFields) -> Result<Self, FieldError>;

    /// Writes the header into a command's fields.
    fn to_ext(&self, ext: &mut ExtFields);
}

impl RemotingCommand {
    /// Reads a typed header out of the command's fields.
    ///
    /// # Errors
    /// As [`Header::from_ext`].
    pub fn header<H: Header>(&self) -> Result<H, FieldError> {
        H::from_ext(&self.ext)
    }

    /// Writes a typed header into the command's fields.
    pub fn with_header(mut self, header: &impl Header) -> Self {
        header.to_ext(&mut self.ext);
        self
    }
}

/// A type that one field can have.
pub(super) trait Field<'a>: Sized {
    /// Reads it; `text` is `None` when the field is absent.
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, FieldError>;

    /// Writes it.
    fn write(&self, field: &'static str, ext: &mut ExtFields);
}

impl<'a> Field<'a> for &'a str {
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        text.ok_or(FieldError::Missing { field })
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        ext.insert(field, self);
    }
}

impl<'a> Field<'a> for String {
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        <&str>::read(field, text).map(str::to_owned)
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        ext.insert(field, self);
    }
}

macro_rules! number_field {
    ($type:ty, $expected:literal) => {
        impl<'a> Field<'a> for $type {
            fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
                let text = <&str>::read(field, text)?;
                text.parse().map_err(|_| FieldError::malformed(field, $expected, text))
            }

            fn write(&self, field: &'static str, ext: &mut ExtFields) {
                ext.insert_display(field, self);
            }
        }
    };
}

number_field!(i32, "a 32-bit integer");
number_field!(i64, "a 64-bit integer");

impl<'a> Field<'a> for bool {
    /// "true" in any case is true, any other text false: as Java reads it.
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        Ok(<&str>::read(field, text)?.eq_ignore_ascii_case("true"))
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        ext.insert(field, if *self { "true" } else { "false" });
    }
}

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    /// An empty text counts as absent: binary headers cannot tell the two apart.
    fn read(field: &'static str, text: Option<&'a str>) -> Result<Self, FieldError> {
        match text {
            None | Some("") => Ok(None),
            present => T::read(field, present).map(Some),
        }
    }

    fn write(&self, field: &'static str, ext: &mut ExtFields) {
        if let Some(value) = self {
            value.write(field, ext);
        }
    }
}

/// Declares typed headers: after each field comes its name on the wire.
macro_rules! headers {
    ($(
        $(#[$meta:meta])*
        $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $wire:expr,)* }
    )+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::remoting::headers::Header for $name {
            fn from_ext(
                ext: &$crate::remoting::ext_fields::ExtFields,
            ) -> Result<Self, $crate::remoting::headers::FieldError> {
                Ok(Self { $($field: $crate::remoting::headers::Field::read($wire, ext.get($wire))?,)* })
            }

            fn to_ext(&self, ext: &mut $crate::remoting::ext_fields::ExtFields) {
                $($crate::remoting::headers::Field::write(&self.$field, $wire, ext);)*
            }
        }
    )+};
}
use headers;

#[cfg(test)]
mod tests;
