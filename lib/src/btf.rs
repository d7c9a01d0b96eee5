// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's own type information (BTF, Documentation/bpf/btf.rst), searched by name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ops::Range;
use std::path::Path;

use libbpf_sys as sys;
use memchr::memmem;
use memmap2::Mmap;
use memmap2::MmapOptions;

use crate::Error;

const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u32 = 0xeb9f;
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 24;
const WORD: usize = size_of::<u32>();
/// A type has three words, and what its kind adds: its name, its kind and count, and its size or another type.
const TYPE_SIZE: usize = 3 * WORD;
/// As the kernel, which refuses longer chains of names and qualifiers (MAX_RESOLVE_DEPTH of kernel/bpf/btf.c).
const RESOLVE_MAX: usize = 32;

/// What stands behind a type, and which words are names or types.
struct Shape {
    /// The third word is a type.
    refers: bool,
    /// The words of an entry.
    words: usize,
    /// There are as many entries as the type counts, and not one.
    counted: bool,
    /// The first word of an entry is a name.
    named: bool,
    /// Which words of an entry are types.
    types: &'static [usize],
}

/// The shape of a kind, if it is known.
fn shape(kind: u32) -> Option<Shape> {
    let plain = Shape { refers: false, words: 0, counted: false, named: false, types: &[] };
    Some(match kind {
        sys::BTF_KIND_FWD | sys::BTF_KIND_FLOAT => plain,
        sys::BTF_KIND_INT => Shape { words: 1, ..plain },
        sys::BTF_KIND_PTR
        | sys::BTF_KIND_TYPEDEF
        | sys::BTF_KIND_VOLATILE
        | sys::BTF_KIND_CONST
        | sys::BTF_KIND_RESTRICT
        | sys::BTF_KIND_FUNC
        | sys::BTF_KIND_TYPE_TAG => Shape { refers: true, ..plain },
        sys::BTF_KIND_VAR | sys::BTF_KIND_DECL_TAG => Shape { refers: true, words: 1, ..plain },
        sys::BTF_KIND_ARRAY => Shape { words: 3, types: &[0, 1], ..plain },
        sys::BTF_KIND_STRUCT | sys::BTF_KIND_UNION => {
            Shape { words: 3, counted: true, named: true, types: &[1], ..plain }
        }
        sys::BTF_KIND_ENUM => Shape { words: 2, counted: true, named: true, ..plain },
        sys::BTF_KIND_ENUM64 => Shape { words: 3, counted: true, named: true, ..plain },
        sys::BTF_KIND_FUNC_PROTO => Shape { refers: true, words: 2, counted: true, named: true, types: &[1] },
        sys::BTF_KIND_DATASEC => Shape { words: 3, counted: true, types: &[0], ..plain },
        _ => return None,
    })
}

/// Whether CO-RE finds types of this kind by their names.
pub(crate) fn is_sought(kind: u32) -> bool {
    let is_enum = matches!(kind, sys::BTF_KIND_ENUM | sys::BTF_KIND_ENUM64);
    is_enum || matches!(kind, sys::BTF_KIND_STRUCT | sys::BTF_KIND_UNION | sys::BTF_KIND_TYPEDEF)
}

/// A name without its flavor, as CO-RE compares names: `bio` of `bio___before_5_12`.
pub(crate) fn essential(name: &[u8]) -> &[u8] {
    let is_separator = |w: &[u8]| w[0] != b'_' && &w[1..4] == b"___" && w[4] != b'_';
    name.windows(5).rposition(is_separator).map_or(name, |at| &name[..=at])
}

/// Type information as it lies in memory.
enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Read(bytes) => bytes,
        }
    }
}

/// The types of a kernel.
pub(crate) struct Types {
    bytes: Bytes,
    /// Where in `bytes` the type of an id is; that of 0, void, is nowhere.
    places: Vec<u32>,
    /// Where in `bytes` the names are.
    names: Range<usize>,
    /// Types that were found, by kind and name.
    found: RefCell<HashMap<(u32, String), Option<u32>>>,
}

/// A type.
#[derive(Clone, Copy)]
pub(crate) struct Type<'a> {
    all: &'a Types,
    id: u32,
    at: usize,
}

