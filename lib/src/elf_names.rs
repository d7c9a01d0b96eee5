// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of the functions in a program or library, from all that may have them: its symbols and its debug information;
//! a file of its own with these; the small table of symbols that Fedora and RHEL leave (`.gnu_debugdata`); Go's table
//! of functions; and the names that it exports. What can't be read of these takes nothing else away.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::ops::Deref;
use std::ops::Range;
use std::rc::Rc;

use addr2line::gimli;
use addr2line::gimli::EndianSlice;
use addr2line::gimli::RunTimeEndian;
use memmap2::Mmap;
use object::Endianness;
use object::elf;
use object::read::elf::FileHeader;
use object::read::elf::ProgramHeader as _;
use object::read::elf::SectionHeader as _;
use object::read::elf::Sym;
use self_cell::self_cell;

use crate::debug_files::Wanted;
use crate::demangle::cut;
use crate::demangle::demangle;
use crate::pclntab::Pclntab;
use crate::symbol::Symbol;
use crate::symbol::Why;

const NO_SYMBOLS: Why = "the file has no symbols";
const NOT_COVERED: Why = "no symbol covers it";
const NO_CODE: Why = "no code of the file is there";
const NO_ELF: Why = "the file is no program or library that can be read";
const BROKEN_SECTIONS: Why = "the file's list of sections can't be read";
const BROKEN_SYMBOLS: Why = "the file's symbols can't be read";
const TOO_MANY_SYMBOLS: Why = "the file has more symbols than are read";
const BROKEN_DEBUG: Why = "the file's debug information can't be read";
const BIG_DEBUG: Why = "the file's debug information is too long when unpacked";
const BROKEN_MINI: Why = "the file's compressed symbols (.gnu_debugdata) can't be read";
const BROKEN_GO: Why = "the file's table of Go functions can't be read";
const NO_DEBUG: Why = "no symbol covers it, and it takes too much to read the file's debug information";
const OTHER_DEBUG: Why = "no symbol covers it: the debug file that was found is of another build";

/// Symbols of one table; the largest programs have about two million.
const SYMBOLS_MAX: usize = 4 << 20;
/// Debug information of one file when it is unpacked, and how many times longer it may be than before.
const UNPACKED_MAX: u64 = 64 << 20;
const RATIO_MAX: u64 = 64;
/// Symbols in .gnu_debugdata when they are unpacked, and what unpacking takes, in KiB.
const MINI_MAX: u64 = 64 << 20;
const MINI_MEMORY: u32 = 96 << 10;
/// A symbol may lie within others, but not within many.
const NESTED_MAX: usize = 32;
/// Functions that the compiler put into one at one address.
pub(crate) const INLINED_MAX: usize = 256;

/// The bytes of a file, or of what was unpacked.
enum Data {
    File(Mmap),
    Memory(Vec<u8>),
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl Data {
    fn map(file: &fs::File) -> Result<Rc<Self>, Why> {
        // SAFETY: nobody is given a reference that is taken to stay the same: what is read is checked, and copied
        // where it matters. Whoever makes the file shorter meanwhile ends the process that reads it.
        let map = unsafe { Mmap::map(file) };
        map.map(|map| Rc::new(Self::File(map))).map_err(|_| NO_ELF)
    }
}

/// A part of a file that is loaded into memory.
struct Load {
    offset: u64,
    length: u64,
    address: u64,
    executable: bool,
}

struct Section {
    name: Vec<u8>,
    kind: elf::SectionType,
    flags: u64,
    address: u64,
    size: u64,
    bytes: Range<usize>,
    link: usize,
}

/// What a file says of itself.
struct Elf {
    data: Rc<Data>,
    endian: Endianness,
    is_64: bool,
    loads: Vec<Load>,
    sections: Result<Vec<Section>, Why>,
    build_id: Vec<u8>,
}

impl Elf {
    fn parse(data: Rc<Data>) -> Result<Self, Why> {
        let kind = object::FileKind::parse(&**data).map_err(|_| NO_ELF)?;
        match kind {
            object::FileKind::Elf64 => Self::parse_as::<elf::FileHeader64<Endianness>>(data, true),
            object::FileKind::Elf32 => Self::parse_as::<elf::FileHeader32<Endianness>>(data, false),
            _ => Err(NO_ELF),
        }
    }

