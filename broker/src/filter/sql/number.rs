//! Numbers in the values of properties: which texts are numbers is Java's decision, since it is its engine that users know.

use std::cmp::Ordering;

/// The number of a text that is compared with a decimal: blanks around it, `NaN`, `Infinity` and one of the suffixes `f` and `d` are
/// allowed. A number beyond the range is infinite. `None` for any other text, also for hexadecimal numbers.
pub(super) fn double(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c| c <= ' ');
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = match digits {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        _ => decimal(digits.strip_suffix(['f', 'F', 'd', 'D']).unwrap_or(digits))?,
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// `1`, `1.`, `.5` or `1.5`, each with or without an exponent; Rust's own parser takes more.
fn decimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_is_one = exponent.is_none_or(|exponent| {
        let number = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !number.is_empty() && digits(number)
    });
    let is_number = whole.len() + fraction.len() > 0 && digits(whole) && digits(fraction) && exponent_is_one;
    if is_number { text.parse().ok() } else { None }
}

/// Java's order of doubles: `NaN` equals itself and is the greatest, and -0.0 is less than 0.0.
pub(super) fn compare(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (false, false) => a.total_cmp(&b),
        (a, b) => a.cmp(&b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text that is a number here and none in RocketMQ, or the other way round, would be handed out or held back wrongly.
    #[test]
    fn texts_of_decimals() {
        for (text, number) in [
            ("1", 1.0),
            ("1.", 1.0),
            (".5", 0.5),
            ("-1.5e3", -1500.0),
            ("+2E-1", 0.2),
            (" 7\t", 7.0),
            ("3f", 3.0),
            ("3.5D", 3.5),
            ("1e5d", 1e5),
            ("1e999", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("1e-999", 0.0),
            ("123456789012345678901234567890", 123_456_789_012_345_678_901_234_567_890.0),
        ] {
            assert_eq!(double(text), Some(number), "{text}");
        }
        assert!(double("NaN").unwrap().is_nan() && double("-NaN").unwrap().is_nan());
        for text in [
            "",
            " ",
            ".",
            "-",
            "e5",
            "1e",
            "1e+",
            "1.5.2",
            "1 2",
            "inf",
            "nan",
            "infinity",
            "Infinityf",
            "0x1p3",
            "1_000",
            "ff",
        ] {
            assert_eq!(double(text), None, "{text}");
        }
    }

    /// Comparisons must have one result for every pair of numbers.
    #[test]
    fn the_order_of_doubles() {
        let ascending = [f64::NEG_INFINITY, -1.0, -0.0, 0.0, 1.0, f64::INFINITY, f64::NAN];
        for (i, a) in ascending.into_iter().enumerate() {
            for (j, b) in ascending.into_iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(compare(-f64::NAN, f64::NAN), Ordering::Equal);
    }
}
