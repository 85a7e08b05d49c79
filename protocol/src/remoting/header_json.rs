//! The JSON header: a flat object of known keys with one map of texts inside.
//!
//! A scanner of its own, since a general parser costs three times as much per request and cannot be as lenient as the peers ask:
//! numbers and booleans stand for texts in `extFields`, unknown keys are skipped whatever they hold. It reads once from left to
//! right, unescapes straight into the field map, and nests at most [`MAX_DEPTH`] deep.

use bytes::{BufMut, BytesMut};

use super::command::{Language, RemotingCommand};
use super::ext_fields::ExtFields;
use super::frame::{HeaderError, Rejected};

/// Deepest nesting in a header, its own braces included. Known headers have 2; the rest is for unknown keys, which are skipped.
const MAX_DEPTH: usize = 16;

/// Fields of a send. More cost a reallocation.
const TYPICAL_FIELDS: usize = 16;

pub(super) fn decode(header: &[u8], command: &mut RemotingCommand) -> Result<(), Rejected> {
    let Ok(text) = std::str::from_utf8(header) else {
        return Err(Rejected { error: HeaderError::NotUtf8 { what: "the header" }, opaque_known: false });
    };
    // What has arrived bounds what the fields can take.
    command.ext = ExtFields::with_capacity(TYPICAL_FIELDS, header.len());
    let mut reader = HeaderReader { scan: Scanner { text, at: 0 }, code: false, opaque: false, first_error: None };
    let outcome = reader.read(command).and_then(|()| reader.finish());
    outcome.map_err(|error| Rejected { error, opaque_known: reader.opaque })
}

/// Reads the header's keys. A value of the wrong kind is remembered and the rest still read, so that the request can be answered.
struct HeaderReader<'a> {
    scan: Scanner<'a>,
    code: bool,
    opaque: bool,
    first_error: Option<HeaderError>,
}

impl<'a> HeaderReader<'a> {
    fn read(&mut self, command: &mut RemotingCommand) -> Result<(), HeaderError> {
        self.scan.skip_whitespace();
        self.scan.expect(b'{', "expected an object")?;
        let mut first = true;
        while self.scan.next_member(&mut first)? {
            let key = self.scan.key()?;
            match key.inner {
                "code" => self.int("code", |reader, n| {
                    command.code = n;
                    reader.code = true;
                })?,
                "opaque" => self.int("opaque", |reader, n| {
                    command.opaque = n;
                    reader.opaque = true;
                })?,
                "flag" => self.int("flag", |_, n| command.flag = n)?,
                "version" => self.int("version", |_, n| command.version = n)?,
                "language" => self.text("language", |name| command.language = Language::from_name(&name))?,
                "remark" => self.text("remark", |remark| command.remark = Some(remark))?,
                "extFields" => self.ext_fields(command)?,
                _ => self.scan.skip_value(1)?,
            }
        }
        self.scan.skip_whitespace();
        if self.scan.at != self.scan.text.len() {
            return Err(self.scan.error("text after the header"));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), HeaderError> {
        match self.first_error.take() {
            Some(error) => Err(error),
            None if !self.code => Err(HeaderError::Missing("code")),
            None if !self.opaque => Err(HeaderError::Missing("opaque")),
            None => Ok(()),
        }
    }

    fn int(&mut self, field: &'static str, set: impl FnOnce(&mut Self, i32)) -> Result<(), HeaderError> {
        let digits = match self.scan.peek() {
            Some(b'"') => self.scan.string()?.inner,
            Some(b'-' | b'0'..=b'9') => self.scan.number()?,
            _ => {
                self.scan.skip_value(1)?;
                ""
            }
        };
        match digits.parse() {
            Ok(n) => set(self, n),
            Err(_) => self.remember(HeaderError::Field { field, problem: "is not a 32-bit integer" }),
        }
        Ok(())
    }

    fn text(&mut self, field: &'static str, set: impl FnOnce(String)) -> Result<(), HeaderError> {
        match self.scan.peek() {
            Some(b'"') => {
                let mut text = String::new();
                let raw = self.scan.string()?;
                self.scan.unescape(raw, &mut text)?;
                set(text);
            }
            Some(b'n') => self.scan.literal("null")?,
            _ => {
                self.scan.skip_value(1)?;
                self.remember(HeaderError::Field { field, problem: "is not a string" });
            }
        }
        Ok(())
    }

    fn ext_fields(&mut self, command: &mut RemotingCommand) -> Result<(), HeaderError> {
        match self.scan.peek() {
            Some(b'{') => self.scan.at += 1,
            Some(b'n') => return self.scan.literal("null"),
            _ => {
                self.scan.skip_value(1)?;
                self.remember(HeaderError::Field { field: "extFields", problem: "is not an object" });
                return Ok(());
            }
        }
        let mut first = true;
        while self.scan.next_member(&mut first)? {
            let key = self.scan.key()?;
            let scan = &mut self.scan;
            let entered = command.ext.try_append(|text| {
                scan.unescape(key, text)?;
                let name_end = text.len();
                Ok(scan.value_as_text(text)?.then_some(name_end))
            });
            match entered {
                Ok(()) => {}
                Err(error @ HeaderError::Json { .. }) => return Err(error),
                Err(error) => self.remember(error),
            }
        }
        Ok(())
    }

    fn remember(&mut self, error: HeaderError) {
        self.first_error.get_or_insert(error);
    }
}

/// A string between its quotes, escapes still in it.
#[derive(Clone, Copy)]
struct RawString<'a> {
    inner: &'a str,
    /// Where `inner` starts, for error messages.
    at: usize,
    escaped: bool,
}

