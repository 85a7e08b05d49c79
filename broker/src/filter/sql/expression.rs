//! The tree of an expression, and its canonical text.

use std::fmt::{self, Display};

/// A node. Built by the parser, which has checked what may stand where; evaluated as a pure function of the properties.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    /// A literal.
    Constant(Constant),
    /// The value of a property: its index in the names. A text, or NULL.
    Property(u8),
    /// The same where a boolean has to be: a text is none, so this is FALSE, or NULL without the property.
    Truth(u8),
    /// `-`
    Negate(Box<Expr>),
    /// `NOT` of a boolean.
    Not(Box<Expr>),
    /// Booleans, at least two.
    And(Box<[Expr]>),
    /// Booleans, at least two.
    Or(Box<[Expr]>),
    /// Left, right.
    Compare(Comparison, Box<(Expr, Expr)>),
    /// Value, low, high; both ends belong to it. The flag is for NOT BETWEEN.
    Between(Box<(Expr, Expr, Expr)>, bool),
    /// `IS NULL`
    IsNull(Box<Expr>),
    /// Of a property; texts in ascending order, each once. The flag is for NOT IN.
    In(u8, Box<[Box<str>]>, bool),
    /// Whether a value has this text. The flag is for NOT.
    Search(Search, Box<(Expr, Box<str>)>, bool),
}

/// A value that stands in the expression. Integers that fit 32 bits are apart from those that do not: a text that is compared
/// with one must be a number of that size.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(Box<str>),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// Where a text is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

impl Expr {
    /// Whether the grammar takes it for a boolean, whatever its value will be.
    pub(super) fn is_boolean(&self) -> bool {
        !matches!(
            self,
            Expr::Property(_)
                | Expr::Negate(_)
                | Expr::Constant(Constant::Int(_) | Constant::Long(_) | Constant::Double(_) | Constant::Text(_))
        )
    }
}

/// An expression with the names of its properties, for printing.
pub(super) struct Printed<'a> {
    pub(super) expr: &'a Expr,
    pub(super) names: &'a [Box<str>],
}

impl Printed<'_> {
    fn of<'a>(&'a self, expr: &'a Expr) -> Printed<'a> {
        Printed { expr, names: self.names }
    }

    fn name(&self, index: u8) -> &str {
        &self.names[usize::from(index)]
    }

    fn chain(&self, f: &mut fmt::Formatter<'_>, operator: &str, operands: &[Expr]) -> fmt::Result {
        for (n, operand) in operands.iter().enumerate() {
            f.write_str(if n == 0 { "(" } else { operator })?;
            self.of(operand).fmt(f)?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = |not: bool| if not { "NOT " } else { "" };
        match self.expr {
            Expr::Constant(constant) => constant.fmt(f),
            Expr::Property(index) | Expr::Truth(index) => f.write_str(self.name(*index)),
            Expr::Negate(of) => write!(f, "(- {})", self.of(of)),
            Expr::Not(of) => write!(f, "(NOT {})", self.of(of)),
            Expr::And(operands) => self.chain(f, " AND ", operands),
            Expr::Or(operands) => self.chain(f, " OR ", operands),
            Expr::Compare(comparison, sides) => {
                write!(f, "({} {} {})", self.of(&sides.0), comparison.symbol(), self.of(&sides.1))
            }
            Expr::Between(parts, negated) => {
                let (value, low, high) = (self.of(&parts.0), self.of(&parts.1), self.of(&parts.2));
                write!(f, "({value} {}BETWEEN {low} AND {high})", not(*negated))
            }
            Expr::IsNull(of) => write!(f, "({} IS NULL)", self.of(of)),
            Expr::In(index, items, negated) => {
                write!(f, "({} {}IN (", self.name(*index), not(*negated))?;
                for (n, item) in items.iter().enumerate() {
                    f.write_str(if n == 0 { "" } else { ", " })?;
                    quoted(f, item)?;
                }
                f.write_str("))")
            }
            Expr::Search(search, parts, negated) => {
                write!(f, "({} {}{} ", self.of(&parts.0), not(*negated), search.word())?;
                quoted(f, &parts.1)?;
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Constant::Null => f.write_str("NULL"),
            Constant::Bool(true) => f.write_str("TRUE"),
            Constant::Bool(false) => f.write_str("FALSE"),
            Constant::Int(number) => number.fmt(f),
            Constant::Long(number) => number.fmt(f),
            // With an exponent, so that it stays a decimal.
            Constant::Double(number) => write!(f, "{number:e}"),
            Constant::Text(text) => quoted(f, text),
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "'{}'", text.replace('\'', "''"))
}

impl Comparison {
    fn symbol(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
        }
    }
}

impl Search {
    fn word(self) -> &'static str {
        match self {
            Search::Contains => "CONTAINS",
            Search::StartsWith => "STARTSWITH",
            Search::EndsWith => "ENDSWITH",
        }
    }
}
