//! Tags: a message has at most one, a consumer subscribes to some, and brokers compare their hashes.
//!
//! The hash stands in every ConsumeQueue unit, so that a pull filters without reading messages. Equal hashes of different tags
//! are let through: the client compares the texts again.

use thiserror::Error;

/// Most tags in one expression: each costs a comparison per queue unit.
pub const MAX_TAGS: usize = 1024;

/// Java's `String.hashCode`: over UTF-16 units, wrapping.
pub fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The tag hash of a message as it stands in a ConsumeQueue unit: that of the whole TAGS value, 0 without one.
pub fn tags_code(tags: Option<&str>) -> i64 {
    tags.map_or(0, |tags| i64::from(java_string_hash(tags)))
}

/// A tag expression cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TagError {
    /// More than [`MAX_TAGS`] tags.
    #[error("more than {MAX_TAGS} tags in one subscription")]
    TooMany,
    /// Text, but no tag in it.
    #[error("no tag between the `||`")]
    NoTag,
}

/// Which tags a consumer wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagFilter {
    /// Every message, tagged or not.
    All,
    /// Messages with one of the tags, by hash.
    Codes(Vec<i32>),
}

impl TagFilter {
    /// Reads an expression: `*` or nothing for all, else tags separated by `||`.
    ///
    /// # Errors
    /// [`TagError`] for text without a tag or with too many.
    pub fn parse(expression: &str) -> Result<Self, TagError> {
        if is_all(expression) {
            return Ok(TagFilter::All);
        }
        let mut codes = Vec::new();
        for tag in tags(expression) {
            if codes.len() == MAX_TAGS {
                return Err(TagError::TooMany);
            }
            let code = java_string_hash(tag);
            if !codes.contains(&code) {
                codes.push(code);
            }
        }
        if codes.is_empty() { Err(TagError::NoTag) } else { Ok(TagFilter::Codes(codes)) }
    }

    /// Whether a message with this hash ([`tags_code`]) may match.
    pub fn matches(&self, tags_code: i64) -> bool {
        match self {
            TagFilter::All => true,
            TagFilter::Codes(codes) => codes.iter().any(|code| i64::from(*code) == tags_code),
        }
    }
}

/// Whether an expression asks for every message.
pub fn is_all(expression: &str) -> bool {
    expression.is_empty() || expression == "*"
}

/// The tags of an expression that is not for all: split at `||`, trimmed, without empty ones.
pub fn tags(expression: &str) -> impl Iterator<Item = &str> {
    expression.split("||").map(str::trim).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes travel between us and Java clients in both directions: one that differs loses messages.
    #[test]
    fn hashes_equal_those_of_java() {
        for (text, hash) in
            [("TagA", 2_598_919), ("TagB", 2_598_920), ("订单", 1_129_459), ("*", 42), ("a||b", 3_012_833)]
        {
            assert_eq!(java_string_hash(text), hash, "{text}");
        }
        assert_eq!(java_string_hash("polygenelubricants"), i32::MIN);
        assert_eq!(tags_code(Some("polygenelubricants")), i64::from(i32::MIN));
        assert_eq!(tags_code(None), 0);
        // A character outside the basic plane counts as its two surrogates.
        assert_eq!(java_string_hash("😀"), 0xD83D * 31 + 0xDE00);
    }

    /// The parser decides what a consumer gets at all.
    #[test]
    fn expressions() {
        assert_eq!(TagFilter::parse("*"), Ok(TagFilter::All));
        assert_eq!(TagFilter::parse(""), Ok(TagFilter::All));
        let two = TagFilter::parse(" TagA || TagB||TagA|| ").unwrap();
        assert_eq!(two, TagFilter::Codes(vec![2_598_919, 2_598_920]));
        assert!(two.matches(2_598_920) && !two.matches(0) && !two.matches(42));
        assert_eq!(TagFilter::parse(" || "), Err(TagError::NoTag));
        let many = (0..=MAX_TAGS).map(|n| format!("t{n}")).collect::<Vec<_>>().join("||");
        assert_eq!(TagFilter::parse(&many), Err(TagError::TooMany));
    }
}
