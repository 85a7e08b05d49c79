//! The words of an expression: where each begins and what it is. Blanks and comments are skipped.

use super::SqlError;

/// Most characters of a word that an error repeats.
const SHOWN_MAX: usize = 24;

/// What a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// Letters, digits, `_` and `$`, and no keyword: the name of a property.
    Name(&'a str),
    /// What stands between two single quotes, with `''` for each quote.
    Text(&'a str),
    /// Digits, without the suffix `L`.
    Integer(&'a str),
    /// Digits with a point or an exponent.
    Decimal(&'a str),
    Not,
    And,
    Or,
    Between,
    In,
    True,
    False,
    Null,
    Is,
    Contains,
    StartsWith,
    EndsWith,
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Open,
    Close,
    Comma,
    Plus,
    Minus,
    End,
}

/// A word and where it begins and ends, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) from: usize,
    to: usize,
}

/// Cuts a text into words.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        Self { source, at: 0 }
    }

    /// The next word; [`Kind::End`] from the end on.
    pub(super) fn next(&mut self) -> Result<Token<'a>, SqlError> {
        self.skip();
        let from = self.at;
        let rest = &self.source[from..];
        let (kind, len) = match rest.as_bytes() {
            [] => (Kind::End, 0),
            [b'<', b'>', ..] => (Kind::NotEqual, 2),
            [b'>', b'=', ..] => (Kind::GreaterOrEqual, 2),
            [b'<', b'=', ..] => (Kind::LessOrEqual, 2),
            [b'=', ..] => (Kind::Equal, 1),
            [b'>', ..] => (Kind::Greater, 1),
            [b'<', ..] => (Kind::Less, 1),
            [b'(', ..] => (Kind::Open, 1),
            [b')', ..] => (Kind::Close, 1),
            [b',', ..] => (Kind::Comma, 1),
            [b'+', ..] => (Kind::Plus, 1),
            [b'-', ..] => (Kind::Minus, 1),
            [b'\'', ..] => text(rest).ok_or_else(|| self.unexpected(from, "a text that ends with a quote"))?,
            [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => number(rest),
            [b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'$', ..] => word(rest),
            _ => return Err(self.unexpected(from, "a literal, a property or an operator")),
        };
        self.at = from + len;
        Ok(Token { kind, from, to: self.at })
    }

    /// Passes blanks and comments. A line comment needs the end of its line, and a block comment its own end: else it is none.
    fn skip(&mut self) {
        loop {
            let rest = &self.source[self.at..];
            let blank = rest.bytes().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0C)).count();
            let comment = if rest[blank..].starts_with("--") {
                rest[blank..].find(['\n', '\r']).map(|end| end + 1)
            } else if rest[blank..].starts_with("/*") {
                rest[blank + 2..].find("*/").map(|end| end + 4)
            } else {
                None
            };
            self.at += blank + comment.unwrap_or(0);
            if comment.is_none() {
                return;
            }
        }
    }

    /// The position of a byte, in characters from 1.
    pub(super) fn position(&self, byte: usize) -> usize {
        self.source[..byte].chars().count() + 1
    }

    /// What a token says, for an error.
    pub(super) fn shown(&self, token: Token<'_>) -> String {
        if token.kind == Kind::End { "the end".to_owned() } else { shown(&self.source[token.from..token.to]) }
    }

    fn unexpected(&self, from: usize, expected: &'static str) -> SqlError {
        let rest = &self.source[from..];
        let end = rest.char_indices().nth(if rest.starts_with('\'') { SHOWN_MAX } else { 1 });
        let found = shown(end.map_or(rest, |(end, _)| &rest[..end]));
        SqlError::Unexpected { at: self.position(from), found, expected }
    }
}

fn shown(word: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    let cut = if word.chars().nth(SHOWN_MAX).is_some() { "…" } else { "" };
    format!("`{}{cut}`", word.chars().take(SHOWN_MAX).map(printable).collect::<String>())
}

/// A text at the front, and its length with its quotes; `None` when it does not end.
fn text(rest: &str) -> Option<(Kind<'_>, usize)> {
    let mut end = 1;
    loop {
        end += rest[end..].find('\'')?;
        if !rest[end + 1..].starts_with('\'') {
            return Some((Kind::Text(&rest[1..end]), end + 1));
        }
        end += 2;
    }
}

/// The longest number at the front. An integer has no leading zero: `007` is three numbers, and an error for the parser.
fn number(rest: &str) -> (Kind<'_>, usize) {
    let digits = |from: usize| from + rest[from..].bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(0);
    let mut end = if rest[whole..].starts_with('.') { digits(whole + 1) } else { whole };
    if rest[end..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    if end > whole {
        return (Kind::Decimal(&rest[..end]), end);
    }
    if rest.starts_with('0') {
        return (Kind::Integer(&rest[..1]), 1);
    }
    (Kind::Integer(&rest[..whole]), whole + usize::from(rest[whole..].starts_with(['l', 'L'])))
}

fn word(rest: &str) -> (Kind<'_>, usize) {
    const KEYWORDS: [(&str, Kind<'static>); 12] = [
        ("NOT", Kind::Not),
        ("AND", Kind::And),
        ("OR", Kind::Or),
        ("BETWEEN", Kind::Between),
        ("IN", Kind::In),
        ("TRUE", Kind::True),
        ("FALSE", Kind::False),
        ("NULL", Kind::Null),
        ("IS", Kind::Is),
        ("CONTAINS", Kind::Contains),
        ("STARTSWITH", Kind::StartsWith),
        ("ENDSWITH", Kind::EndsWith),
    ];
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
    let len = rest.bytes().take_while(|byte| is_part(byte)).count();
    let word = &rest[..len];
    let keyword = KEYWORDS.iter().find(|(keyword, _)| keyword.eq_ignore_ascii_case(word));
    (keyword.map_or(Kind::Name(word), |(_, kind)| *kind), len)
}
