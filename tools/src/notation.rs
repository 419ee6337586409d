//! Bytes as text and back: as they are, escaped, in hex, or in JSON.
//!
//! Keys and values are any bytes. Each way of writing them here except [`Notation::Bare`] is reversible whatever they
//! are: what a tool prints, the same tool reads again.

use std::fmt;

use serde_json::{Map, Value};

/// How keys and values are written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    /// The bytes themselves.
    Bare,
    /// UTF-8 as it is; a backslash, a control character and whatever is not UTF-8 as `\\` or `\xNN`.
    Escaped,
    /// Two hex digits a byte.
    Hex,
}

impl Notation {
    /// Appends `bytes` in this notation.
    pub fn write(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Notation::Bare => out.extend_from_slice(bytes),
            Notation::Escaped => escape(bytes, out),
            Notation::Hex => bytes.iter().for_each(|&byte| push_hex(byte, out)),
        }
    }

    /// `bytes` in this notation, for a message or a table.
    pub fn display(self, bytes: &[u8]) -> String {
        let mut out = Vec::with_capacity(bytes.len());
        self.write(bytes, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Reads bytes that stand in this notation.
    ///
    /// ```
    /// use terrace_tools::notation::Notation;
    /// assert_eq!(Notation::Hex.read(b"00fF").unwrap(), [0, 255]);
    /// assert_eq!(Notation::Escaped.read(br"a\x00\\").unwrap(), b"a\0\\");
    /// assert!(Notation::Hex.read(b"0").is_err());
    /// ```
    pub fn read(self, text: &[u8]) -> Result<Vec<u8>, NotationError> {
        match self {
            Notation::Bare => Ok(text.to_vec()),
            Notation::Escaped => unescape(text),
            Notation::Hex => read_hex(text),
        }
    }
}

/// Text that does not stand in the notation it was read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotationError {
    /// A number of hex digits that is odd: half a byte is missing.
    OddHex,
    /// A character that is no hex digit, at this place.
    NotHex(usize),
    /// A backslash that is followed by neither a backslash nor `x` and two hex digits, at this place.
    BadEscape(usize),
}

impl std::error::Error for NotationError {}

impl fmt::Display for NotationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotationError::OddHex => f.write_str("an odd number of hex digits"),
            NotationError::NotHex(at) => write!(f, "no hex digit at character {}", at + 1),
            NotationError::BadEscape(at) => {
                write!(f, "no escape at character {} (\\\\ is a backslash, \\xNN a byte)", at + 1)
            }
        }
    }
}

/// Puts bytes into a JSON object: as the string `name` if they are UTF-8 and `notation` is not hex, else in hex as
/// `name_hex`.
pub fn insert_json(object: &mut Map<String, Value>, name: &str, bytes: &[u8], notation: Notation) {
    match std::str::from_utf8(bytes) {
        Ok(text) if notation != Notation::Hex => object.insert(name.to_owned(), Value::from(text)),
        _ => object.insert(format!("{name}_hex"), Value::from(Notation::Hex.display(bytes))),
    };
}

/// Takes bytes out of a JSON object as [`insert_json`] puts them in: the string `name`, or `name_hex`.
pub fn take_json(object: &mut Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let hex_name = format!("{name}_hex");
    match (object.remove(name), object.remove(&hex_name)) {
        (Some(Value::String(text)), None) => Ok(text.into_bytes()),
        (None, Some(Value::String(text))) => {
            Notation::Hex.read(text.as_bytes()).map_err(|error| format!("{hex_name:?} has {error}"))
        }
        (None, None) => Err(format!("{name:?} is missing")),
        (Some(_), Some(_)) => Err(format!("both {name:?} and {hex_name:?} are given")),
        (Some(_), None) => Err(format!("{name:?} is not a string")),
        (None, Some(_)) => Err(format!("{hex_name:?} is not a string")),
    }
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                out.extend_from_slice(b"\\\\");
            } else if character.is_control() {
                let mut buffer = [0; 4];
                character.encode_utf8(&mut buffer).bytes().for_each(|byte| push_escape(byte, out));
            } else {
                let mut buffer = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_escape(byte, out));
    }
}

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\x");
    push_hex(byte, out);
}

fn push_hex(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

fn unescape(text: &[u8]) -> Result<Vec<u8>, NotationError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte != b'\\' {
            bytes.push(byte);
            at += 1;
            continue;
        }
        match text.get(at + 1) {
            Some(b'\\') => {
                bytes.push(b'\\');
                at += 2;
            }
            Some(b'x') => {
                let digits = text.get(at + 2..at + 4).ok_or(NotationError::BadEscape(at))?;
                bytes.extend(read_hex(digits).map_err(|_| NotationError::BadEscape(at))?);
                at += 4;
            }
            _ => return Err(NotationError::BadEscape(at)),
        }
    }
    Ok(bytes)
}

fn read_hex(text: &[u8]) -> Result<Vec<u8>, NotationError> {
    let digit = |at: usize| match text[at] {
        byte @ b'0'..=b'9' => Ok(byte - b'0'),
        byte @ b'a'..=b'f' => Ok(byte - b'a' + 10),
        byte @ b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(NotationError::NotHex(at)),
    };
    if !text.len().is_multiple_of(2) {
        return Err(NotationError::OddHex);
    }
    (0..text.len()).step_by(2).map(|at| Ok(digit(at)? << 4 | digit(at + 1)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_escaped_and_hex() {
        let all: Vec<u8> = (0..=255).chain(*b"\\x41\\\\ \xc3\xa4 \xc3").collect();
        for notation in [Notation::Escaped, Notation::Hex, Notation::Bare] {
            let mut text = Vec::new();
            notation.write(&all, &mut text);
            assert_eq!(notation.read(&text).unwrap(), all, "{notation:?}");
        }
        let text = Notation::Escaped.display(&all);
        assert!(!text.contains(char::is_control) && text.contains('ä'), "{text}");
    }

    #[test]
    fn bad_text_is_named_with_its_place() {
        assert_eq!(Notation::Hex.read(b"123"), Err(NotationError::OddHex));
        assert_eq!(Notation::Hex.read(b"12g4"), Err(NotationError::NotHex(2)));
        for bad in [&b"ab\\"[..], b"ab\\n", b"ab\\x1", b"ab\\x1g"] {
            assert_eq!(Notation::Escaped.read(bad), Err(NotationError::BadEscape(2)));
        }
    }

    #[test]
    fn json_takes_what_it_put() {
        for bytes in [&b"text"[..], b"", b"\xff\x00", "ä\n".as_bytes()] {
            for notation in [Notation::Escaped, Notation::Hex] {
                let mut object = Map::new();
                insert_json(&mut object, "key", bytes, notation);
                assert_eq!(take_json(&mut object, "key").unwrap(), bytes);
                assert!(object.is_empty());
            }
        }
        let mut object = Map::new();
        assert_eq!(take_json(&mut object, "key").unwrap_err(), "\"key\" is missing");
        object.insert("key".into(), Value::from(1));
        assert_eq!(take_json(&mut object, "key").unwrap_err(), "\"key\" is not a string");
    }
}