    fn parse_as<E: FileHeader<Endian = Endianness>>(data: Rc<Data>, is_64: bool) -> Result<Self, Why> {
        let bytes: &[u8] = &data;
        let header = E::parse(bytes).map_err(|_| NO_ELF)?;
        let endian = header.endian().map_err(|_| NO_ELF)?;
        let segments = header.program_headers(endian, bytes).unwrap_or_default();
        let loads = segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
        let loads = loads.map(|load| Load {
            offset: load.p_offset(endian).into(),
            length: load.p_filesz(endian).into(),
            address: load.p_vaddr(endian).into(),
            executable: load.p_flags(endian).contains(elf::PF_X),
        });
        let loads = loads.collect();
        let notes = segments.iter().filter_map(|segment| segment.notes(endian, bytes).ok().flatten());
        let mut build_id = Vec::new();
        for mut notes in notes {
            while let Ok(Some(note)) = notes.next() {
                if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                    build_id = note.desc().to_vec();
                }
            }
        }
        let sections = header.sections(endian, bytes).map_err(|_| BROKEN_SECTIONS).map(|table| {
            let section = |header: &E::SectionHeader| {
                let size: u64 = header.sh_size(endian).into();
                let start: u64 = header.sh_offset(endian).into();
                let range = if header.sh_type(endian) == elf::SHT_NOBITS {
                    Some(0..0)
                } else {
                    let range =
                        usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(size)).ok());
                    range.map(|(start, end)| start..end).filter(|range| range.end <= bytes.len())
                };
                if build_id.is_empty()
                    && let Ok(Some(mut notes)) = header.notes(endian, bytes)
                {
                    while let Ok(Some(note)) = notes.next() {
                        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                            build_id = note.desc().to_vec();
                        }
                    }
                }
                Section {
                    name: table.section_name(endian, header).unwrap_or_default().to_vec(),
                    kind: header.sh_type(endian),
                    flags: header.sh_flags(endian).0,
                    address: header.sh_addr(endian).into(),
                    size,
                    // What lies beyond the file's end can't be read, and is not empty.
                    bytes: range.unwrap_or(usize::MAX..usize::MAX),
                    link: header.sh_link(endian) as usize,
                }
            };
            table.iter().map(section).collect()
        });
        Ok(Self { endian, is_64, loads, sections, build_id, data: data.clone() })
    }

    fn sections(&self) -> &[Section] {
        self.sections.as_deref().unwrap_or_default()
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections().iter().find(|section| section.name == name.as_bytes())
    }

    /// The bytes of a section; none if it is not in the file.
    fn bytes(&self, section: &Section) -> Option<&[u8]> {
        self.data.get(section.bytes.clone())
    }

    fn symbols(&self, kind: elf::SectionType) -> Result<Option<Table>, Why> {
        let Some(section) = self.sections().iter().find(|section| section.kind == kind) else {
            return Ok(None);
        };
        let entries = match self.is_64 {
            true => self.entries::<elf::Sym64<Endianness>>(section, kind == elf::SHT_DYNSYM),
            false => self.entries::<elf::Sym32<Endianness>>(section, kind == elf::SHT_DYNSYM),
        }?;
        let strings = self.sections().get(section.link).ok_or(BROKEN_SYMBOLS)?;
        self.bytes(strings).ok_or(BROKEN_SYMBOLS)?;
        let mut table = Table { data: self.data.clone(), strings: strings.bytes.clone(), entries };
        table.order();
        Ok((!table.entries.is_empty()).then_some(table))
    }

    fn entries<S: Sym<Endian = Endianness>>(
        &self,
        section: &Section,
        exported: bool,
    ) -> Result<Vec<Entry>, Why> {
        let bytes = self.bytes(section).ok_or(BROKEN_SYMBOLS)?;
        let count = bytes.len() / size_of::<S>();
        let (symbols, _) = object::pod::slice_from_bytes::<S>(bytes, count).map_err(|()| BROKEN_SYMBOLS)?;
        if count > SYMBOLS_MAX {
            return Err(TOO_MANY_SYMBOLS);
        }
        let entry = |symbol: &S| {
            let is_function = matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_GNU_IFUNC);
            let index = symbol.st_shndx(self.endian);
            if !is_function || index == elf::SHN_UNDEF {
                return None;
            }
            let start: u64 = symbol.st_value(self.endian).into();
            let size: u64 = symbol.st_size(self.endian).into();
            // Where no size is told, a function ends with its section, or where the next one begins. Of exported
            // ones, which are few, only the first byte is certain.
            let length = match size {
                0 if exported => 1,
                0 => self.sections().get(usize::from(index.0)).map_or(1, |section| {
                    section.address.saturating_add(section.size).saturating_sub(start).max(1)
                }),
                size => size,
            };
            let binding = match symbol.st_bind() {
                elf::STB_WEAK => 1,
                elf::STB_LOCAL => 2,
                _ => 0,
            };
            let name = symbol.st_name(self.endian);
            Some(Entry { start, length, name, binding, sizeless: size == 0 })
        };
        Ok(symbols.iter().filter_map(entry).collect())
    }

    /// `.gnu_debuglink`: a name, and the check sum of the file that it names.
    fn debug_link(&self) -> Option<(Vec<u8>, u32)> {
        let bytes = self.bytes(self.section(".gnu_debuglink")?)?;
        let end = memchr::memchr(0, bytes)?;
        let sum = bytes.get((end + 1).next_multiple_of(4)..)?.first_chunk()?;
        let sum = match self.endian {
            Endianness::Little => u32::from_le_bytes(*sum),
            Endianness::Big => u32::from_be_bytes(*sum),
        };
        Some((bytes[..end].to_vec(), sum))
    }

    /// `.gnu_debugaltlink`: a path, and the build id of the file there.
    fn shared_debug(&self) -> Option<Wanted> {
        let bytes = self.bytes(self.section(".gnu_debugaltlink")?)?;
        let end = memchr::memchr(0, bytes)?;
        Some(Wanted { name: Some(bytes[..end].to_vec()), build_id: bytes.get(end + 1..)?.to_vec() })
    }

    /// Whether another file has the debug information of this one: `sum` is the check sum that this one tells.
    fn is_debugged_by(&self, other: &Self, sum: Option<u32>) -> bool {
        if !self.build_id.is_empty() && !other.build_id.is_empty() {
            return self.build_id == other.build_id;
        }
        sum.is_some_and(|sum| crc32fast::hash(&other.data) == sum)
    }

    /// Where a byte of the file lies in memory, before the whole is moved.
    fn address(&self, offset: u64) -> Option<u64> {
        let load = self.loads.iter().find(|load| {
            load.executable && (load.offset..load.offset.saturating_add(load.length)).contains(&offset)
        })?;
        (offset - load.offset).checked_add(load.address)
    }

    /// `.gnu_debugdata`: a whole file with symbols, compressed by xz.
    fn mini(&self) -> Result<Option<Table>, Why> {
        let Some(section) = self.section(".gnu_debugdata") else { return Ok(None) };
        let packed = self.bytes(section).ok_or(BROKEN_MINI)?;
        let mut unpacked = Vec::new();
        let reader = lzma_rust2::XzReader::new_mem_limit(packed, false, MINI_MEMORY);
        let read = reader.take(MINI_MAX + 1).read_to_end(&mut unpacked).map_err(|_| BROKEN_MINI)?;
        if read as u64 > MINI_MAX {
            return Err(TOO_MANY_SYMBOLS);
        }
        let mini = Self::parse(Rc::new(Data::Memory(unpacked))).map_err(|_| BROKEN_MINI)?;
        mini.symbols(elf::SHT_SYMTAB).map_err(|_| BROKEN_MINI)
    }

    fn go(&self) -> Result<Option<Go>, Why> {
        let Some(section) = self.section(".gopclntab").or_else(|| self.section(".data.rel.ro.gopclntab"))
        else {
            return Ok(None);
        };
        let code = self.loads.iter().filter(|load| load.executable);
        let code: Vec<_> = code.map(|load| load.address..load.address.saturating_add(load.length)).collect();
        // Go's code begins its section, but where a linker of C put others before it.
        let text = self.section(".text").filter(|_| self.section(".init").is_none());
        let bytes = self.bytes(section).ok_or(BROKEN_GO)?;
        let table = Pclntab::parse(bytes, &code, text.map(|text| text.address)).ok_or(BROKEN_GO)?;
        Ok(Some(Go { data: self.data.clone(), bytes: section.bytes.clone(), table }))
    }

    /// The sections of debug information, by name.
    fn debug(&self) -> Result<Option<Sections>, Why> {
        if self.section(".debug_info").is_none_or(|section| section.kind == elf::SHT_NOBITS) {
            return Ok(None);
        }
        let mut unpacked = HashMap::new();
        let mut room = UNPACKED_MAX;
        for section in self.sections().iter().filter(|section| section.name.starts_with(b".debug_")) {
            if section.flags & elf::SHF_COMPRESSED.0 == 0 {
                continue;
            }
            let bytes = self.bytes(section).ok_or(BROKEN_DEBUG)?;
            let compressed = match self.is_64 {
                true => unpack::<elf::CompressionHeader64<Endianness>>(bytes, self.endian, &mut room),
                false => unpack::<elf::CompressionHeader32<Endianness>>(bytes, self.endian, &mut room),
            }?;
            unpacked.insert(section.name.clone(), compressed);
        }
        Ok(Some(Sections { unpacked }))
    }
}

