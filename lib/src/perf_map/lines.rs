// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lines of a perf map.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::demangle;

const BLOCK: u64 = 256 << 10;
/// What is longer is no line of a perf map.
const LINE_MAX: usize = 64 << 10;

/// What was found in a perf map.
pub(crate) struct Found {
    /// By address: the name, and where the code begins.
    pub names: BTreeMap<u64, (String, u64)>,
    /// Bytes.
    pub read: u64,
    /// Whether all of the file was read, as far as it was of use.
    pub all: bool,
}

/// Read lines from the last to the first until all addresses have a name. A last line without an end is still being
/// written unless the file is complete.
pub(crate) fn search(
    file: &fs::File,
    mut asked: BTreeSet<u64>,
    complete: bool,
    allowed: u64,
) -> io::Result<Found> {
    let length = file.metadata()?.len();
    let mut names = BTreeMap::new();
    let mut at = length;
    // The end of a line that begins in an earlier block; `None` in the midst of one that is too long.
    let mut rest: Option<Vec<u8>> = Some(Vec::new());
    let mut is_last = !complete;
    while at > 0 && length - at < allowed && !asked.is_empty() {
        let start = at.saturating_sub(BLOCK);
        let mut text = vec![0; (at - start) as usize];
        file.read_exact_at(&mut text, start)?;
        at = start;
        let too_long = rest.is_none();
        text.extend(rest.take().unwrap_or_default());
        let mut lines = text.as_slice();
        let first = if at == 0 { None } else { memchr::memchr(b'\n', &text) };
        let mut drop_last = too_long;
        let mut take = |line: &[u8]| {
            let partial = std::mem::take(&mut is_last);
            let dropped = std::mem::take(&mut drop_last);
            if !partial && !dropped {
                take_line(line, &mut asked, &mut names);
            }
        };
        if at == 0 || first.is_some() {
            let begin = first.map_or(0, |newline| newline + 1);
            lines = &lines[begin..];
            while let Some(newline) = memchr::memrchr(b'\n', lines) {
                take(&lines[newline + 1..]);
                lines = &lines[..newline];
            }
            take(lines);
            text.truncate(first.unwrap_or(0));
        }
        rest = (text.len() <= LINE_MAX && !(too_long && first.is_none())).then_some(text);
    }
    Ok(Found { names, read: length - at, all: at == 0 || asked.is_empty() })
}

/// Give the addresses that a line covers its name.
fn take_line(line: &[u8], asked: &mut BTreeSet<u64>, names: &mut BTreeMap<u64, (String, u64)>) {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (Some(start), Some(size), Some(name)) =
        (words.next().and_then(hex), words.next().and_then(hex), words.next())
    else {
        return;
    };
    let name = name.trim_ascii();
    if name.is_empty() {
        return;
    }
    // One whose size is not known covers its beginning.
    let end = start.saturating_add(size.max(1));
    let covered: Vec<u64> = asked.range(start..end).copied().collect();
    for address in covered {
        asked.remove(&address);
        names.insert(address, (demangle::cut(&String::from_utf8_lossy(name)), start));
    }
}

fn hex(word: &[u8]) -> Option<u64> {
    let digits = word.strip_prefix(b"0x").or_else(|| word.strip_prefix(b"0X")).unwrap_or(word);
    // It would take a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn map(text: &[u8]) -> fs::File {
        let memory = nix::sys::memfd::memfd_create(c"map", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = fs::File::from(memory);
        file.write_all(text).unwrap();
        file
    }

    fn names(text: &[u8], asked: &[u64], complete: bool) -> Vec<Option<(String, u64)>> {
        let found = search(&map(text), asked.iter().copied().collect(), complete, u64::MAX).unwrap();
        assert!(found.all);
        asked.iter().map(|address| found.names.get(address).cloned()).collect()
    }

    fn name(name: &str, start: u64) -> Option<(String, u64)> {
        Some((name.into(), start))
    }

    #[test]
    fn the_newest_line_that_covers_an_address_counts() {
        let text = b"1000 100 old\n0x2000 10 two words\n1080 100 new\n3000 10 a\n3000 10 b\n";
        let found = names(text, &[0x1040, 0x1080, 0x117f, 0x1180, 0x200f, 0x2010, 0x3000], false);
        let b = name("b", 0x3000);
        let two = name("two words", 0x2000);
        let new = name("new", 0x1080);
        assert_eq!(found, [name("old", 0x1000), new.clone(), new, None, two, None, b]);
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let text = b"nonsense\n\n1000 zz bad\n+1000 10 sign\n1000 10\n1000 10 \n0X1000 0x10 good\r\n\xff\n";
        assert_eq!(names(text, &[0x1008], false), [name("good", 0x1000)]);
        // Beyond the last address there is none.
        let text = b"fffffffffffffff0 ffff end\n10000000000000000 1 beyond\n";
        assert_eq!(names(text, &[u64::MAX - 1, 0], false), [name("end", u64::MAX - 15), None]);
        assert_eq!(names(b"5000 0 sizeless\n", &[0x5000, 0x5001], false), [name("sizeless", 0x5000), None]);
        assert_eq!(names(b"", &[1], true), [None]);
    }

    #[test]
    fn a_line_that_is_being_written_waits() {
        let text = b"1000 10 whole\n1000 10 par";
        assert_eq!(names(text, &[0x1000], false), [name("whole", 0x1000)]);
        // Nobody writes on.
        assert_eq!(names(text, &[0x1000], true), [name("par", 0x1000)]);
        assert_eq!(names(b"1000 10 par", &[0x1000], false), [None]);
    }

    #[test]
    fn maps_of_many_blocks_are_read_from_their_end() {
        let mut text = Vec::new();
        for i in 0..100_000_u64 {
            writeln!(text, "{:x} 40 function_{i}", 0x1000 + i * 0x40).unwrap();
        }
        writeln!(text, "1000 40 newer").unwrap();
        assert!(text.len() as u64 > 4 * BLOCK);
        let asked = [0x1000, 0x1040, 0x1000 + 50_000 * 0x40 + 1, 0x1000 + 99_999 * 0x40, 0x10];
        let expected = [
            name("newer", 0x1000),
            name("function_1", 0x1040),
            name("function_50000", 0x1000 + 50_000 * 0x40),
            name("function_99999", 0x1000 + 99_999 * 0x40),
            None,
        ];
        assert_eq!(names(&text, &asked, false), expected);

        // Where not all is read, the oldest are without a name, and it is known.
        let found = search(&map(&text), asked.into_iter().collect(), false, BLOCK).unwrap();
        assert!(!found.all && found.read == BLOCK);
        assert_eq!(found.names.into_values().collect::<Vec<_>>().len(), 2);
    }

    #[test]
    fn a_line_without_an_end_takes_no_other_away() {
        for length in [LINE_MAX, BLOCK as usize, 5 * BLOCK as usize / 2] {
            for before in [0, 1, BLOCK as usize - 14, BLOCK as usize] {
                let mut text = b"1000 10 first\n2000 10 ".to_vec();
                text.resize(text.len() + before, b' ');
                text.resize(text.len() + length, b'x');
                text.extend(b"\n3000 10 last\n");
                let found = names(&text, &[0x1000, 0x3000], false);
                assert_eq!(found, [name("first", 0x1000), name("last", 0x3000)], "{length} {before}");
            }
        }
    }
}