impl Types {
    /// Those of the running kernel.
    ///
    /// # Errors
    /// [`Error::NoBtf`] where the kernel was built without them, or in a format that is not known.
    pub(crate) fn of_kernel() -> Result<Self, Error> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound if !Path::new("/sys/kernel").exists() => Error::NoSys,
            io::ErrorKind::NotFound => Error::NoBtf(format!("{KERNEL}: {e}")),
            _ => Error::UnreadableBtf(format!("{KERNEL}: {e}")),
        };
        let file = File::open(KERNEL).map_err(failed)?;
        // SAFETY: nothing changes what this file has.
        let bytes = match unsafe { MmapOptions::new().map_copy_read_only(&file) } {
            Ok(mapped) => Bytes::Mapped(mapped),
            // Before 6.16, it can only be read.
            Err(_) => Bytes::Read(fs::read(KERNEL).map_err(failed)?),
        };
        Self::parse(bytes).ok_or_else(|| Error::NoBtf(format!("{KERNEL} is of an unknown format")))
    }

    /// Those of a file's bytes.
    #[cfg(fuzzing)]
    pub(crate) fn parse_bytes(bytes: &[u8]) -> Option<Self> {
        Self::parse(Bytes::Read(bytes.to_vec()))
    }

    fn parse(bytes: Bytes) -> Option<Self> {
        let size = |at| word(&bytes, at).map(|word| word as usize);
        if word(&bytes, 0)? & 0xff_ffff != VERSION << 16 | MAGIC {
            return None;
        }
        let header = size(4)?;
        let (mut at, end) = (header + size(8)?, header + size(8)? + size(12)?);
        let (names, names_end) = (header + size(16)?, header + size(16)? + size(20)?);
        if end > bytes.len() || names > names_end || names_end > bytes.len() {
            return None;
        }
        // Most types are small.
        let mut places = Vec::with_capacity(end.checked_sub(at)? / (2 * TYPE_SIZE));
        places.push(0);
        let all: &[u8] = &bytes;
        while at < end {
            let info = word(all, at + WORD)?;
            places.push(u32::try_from(at).ok()?);
            let shape = shape(kind_of(info))?;
            at += TYPE_SIZE + shape.words * WORD * if shape.counted { count_of(info) } else { 1 };
        }
        if at != end {
            return None;
        }
        Some(Self { bytes, places, names: names..names_end, found: RefCell::default() })
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(&self.bytes, at)
    }

    fn name(&self, offset: u32) -> &[u8] {
        let from = self.bytes[self.names.clone()].get(offset as usize..).unwrap_or_default();
        &from[..memchr::memchr(0, from).unwrap_or(from.len())]
    }

    /// The type of an id, which is void where there is none.
    pub(crate) fn get(&self, id: u32) -> Type<'_> {
        let at = self.places.get(id as usize).copied().unwrap_or_default();
        Type { all: self, id: if at == 0 { 0 } else { id }, at: at as usize }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Type<'_>> {
        (1..).zip(&self.places[1..]).map(|(id, at)| Type { all: self, id, at: *at as usize })
    }

    /// Where a name is: each is there once.
    fn find_name(&self, name: &str) -> Option<u32> {
        let ended = [b"\0", name.as_bytes(), b"\0"].concat();
        let at = memmem::find(&self.bytes[self.names.clone()], &ended)?;
        u32::try_from(at + 1).ok()
    }

    /// The type of this kind and name.
    pub(crate) fn find(&self, kind: u32, name: &str) -> Option<Type<'_>> {
        let search = || {
            let name = self.find_name(name)?;
            self.all().find(|found| found.kind() == kind && found.name_offset() == name).map(Type::id)
        };
        let mut known = self.found.borrow_mut();
        let id = *known.entry((kind, name.into())).or_insert_with(search);
        id.map(|id| self.get(id))
    }

    /// The value of an enumerator of any enum, also of those without a name.
    pub(crate) fn enumerator(&self, name: &str) -> Option<i64> {
        let name = self.find_name(name)?;
        let value = |found: Type<'_>| {
            let at = found.entries().find(|at| found.all.word(*at) == Some(name))?;
            Some(found.enumerator_value(at))
        };
        self.all().filter(|found| found.is_enum()).find_map(value)
    }

    /// Type information of the types of these names, and of what they consist of: enough to relocate by.
    pub(crate) fn only(&self, names: &HashSet<&[u8]>) -> Option<Vec<u8>> {
        let mut subset = Subset::new(self);
        // Most names can be told by how they begin.
        let begin = |name: &[u8]| name.first_chunk().map_or(0, |two| usize::from(u16::from_ne_bytes(*two)));
        let mut begins = vec![false; usize::from(u16::MAX) + 1];
        names.iter().for_each(|name| begins[begin(name)] = true);
        for found in self.all().filter(|found| is_sought(found.kind())) {
            let name = found.name();
            if begins[begin(name)] && names.contains(essential(name)) {
                subset.id(Part::Whole(found.id));
            }
        }
        subset.write()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn count_of(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// All within bounds was made sure of when the types were parsed.
impl<'a> Type<'a> {
    fn word(self, nth: usize) -> u32 {
        if self.id == 0 { 0 } else { self.all.word(self.at + nth * WORD).unwrap_or_default() }
    }

    pub(crate) fn id(self) -> u32 {
        self.id
    }

    pub(crate) fn kind(self) -> u32 {
        kind_of(self.word(1))
    }

    fn is_enum(self) -> bool {
        matches!(self.kind(), sys::BTF_KIND_ENUM | sys::BTF_KIND_ENUM64)
    }

    fn name_offset(self) -> u32 {
        self.word(0)
    }

    pub(crate) fn name(self) -> &'a [u8] {
        self.all.name(self.name_offset())
    }

    /// What it refers to: what a pointer points to, or a typedef is another name of.
    pub(crate) fn target(self) -> Type<'a> {
        self.all.get(self.word(2))
    }

    /// Itself without qualifiers and other names.
    pub(crate) fn bare(self) -> Type<'a> {
        let mut bare = self;
        // One that leads back to itself is of no use.
        for _ in 0..RESOLVE_MAX {
            match bare.kind() {
                sys::BTF_KIND_TYPEDEF
                | sys::BTF_KIND_VOLATILE
                | sys::BTF_KIND_CONST
                | sys::BTF_KIND_RESTRICT
                | sys::BTF_KIND_TYPE_TAG => bare = bare.target(),
                _ => break,
            }
        }
        bare
    }

    /// Where its entries are: members, enumerators, or parameters.
    fn entries(self) -> impl Iterator<Item = usize> {
        let (words, counted) = shape(self.kind()).map_or((0, true), |shape| (shape.words, shape.counted));
        let count = if counted { count_of(self.word(1)) } else { 1 };
        (0..count).map(move |n| self.at + TYPE_SIZE + n * words * WORD)
    }

    /// The types of a function's parameters.
    pub(crate) fn parameters(self) -> impl Iterator<Item = Type<'a>> {
        self.entries().map(move |at| self.all.get(self.all.word(at + WORD).unwrap_or_default()))
    }

    /// The names of members or enumerators.
    pub(crate) fn entry_names(self) -> impl Iterator<Item = &'a [u8]> {
        self.entries().map(move |at| self.all.name(self.all.word(at).unwrap_or_default()))
    }

    /// The enumerators of an enum, with their values.
    pub(crate) fn enumerators(self) -> impl Iterator<Item = (&'a [u8], i64)> {
        self.entry_names().zip(self.entries().map(move |at| self.enumerator_value(at)))
    }

    fn enumerator_value(self, at: usize) -> i64 {
        let word = |nth: usize| self.all.word(at + nth * WORD).unwrap_or_default();
        let is_signed = self.word(1) >> 31 == 1;
        match self.kind() {
            sys::BTF_KIND_ENUM64 => (u64::from(word(2)) << 32 | u64::from(word(1))).cast_signed(),
            _ if is_signed => word(1).cast_signed().into(),
            _ => word(1).into(),
        }
    }
}

