// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one way in which bytes from outside (names, paths, arguments, symbols) reach a terminal.

use std::fmt::Write as _;

/// Whether a character could move the cursor, forge a line, or reorder what is read.
pub(crate) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Append `bytes` to `text` so that they are harmless and can be told back: a backslash is doubled,
/// hostile characters become `\u{..}`, control bytes and invalid UTF-8 `\x..`.
pub fn escape_into(text: &mut String, bytes: &[u8]) {
    if bytes.iter().all(|b| matches!(b, b' '..=b'~') && *b != b'\\') {
        text.push_str(&String::from_utf8_lossy(bytes));
        return;
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_ascii_control() => _ = write!(text, "\\x{:02x}", u32::from(c)),
                c if is_hostile(c) => _ = write!(text, "\\u{{{:x}}}", u32::from(c)),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            _ = write!(text, "\\x{byte:02x}");
        }
    }
}

/// [`escape_into`] a new string.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    escape_into(&mut text, bytes);
    text
}

/// The bytes of a C string in a fixed array, without the NUL and what follows it.
pub fn c_bytes(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`escape`] wrote, told back.
    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c != '\\' {
                bytes.extend(c.to_string().bytes());
                continue;
            }
            if let Some(tail) = rest.strip_prefix('\\') {
                bytes.push(b'\\');
                rest = tail;
            } else if let Some(tail) = rest.strip_prefix('x') {
                bytes.push(u8::from_str_radix(&tail[..2], 16).unwrap());
                rest = &tail[2..];
            } else {
                let (hex, tail) = rest.strip_prefix("u{").unwrap().split_once('}').unwrap();
                let c = char::from_u32(u32::from_str_radix(hex, 16).unwrap()).unwrap();
                bytes.extend(c.to_string().bytes());
                rest = tail;
            }
        }
        bytes
    }

    #[test]
    fn every_byte_is_harmless_and_can_be_told_back() {
        let every: Vec<u8> = (0..=255).collect();
        let text = escape(&every);
        assert!(!text.chars().any(is_hostile), "{text}");
        assert_eq!(unescape(&text), every);
    }

    #[test]
    fn hostile_characters_are_written_out() {
        assert_eq!(escape("a\nb".as_bytes()), "a\\x0ab");
        assert_eq!(escape("\u{1b}[2J".as_bytes()), "\\x1b[2J");
        assert_eq!(escape("\u{9b}2J\u{202e}x".as_bytes()), "\\u{9b}2J\\u{202e}x");
        assert_eq!(escape("grün\\x".as_bytes()), "grün\\\\x");
        assert_eq!(escape(b"\xff\xc3"), "\\xff\\xc3");
    }
}
