//! SQL92 expressions over message properties, as RocketMQ's engine reads and judges them.
//!
//! ```text
//! text --> token --> parser (grammar, what may be compared, bounds) --> Expr + names of its properties
//!                                                                          |
//! property string of a record --> one scan: a slot for each name --> evaluate (three-valued) --> TRUE or not
//! ```
//! The grammar, from weak to strong: `OR`; `AND`; `=` `<>` `IS [NOT] NULL`; `>` `>=` `<` `<=` `[NOT] BETWEEN .. AND ..` `[NOT] IN (..)`
//! `[NOT] CONTAINS` `[NOT] STARTSWITH` `[NOT] ENDSWITH`; `NOT` `-` `+`; literals, properties, parentheses. `NOT` binds more tightly than
//! a comparison: `NOT a = 1` compares the boolean `NOT a`, and is not what most people mean; `NOT (a = 1)` is.
//!
//! What is accepted and what matches is what RocketMQ 5.4.0 accepts and matches (`tests/tests/sql92.rs` asks both), but:
//! - text behind a complete expression is refused; RocketMQ ignores it, so that `a = 1 b = 2` means `a = 1` there;
//! - the bounds below are ours;
//! - a property's value is a number by its ASCII digits only, and never a hexadecimal one.

mod evaluate;
mod expression;
mod number;
mod parser;
mod token;

use std::fmt;

use ledgermq_protocol::message::properties;
use thiserror::Error;

use evaluate::Value;
use expression::{Expr, Printed};

/// Longest expression in bytes.
pub const EXPRESSION_LEN_MAX: usize = 8 << 10;

/// Deepest nesting: of parentheses, and of the tree that is evaluated. Chains of AND and of OR count as one level.
pub const NESTING_MAX: usize = 64;

/// Most operands and operators of one expression.
pub const TERMS_MAX: usize = 1_024;

/// Most items of one IN list.
pub const ITEMS_MAX: usize = 512;

/// Most different properties of one expression: each evaluation has a slot for each of them on its stack.
pub const PROPERTIES_MAX: usize = 32;

/// Why a text is no expression that can be served. Positions count characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SqlError {
    /// Longer than [`EXPRESSION_LEN_MAX`].
    #[error("it has {0} bytes, the limit is {EXPRESSION_LEN_MAX}")]
    TooLong(usize),
    /// Nested deeper than [`NESTING_MAX`].
    #[error("it is nested more than {NESTING_MAX} levels deep")]
    TooDeep,
    /// More than [`TERMS_MAX`] terms.
    #[error("it has more than {TERMS_MAX} operands and operators")]
    TooManyTerms,
    /// More than [`ITEMS_MAX`] items of an IN list.
    #[error("a list of IN has more than {ITEMS_MAX} items")]
    TooManyItems,
    /// More than [`PROPERTIES_MAX`] properties.
    #[error("it names more than {PROPERTIES_MAX} different properties")]
    TooManyProperties,
    /// Something else should stand there.
    #[error("at character {at}: {found} where {expected} should be")]
    Unexpected {
        /// Where.
        at: usize,
        /// What stands there, shortened.
        found: String,
        /// What could.
        expected: &'static str,
    },
    /// The grammar allows it, but it can have no meaning.
    #[error("at character {at}: {what}")]
    Meaning {
        /// Where.
        at: usize,
        /// Why not, and what to write instead.
        what: &'static str,
    },
}

/// A compiled expression.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlFilter {
    root: Expr,
    /// Names of the properties, in the order of their first use; [`Expr::Property`] has the index.
    names: Box<[Box<str>]>,
    /// Comparisons that may have to read a whole value.
    comparisons: usize,
    bytes: usize,
}

impl SqlFilter {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`SqlError`]: where it is wrong and what is expected there, or which bound it passes.
    pub fn parse(expression: &str) -> Result<Self, SqlError> {
        if expression.len() > EXPRESSION_LEN_MAX {
            return Err(SqlError::TooLong(expression.len()));
        }
        let parsed = parser::parse(expression)?;
        // Each text in the tree is a part of the expression.
        let bytes = size_of::<Self>()
            + parsed.terms * size_of::<Expr>()
            + (parsed.items + parsed.names.len()) * size_of::<Box<str>>()
            + expression.len();
        Ok(Self { root: parsed.root, names: parsed.names, comparisons: parsed.comparisons, bytes })
    }

    /// Whether a message with this property string ([`properties`]) matches: the expression is TRUE, neither FALSE nor NULL, and
    /// nothing in it is compared that cannot be (`a > 1` with the property `a` = `x`). Allocates nothing.
    pub fn matches(&self, properties: &str) -> bool {
        let mut slots: [Option<&str>; PROPERTIES_MAX] = [None; PROPERTIES_MAX];
        for (name, value) in properties::iter(properties) {
            if let Some(slot) = self.names.iter().position(|known| &**known == name) {
                // The last one counts, as in the map that clients make of the string.
                slots[slot] = Some(value);
            }
        }
        matches!(evaluate::evaluate(&self.root, &slots), Ok(Value::Bool(true)))
    }

    /// Most bytes that [`Self::matches`] has to look at for a property string of this length: what bounds a pull.
    pub fn work(&self, properties_len: usize) -> usize {
        properties_len * (1 + self.comparisons)
    }

    /// Memory that it takes, in bytes, at most.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The expression in a canonical form, with all its parentheses; it compiles to an equal filter, unless they make it too long or too
/// deep.
impl fmt::Display for SqlFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Printed { expr: &self.root, names: &self.names })
    }
}

#[cfg(test)]
mod tests;