/// A part of the types, with ids and names of its own.
struct Subset<'a> {
    of: &'a Types,
    /// What it has, in the order of its ids, which begin at 1.
    parts: Vec<Part>,
    ids: HashMap<Part, u32>,
    names: Vec<u8>,
    name_offsets: HashMap<u32, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    /// The type of this id.
    Whole(u32),
    /// A type of this kind without a name and without members.
    Hollow(u32),
}

impl<'a> Subset<'a> {
    fn new(of: &'a Types) -> Self {
        let names = vec![0];
        Self { of, parts: Vec::new(), ids: HashMap::new(), names, name_offsets: HashMap::from([(0, 0)]) }
    }

    /// The id of a part, which is taken in if it is new.
    fn id(&mut self, part: Part) -> u32 {
        if part == Part::Whole(0) {
            return 0;
        }
        *self.ids.entry(part).or_insert_with(|| {
            self.parts.push(part);
            self.parts.len() as u32
        })
    }

    /// The id of what a pointer points to. Members that are relocated are none of its, and where types are compared,
    /// the kind tells.
    fn pointee(&mut self, id: u32) -> u32 {
        let bare = self.of.get(id).bare();
        let is_composite = matches!(bare.kind(), sys::BTF_KIND_STRUCT | sys::BTF_KIND_UNION);
        self.id(if is_composite || bare.is_enum() { Part::Hollow(bare.kind()) } else { Part::Whole(bare.id) })
    }

