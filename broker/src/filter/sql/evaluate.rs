//! The value of an expression for one message: three-valued, with the conversions of RocketMQ's engine.
//!
//! Properties are texts. Next to a number a text has to be one of the same kind: `a > 5` wants a 32-bit integer, `a > 5.0` any number.
//! Where it is not, the whole expression has no value and the message does not match, also where another part of it holds; only what
//! AND and OR need not look at any more does no harm. Two texts are equal as they are (`'1.0'` is not `'1'`), and are ordered as
//! numbers.

use std::cmp::Ordering;

use super::expression::{Comparison, Constant, Expr, Search};
use super::number;

/// The value of a node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Double(f64),
    Text(&'a str),
}

/// Something was compared that cannot be: there is no value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incomparable;

/// Evaluates a node; `slots` has the value of each property, by its index. As deep as the tree, whose depth is bounded.
pub(super) fn evaluate<'a>(expr: &'a Expr, slots: &[Option<&'a str>]) -> Result<Value<'a>, Incomparable> {
    let property = |index: &u8| slots.get(usize::from(*index)).copied().flatten();
    Ok(match expr {
        Expr::Constant(constant) => constant.value(),
        Expr::Property(index) => property(index).map_or(Value::Null, Value::Text),
        Expr::Truth(index) => property(index).map_or(Value::Null, |_| Value::Bool(false)),
        Expr::Negate(of) => match evaluate(of, slots)? {
            Value::Int(number) => Value::Int(number.wrapping_neg()),
            Value::Long(number) => Value::Long(number.wrapping_neg()),
            Value::Double(number) => Value::Double(-number),
            Value::Null | Value::Bool(_) | Value::Text(_) => Value::Null,
        },
        Expr::Not(of) => match evaluate(of, slots)? {
            Value::Bool(truth) => Value::Bool(!truth),
            _ => Value::Null,
        },
        Expr::And(operands) => all(operands.iter().map(|operand| evaluate(operand, slots)))?,
        Expr::Or(operands) => any(operands.iter().map(|operand| evaluate(operand, slots)))?,
        Expr::Compare(Comparison::Equal, sides) => equal(evaluate(&sides.0, slots)?, evaluate(&sides.1, slots)?)?,
        Expr::Compare(comparison, sides) => {
            ordered(*comparison, evaluate(&sides.0, slots)?, || evaluate(&sides.1, slots))?
        }
        Expr::Between(parts, negated) => {
            let value = evaluate(&parts.0, slots)?;
            let side = |comparison, end: &'a Expr| ordered(comparison, value, || evaluate(end, slots));
            if *negated {
                let ends = [(Comparison::Less, &parts.1), (Comparison::Greater, &parts.2)];
                any(ends.into_iter().map(|(comparison, end)| side(comparison, end)))?
            } else {
                let ends = [(Comparison::GreaterOrEqual, &parts.1), (Comparison::LessOrEqual, &parts.2)];
                all(ends.into_iter().map(|(comparison, end)| side(comparison, end)))?
            }
        }
        Expr::IsNull(of) => Value::Bool(matches!(evaluate(of, slots)?, Value::Null)),
        Expr::In(index, items, negated) => match property(index) {
            Some(value) => Value::Bool(items.binary_search_by(|item| (**item).cmp(value)).is_ok() != *negated),
            None => Value::Null,
        },
        // Nothing has an empty text, nor has it not; neither has anything that is no text.
        Expr::Search(_, parts, _) if parts.1.is_empty() => Value::Bool(false),
        Expr::Search(search, parts, negated) => match evaluate(&parts.0, slots)? {
            Value::Text(value) => Value::Bool(search.finds(&parts.1, value) != *negated),
            _ => Value::Bool(false),
        },
    })
}

/// Whether a constant is surely less than another one.
pub(super) fn is_less(left: &Constant, right: &Constant) -> bool {
    matches!(compare(left.value(), right.value()), Ok(Ordering::Less))
}

impl Constant {
    fn value(&self) -> Value<'_> {
        match self {
            Constant::Null => Value::Null,
            Constant::Bool(truth) => Value::Bool(*truth),
            Constant::Int(number) => Value::Int(*number),
            Constant::Long(number) => Value::Long(*number),
            Constant::Double(number) => Value::Double(*number),
            Constant::Text(text) => Value::Text(text),
        }
    }
}

impl Search {
    fn finds(self, text: &str, value: &str) -> bool {
        match self {
            Search::Contains => value.contains(text),
            Search::StartsWith => value.starts_with(text),
            Search::EndsWith => value.ends_with(text),
        }
    }
}