/// Walks over JSON text.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, problem: &'static str) -> HeaderError {
        HeaderError::Json { at: self.at, problem }
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, problem: &'static str) -> Result<(), HeaderError> {
        if self.peek() != Some(byte) {
            return Err(self.error(problem));
        }
        self.at += 1;
        Ok(())
    }

    /// Steps to the next member of an object; `false` once its closing brace was taken.
    fn next_member(&mut self, first: &mut bool) -> Result<bool, HeaderError> {
        self.skip_whitespace();
        if *first {
            *first = false;
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(false);
            }
            return Ok(true);
        }
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_whitespace();
                Ok(true)
            }
            Some(b'}') => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.error("expected ',' or '}'")),
        }
    }

    /// A member's name and its colon.
    fn key(&mut self) -> Result<RawString<'a>, HeaderError> {
        let key = self.string()?;
        self.skip_whitespace();
        self.expect(b':', "expected ':'")?;
        self.skip_whitespace();
        Ok(key)
    }

    fn string(&mut self) -> Result<RawString<'a>, HeaderError> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let bytes = &self.text.as_bytes()[start..];
        let mut escaped = false;
        let mut len = 0;
        let problem = loop {
            match bytes.get(len) {
                Some(b'"') => break None,
                Some(b'\\') => {
                    escaped = true;
                    // The escaped byte is judged by `unescape`; here it only must not end the string.
                    len += 2;
                }
                Some(0..=0x1F) => break Some("control character in a string"),
                Some(_) => len += 1,
                None => break Some("string without an end"),
            }
        };
        self.at = (start + len).min(self.text.len());
        if let Some(problem) = problem {
            return Err(self.error(problem));
        }
        // An escape can step into the middle of a character; the text between is then still cut at two ASCII bytes.
        let inner = &self.text[start..self.at];
        self.at += 1;
        Ok(RawString { inner, at: start, escaped })
    }

    /// Appends the meaning of a raw string to `out`.
    fn unescape(&self, raw: RawString<'_>, out: &mut String) -> Result<(), HeaderError> {
        if !raw.escaped {
            out.push_str(raw.inner);
            return Ok(());
        }
        let mut rest = raw.inner;
        let fail = |rest: &str, problem| HeaderError::Json { at: raw.at + raw.inner.len() - rest.len(), problem };
        while let Some(at) = rest.find('\\') {
            out.push_str(&rest[..at]);
            let escape = &rest[at..];
            let (meaning, len) = match escape.as_bytes().get(1) {
                Some(b'"') => ('"', 2),
                Some(b'\\') => ('\\', 2),
                Some(b'/') => ('/', 2),
                Some(b'b') => ('\u{8}', 2),
                Some(b'f') => ('\u{C}', 2),
                Some(b'n') => ('\n', 2),
                Some(b'r') => ('\r', 2),
                Some(b't') => ('\t', 2),
                Some(b'u') => unicode_escape(escape).ok_or_else(|| fail(escape, "bad \\u escape"))?,
                _ => return Err(fail(escape, "unknown escape")),
            };
            out.push(meaning);
            rest = &escape[len..];
        }
        out.push_str(rest);
        Ok(())
    }

    /// Appends a scalar value to `out` as text; `false` for null. Numbers and booleans keep their spelling.
    fn value_as_text(&mut self, out: &mut String) -> Result<bool, HeaderError> {
        match self.peek() {
            Some(b'"') => {
                let raw = self.string()?;
                self.unescape(raw, out)?;
            }
            Some(b'-' | b'0'..=b'9') => out.push_str(self.number()?),
            Some(b't') => {
                self.literal("true")?;
                out.push_str("true");
            }
            Some(b'f') => {
                self.literal("false")?;
                out.push_str("false");
            }
            Some(b'n') => {
                self.literal("null")?;
                return Ok(false);
            }
            _ => {
                self.skip_value(2)?;
                return Err(HeaderError::Field { field: "extFields", problem: "holds a value that is not a string" });
            }
        }
        Ok(true)
    }

    fn literal(&mut self, word: &str) -> Result<(), HeaderError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// A number's spelling: checked for its alphabet and a leading digit, the rest is up to whoever parses it.
    fn number(&mut self) -> Result<&'a str, HeaderError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.error("expected a digit"));
        }
        while let Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-') = self.peek() {
            self.at += 1;
        }
        Ok(&self.text[start..self.at])
    }

    /// Steps over any value; `depth` is how many brackets are open around it.
    fn skip_value(&mut self, depth: usize) -> Result<(), HeaderError> {
        match self.peek() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'{' | b'[') if depth >= MAX_DEPTH => Err(self.error("nested too deep")),
            Some(b'{') => {
                self.at += 1;
                let mut first = true;
                while self.next_member(&mut first)? {
                    self.key()?;
                    self.skip_value(depth + 1)?;
                }
                Ok(())
            }
            Some(b'[') => self.skip_array(depth),
            _ => Err(self.error("expected a value")),
        }
    }

    fn skip_array(&mut self, depth: usize) -> Result<(), HeaderError> {
        self.at += 1;
        self.skip_whitespace();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_whitespace();
            self.skip_value(depth + 1)?;
            self.skip_whitespace();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.error("expected ',' or ']'")),
            }
        }
    }
}

