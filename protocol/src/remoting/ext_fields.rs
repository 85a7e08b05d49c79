//! The string-to-string map of a Remoting header (`extFields`), where request parameters travel.
//!
//! Filled by the two header decoders or by typed headers, read by typed headers. All names and values share one string, so a
//! decoded header costs two allocations however many fields it has.

use std::fmt;

use thiserror::Error;

/// Most fields one header may have. The largest header in use (SEND_MESSAGE with ACL and namespace fields) has under 30;
/// 256 leaves room for unknown peers and keeps the linear search harmless.
pub const MAX_EXT_FIELDS: usize = 256;

/// Most bytes of names and values in one header: as many as the largest header has. A decoder is bounded by its header's length,
/// which is usually far smaller.
pub const MAX_EXT_BYTES: usize = crate::remoting::frame::MAX_HEADER_LEN;

/// A header carried more fields, or more bytes in them, than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ExtLimit {
    /// More than [`MAX_EXT_FIELDS`] fields.
    #[error("more than {MAX_EXT_FIELDS} extFields")]
    Count,
    /// More than [`MAX_EXT_BYTES`] bytes of names and values.
    #[error("extFields larger than {MAX_EXT_BYTES} bytes")]
    Bytes,
}

/// Where one field lies in [`ExtFields::text`].
#[derive(Clone, Copy)]
struct Span {
    name_start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
}

/// An ordered map of field names to values. Setting a name again replaces its value.
///
/// Two maps are equal when they hold the same pairs in any order: Java writes hash-map order.
#[derive(Clone, Default)]
pub struct ExtFields {
    text: String,
    spans: Vec<Span>,
}

impl ExtFields {
    /// An empty map; allocates nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty map with room for `fields` fields and `bytes` bytes of names and values together.
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), spans: Vec::with_capacity(fields) }
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The value of `name`, if present (it may be the empty string).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.position(name.as_bytes()).map(|at| self.value(&self.spans[at]))
    }

    /// Whether `name` is present.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All pairs in the order in which their names first came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spans.iter().map(|span| (self.name(span), self.value(span)))
    }

    /// Sets `name` to `value`. For fields that this program writes.
    ///
    /// # Panics
    /// If the map would pass [`MAX_EXT_FIELDS`] or [`MAX_EXT_BYTES`]: our own headers have few fields, and what is long in them
    /// (properties, the ids of a batch) is bounded far below before it gets here.
    pub fn insert(&mut self, name: &str, value: &str) {
        self.try_insert(name, value).expect("a header that we build stays within its limits");
    }

    /// Sets `name` to the text of `value`, without an allocation for the number. Panics as [`ExtFields::insert`] does.
    pub fn insert_display(&mut self, name: &str, value: impl fmt::Display) {
        self.try_insert_with(name, |text| {
            use fmt::Write;
            write!(text, "{value}").expect("writing to a string cannot fail");
        })
        .expect("a header that we build stays within its limits");
    }

    /// Sets `name` to `value`. For fields that a peer or a caller's data decide.
    ///
    /// # Errors
    /// [`ExtLimit`] when the map would grow past its bounds; it is then left as it was.
    pub fn try_insert(&mut self, name: &str, value: &str) -> Result<(), ExtLimit> {
        if self.text.len() + name.len() + value.len() > MAX_EXT_BYTES {
            return Err(ExtLimit::Bytes);
        }
        self.try_insert_with(name, |text| text.push_str(value))
    }

    /// Sets `name` to what `write` appends to the text.
    pub(crate) fn try_insert_with(&mut self, name: &str, write: impl FnOnce(&mut String)) -> Result<(), ExtLimit> {
        let start = self.text.len();
        self.text.push_str(name);
        let name_end = self.text.len();
        write(&mut self.text);
        self.commit(start, name_end)
    }

    /// Lets a decoder append name and value to the shared text and then enters them: `write` returns where the name ends.
    /// On its error the text is cut back.
    pub(crate) fn try_append<E: From<ExtLimit>>(
        &mut self,
        write: impl FnOnce(&mut String) -> Result<Option<usize>, E>,
    ) -> Result<(), E> {
        let start = self.text.len();
        match write(&mut self.text) {
            Ok(Some(name_end)) => Ok(self.commit(start, name_end)?),
            Ok(None) => {
                self.text.truncate(start);
                Ok(())
            }
            Err(error) => {
                self.text.truncate(start);
                Err(error)
            }
        }
    }

    /// Removes `name`; returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(at) = self.position(name.as_bytes()) else { return false };
        self.spans.remove(at);
        true
    }

    fn commit(&mut self, start: usize, name_end: usize) -> Result<(), ExtLimit> {
        let end = self.text.len();
        if end > MAX_EXT_BYTES {
            self.text.truncate(start);
            return Err(ExtLimit::Bytes);
        }
        let (start32, name_end32, end32) = (start as u32, name_end as u32, end as u32);
        if let Some(at) = self.position(&self.text.as_bytes()[start..name_end]) {
            self.spans[at].value_start = name_end32;
            self.spans[at].value_end = end32;
            return Ok(());
        }
        if self.spans.len() == MAX_EXT_FIELDS {
            self.text.truncate(start);
            return Err(ExtLimit::Count);
        }
        self.spans.push(Span { name_start: start32, name_end: name_end32, value_start: name_end32, value_end: end32 });
        Ok(())
    }

    /// Which span has this name. Compares bytes, lengths first: names are few and short, and this is most of a header's cost.
    fn position(&self, name: &[u8]) -> Option<usize> {
        let text = self.text.as_bytes();
        self.spans.iter().position(|span| {
            let (start, end) = (span.name_start as usize, span.name_end as usize);
            end - start == name.len() && &text[start..end] == name
        })
    }

    fn name(&self, span: &Span) -> &str {
        &self.text[span.name_start as usize..span.name_end as usize]
    }

    fn value(&self, span: &Span) -> &str {
        &self.text[span.value_start as usize..span.value_end as usize]
    }
}

const _: () = assert!(MAX_EXT_BYTES <= u32::MAX as usize, "spans hold 32-bit positions");

impl PartialEq for ExtFields {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Eq for ExtFields {}

impl fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut fields = Self::new();
        for (name, value) in pairs {
            fields.insert(name.as_ref(), value.as_ref());
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that repeats a name must not make us see the first value, or count the name twice.
    #[test]
    fn the_last_value_of_a_name_wins() {
        let mut fields = ExtFields::from_iter([("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(fields.get("a"), Some("3"));
        assert_eq!(fields.len(), 2);
        assert_eq!(fields, ExtFields::from_iter([("b", "2"), ("a", "3")]));
        assert!(fields.remove("a") && !fields.remove("a"));
        assert_eq!(fields.iter().collect::<Vec<_>>(), [("b", "2")]);
    }

    /// Without the bounds a header of a few hundred kilobytes could cost a quadratic search or unbounded memory.
    #[test]
    fn count_and_bytes_are_bounded() {
        let mut fields = ExtFields::new();
        for n in 0..MAX_EXT_FIELDS {
            fields.insert_display(&format!("k{n}"), n);
        }
        assert_eq!(fields.try_insert("one more", ""), Err(ExtLimit::Count));
        assert_eq!(fields.try_insert("k0", "again"), Ok(()));
        let huge = "x".repeat(MAX_EXT_BYTES);
        assert_eq!(fields.try_insert("k1", &huge), Err(ExtLimit::Bytes));
        assert_eq!(fields.get("k1"), Some("1"));
    }
}
