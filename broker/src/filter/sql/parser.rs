//! The grammar: one word ahead, one function for each strength of binding, and the rules of what may be compared with what.
//!
//! Recursion is bounded by [`NESTING_MAX`], the tree by that and [`TERMS_MAX`], so that no text makes it deep or large.

use super::evaluate::is_less;
use super::expression::{Comparison, Constant, Expr, Search};
use super::token::{Kind, Token, Tokens};
use super::{ITEMS_MAX, NESTING_MAX, PROPERTIES_MAX, SqlError, TERMS_MAX};

/// A parsed expression, and what was counted on the way.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) root: Expr,
    pub(super) names: Box<[Box<str>]>,
    /// Nodes of the tree.
    pub(super) terms: usize,
    /// Items of all IN lists.
    pub(super) items: usize,
    /// Nodes that may have to read a whole value.
    pub(super) comparisons: usize,
}

/// Parses a whole text. The caller has bounded its length.
pub(super) fn parse(source: &str) -> Result<Parsed, SqlError> {
    let mut tokens = Tokens::new(source);
    let token = tokens.next()?;
    let mut parser = Parser { tokens, token, names: Vec::new(), terms: 0, items: 0, comparisons: 0, open: 0 };
    let tree = parser.or()?;
    parser.expect(Kind::End, "an operator or the end")?;
    let root = parser.boolean(tree)?.expr;
    Ok(Parsed {
        root,
        names: parser.names.into_iter().map(Box::from).collect(),
        terms: parser.terms,
        items: parser.items,
        comparisons: parser.comparisons,
    })
}