/// A section that is compressed, as it was before.
fn unpack<C>(bytes: &[u8], endian: Endianness, room: &mut u64) -> Result<Vec<u8>, Why>
where
    C: object::read::elf::CompressionHeader<Endian = Endianness>,
{
    let (header, data) = object::pod::from_bytes::<C>(bytes).map_err(|()| BROKEN_DEBUG)?;
    let format = match header.ch_type(endian) {
        elf::ELFCOMPRESS_ZLIB => object::CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => object::CompressionFormat::Zstandard,
        _ => return Err(BROKEN_DEBUG),
    };
    // The size that is told is allocated.
    let uncompressed_size = header.ch_size(endian).into();
    let likely = (data.len() as u64).saturating_mul(RATIO_MAX);
    *room = room.checked_sub(uncompressed_size).filter(|_| uncompressed_size <= likely).ok_or(BIG_DEBUG)?;
    let compressed = object::CompressedData { format, data, uncompressed_size };
    compressed.decompress().map(Cow::into_owned).map_err(|_| BROKEN_DEBUG)
}

/// A function's symbol.
struct Entry {
    start: u64,
    length: u64,
    name: u32,
    /// 0 of global ones, which are preferred.
    binding: u8,
    sizeless: bool,
}

/// A table of symbols, by address.
struct Table {
    data: Rc<Data>,
    strings: Range<usize>,
    entries: Vec<Entry>,
}