    fn name(&mut self, offset: u32) -> u32 {
        *self.name_offsets.entry(offset).or_insert_with(|| {
            let at = self.names.len() as u32;
            self.names.extend(self.of.name(offset));
            self.names.push(0);
            at
        })
    }

    /// As the kernel gives its own.
    fn write(mut self) -> Option<Vec<u8>> {
        let mut types = Vec::new();
        let mut written = 0;
        // While they are written, there come more.
        while let Some(part) = self.parts.get(written).copied() {
            written += 1;
            match part {
                Part::Hollow(kind) => types.extend([0, kind << 24, 0]),
                Part::Whole(id) => self.write_type(self.of.get(id), &mut types)?,
            }
        }
        let types_size = (types.len() * WORD) as u32;
        let sizes = [0, types_size, types_size, self.names.len() as u32];
        let header = [VERSION << 16 | MAGIC, HEADER_SIZE as u32].into_iter().chain(sizes);
        let mut bytes: Vec<u8> = header.chain(types).flat_map(u32::to_ne_bytes).collect();
        bytes.extend(self.names);
        Some(bytes)
    }

    fn write_type(&mut self, found: Type<'_>, to: &mut Vec<u32>) -> Option<()> {
        let shape = shape(found.kind())?;
        let third = match found.kind() {
            sys::BTF_KIND_PTR => self.pointee(found.word(2)),
            _ if shape.refers => self.id(Part::Whole(found.word(2))),
            _ => found.word(2),
        };
        to.extend([self.name(found.name_offset()), found.word(1), third]);
        for at in found.entries() {
            for nth in 0..shape.words {
                let word = self.of.word(at + nth * WORD)?;
                to.push(match nth {
                    0 if shape.named => self.name(word),
                    _ if shape.types.contains(&nth) => self.id(Part::Whole(word)),
                    _ => word,
                });
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavors_are_no_part_of_a_name() {
        assert_eq!(essential(b"bio"), b"bio");
        assert_eq!(essential(b"bio___before_5_12"), b"bio");
        assert_eq!(essential(b"a___b___c"), b"a___b");
        assert_eq!(essential(b"bio____x"), b"bio____x");
        assert_eq!(essential(b"___x"), b"___x");
    }

    /// Names of a type's members, and of those of structs that are members without a name.
    fn members<'a>(of: Type<'a>) -> Vec<&'a [u8]> {
        let own = of.entry_names().zip(of.entries().map(|at| of.all.get(of.all.word(at + WORD).unwrap())));
        own.flat_map(|(name, kind)| if name.is_empty() { members(kind.bare()) } else { vec![name] }).collect()
    }

    #[test]
    fn a_subset_has_the_whole_of_what_was_named_and_libbpf_takes_it() {
        let kernel = Types::of_kernel().unwrap();
        let names: [&[u8]; 3] = [b"task_struct", b"bpf_func_id", b"btf_trace_sys_exit"];
        let bytes = kernel.only(&HashSet::from(names)).unwrap();
        // SAFETY: the bytes are there, and what is made of them is freed.
        let error = unsafe {
            let taken = sys::btf__new(bytes.as_ptr().cast(), bytes.len() as u32);
            let error = sys::libbpf_get_error(taken.cast());
            sys::btf__free(taken);
            error
        };
        assert_eq!(error, 0);

        let subset = Types::parse(Bytes::Read(bytes)).unwrap();
        assert!(subset.places.len() < kernel.places.len() / 10);
        let [all, some] = [&kernel, &subset].map(|t| t.find(sys::BTF_KIND_STRUCT, "task_struct").unwrap());
        assert_eq!(members(all), members(some));
        assert_eq!(all.word(2), some.word(2));
        let [all, some] = [&kernel, &subset].map(|t| t.enumerator("BPF_FUNC_task_pt_regs"));
        assert!(all.is_some());
        assert_eq!(all, some);
        let probe = subset.find(sys::BTF_KIND_TYPEDEF, "btf_trace_sys_exit").unwrap().bare().target();
        let kinds: Vec<u32> = probe.parameters().map(|parameter| parameter.bare().kind()).collect();
        assert_eq!(kinds, [sys::BTF_KIND_PTR, sys::BTF_KIND_PTR, sys::BTF_KIND_INT]);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let kernel = Types::of_kernel().unwrap();
        for size in [0, 3, HEADER_SIZE, kernel.names.start, kernel.names.end - 1] {
            assert!(Types::parse(Bytes::Read(kernel.bytes[..size].to_vec())).is_none(), "{size}");
        }
    }
}
