//! What a consumer wants of a topic, compiled once: tags, or an SQL92 expression over message properties.
//!
//! ```text
//! heartbeat, pull header --> Filter::parse --> kept with the group's subscription
//!                                                |
//! handler/pull:  unit of the ConsumeQueue --> passes_unit (tag hash) --> stored record --> SqlFilter::matches (its properties)
//! ```
//! Knows neither groups nor the log. A tag filter decides on the unit alone; SQL92 has to see the record.

pub mod sql;

use ledgermq_protocol::heartbeat::{TYPE_SQL92, TYPE_TAG};
use ledgermq_protocol::message::tags::{TagError, TagFilter};
use thiserror::Error;

use sql::{SqlError, SqlFilter};

/// Most characters of an unknown type that its refusal repeats.
const TYPE_SHOWN_MAX: usize = 32;

/// Why an expression cannot be subscribed with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// No tags.
    #[error("tag expression: {0}")]
    Tags(#[from] TagError),
    /// No SQL92.
    #[error("SQL92 expression: {0}")]
    Sql(#[from] SqlError),
    /// A type that nobody here filters by.
    #[error("expression type {0:?} is not known: {TYPE_TAG} and {TYPE_SQL92} are")]
    Type(String),
}

/// Which messages a consumer wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// By tag.
    Tags(TagFilter),
    /// By properties.
    Sql(SqlFilter),
}

impl Filter {
    /// Compiles an expression of a type as clients name it; an empty type means tags.
    ///
    /// # Errors
    /// [`FilterError`], in words for whoever wrote the expression.
    pub fn parse(expression_type: &str, expression: &str) -> Result<Self, FilterError> {
        match expression_type {
            "" | TYPE_TAG => Ok(Filter::Tags(TagFilter::parse(expression)?)),
            TYPE_SQL92 => Ok(Filter::Sql(SqlFilter::parse(expression)?)),
            other => Err(FilterError::Type(other.chars().take(TYPE_SHOWN_MAX).collect())),
        }
    }

    /// Whether a message with this tag hash may match: false is final.
    pub fn passes_unit(&self, tags_code: i64) -> bool {
        match self {
            Filter::Tags(tags) => tags.matches(tags_code),
            Filter::Sql(_) => true,
        }
    }

    /// Whether every message matches.
    pub fn passes_all(&self) -> bool {
        matches!(self, Filter::Tags(TagFilter::All))
    }

    /// The part that has to see a message's properties, if there is one.
    pub fn sql(&self) -> Option<&SqlFilter> {
        match self {
            Filter::Tags(_) => None,
            Filter::Sql(sql) => Some(sql),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The type decides how the same text is read; a wrong guess would hand out what nobody asked for.
    #[test]
    fn types_are_told_apart() {
        let tags = Filter::parse("TAG", "a || b").unwrap();
        assert_eq!(Filter::parse("", "a || b").unwrap(), tags);
        assert!(tags.sql().is_none() && !tags.passes_all() && !tags.passes_unit(0));
        assert!(Filter::parse("TAG", "*").unwrap().passes_all());
        let sql = Filter::parse("SQL92", "a > 1").unwrap();
        assert!(sql.sql().is_some() && !sql.passes_all() && sql.passes_unit(0));
        for (kind, expression, words) in [
            ("TAG", "||", "tag expression: "),
            ("SQL92", "a >", "SQL92 expression: "),
            ("SQL92", "", "SQL92 expression: "),
            ("SQL", "a > 1", "expression type \"SQL\" is not known"),
        ] {
            let error = Filter::parse(kind, expression).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        let long = Filter::parse(&"x".repeat(1000), "").unwrap_err().to_string();
        assert!(long.len() < 100, "{long}");
    }
}