impl Table {
    /// One entry is kept for each address: of several names, the one that most know.
    fn order(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by_key(|entry| {
            let name = self.name(entry.name);
            let underscores = name.iter().take_while(|byte| **byte == b'_').count().min(3);
            let mangled = name.starts_with(b"_Z") || name.starts_with(b"_R");
            let underscores = if mangled { 0 } else { underscores };
            (entry.start, entry.sizeless, u64::MAX - entry.length, entry.binding, underscores, entry.name)
        });
        entries.dedup_by_key(|entry| entry.start);
        for i in 1..entries.len() {
            let next = entries[i].start;
            let entry = &mut entries[i - 1];
            if entry.sizeless {
                entry.length = entry.length.min(next - entry.start);
            }
        }
        entries.shrink_to_fit();
        self.entries = entries;
    }

    fn name(&self, at: u32) -> &[u8] {
        let strings = self.data.get(self.strings.clone()).unwrap_or_default();
        let name = strings.get(at as usize..).unwrap_or_default();
        memchr::memchr(0, name).map_or(&[], |end| &name[..end])
    }

    /// The function at an address: its name and where it begins.
    fn find(&self, address: u64) -> Option<(&[u8], u64)> {
        let before = self.entries.partition_point(|entry| entry.start <= address);
        let mut near = self.entries[..before].iter().rev().take(NESTED_MAX);
        let entry = near.find(|entry| address - entry.start < entry.length)?;
        let name = self.name(entry.name);
        (!name.is_empty()).then_some((name, entry.start))
    }
}

/// Go's table of functions in a file.
struct Go {
    data: Rc<Data>,
    bytes: Range<usize>,
    table: Pclntab,
}

/// What debug information is read from.
struct Sections {
    unpacked: HashMap<Vec<u8>, Vec<u8>>,
}

struct DebugFile {
    elf: Elf,
    sections: Sections,
}

impl DebugFile {
    fn load<'a>(
        &'a self,
    ) -> impl FnMut(gimli::SectionId) -> Result<EndianSlice<'a, RunTimeEndian>, gimli::Error> {
        let endian = match self.elf.endian {
            Endianness::Little => RunTimeEndian::Little,
            Endianness::Big => RunTimeEndian::Big,
        };
        move |id| {
            let bytes = match self.sections.unpacked.get(id.name().as_bytes()) {
                Some(unpacked) => unpacked,
                None => {
                    self.elf.section(id.name()).and_then(|found| self.elf.bytes(found)).unwrap_or_default()
                }
            };
            Ok(EndianSlice::new(bytes, endian))
        }
    }
}

type Context<'a> = addr2line::Context<EndianSlice<'a, RunTimeEndian>>;

self_cell! {
    /// Debug information, of a file and of one that many share.
    struct Debug {
        owner: (DebugFile, Option<DebugFile>),
        #[not_covariant]
        dependent: Context,
    }
}

impl Debug {
    fn parse(file: DebugFile, shared: Option<DebugFile>) -> Result<Self, Why> {
        Self::try_new((file, shared), |(file, shared)| {
            let mut dwarf = gimli::Dwarf::load(file.load())?;
            if let Some(shared) = shared {
                dwarf.load_sup(shared.load())?;
            }
            addr2line::Context::from_dwarf(dwarf)
        })
        .map_err(|_: gimli::Error| BROKEN_DEBUG)
    }