/// The character of a `\uXXXX` escape, or of a pair of them that makes a surrogate pair, and the bytes it took.
fn unicode_escape(escape: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = escape.as_bytes().get(at..at + 4)?;
        digits.iter().try_fold(0u32, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    };
    let high = unit(2)?;
    if !(0xD800..0xDC00).contains(&high) {
        return Some((char::from_u32(high)?, 6));
    }
    if escape.as_bytes().get(6..8) != Some(b"\\u") {
        return None;
    }
    let low = unit(8)?;
    if !(0xDC00..0xE000).contains(&low) {
        return None;
    }
    Some((char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))?, 12))
}

/// Appends the header in the order in which Java writes it: keys sorted, no whitespace.
pub(super) fn encode(command: &RemotingCommand, dst: &mut BytesMut) {
    dst.put_slice(b"{\"code\":");
    put_int(command.code, dst);
    if !command.ext.is_empty() {
        dst.put_slice(b",\"extFields\":{");
        for (n, (name, value)) in command.ext.iter().enumerate() {
            if n > 0 {
                dst.put_u8(b',');
            }
            put_string(name, dst);
            dst.put_u8(b':');
            put_string(value, dst);
        }
        dst.put_u8(b'}');
    }
    dst.put_slice(b",\"flag\":");
    put_int(command.flag, dst);
    dst.put_slice(b",\"language\":\"");
    dst.put_slice(command.language.name().as_bytes());
    dst.put_slice(b"\",\"opaque\":");
    put_int(command.opaque, dst);
    if let Some(remark) = &command.remark {
        dst.put_slice(b",\"remark\":");
        put_string(remark, dst);
    }
    dst.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    put_int(command.version, dst);
    dst.put_u8(b'}');
}

fn put_int(value: i32, dst: &mut BytesMut) {
    use std::fmt::Write;
    write!(dst, "{value}").expect("a BytesMut grows as needed");
}

