// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table of functions that each Go program has, also one without symbols: `.gopclntab`
//! (src/runtime/symtab.go and src/debug/gosym/pclntab.go of Go).

use std::ops::Range;

/// The layouts, each named by the release that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layout {
    Go12,
    Go116,
    /// Those of 1.18 and 1.20, which do not differ in what is read here.
    Go118,
}

/// Where the parts of a table lie in it.
#[derive(Debug)]
pub(crate) struct Pclntab {
    layout: Layout,
    big_endian: bool,
    pointer: usize,
    /// The address that those of functions are relative to.
    text: u64,
    count: usize,
    functions: usize,
    names: usize,
}

impl Pclntab {
    /// Understand a table. `text` is where the program's code begins, if that is known.
    pub fn parse(table: &[u8], code: &[Range<u64>], text: Option<u64>) -> Option<Self> {
        let magic: [u8; 4] = table.get(..4)?.try_into().ok()?;
        let (layout, big_endian) = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
            (0xffff_fffb, _) => (Layout::Go12, false),
            (_, 0xffff_fffb) => (Layout::Go12, true),
            (0xffff_fffa, _) => (Layout::Go116, false),
            (_, 0xffff_fffa) => (Layout::Go116, true),
            (0xffff_fff0 | 0xffff_fff1, _) => (Layout::Go118, false),
            (_, 0xffff_fff0 | 0xffff_fff1) => (Layout::Go118, true),
            _ => return None,
        };
        let pointer = usize::from(*table.get(7)?);
        if !matches!(pointer, 4 | 8) || table.get(4..6)? != [0, 0] {
            return None;
        }
        let mut this = Self { layout, big_endian, pointer, text: 0, count: 0, functions: 0, names: 0 };
        let word = |index: usize| this.number(table, 8 + index * pointer, pointer);
        let place = |index: usize| usize::try_from(word(index)?).ok();
        let (count, functions, names) = match layout {
            Layout::Go12 => (place(0)?, 8 + pointer, 0),
            Layout::Go116 => (place(0)?, place(6)?, place(2)?),
            Layout::Go118 => (place(0)?, place(7)?, place(3)?),
        };
        let start = if layout == Layout::Go118 {
            // From Go 1.26 on, and in programs that are moved when they are loaded, the table does not tell.
            let told = word(2)?;
            if code.iter().any(|range| range.contains(&told)) { told } else { text? }
        } else {
            0
        };
        (this.count, this.functions, this.names, this.text) = (count, functions, names, start);
        let length = count.checked_mul(2)?.checked_add(1)?.checked_mul(this.width())?;
        table.get(functions..functions.checked_add(length)?)?;
        table.get(names..)?;
        // Addresses that are filled in when the program is loaded are all 0 in the file.
        (count > 0 && this.entry(table, 0)? < this.entry(table, count)?).then_some(this)
    }

    /// The function at an address: its name and where it begins.
    pub fn find<'a>(&self, table: &'a [u8], address: u64) -> Option<(&'a [u8], u64)> {
        let (mut low, mut high) = (0, self.count);
        if !(self.entry(table, low)?..self.entry(table, high)?).contains(&address) {
            return None;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.entry(table, middle)? <= address { low = middle } else { high = middle }
        }
        let start = self.entry(table, low)?;
        // Where the function is described; in older tables that is an offset of the whole.
        let base = if self.layout == Layout::Go12 { 0 } else { self.functions };
        let width = self.width();
        let described = self.number(table, self.functions.checked_add((2 * low + 1) * width)?, width)?;
        let described = base.checked_add(usize::try_from(described).ok()?)?;
        // The same address comes first there.
        if self.number(table, described, width)?.checked_add(self.text)? != start {
            return None;
        }
        let name = self.number(table, described.checked_add(width)?, 4)?;
        let name = table.get(self.names.checked_add(usize::try_from(name).ok()?)?..)?;
        let name = name.get(..memchr::memchr(0, name)?)?;
        (!name.is_empty()).then_some((name, start))
    }

    /// Where a function begins; that behind the last is where it ends.
    fn entry(&self, table: &[u8], index: usize) -> Option<u64> {
        let at = self.functions.checked_add(index.checked_mul(2)?.checked_mul(self.width())?)?;
        self.number(table, at, self.width())?.checked_add(self.text)
    }

    /// Of addresses and offsets in the table of functions.
    fn width(&self) -> usize {
        if self.layout == Layout::Go118 { 4 } else { self.pointer }
    }

    fn number(&self, table: &[u8], at: usize, width: usize) -> Option<u64> {
        let bytes = table.get(at..at.checked_add(width)?)?.iter();
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big_endian { bytes.fold(0, add) } else { bytes.rev().fold(0, add) })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table of functions: name and first address of each, and the address behind the last.
    pub(crate) fn table(
        magic: u32,
        pointer: usize,
        text: u64,
        functions: &[(&str, u64)],
        end: u64,
    ) -> Vec<u8> {
        let number = |value: u64, width: usize| value.to_le_bytes()[..width].to_vec();
        let new = magic == 0xffff_fff0 || magic == 0xffff_fff1;
        let old = magic == 0xffff_fffb;
        let width = if new { 4 } else { pointer };
        let base = if new { text } else { 0 };
        let words = if old {
            1
        } else if new {
            8
        } else {
            7
        };
        let header = 8 + words * pointer;
        let names: Vec<u8> =
            functions.iter().flat_map(|(name, _)| [name.as_bytes(), b"\0"].concat()).collect();
        let names_at = if old { 0 } else { header };
        let functions_at = if old { header } else { header + names.len() };
        let descriptions = (2 * functions.len() + 1) * width;
        let first_name = if old { functions_at + descriptions + functions.len() * (width + 4) } else { 0 };
        let mut table = magic.to_le_bytes().to_vec();
        table.extend([0, 0, 1, pointer as u8]);
        let mut header_words = vec![0; words];
        header_words[0] = functions.len() as u64;
        if !old {
            header_words[if new { 3 } else { 2 }] = names_at as u64;
            header_words[words - 1] = functions_at as u64;
            header_words[2] = if new { text } else { header_words[2] };
        }
        table.extend(header_words.iter().flat_map(|word| number(*word, pointer)));
        if !old {
            table.extend(&names);
        }
        let (mut described, mut name_at) = (Vec::new(), first_name);
        let relative = if old { functions_at } else { 0 };
        for (name, start) in functions {
            table.extend(number(start - base, width));
            table.extend(number((relative + descriptions + described.len()) as u64, width));
            described.extend(number(start - base, width));
            described.extend(number(name_at as u64, 4));
            name_at += name.len() + 1;
        }
        table.extend(number(end - base, width));
        table.extend(described);
        if old {
            table.extend(names);
        }
        table
    }

    const MAGICS: [u32; 4] = [0xffff_fffb, 0xffff_fffa, 0xffff_fff0, 0xffff_fff1];

    #[test]
    fn functions_are_found_in_all_layouts() {
        let functions = [("runtime.text", 0x401000), ("main.main", 0x401100), ("main.(*T).spin", 0x401180)];
        for magic in MAGICS {
            for pointer in [4, 8] {
                let table = table(magic, pointer, 0x401000, &functions, 0x401200);
                let parsed = Pclntab::parse(&table, &[], Some(0x401000)).unwrap();
                let find = |address| parsed.find(&table, address);
                assert_eq!(find(0x401000), Some((&b"runtime.text"[..], 0x401000)));
                assert_eq!(find(0x4010ff), Some((&b"runtime.text"[..], 0x401000)));
                assert_eq!(find(0x401100), Some((&b"main.main"[..], 0x401100)));
                assert_eq!(find(0x4011ff), Some((&b"main.(*T).spin"[..], 0x401180)));
                assert_eq!((find(0x401200), find(0x400fff), find(0)), (None, None, None));
            }
        }
    }

    #[test]
    fn no_table_is_believed() {
        let functions = [("a", 0x1000), ("b", 0x1100)];
        for magic in MAGICS {
            let whole = table(magic, 8, 0x1000, &functions, 0x1200);
            // Each byte gone, and each byte another: nothing but an answer or none.
            for length in 0..whole.len() {
                let short = &whole[..length];
                if let Some(parsed) = Pclntab::parse(short, &[], Some(0x1000)) {
                    _ = parsed.find(short, 0x1150);
                }
            }
            for at in 0..whole.len() {
                for byte in [0, 0x7f, 0xff] {
                    let mut other = whole.clone();
                    other[at] = byte;
                    if let Some(parsed) = Pclntab::parse(&other, &[], Some(0x1000)) {
                        _ = [0, 0x1000, 0x1150, u64::MAX].map(|address| parsed.find(&other, address));
                    }
                }
            }
            let new = magic >> 4 == 0x0fff_ffff && magic & 0xf < 2;
            assert_eq!(Pclntab::parse(&whole, &[], None).is_none(), new, "{magic:x}");
            let code = [Range { start: 0x1000, end: 0x2000 }];
            assert!(Pclntab::parse(&whole, &code, None).is_some(), "{magic:x}");
            let zeros = table(magic, 8, 0, &[("a", 0), ("b", 0)], 0);
            assert!(Pclntab::parse(&zeros, &[], Some(0x1000)).is_none());
        }
        assert!(Pclntab::parse(b"\xf2\xff\xff\xff\0\0\x01\x08", &[], Some(0)).is_none());
    }
}