    /// The functions that were put into the one at an address, each called by the one before it; and the name of that
    /// one itself.
    fn frames(&self, address: u64) -> (Vec<String>, Option<String>) {
        self.with_dependent(|_, context| {
            let mut names = Vec::new();
            if let Ok(mut frames) = context.find_frames(address).skip_all_loads() {
                while let Ok(Some(frame)) = frames.next()
                    && names.len() < INLINED_MAX
                {
                    let name = frame.function.as_ref().map(|function| function.name.slice());
                    names.push(name.filter(|name| !name.is_empty()).map(demangle));
                }
            }
            let outer = names.pop().flatten();
            (names.into_iter().rev().flatten().collect(), outer)
        })
    }

    /// Where the function at an address begins.
    fn start(&self, address: u64) -> Option<u64> {
        self.with_dependent(|_, context| {
            let mut frames = context.find_frames(address).skip_all_loads().ok()?;
            let mut entry = None;
            while let Ok(Some(frame)) = frames.next() {
                entry = frame.dw_die_offset;
            }
            let unit = context.find_dwarf_and_unit(address).skip_all_loads()?;
            let entry = unit.entry(entry?).ok()?;
            let mut ranges = unit.die_ranges(&entry).ok()?;
            let mut start: Option<u64> = None;
            while let Ok(Some(range)) = ranges.next() {
                if (range.begin..range.end).contains(&address) {
                    start = Some(range.begin);
                }
            }
            start
        })
    }
}

/// How much of a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All that has names.
    All,
    /// Its own symbols, which take the least.
    Symbols,
}

/// All that names the functions of a file.
pub(crate) struct FileNames {
    elf: Elf,
    /// The best first.
    tables: Vec<Table>,
    debug: Option<Debug>,
    go: Option<Go>,
    exported: Option<Table>,
    /// Why a function may have no name.
    trouble: Option<Why>,
}

impl FileNames {
    /// Read a file, and what belongs to it: `find` gives the files that may be what is wanted of a file.
    pub fn read(
        file: &fs::File,
        extent: Extent,
        mut find: impl FnMut(&fs::File, &Wanted) -> Vec<fs::File>,
    ) -> Result<Self, Why> {
        let elf = Elf::parse(Data::map(file)?)?;
        let mut trouble = elf.sections.as_ref().err().copied();
        let mut note = |why: Why| {
            trouble.get_or_insert(why);
        };
        let mut tables = Vec::new();
        tables.extend(elf.symbols(elf::SHT_SYMTAB).unwrap_or_else(|why| {
            note(why);
            None
        }));
        let own = if extent == Extent::All { elf.debug() } else { Ok(None) };
        let own = own.unwrap_or_else(|why| {
            note(why);
            None
        });
        let mut debug_file = None;
        if extent == Extent::Symbols {
            note(NO_DEBUG);
        } else if let Some(sections) = own {
            debug_file = Some((None, DebugFile { elf: Elf::parse(elf.data.clone())?, sections }));
        } else {
            let (name, sum) = elf.debug_link().unzip();
            let wanted = Wanted { build_id: elf.build_id.clone(), name };
            let mut other = false;
            for candidate in find(file, &wanted) {
                let Ok(found) = Data::map(&candidate).and_then(Elf::parse) else { continue };
                if !elf.is_debugged_by(&found, sum) {
                    other = true;
                    continue;
                }
                match found.symbols(elf::SHT_SYMTAB) {
                    Ok(table) => tables.extend(table),
                    Err(why) => note(why),
                }
                match found.debug() {
                    Ok(Some(sections)) => {
                        debug_file = Some((Some(candidate), DebugFile { elf: found, sections }));
                    }
                    Ok(None) => (),
                    Err(why) => note(why),
                }
                other = false;
                break;
            }
            if other {
                note(OTHER_DEBUG);
            }
        }
        let debug = debug_file.and_then(|(other, debug)| {
            let wanted = debug.elf.shared_debug();
            let shared = wanted.and_then(|wanted| {
                let candidates = find(other.as_ref().unwrap_or(file), &wanted).into_iter();
                candidates.filter_map(|candidate| Elf::parse(Data::map(&candidate).ok()?).ok()).find_map(
                    |found| {
                        let is_it = found.build_id == wanted.build_id;
                        let sections = found.debug().ok().flatten().filter(|_| is_it)?;
                        Some(DebugFile { elf: found, sections })
                    },
                )
            });
            Debug::parse(debug, shared).map_err(&mut note).ok()
        });
        if tables.is_empty() && extent == Extent::All {
            match elf.mini() {
                Ok(table) => tables.extend(table),
                Err(why) => note(why),
            }
        }
        let go = match elf.go() {
            Ok(go) if tables.is_empty() => go,
            Err(why) if tables.is_empty() => {
                note(why);
                None
            }
            _ => None,
        };
        let exported = elf.symbols(elf::SHT_DYNSYM).unwrap_or_else(|why| {
            note(why);
            None
        });
        Ok(Self { elf, tables, debug, go, exported, trouble })
    }