/// Appends `text` as a JSON string: quotes, backslashes and control characters escaped in the shortest form, all else as it is.
fn put_string(text: &str, dst: &mut BytesMut) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    dst.put_u8(b'"');
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'"' | b'\\' | 0..=0x1F) {
            continue;
        }
        dst.put_slice(&bytes[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' | b'\\' => dst.put_slice(&[b'\\', *byte]),
            b'\n' => dst.put_slice(b"\\n"),
            b'\r' => dst.put_slice(b"\\r"),
            b'\t' => dst.put_slice(b"\\t"),
            0x8 => dst.put_slice(b"\\b"),
            0xC => dst.put_slice(b"\\f"),
            _ => dst.put_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
    dst.put_slice(&bytes[plain_from..]);
    dst.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remoting::ext_fields::ExtLimit;

    fn read(header: &str) -> (RemotingCommand, Result<(), Rejected>) {
        let mut command = RemotingCommand::default();
        let outcome = decode(header.as_bytes(), &mut command);
        (command, outcome)
    }

    fn error(header: &str) -> (HeaderError, bool) {
        let rejected = read(header).1.map(|()| header.to_owned()).expect_err("a bad header was taken");
        (rejected.error, rejected.opaque_known)
    }

    /// What other libraries send and Java takes, we take.
    #[test]
    fn lenient_where_java_is() {
        let (command, outcome) = read(
            r#" {"opaque":"7","x":{"y":[1,{"z":"}"}]},"code":200050,"language":"KLINGON","version":317,"remark":null,
                "extFields":{"n":-12,"b":true,"skip":null,"u":"\u0001\u00e9\ud83d\ude00\/","a":"1","a":"2"}} "#,
        );
        assert!(outcome.is_ok());
        assert_eq!((command.code, command.opaque, command.version), (200_050, 7, 317));
        assert_eq!((command.language, command.remark), (Language::Other, None));
        let fields: Vec<_> = command.ext.iter().collect();
        assert_eq!(fields, [("n", "-12"), ("b", "true"), ("u", "\u{1}é😀/"), ("a", "2")]);
        assert_eq!(read(r#"{"code":1,"opaque":2,"extFields":null}"#).0.ext.len(), 0);
    }

    /// A request whose fields are wrong can still be answered, since its id is read; text that is no JSON cannot.
    #[test]
    fn wrong_values_are_told_from_broken_text() {
        let nested = r#"{"extFields":{"a":{"b":1},"c":"d"},"code":1,"opaque":2}"#;
        let problem = "holds a value that is not a string";
        assert_eq!(error(nested), (HeaderError::Field { field: "extFields", problem }, true));
        let many: Vec<_> = (0..300).map(|n| format!("\"{n}\":\"\"")).collect();
        let many = format!("{{\"code\":1,\"extFields\":{{{}}},\"opaque\":2}}", many.join(","));
        assert_eq!(error(&many), (HeaderError::Ext(ExtLimit::Count), true));
        assert_eq!(error(r#"{"code":1}"#), (HeaderError::Missing("opaque"), false));
        assert_eq!(error(r#"{"opaque":1}"#), (HeaderError::Missing("code"), true));
        let problem = "is not a 32-bit integer";
        assert_eq!(error(r#"{"code":2147483648,"opaque":1}"#), (HeaderError::Field { field: "code", problem }, true));
        assert_eq!(error(r#"{"code":1,"opaque":[]}"#), (HeaderError::Field { field: "opaque", problem }, false));
        for broken in
            ["", "{", "[]", r#"{"code":1,"opaque":2"#, r#"{"code":1,"opaque":2}x"#, r#"{"code":1,}"#, r#"{"a":tru}"#]
        {
            assert!(matches!(error(broken).0, HeaderError::Json { .. }), "{broken}");
        }
        for escape in [r"\x", r"\u12", r"\ud800", r"\ud800\u0041", r"\udc00", r"\u+123"] {
            let header = format!(r#"{{"code":1,"opaque":2,"remark":"{escape}"}}"#);
            assert!(matches!(error(&header).0, HeaderError::Json { .. }), "{escape}");
        }
    }

    /// Skipping what we do not know recurses: without a bound a header could exhaust the stack.
    #[test]
    fn nesting_is_bounded() {
        for open in ["[", "{\"a\":"] {
            let header = format!("{{\"x\":{}", open.repeat(60_000));
            assert!(matches!(error(&header).0, HeaderError::Json { problem: "nested too deep", .. }));
        }
    }
}
