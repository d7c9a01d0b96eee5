// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What probes need to know of an ELF file of 64 bits: where its functions are, and whether it is a static program.
//! The format is that of elf(5). The file is read, and not mapped: one that shrinks would end its reader.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use memchr::memmem;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PF_X: u32 = 1;
const SHT_SYMTAB: u32 = 2;
const SHT_DYNSYM: u32 = 11;
const STT_FUNC: u8 = 2;
/// Sizes of the header, and of a program header, a section header and a symbol.
const HEADER: usize = 64;
const SEGMENT: usize = 56;
const SECTION: usize = 64;
const SYMBOL: usize = 24;
/// Read at once.
const CHUNK: usize = 64 << 10;
/// Read of one file in all.
const BUDGET: u64 = 128 << 20;
/// Places of names in a table of strings, and of one function: an honest file has a few of each.
const STRINGS_MAX: usize = 4096;
const PLACES_MAX: usize = 64;

/// A file that is one.
pub(crate) struct Elf<'a> {
    file: &'a File,
    segments: Vec<[u8; SEGMENT]>,
    sections: Vec<[u8; SECTION]>,
    left: Cell<u64>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u16::from_ne_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u32::from_ne_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_ne_bytes(*b))
}

impl<'a> Elf<'a> {
    /// Nothing, if it is no such file, or one of 32 bits.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn read(file: &'a File) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        if !header.starts_with(b"\x7fELF\x02") {
            return Ok(None);
        }
        let mut elf = Self { file, segments: Vec::new(), sections: Vec::new(), left: Cell::new(BUDGET) };
        elf.segments = elf.table(u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56))?;
        elf.sections = elf.table(u64_at(&header, 40), u16_at(&header, 58), u16_at(&header, 60))?;
        Ok(Some(elf))
    }

    /// A table of entries that are as long as we know them.
    fn table<const N: usize>(&self, at: u64, size: u16, count: u16) -> io::Result<Vec<[u8; N]>> {
        if usize::from(size) != N {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; N * usize::from(count)];
        self.read_at(&mut bytes, at)?;
        Ok(bytes.as_chunks().0.to_vec())
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let left = self.left.get().checked_sub(bytes.len() as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("its tables of symbols are too long"))?);
        self.file.read_exact_at(bytes, at)
    }

    /// Hand a part of the file over in chunks, each with where it begins within the part, and with the last `overlap`
    /// bytes of the one before in front.
    fn chunks(
        &self,
        (at, size): (u64, u64),
        overlap: usize,
        mut each: impl FnMut(u64, &[u8]),
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut done = 0;
        while done < size {
            let kept = bytes.len().min(overlap);
            bytes.drain(..bytes.len() - kept);
            let more = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
            bytes.resize(kept + more, 0);
            self.read_at(&mut bytes[kept..], at.saturating_add(done))?;
            each(done - kept as u64, &bytes);
            done += more as u64;
        }
        Ok(())
    }

    /// The path of the program that loads this one and its libraries; a static program has none.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn interpreter(&self) -> io::Result<Option<Vec<u8>>> {
        let Some(segment) = self.segments.iter().find(|segment| u32_at(*segment, 0) == PT_INTERP) else {
            return Ok(None);
        };
        let mut path = vec![0; usize::try_from(u64_at(segment, 32)).unwrap_or(usize::MAX).min(4096)];
        self.read_at(&mut path, u64_at(segment, 8))?;
        path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(path.len()));
        Ok(Some(path))
    }

    /// Where in the file the functions of these names begin: one may have several versions.
    ///
    /// # Errors
    /// Those of reading, or the tables are longer than what is read of a file.
    pub(crate) fn functions(&self, names: &[&str]) -> io::Result<Vec<BTreeSet<u64>>> {
        let mut found = vec![BTreeSet::new(); names.len()];
        let place = |section: &[u8; SECTION]| (u64_at(section, 24), u64_at(section, 32));
        for symbols in &self.sections {
            if ![SHT_SYMTAB, SHT_DYNSYM].contains(&u32_at(symbols, 4)) {
                continue;
            }
            let Some(strings) = self.sections.get(u32_at(symbols, 40) as usize) else { continue };
            let wanted = self.strings(place(strings), names)?;
            if wanted.is_empty() {
                continue;
            }
            let (at, size) = place(symbols);
            let mut left = Vec::new();
            self.chunks((at, size), 0, |_, bytes| {
                left.extend_from_slice(bytes);
                let (symbols, rest) = left.as_chunks::<SYMBOL>();
                for symbol in symbols {
                    let is_defined = symbol[4] & 0xf == STT_FUNC && u16_at(symbol, 6) != 0;
                    if let Some(name) = wanted.get(&u32_at(symbol, 0)).filter(|_| is_defined)
                        && let Some(offset) = self.offset(u64_at(symbol, 8))
                    {
                        found[*name].insert(offset);
                        if found[*name].len() > PLACES_MAX {
                            found[*name].pop_last();
                        }
                    }
                }
                left = rest.to_vec();
            })?;
        }
        Ok(found)
    }

    /// Where the names are in a table of strings, of which one may be the end of another.
    fn strings(&self, place: (u64, u64), names: &[&str]) -> io::Result<HashMap<u32, usize>> {
        let mut wanted = HashMap::new();
        let needles: Vec<Vec<u8>> = names.iter().map(|name| [name.as_bytes(), &[0]].concat()).collect();
        let longest = needles.iter().map(Vec::len).max().unwrap_or_default();
        self.chunks(place, longest, |begin, bytes| {
            for (name, needle) in needles.iter().enumerate() {
                let room = STRINGS_MAX.saturating_sub(wanted.len());
                let positions = memmem::find_iter(bytes, needle).take(room);
                wanted
                    .extend(positions.filter_map(|at| Some((u32::try_from(begin + at as u64).ok()?, name))));
            }
        })?;
        Ok(wanted)
    }

    /// Where in the file the code of an address is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().filter(|s| u32_at(*s, 0) == PT_LOAD && u32_at(*s, 4) & PF_X != 0).find_map(|s| {
            let inside = address.checked_sub(u64_at(s, 16)).filter(|inside| *inside < u64_at(s, 32))?;
            u64_at(s, 8).checked_add(inside)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[unsafe(no_mangle)]
    extern "C" fn kscope_elf_test_function() -> u32 {
        std::hint::black_box(7)
    }

    #[test]
    fn functions_are_found_in_the_running_program() {
        assert_eq!(kscope_elf_test_function(), 7);
        let file = File::open("/proc/self/exe").unwrap();
        let elf = Elf::read(&file).unwrap().unwrap();
        let found =
            elf.functions(&["kscope_elf_test_function", "no_such_function", "test_function"]).unwrap();
        assert_eq!(found.iter().map(BTreeSet::len).collect::<Vec<_>>(), [1, 0, 0]);
        // The kernel says where the code is mapped from.
        let address = kscope_elf_test_function as *const () as u64;
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let offset = maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let is_it = (number(start)..number(end)).contains(&address);
            is_it.then(|| address - number(start) + number(rest.split(' ').nth(1).unwrap()))
        });
        assert!(found[0].contains(&offset.unwrap()));
    }

    #[test]
    fn damaged_files_are_survived() {
        let whole = fs::read("/proc/self/exe").unwrap();
        let folder = std::env::temp_dir().join(format!("kscope-elf-{}", std::process::id()));
        let try_it = |bytes: &[u8]| {
            fs::File::create(&folder).unwrap().write_all(bytes).unwrap();
            let file = File::open(&folder).unwrap();
            if let Ok(Some(elf)) = Elf::read(&file) {
                _ = elf.interpreter();
                _ = elf.functions(&["main"]);
            }
        };
        for length in (0..HEADER).chain([100, 1000, whole.len() / 2]) {
            try_it(&whole[..length]);
        }
        // Each byte of the header at its greatest.
        for at in 0..HEADER {
            let mut bytes = whole[..whole.len().min(1 << 16)].to_vec();
            bytes[at] = 0xff;
            try_it(&bytes);
        }
        fs::remove_file(folder).unwrap();
    }
}