    /// The function at an offset of the file.
    pub fn find(&self, offset: u64) -> Symbol {
        let Some(address) = self.elf.address(offset) else { return Symbol::unknown(NO_CODE) };
        let (inlined, outer) = self.debug.as_ref().map(|debug| debug.frames(address)).unwrap_or_default();
        let named = |name: String, start: u64| Symbol {
            name: Ok(name),
            offset: address - start,
            inlined: inlined.clone(),
            module: None,
        };
        if let Some((name, start)) = self.tables.iter().find_map(|table| table.find(address)) {
            return named(demangle(name), start);
        }
        if let Some(name) = outer
            && let Some(start) = self.debug.as_ref().and_then(|debug| debug.start(address))
        {
            return named(name, start);
        }
        if let Some(go) = &self.go {
            let table = go.data.get(go.bytes.clone()).unwrap_or_default();
            if let Some((name, start)) = go.table.find(table, address) {
                return named(cut(&String::from_utf8_lossy(name)), start);
            }
        }
        if let Some((name, start)) = self.exported.as_ref().and_then(|table| table.find(address)) {
            return named(demangle(name), start);
        }
        let any = !self.tables.is_empty() || self.go.is_some() || self.exported.is_some();
        Symbol::unknown(self.trouble.unwrap_or(if any { NOT_COVERED } else { NO_SYMBOLS }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write as _;

    use super::*;

    const CODE: u64 = 0x1000;
    const ID: &[u8] = b"0123456789abcdefghij";

    /// A program of which a page of code is loaded from an offset of the file that is not its address.
    pub(crate) struct Program {
        sections: Vec<(&'static str, u32, u64, u32, Vec<u8>)>,
    }

    impl Program {
        const TEXT: u16 = 1;
        /// The code's place in the file.
        pub(crate) const OFFSET: u64 = 0x100;

        pub(crate) fn new() -> Self {
            Self { sections: vec![(".text", elf::SHT_PROGBITS.0, 6, 0, vec![0x90; 0x100])] }
        }

        fn with(mut self, name: &'static str, bytes: &[u8]) -> Self {
            let flags = if name.starts_with(".debug_") { elf::SHF_COMPRESSED.0 } else { 0 };
            self.sections.push((name, elf::SHT_PROGBITS.0, flags, 0, bytes.to_vec()));
            self
        }

        pub(crate) fn built_as(self, id: &[u8]) -> Self {
            let mut note: Vec<u8> = [4, id.len() as u32, 3].into_iter().flat_map(u32::to_le_bytes).collect();
            note.extend(b"GNU\0");
            note.extend(id);
            let mut this = self.with(".note.gnu.build-id", &note);
            this.sections.last_mut().unwrap().1 = elf::SHT_NOTE.0;
            this
        }

        /// Functions: name, start from the code's, size, binding.
        pub(crate) fn symbols(mut self, table: &'static str, symbols: &[(&str, u64, u64, u8)]) -> Self {
            let mut strings = vec![0];
            let mut entries = vec![0; 24];
            for (name, start, size, binding) in symbols {
                entries.extend((strings.len() as u32).to_le_bytes());
                entries.extend([binding << 4 | 2, 0]);
                entries.extend(Self::TEXT.to_le_bytes());
                entries.extend((CODE + start).to_le_bytes());
                entries.extend(size.to_le_bytes());
                strings.extend([name.as_bytes(), b"\0"].concat());
            }
            let kind = if table == ".dynsym" { elf::SHT_DYNSYM } else { elf::SHT_SYMTAB };
            let link = self.sections.len() as u32 + 2;
            self.sections.push((table, kind.0, 0, link, entries));
            self.sections.push((".strings", elf::SHT_STRTAB.0, 0, 0, strings));
            self
        }

        fn build(mut self) -> Vec<u8> {
            self.sections.push((".shstrtab", elf::SHT_STRTAB.0, 0, 0, Vec::new()));
            let mut names = vec![0];
            let mut starts = Vec::new();
            for (name, ..) in &self.sections {
                starts.push(names.len() as u32);
                names.extend([name.as_bytes(), b"\0"].concat());
            }
            self.sections.last_mut().unwrap().4 = names;
            let mut body = Vec::new();
            let mut headers = vec![0; 64];
            for ((_, kind, flags, link, bytes), name) in self.sections.iter().zip(starts) {
                let offset = Self::OFFSET + body.len() as u64;
                let address = if *flags == 6 { CODE } else { 0 };
                headers.extend([name, *kind].into_iter().flat_map(u32::to_le_bytes));
                headers.extend(
                    [*flags, address, offset, bytes.len() as u64].into_iter().flat_map(u64::to_le_bytes),
                );
                headers.extend([*link, 0].into_iter().flat_map(u32::to_le_bytes));
                headers.extend([4_u64, 0].into_iter().flat_map(u64::to_le_bytes));
                body.extend(bytes);
                body.resize(body.len().next_multiple_of(8), 0);
            }
            let mut file = b"\x7fELF\x02\x01\x01".to_vec();
            file.resize(16, 0);
            file.extend([3, 62].into_iter().flat_map(u16::to_le_bytes));
            file.extend(1_u32.to_le_bytes());
            file.extend([0, 64, Self::OFFSET + body.len() as u64].into_iter().flat_map(u64::to_le_bytes));
            file.extend(0_u32.to_le_bytes());
            let count = self.sections.len() as u16 + 1;
            file.extend([64, 56, 1, 64, count, count - 1].into_iter().flat_map(u16::to_le_bytes));
            file.extend([1_u32, 5].into_iter().flat_map(u32::to_le_bytes));
            let load = [Self::OFFSET, CODE, CODE, 0x100, 0x100, 1];
            file.extend(load.into_iter().flat_map(u64::to_le_bytes));
            file.resize(Self::OFFSET as usize, 0);
            file.extend(body);
            file.extend(headers);
            file
        }

        pub(crate) fn file(self) -> fs::File {
            file(&self.build())
        }
    }

    fn file(bytes: &[u8]) -> fs::File {
        let memory = nix::sys::memfd::memfd_create(c"program", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = fs::File::from(memory);
        file.write_all(bytes).unwrap();
        file
    }

    fn alone(program: Program) -> FileNames {
        FileNames::read(&program.file(), Extent::All, |_, _| Vec::new()).unwrap()
    }

    fn name(names: &FileNames, at: u64) -> Result<String, String> {
        names.find(Program::OFFSET + at).name
    }

    fn why(why: Why) -> Result<String, String> {
        Err(why.into())
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut writer =
            lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    const EXPORTED: [(&str, u64, u64, u8); 1] = [("exported", 0x40, 0x20, 1)];

    #[test]
    fn symbols_cover_what_they_say() {
        let symbols = [
            ("__alias", 0, 0x10, 2),
            ("known", 0, 0x10, 1),
            ("weak", 0, 0x10, 2),
            ("local", 0, 0x10, 0),
            ("outer", 0x20, 0x40, 1),
            ("inner", 0x30, 0x10, 1),
            ("sizeless", 0x80, 0, 1),
            ("_ZN3foo3barEv", 0x90, 0x10, 1),
            ("last", 0xf0, 0, 1),
        ];
        let names = alone(Program::new().symbols(".symtab", &symbols));
        let found = |at| name(&names, at).unwrap_or_default();
        assert_eq!([0, 0xf, 0x10].map(found), ["known", "known", ""]);
        assert_eq!(
            [0x20, 0x30, 0x3f, 0x40, 0x5f, 0x60].map(found),
            ["outer", "inner", "inner", "outer", "outer", ""]
        );
        assert_eq!(
            [0x80, 0x8f, 0x90, 0xa0, 0xff].map(found),
            ["sizeless", "sizeless", "foo::bar()", "", "last"]
        );
        assert_eq!(names.find(Program::OFFSET + 0x3f).offset, 0xf);
        assert_eq!(name(&names, 0x60), why(NOT_COVERED));
        assert_eq!(names.find(0x10).name, why(NO_CODE));
        assert_eq!(names.find(u64::MAX).name, why(NO_CODE));
        assert_eq!(name(&alone(Program::new()), 0), why(NO_SYMBOLS));
    }

    #[test]
    fn small_tables_are_unpacked() {
        let mini = Program::new().symbols(".symtab", &[("inner_static", 0, 0x20, 0)]).build();
        let program = Program::new().symbols(".dynsym", &EXPORTED).with(".gnu_debugdata", &xz(&mini));
        let names = alone(program);
        assert_eq!(name(&names, 0x10).as_deref(), Ok("inner_static"));
        assert_eq!(name(&names, 0x40).as_deref(), Ok("exported"));
        assert_eq!(name(&names, 0x20), why(NOT_COVERED));
    }

    #[test]
    fn what_cannot_be_read_takes_nothing_else_away() {
        let packed = xz(&Program::new().build());
        let cases: [(&'static str, &[u8], Why); 7] = [
            (".gnu_debugdata", b"no xz", BROKEN_MINI),
            (".gnu_debugdata", &packed[..packed.len() / 2], BROKEN_MINI),
            (".gnu_debugdata", &xz(b"no program"), BROKEN_MINI),
            (".gopclntab", b"no table", BROKEN_GO),
            (".debug_info", b"short", BROKEN_DEBUG),
            // Of zlib, and 2^62 bytes long when it is unpacked.
            (".debug_info", b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\x01\0\0\0\0\0\0\0xxxx", BIG_DEBUG),
            (".debug_info", b"\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0xxxx", BROKEN_DEBUG),
        ];
        for (section, bytes, reason) in cases {
            let names = alone(Program::new().symbols(".dynsym", &EXPORTED).with(section, bytes));
            assert_eq!(name(&names, 0x5f).as_deref(), Ok("exported"), "{section}");
            assert_eq!(name(&names, 0), why(reason), "{section}");
        }
        assert_eq!(FileNames::read(&file(b"no program"), Extent::All, |_, _| Vec::new()).err(), Some(NO_ELF));
        assert_eq!(FileNames::read(&file(b""), Extent::All, |_, _| Vec::new()).err(), Some(NO_ELF));
    }

    #[test]
    fn any_bytes_are_read() {
        let mini = xz(&Program::new().symbols(".symtab", &[("a", 0, 0x20, 0)]).build());
        let go = crate::pclntab::tests::table(0xffff_fff1, 8, CODE, &[("main.main", CODE)], CODE + 0x100);
        let whole = Program::new().built_as(ID).symbols(".dynsym", &EXPORTED).symbols(".symtab", &EXPORTED);
        let whole = whole.with(".gnu_debugdata", &mini).with(".gopclntab", &go).build();
        let look = |bytes: &[u8]| {
            if let Ok(names) = FileNames::read(&file(bytes), Extent::All, |_, _| Vec::new()) {
                _ = [0, Program::OFFSET, Program::OFFSET + 0x40, u64::MAX].map(|offset| names.find(offset));
            }
        };
        (0..whole.len()).step_by(7).for_each(|length| look(&whole[..length]));
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 0x81;
            look(&other);
        }
    }

    #[test]
    fn a_debug_file_names_what_it_was_built_with() {
        let symbols = [("hidden", 0, 0x20, 0)];
        let with = |program: Program, debug: &fs::File| {
            let mut asked = Vec::new();
            let names = FileNames::read(&program.file(), Extent::All, |_, wanted| {
                asked.push(wanted.clone());
                vec![debug.try_clone().unwrap()]
            });
            (name(&names.unwrap(), 0), asked)
        };
        let wanted = |name: Option<&[u8]>, build_id: &[u8]| {
            vec![Wanted { build_id: build_id.into(), name: name.map(Into::into) }]
        };
        let debug = Program::new().built_as(ID).symbols(".symtab", &symbols).file();
        let other = Program::new().built_as(b"another build's id").symbols(".symtab", &symbols).file();
        let stripped = || Program::new().built_as(ID);
        assert_eq!(with(stripped(), &debug), (Ok("hidden".into()), wanted(None, ID)));
        assert_eq!(with(stripped(), &other), (why(OTHER_DEBUG), wanted(None, ID)));

        // Without a build id, by a check sum of the whole file.
        let bytes = Program::new().symbols(".symtab", &symbols).build();
        let mut link = b"x.debug\0".to_vec();
        link.extend(crc32fast::hash(&bytes).to_le_bytes());
        let linked = || Program::new().with(".gnu_debuglink", &link);
        assert_eq!(with(linked(), &file(&bytes)), (Ok("hidden".into()), wanted(Some(b"x.debug"), b"")));
        assert_eq!(with(linked(), &other).0, why(OTHER_DEBUG));
        assert_eq!(with(Program::new(), &file(&bytes)).0, why(OTHER_DEBUG));
    }

    #[test]
    fn go_without_symbols_has_names() {
        let functions = [("runtime.text", CODE), ("main.spin", CODE + 0x40)];
        let table = crate::pclntab::tests::table(0xffff_fff1, 8, CODE, &functions, CODE + 0x80);
        let names = alone(Program::new().with(".gopclntab", &table));
        assert_eq!(name(&names, 0x50).as_deref(), Ok("main.spin"));
        assert_eq!(names.find(Program::OFFSET + 0x50).offset, 0x10);
        assert_eq!(name(&names, 0x90), why(NOT_COVERED));
        // Where it lies cannot be known: code of C is before it, and the table does not tell.
        let mut moved = table;
        moved[8 + 2 * 8..8 + 3 * 8].fill(0);
        let names = alone(Program::new().with(".gopclntab", &moved).with(".init", b""));
        assert_eq!(name(&names, 0x50), why(BROKEN_GO));
    }
}
