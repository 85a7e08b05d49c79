//! Enumerations that travel by name. Some peers send the ordinal instead, newer ones may send a name that we do not know; neither
//! may make a whole heartbeat unreadable.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

/// An enumeration with names on the wire.
pub(crate) trait Named: Copy + Default + 'static {
    /// The names in the order of their ordinals. A value that stands for several is written by the first.
    const NAMES: &'static [(&'static str, Self)];

    /// What an unknown name or ordinal means.
    const UNKNOWN: Self;

    /// The name to write.
    fn name(self) -> &'static str;
}

pub(crate) fn serialize<T: Named, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.name())
}

pub(crate) fn deserialize<'de, T: Named, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Name<T>(PhantomData<T>);

    impl<T: Named> Visitor<'_> for Name<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name, its ordinal or null")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            Ok(T::NAMES
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(text))
                .map_or(T::UNKNOWN, |(_, value)| *value))
        }

        fn visit_u64<E: Error>(self, ordinal: u64) -> Result<T, E> {
            let named = usize::try_from(ordinal).ok().and_then(|at| T::NAMES.get(at));
            Ok(named.map_or(T::UNKNOWN, |(_, value)| *value))
        }

        fn visit_i64<E: Error>(self, _: i64) -> Result<T, E> {
            Ok(T::UNKNOWN)
        }

        fn visit_unit<E: Error>(self) -> Result<T, E> {
            Ok(T::default())
        }
    }

    deserializer.deserialize_any(Name(PhantomData))
}

/// Makes an enumeration travel by name: `Type { "NAME" => Variant, .. } else Unknown`.
macro_rules! named {
    ($type:ty { $($name:literal => $variant:ident,)+ } else $unknown:ident) => {
        impl crate::json::named::Named for $type {
            const NAMES: &'static [(&'static str, Self)] = &[$(($name, <$type>::$variant),)+];
            const UNKNOWN: Self = <$type>::$unknown;

            fn name(self) -> &'static str {
                let known = Self::NAMES.iter().find(|(_, value)| *value == self);
                known.map_or("UNKNOWN", |(name, _)| name)
            }
        }

        impl $type {
            /// The protocol's name.
            pub fn name(self) -> &'static str {
                crate::json::named::Named::name(self)
            }

            /// The value of a protocol's name; unknown ones become a default.
            pub fn from_name(name: &str) -> Self {
                let known = <Self as crate::json::named::Named>::NAMES.iter().find(|(known, _)| *known == name);
                known.map_or(<$type>::$unknown, |(_, value)| *value)
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                crate::json::named::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::json::named::deserialize(deserializer)
            }
        }
    };
}
pub(crate) use named;