/// AND: what follows a FALSE is not looked at.
fn all<'a>(operands: impl Iterator<Item = Result<Value<'a>, Incomparable>>) -> Result<Value<'a>, Incomparable> {
    decided(operands, false)
}

/// OR: what follows a TRUE is not looked at.
fn any<'a>(operands: impl Iterator<Item = Result<Value<'a>, Incomparable>>) -> Result<Value<'a>, Incomparable> {
    decided(operands, true)
}

/// The first operand with the value that decides decides; else a NULL among them leaves it open.
fn decided<'a>(
    operands: impl Iterator<Item = Result<Value<'a>, Incomparable>>,
    deciding: bool,
) -> Result<Value<'a>, Incomparable> {
    let mut open = false;
    for operand in operands {
        match operand? {
            Value::Bool(truth) if truth == deciding => return Ok(Value::Bool(deciding)),
            Value::Bool(_) => {}
            _ => open = true,
        }
    }
    Ok(if open { Value::Null } else { Value::Bool(!deciding) })
}

/// `=`. Two NULLs are equal, and a value never equals a NULL on its right; a NULL on the left alone is NULL.
fn equal<'a>(left: Value<'a>, right: Value<'a>) -> Result<Value<'a>, Incomparable> {
    Ok(match (left, right) {
        (Value::Null, Value::Null) => Value::Bool(true),
        (Value::Null, _) => Value::Null,
        (_, Value::Null) => Value::Bool(false),
        (left, right) => Value::Bool(compare(left, right)? == Ordering::Equal),
    })
}

/// `>`, `>=`, `<`, `<=`. What stands on the right is not looked at beside a NULL.
fn ordered<'a>(
    comparison: Comparison,
    left: Value<'a>,
    right: impl FnOnce() -> Result<Value<'a>, Incomparable>,
) -> Result<Value<'a>, Incomparable> {
    if matches!(left, Value::Null) {
        return Ok(Value::Null);
    }
    let order = match (left, right()?) {
        (_, Value::Null) => return Ok(Value::Null),
        (Value::Text(left), Value::Text(right)) => number::compare(double(left)?, double(right)?),
        (left, right) => compare(left, right)?,
    };
    Ok(Value::Bool(match comparison {
        Comparison::Equal => order == Ordering::Equal,
        Comparison::Greater => order == Ordering::Greater,
        Comparison::GreaterOrEqual => order != Ordering::Less,
        Comparison::Less => order == Ordering::Less,
        Comparison::LessOrEqual => order != Ordering::Greater,
    }))
}

/// The order of two values that are not NULL. Values of kinds that have nothing in common count as less.
fn compare(left: Value<'_>, right: Value<'_>) -> Result<Ordering, Incomparable> {
    use Value::{Bool, Double, Int, Long, Null, Text};
    Ok(match (left, right) {
        (Text(left), Text(right)) => left.cmp(right),
        (Bool(left), Bool(right)) => left.cmp(&right),
        (Text(left), Bool(right)) => left.eq_ignore_ascii_case("true").cmp(&right),
        // The other way round RocketMQ fails on the conversion.
        (Bool(_), Text(_)) => return Err(Incomparable),
        (Int(left), Int(right)) => left.cmp(&right),
        (Int(left), Long(right)) => i64::from(left).cmp(&right),
        (Long(left), Int(right)) => left.cmp(&i64::from(right)),
        (Long(left), Long(right)) => left.cmp(&right),
        (Int(left), Double(right)) => number::compare(f64::from(left), right),
        (Double(left), Int(right)) => number::compare(left, f64::from(right)),
        (Long(left), Double(right)) => number::compare(left as f64, right),
        (Double(left), Long(right)) => number::compare(left, right as f64),
        (Double(left), Double(right)) => number::compare(left, right),
        (Int(left), Text(right)) => left.cmp(&integer(right)?),
        (Text(left), Int(right)) => integer::<i32>(left)?.cmp(&right),
        (Long(left), Text(right)) => left.cmp(&integer(right)?),
        (Text(left), Long(right)) => integer::<i64>(left)?.cmp(&right),
        (Double(left), Text(right)) => number::compare(left, double(right)?),
        (Text(left), Double(right)) => number::compare(double(left)?, right),
        (Bool(_), Int(_) | Long(_) | Double(_)) | (Int(_) | Long(_) | Double(_), Bool(_)) => Ordering::Less,
        (Null, _) | (_, Null) => Ordering::Less,
    })
}

fn integer<T: std::str::FromStr>(text: &str) -> Result<T, Incomparable> {
    text.parse().map_err(|_| Incomparable)
}

fn double(text: &str) -> Result<f64, Incomparable> {
    number::double(text).ok_or(Incomparable)
}
