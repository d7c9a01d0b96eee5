// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of functions as their authors wrote them, within bounds: a few bytes may stand for a name without end.

use std::fmt;
use std::fmt::Write;

/// Longer names are cut.
pub(crate) const NAME_MAX: usize = 1024;
/// Behind a name that was cut.
const MARK: &str = "...";
/// Longer symbols are shown as they are, and cut.
const SYMBOL_MAX: usize = 64 << 10;

/// A name of C++ or Rust in plain text; any other as it is.
pub(crate) fn demangle(symbol: &[u8]) -> String {
    // A symbol may have a version, or say what the compiler made of a function.
    let text = String::from_utf8_lossy(&symbol[..symbol.len().min(SYMBOL_MAX)]);
    if let Ok(rust) = rustc_demangle::try_demangle(&text) {
        return written(|out| write!(out, "{rust:#}"));
    }
    if !text.starts_with("_Z") {
        return cut(&text);
    }
    // What the compiler put behind it is no part of the mangled name.
    let (mangled, suffix) =
        text.split_once('.').map_or((&*text, ""), |(name, _)| (name, &text[name.len()..]));
    let Ok(parsed) = cpp_demangle::Symbol::new(mangled) else { return cut(&text) };
    let options = cpp_demangle::DemangleOptions::default();
    let name = written(|out| {
        parsed.structured_demangle(out, &options)?;
        out.write_str(suffix)
    });
    if name.is_empty() { cut(&text) } else { name }
}

/// A name that is no longer than it may be.
pub(crate) fn cut(name: &str) -> String {
    written(|out| out.write_str(name))
}

/// Text that is cut, and made no further, where it is as long as it may be.
fn written(write: impl FnOnce(&mut Short) -> fmt::Result) -> String {
    let mut out = Short { text: String::new(), full: false };
    match write(&mut out) {
        Err(_) if !out.full => String::new(),
        _ if out.full => out.text + MARK,
        _ => out.text,
    }
}

struct Short {
    text: String,
    full: bool,
}

impl Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = NAME_MAX - self.text.len();
        let end = (0..=room.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        self.text.push_str(&text[..end]);
        self.full |= end < text.len();
        if self.full { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_languages() {
        for (symbol, name) in [
            ("main", "main"),
            ("_ZN3foo3barEv", "foo::bar()"),
            ("_ZN3foo3barEv.cold", "foo::bar().cold"),
            ("_ZN4core3ptr13drop_in_place17h0123456789abcdefE", "core::ptr::drop_in_place"),
            ("_RNvCs15kBYyAo9fc_7mycrate7example", "mycrate::example"),
            ("main.(*T).spin", "main.(*T).spin"),
            ("_Znonsense", "_Znonsense"),
            ("", ""),
        ] {
            assert_eq!(demangle(symbol.as_bytes()), name);
        }
        assert_eq!(demangle(b"a\xffb"), "a\u{fffd}b");
    }

    #[test]
    fn long_names_are_cut_and_say_so() {
        let long = "x".repeat(NAME_MAX + 1);
        assert_eq!(cut(&long[1..]), long[1..]);
        assert_eq!(cut(&long), format!("{}...", &long[1..]));
        assert_eq!(cut(&"\u{e9}".repeat(NAME_MAX)).len(), NAME_MAX + 3);

        // Each argument is the one before it, twice.
        let digits = b"0123456789ABCDEFGHIJ";
        let mut bomb = b"_Z1f1AIiiE".to_vec();
        for digit in digits {
            let before = [b'S', *digit, b'_'];
            bomb.extend([&b"S_I"[..], &before, &before, b"E"].concat());
        }
        assert!(demangle(&bomb).len() <= NAME_MAX + 3);
        assert!(demangle(&bomb).starts_with("f(A<int, int>"), "{}", demangle(&bomb));
    }
}
