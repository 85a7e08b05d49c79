//! Rewrites the JSON that fastjson writes into standard JSON.
//!
//! Three forms occur: numbers as keys (`{0:"a"}`), objects as keys (`{{"queueId":0}:5}`), and a standard text, which is returned
//! as it is. An object key becomes a string that holds the object's text. The rewriter checks brackets, keys and depth; what
//! stands as a scalar value is left for the JSON parser to judge.

use std::borrow::Cow;

use super::{JsonError, MAX_JSON_DEPTH};

/// The standard form of `text`, borrowed when it is standard already.
pub(super) fn to_standard(text: &[u8]) -> Result<Cow<'_, [u8]>, JsonError> {
    let mut rewriter = Rewriter { text, at: 0, copied: 0, out: Vec::new() };
    rewriter.skip_whitespace();
    rewriter.value(0)?;
    rewriter.skip_whitespace();
    if rewriter.at != text.len() {
        return Err(rewriter.error("text after the value"));
    }
    if rewriter.copied == 0 {
        return Ok(Cow::Borrowed(text));
    }
    rewriter.copy_up_to(text.len());
    Ok(Cow::Owned(rewriter.out))
}

struct Rewriter<'a> {
    text: &'a [u8],
    at: usize,
    /// Up to where `text` has been taken over into `out`. Zero as long as nothing had to be changed.
    copied: usize,
    out: Vec<u8>,
}

impl Rewriter<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn error(&self, problem: &'static str) -> JsonError {
        JsonError::Malformed { at: self.at, problem }
    }

    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn copy_up_to(&mut self, end: usize) {
        self.out.extend_from_slice(&self.text[self.copied..end]);
        self.copied = end;
    }

    /// Steps over a value; `depth` brackets are open around it.
    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                self.scalar();
                Ok(())
            }
            _ => Err(self.error("expected a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > MAX_JSON_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        self.skip_whitespace();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_whitespace();
            self.key(depth)?;
            self.skip_whitespace();
            if self.peek() != Some(b':') {
                return Err(self.error("expected ':'"));
            }
            self.at += 1;
            self.skip_whitespace();
            self.value(depth)?;
            self.skip_whitespace();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.error("expected ',' or '}'")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > MAX_JSON_DEPTH {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        self.skip_whitespace();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_whitespace();
            self.value(depth)?;
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

    fn key(&mut self, depth: usize) -> Result<(), JsonError> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => {
                self.scalar();
                self.copy_up_to(start);
                self.out.push(b'"');
                self.copy_up_to(self.at);
                self.out.push(b'"');
                Ok(())
            }
            Some(b'{') => self.object_key(depth, start),
            _ => Err(self.error("expected a key")),
        }
    }

    /// An object as a key: its own text, made standard, goes into a string.
    fn object_key(&mut self, depth: usize, start: usize) -> Result<(), JsonError> {
        self.copy_up_to(start);
        let key_from = self.out.len();
        self.object(depth + 1)?;
        self.copy_up_to(self.at);
        let key = self.out.split_off(key_from);
        self.out.push(b'"');
        for byte in key {
            match byte {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
                // Strings hold no control characters, so this is whitespace between tokens.
                b'\t' | b'\r' | b'\n' => self.out.push(b' '),
                _ => self.out.push(byte),
            }
        }
        self.out.push(b'"');
        Ok(())
    }

    fn string(&mut self) -> Result<(), JsonError> {
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(self.error("string without an end")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at = (self.at + 2).min(self.text.len()),
                Some(0..=0x1F) => return Err(self.error("control character in a string")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn scalar(&mut self) {
        while let Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z') = self.peek() {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard(text: &str) -> String {
        String::from_utf8(to_standard(text.as_bytes()).unwrap().into_owned()).unwrap()
    }

    /// What Java peers send must reach serde as JSON, and what is JSON must not be touched.
    #[test]
    fn the_forms_of_fastjson() {
        for same in [r#"{"a":[1,{"b":null}],"c":"\"}"}"#, " [ ] ", "null", r#"{}"#, "-1.5e3"] {
            assert!(matches!(to_standard(same.as_bytes()), Ok(Cow::Borrowed(_))), "{same}");
        }
        assert_eq!(standard(r#"{0:"a",-2:{7:8}}"#), r#"{"0":"a","-2":{"7":8}}"#);
        assert_eq!(
            standard(r#"{"t":{{"a":"x\"y"}:1, {"a":2} : [] }}"#),
            r#"{"t":{"{\"a\":\"x\\\"y\"}":1, "{\"a\":2}" : [] }}"#
        );
        assert_eq!(standard("{{1:\n2}:3}"), r#"{"{\"1\": 2}":3}"#);
    }

    /// Depth is the one thing that a parser cannot bound afterwards: recursion would have eaten the stack.
    #[test]
    fn depth_and_shape_are_checked() {
        let deep = "[".repeat(MAX_JSON_DEPTH) + &"]".repeat(MAX_JSON_DEPTH);
        assert!(to_standard(deep.as_bytes()).is_ok());
        for open in ["[", "{\"a\":", "{"] {
            let text = open.repeat(1_000_000);
            assert!(matches!(to_standard(text.as_bytes()), Err(JsonError::TooDeep)), "{open}");
        }
        for bad in ["", "{", "{\"a\"}", "{a:1}", "[1 2]", "{} x", "\"\\", "{\"a\":}", "{1:2,}"] {
            assert!(matches!(to_standard(bad.as_bytes()), Err(JsonError::Malformed { .. })), "{bad}");
        }
    }
}
