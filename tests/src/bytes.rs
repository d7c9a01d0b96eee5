// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes, as the tools and the workload write them.

use serde_json::Value;

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal.
///
/// # Panics
/// If it is none.
pub fn unhex(text: &str) -> Vec<u8> {
    assert!(text.is_ascii() && text.len().is_multiple_of(2), "not hexadecimal: {text:?}");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16);
    (0..text.len()).step_by(2).map(|at| byte(at).unwrap_or_else(|e| panic!("{text:?}: {e}"))).collect()
}

/// Bytes for a message.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The bytes of a JSON object's member `key`, lossless: those of `<key>_hex`, where the text could not keep them.
///
/// # Panics
/// If there is no such text.
pub fn bytes_of(object: &Value, key: &str) -> Vec<u8> {
    match object.get(format!("{key}_hex")) {
        Some(hex) => unhex(text(hex, object)),
        None => text(&object[key], object).as_bytes().to_vec(),
    }
}

/// [`bytes_of`] for a list of texts.
///
/// # Panics
/// If there is no such list.
pub fn list_of(object: &Value, key: &str) -> Vec<Vec<u8>> {
    let list = |value: &Value| {
        let list = value.as_array().unwrap_or_else(|| panic!("{key} is no list: {object}"));
        list.iter().map(|value| text(value, object).to_string()).collect::<Vec<_>>()
    };
    match object.get(format!("{key}_hex")) {
        Some(hex) => list(hex).iter().map(|text| unhex(text)).collect(),
        None => list(&object[key]).into_iter().map(String::into_bytes).collect(),
    }
}

fn text<'a>(value: &'a Value, object: &Value) -> &'a str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text: {object}"))
}

/// Whether a character could move the cursor, forge a line, or reorder what is read.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Check that a terminal can show these bytes: UTF-8, no controls but newlines, nothing that reorders text.
///
/// # Panics
/// If not.
pub fn assert_harmless(what: &str, bytes: &[u8]) {
    let text = str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}: {}", lossy(bytes)));
    for line in text.split('\n') {
        let hostile: Vec<char> = line.chars().filter(|c| is_hostile(*c)).collect();
        assert!(hostile.is_empty(), "{what} has {hostile:?} in {line:?}");
    }
}

/// The bytes that a table shows escaped, told back.
///
/// # Panics
/// If the escapes are not those of the tools.
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = text.split('\\');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    while let Some(part) = parts.next() {
        let rest = if part.is_empty() {
            bytes.push(b'\\');
            // What follows the second backslash is plain.
            parts.next().unwrap_or_else(|| panic!("a lone backslash ends {text:?}"))
        } else if let Some(rest) = part.strip_prefix('x') {
            bytes.extend(unhex(&rest[..2]));
            &rest[2..]
        } else {
            let (code, rest) = part
                .strip_prefix("u{")
                .and_then(|rest| rest.split_once('}'))
                .unwrap_or_else(|| panic!("an unknown escape \\{part} in {text:?}"));
            let c = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
            bytes.extend(c.unwrap_or_else(|| panic!("{code} in {text:?}")).to_string().bytes());
            rest
        };
        bytes.extend(rest.bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hexadecimal_goes_both_ways() {
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&every)), every);
    }

    #[test]
    fn hexadecimal_goes_before_text() {
        let object = json!({"a": "x", "b": "?", "b_hex": "ff", "c": ["x", ""], "d": ["?"], "d_hex": ["fe"]});
        assert_eq!(bytes_of(&object, "a"), b"x");
        assert_eq!(bytes_of(&object, "b"), b"\xff");
        assert_eq!(list_of(&object, "c"), [b"x".to_vec(), Vec::new()]);
        assert_eq!(list_of(&object, "d"), [b"\xfe"]);
    }

    #[test]
    fn escapes_are_told_back() {
        assert_eq!(unescape("plain"), b"plain");
        assert_eq!(unescape("a\\\\x0ab\\x0a\\\\\\\\c"), b"a\\x0ab\n\\\\c");
        assert_eq!(unescape("\\xff\\u{202e}g\\\\"), b"\xff\xe2\x80\xaeg\\");
    }

    #[test]
    fn what_is_hostile_is_found() {
        assert_harmless("this", "grün\nx \u{1f600}".as_bytes());
        for bad in ["\u{1b}[2J".as_bytes(), b"\xff", "\u{202e}".as_bytes(), "\u{9b}".as_bytes(), b"\r\n"] {
            assert!(std::panic::catch_unwind(|| assert_harmless("this", bad)).is_err(), "{bad:?}");
        }
    }
}