/// A part of the tree.
struct Tree {
    expr: Expr,
    depth: usize,
    /// Where its text begins, in bytes.
    from: usize,
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    token: Token<'a>,
    names: Vec<&'a str>,
    terms: usize,
    items: usize,
    comparisons: usize,
    /// Parentheses and prefixes that the parser is in.
    open: usize,
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Tree, SqlError> {
        self.chain(Kind::Or, Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Tree, SqlError> {
        self.chain(Kind::And, Self::equality, Expr::And)
    }

    /// Operands with the same operator between them: one node, however many there are.
    fn chain(
        &mut self,
        operator: Kind<'static>,
        operand: fn(&mut Self) -> Result<Tree, SqlError>,
        node: fn(Box<[Expr]>) -> Expr,
    ) -> Result<Tree, SqlError> {
        let mut next = operand(self)?;
        if self.token.kind != operator {
            return Ok(next);
        }
        let (from, mut below, mut operands) = (next.from, 0, Vec::new());
        loop {
            let tree = self.boolean(next)?;
            below = below.max(tree.depth);
            operands.push(tree.expr);
            if !self.take(operator)? {
                return self.node(node(operands.into()), below, from);
            }
            next = operand(self)?;
        }
    }

    fn equality(&mut self) -> Result<Tree, SqlError> {
        let mut left = self.comparison()?;
        loop {
            left = if self.take(Kind::Equal)? {
                self.equal(left)?
            } else if self.take(Kind::NotEqual)? {
                let equal = self.equal(left)?;
                self.not(equal)?
            } else if self.take(Kind::Is)? {
                let negated = self.take(Kind::Not)?;
                self.expect(Kind::Null, if negated { "NULL" } else { "NULL or NOT NULL" })?;
                let is_null = self.node(Expr::IsNull(Box::new(left.expr)), left.depth, left.from)?;
                if negated { self.not(is_null)? } else { is_null }
            } else {
                return Ok(left);
            }
        }
    }

    /// What follows `=` and `<>`.
    fn equal(&mut self, left: Tree) -> Result<Tree, SqlError> {
        let right = self.comparison()?;
        for side in [&left, &right] {
            if matches!(side.expr, Expr::Constant(Constant::Null)) {
                return Err(self.meaning(side.from, "nothing can be compared with NULL: write IS NULL or IS NOT NULL"));
            }
        }
        if let (Expr::Constant(Constant::Bool(_)), Expr::Constant(right_value)) = (&left.expr, &right.expr)
            && !matches!(right_value, Constant::Bool(_))
        {
            return Err(self.meaning(right.from, "TRUE and FALSE cannot be compared with a number or a text"));
        }
        self.compare(Comparison::Equal, left, right)
    }

    fn comparison(&mut self) -> Result<Tree, SqlError> {
        let mut left = self.unary()?;
        loop {
            let comparison = match self.token.kind {
                Kind::Greater => Some(Comparison::Greater),
                Kind::GreaterOrEqual => Some(Comparison::GreaterOrEqual),
                Kind::Less => Some(Comparison::Less),
                Kind::LessOrEqual => Some(Comparison::LessOrEqual),
                Kind::Not | Kind::Between | Kind::In | Kind::Contains | Kind::StartsWith | Kind::EndsWith => None,
                _ => return Ok(left),
            };
            left = if let Some(comparison) = comparison {
                self.advance()?;
                let right = self.unary()?;
                self.can_be_ordered(&left)?;
                self.can_be_ordered(&right)?;
                self.compare(comparison, left, right)?
            } else {
                let negated = self.take(Kind::Not)?;
                self.test(left, negated)?
            };
        }
    }

    /// A test that may have had a NOT before it.
    fn test(&mut self, value: Tree, negated: bool) -> Result<Tree, SqlError> {
        let search = match self.token.kind {
            Kind::Between => {
                self.advance()?;
                return self.between(value, negated);
            }
            Kind::In => {
                self.advance()?;
                return self.is_in(value, negated);
            }
            Kind::Contains => Search::Contains,
            Kind::StartsWith => Search::StartsWith,
            Kind::EndsWith => Search::EndsWith,
            _ => return Err(self.unexpected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH")),
        };
        self.advance()?;
        let text = self.text()?;
        self.comparisons += 1;
        let Tree { expr, depth, from } = value;
        self.node(Expr::Search(search, Box::new((expr, text)), negated), depth, from)
    }

    fn between(&mut self, value: Tree, negated: bool) -> Result<Tree, SqlError> {
        let low = self.unary()?;
        self.expect(Kind::And, "AND")?;
        let high = self.unary()?;
        for part in [&value, &low, &high] {
            self.can_be_ordered(part)?;
        }
        if let (Expr::Constant(low_value), Expr::Constant(high_value)) = (&low.expr, &high.expr)
            && !negated
            && is_less(high_value, low_value)
        {
            return Err(self.meaning(low.from, "the first number of BETWEEN must not be greater than the second one"));
        }
        self.comparisons += 2;
        let depth = value.depth.max(low.depth).max(high.depth);
        self.node(Expr::Between(Box::new((value.expr, low.expr, high.expr)), negated), depth, value.from)
    }

    fn is_in(&mut self, value: Tree, negated: bool) -> Result<Tree, SqlError> {
        let Expr::Property(index) = value.expr else {
            return Err(self.meaning(value.from, "only a property can stand before IN"));
        };
        self.expect(Kind::Open, "the list of IN in parentheses")?;
        let mut items = vec![self.text()?];
        while self.take(Kind::Comma)? {
            if items.len() == ITEMS_MAX {
                return Err(SqlError::TooManyItems);
            }
            items.push(self.text()?);
        }
        self.expect(Kind::Close, "`,` or `)`")?;
        self.items += items.len();
        self.comparisons += 1;
        items.sort_unstable();
        items.dedup();
        self.node(Expr::In(index, items.into(), negated), 0, value.from)
    }

    fn unary(&mut self) -> Result<Tree, SqlError> {
        let from = self.token.from;
        match self.token.kind {
            Kind::Plus => self.nested(Self::unary),
            Kind::Minus => {
                let of = self.nested(Self::unary)?;
                self.node(Expr::Negate(Box::new(of.expr)), of.depth, from)
            }
            Kind::Not => {
                let of = self.nested(Self::unary)?;
                let of = self.boolean(of)?;
                let not = self.not(of)?;
                Ok(Tree { from, ..not })
            }
            _ => self.primary(),
        }
    }

    fn primary(&mut self) -> Result<Tree, SqlError> {
        let from = self.token.from;
        let expr = match self.token.kind {
            Kind::Open => {
                let inner = self.nested(Self::or)?;
                self.expect(Kind::Close, "an operator or `)`")?;
                return Ok(Tree { from, ..inner });
            }
            Kind::Name(name) => Expr::Property(self.property(name)?),
            Kind::Text(raw) => Expr::Constant(Constant::Text(unquoted(raw))),
            Kind::Integer(digits) => match digits.parse::<i64>() {
                Ok(number) => Expr::Constant(i32::try_from(number).map_or(Constant::Long(number), Constant::Int)),
                Err(_) => return Err(self.meaning(from, "an integer must not be greater than 9223372036854775807")),
            },
            Kind::Decimal(digits) => match digits.parse::<f64>() {
                Ok(number) if number.is_finite() && number > 0.0 => Expr::Constant(Constant::Double(number)),
                _ => {
                    let what = "a decimal must be from 4.9E-324 to 1.7976931348623157E308; zero is written as 0";
                    return Err(self.meaning(from, what));
                }
            },
            Kind::True => Expr::Constant(Constant::Bool(true)),
            Kind::False => Expr::Constant(Constant::Bool(false)),
            Kind::Null => Expr::Constant(Constant::Null),
            _ => return Err(self.unexpected("a literal, a property or `(`")),
        };
        self.advance()?;
        self.node(expr, 0, from)
    }

    /// Passes the word that opens a level, and parses what is in it.
    fn nested(&mut self, inner: fn(&mut Self) -> Result<Tree, SqlError>) -> Result<Tree, SqlError> {
        if self.open == NESTING_MAX {
            return Err(SqlError::TooDeep);
        }
        self.open += 1;
        self.advance()?;
        let tree = inner(self)?;
        self.open -= 1;
        Ok(tree)
    }

    fn property(&mut self, name: &'a str) -> Result<u8, SqlError> {
        let index = match self.names.iter().position(|known| *known == name) {
            Some(index) => index,
            None if self.names.len() == PROPERTIES_MAX => return Err(SqlError::TooManyProperties),
            None => {
                self.names.push(name);
                self.names.len() - 1
            }
        };
        Ok(index as u8)
    }

    fn text(&mut self) -> Result<Box<str>, SqlError> {
        let Kind::Text(raw) = self.token.kind else {
            return Err(self.unexpected("a text in single quotes"));
        };
        self.advance()?;
        Ok(unquoted(raw))
    }

    /// The tree as a boolean: it is one, or it is a property, which is looked at as one.
    fn boolean(&mut self, tree: Tree) -> Result<Tree, SqlError> {
        match tree.expr {
            Expr::Property(index) => self.node(Expr::Truth(index), 0, tree.from),
            expr if expr.is_boolean() => Ok(Tree { expr, ..tree }),
            _ => Err(self.meaning(tree.from, "a condition should stand here, not a value")),
        }
    }

    fn can_be_ordered(&self, tree: &Tree) -> Result<(), SqlError> {
        if tree.expr.is_boolean() || matches!(tree.expr, Expr::Constant(Constant::Text(_))) {
            let what = "only numbers and properties are ordered by >, >=, <, <= and BETWEEN";
            return Err(self.meaning(tree.from, what));
        }
        Ok(())
    }

    fn compare(&mut self, comparison: Comparison, left: Tree, right: Tree) -> Result<Tree, SqlError> {
        self.comparisons += 1;
        let depth = left.depth.max(right.depth);
        self.node(Expr::Compare(comparison, Box::new((left.expr, right.expr))), depth, left.from)
    }

    fn not(&mut self, of: Tree) -> Result<Tree, SqlError> {
        self.node(Expr::Not(Box::new(of.expr)), of.depth, of.from)
    }

    /// A node above others of this depth.
    fn node(&mut self, expr: Expr, below: usize, from: usize) -> Result<Tree, SqlError> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(SqlError::TooManyTerms);
        }
        if below == NESTING_MAX {
            return Err(SqlError::TooDeep);
        }
        Ok(Tree { expr, depth: below + 1, from })
    }

    fn advance(&mut self) -> Result<(), SqlError> {
        self.token = self.tokens.next()?;
        Ok(())
    }

    fn take(&mut self, kind: Kind<'static>) -> Result<bool, SqlError> {
        let is_it = self.token.kind == kind;
        if is_it {
            self.advance()?;
        }
        Ok(is_it)
    }

    fn expect(&mut self, kind: Kind<'static>, expected: &'static str) -> Result<(), SqlError> {
        if self.take(kind)? { Ok(()) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &'static str) -> SqlError {
        let found = self.tokens.shown(self.token);
        SqlError::Unexpected { at: self.tokens.position(self.token.from), found, expected }
    }

    fn meaning(&self, from: usize, what: &'static str) -> SqlError {
        SqlError::Meaning { at: self.tokens.position(from), what }
    }
}

fn unquoted(raw: &str) -> Box<str> {
    raw.replace("''", "'").into()
}
