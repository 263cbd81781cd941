//! Reading JSON by the letter of RFC 8259.

use std::collections::BTreeMap;

use super::MAX_DEPTH;

/// A document, or a part of one.
pub(super) enum Value<'a> {
    /// `true`, `false`, `null` or a number, as written.
    Literal(&'a str),
    Text(String),
    Array(Vec<Value<'a>>),
    Object(BTreeMap<String, Value<'a>>),
}

/// Reads a whole document; `None` when it is not one, nests too deep, or has a member name twice in one object.
pub(super) fn parse(document: &[u8]) -> Option<Value<'_>> {
    let text = std::str::from_utf8(document).ok()?;
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    parser.space();
    (parser.at == text.len()).then_some(value)
}

/// RFC 8259, strictly.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value<'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.space();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::Text),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &'static str) -> Option<Value<'a>> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
            Value::Literal(word)
        })
    }

    fn object(&mut self, depth: usize) -> Option<Value<'a>> {
        self.eat(b'{')?;
        let mut members = BTreeMap::new();
        self.space();
        if self.eat(b'}').is_some() {
            return Some(Value::Object(members));
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.eat(b':')?;
            let value = self.value(depth + 1)?;
            if members.insert(name, value).is_some() {
                return None;
            }
            self.space();
            if self.eat(b',').is_none() {
                self.eat(b'}')?;
                return Some(Value::Object(members));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Option<Value<'a>> {
        self.eat(b'[')?;
        let mut elements = Vec::new();
        self.space();
        if self.eat(b']').is_some() {
            return Some(Value::Array(elements));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            self.space();
            if self.eat(b',').is_none() {
                self.eat(b']')?;
                return Some(Value::Array(elements));
            }
        }
    }

    fn number(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        let _ = self.eat(b'-');
        match self.peek()? {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits()?,
            _ => return None,
        }
        if self.eat(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(Value::Literal(&self.text[start..self.at]))
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn string(&mut self) -> Option<String> {
        self.eat(b'"')?;
        let mut text = String::new();
        loop {
            let run = self.text[self.at..].find(|c: char| c == '"' || c == '\\' || c < ' ')?;
            text.push_str(&self.text[self.at..self.at + run]);
            self.at += run;
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(text);
                }
                b'\\' => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex4()?;
                if !(0xd800..0xdc00).contains(&high) {
                    // A lone low surrogate is no character: such a text has no canonical form.
                    return char::from_u32(high);
                }
                self.eat(b'\\')?;
                self.eat(b'u')?;
                let low = self.hex4()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                return char::from_u32(0x10000 + ((high - 0xd800) << 10) + low);
            }
            _ => return None,
        })
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}
