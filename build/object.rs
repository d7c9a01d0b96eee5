// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What of a BPF object is of no use to those whom it is shipped to: the lines of the source, which the verifier
//! would quote. The formats are those of include/uapi/linux/btf.h, and of the kernel's Documentation/bpf/btf.rst.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ops::Range;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use object::Object as _;
use object::ObjectSection as _;

const MAGIC: u32 = 0xeb9f;

/// Take the lines of the source out of an object, in place: libbpf finds none, and the bytes compress to nothing.
pub fn without_lines(elf: &mut [u8]) -> Result<()> {
    let (Some(types), Some(ext)) = (section(elf, ".BTF")?, section(elf, ".BTF.ext")?) else {
        bail!("the object has no BTF");
    };
    let lines = Ext::read(elf.get(ext.clone()).context("it ends early")?)?;
    let lines_at = shifted(&lines.lines, ext.start);
    elf.get_mut(lines_at).context("it ends early")?.fill(0);
    put(elf, ext.start + Ext::LINES + 4, 0)?;
    let used = names(&elf[types.clone()], &elf[ext])?;
    let strings = shifted(&strings(&elf[types.clone()])?, types.start);
    keep(elf.get_mut(strings).context("the strings end early")?, &used)
}

fn section(elf: &[u8], name: &str) -> Result<Option<Range<usize>>> {
    let file = object::File::parse(elf)?;
    let Some((start, len)) = file.section_by_name(name).and_then(|section| section.file_range()) else {
        return Ok(None);
    };
    let start = usize::try_from(start)?;
    Ok(Some(start..start + usize::try_from(len)?))
}

fn shifted(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).context("the type information ends early")?;
    Ok(u32::from_le_bytes(*word))
}

fn put(bytes: &mut [u8], at: usize, word: u32) -> Result<()> {
    let to = bytes.get_mut(at..at + 4).context("the type information ends early")?;
    to.copy_from_slice(&word.to_le_bytes());
    Ok(())
}

/// A part of a section behind its header, by the place of its offset and length in that.
fn part(bytes: &[u8], at: usize) -> Result<Range<usize>> {
    if u32_at(bytes, 0)? & 0xffff != MAGIC {
        bail!("no BTF of this machine's byte order");
    }
    let start = (u32_at(bytes, 4)? + u32_at(bytes, at)?) as usize;
    Ok(start..start + u32_at(bytes, at + 4)? as usize)
}

/// The parts of .BTF.ext.
struct Ext {
    functions: Range<usize>,
    lines: Range<usize>,
    relocations: Range<usize>,
}

impl Ext {
    const LINES: usize = 16;

    fn read(ext: &[u8]) -> Result<Self> {
        Ok(Self { functions: part(ext, 8)?, lines: part(ext, Self::LINES)?, relocations: part(ext, 24)? })
    }
}

fn strings(btf: &[u8]) -> Result<Range<usize>> {
    part(btf, 16)
}

const STRUCT: u32 = 4;

/// One type, and where what stands behind it begins that has a name.
struct Found {
    name: u32,
    kind: u32,
    /// In bytes, of a struct.
    size: u32,
    named: Vec<usize>,
}

/// The types of a BTF section.
struct Types<'a> {
    btf: &'a [u8],
    next: usize,
    end: usize,
}

impl<'a> Types<'a> {
    fn of(btf: &'a [u8]) -> Result<Self> {
        let types = part(btf, 8)?;
        Ok(Self { btf, next: types.start, end: types.end })
    }

    fn read(&mut self) -> Result<Found> {
        let (btf, at) = (self.btf, self.next);
        let (name, info, size) = (u32_at(btf, at)?, u32_at(btf, at + 4)?, u32_at(btf, at + 8)?);
        let (kind, len) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        // What stands behind each type: so many entries, of so many bytes, that begin with a name or not.
        let (entries, entry, has_names) = match kind {
            // int, variable, tag of a declaration
            1 | 14 | 17 => (1, 4, false),
            // array
            3 => (1, 12, false),
            // struct, union, 64-bit enumeration
            STRUCT | 5 | 19 => (len, 12, true),
            // enumeration, prototype of a function
            6 | 13 => (len, 8, true),
            // section of variables
            15 => (len, 12, false),
            0..=18 => (0, 0, false),
            _ => bail!("a type of the unknown kind {kind}"),
        };
        let start = at + 12;
        self.next = start + entries * entry;
        let named = (0..if has_names { entries } else { 0 }).map(|n| start + n * entry).collect();
        Ok(Found { name, kind, size, named })
    }
}

impl Iterator for Types<'_> {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.next < self.end).then(|| self.read())
    }
}

/// Where the names begin that anything but the lines refers to.
fn names(btf: &[u8], ext: &[u8]) -> Result<Vec<u32>> {
    let mut names = Vec::new();
    for found in Types::of(btf)? {
        let found = found?;
        names.push(found.name);
        for at in found.named {
            names.push(u32_at(btf, at)?);
        }
    }
    let parts = Ext::read(ext)?;
    for (part, name_in_record) in [(parts.functions, None), (parts.relocations, Some(8))] {
        if part.is_empty() {
            continue;
        }
        let size = u32_at(ext, part.start)? as usize;
        let mut at = part.start + 4;
        while at < part.end {
            names.push(u32_at(ext, at)?);
            let records = u32_at(ext, at + 4)? as usize;
            at += 8;
            for record in 0..records {
                if let Some(offset) = name_in_record {
                    names.push(u32_at(ext, at + record * size + offset)?);
                }
            }
            at += records * size;
        }
    }
    Ok(names)
}

/// Fill with zeros what none of these offsets leads to.
fn keep(strings: &mut [u8], used: &[u32]) -> Result<()> {
    let mut is_used = vec![false; strings.len()];
    for start in used {
        let start = *start as usize;
        let text = strings.get(start..).context("a name lies outside of the strings")?;
        let len = text.iter().position(|byte| *byte == 0).context("a name does not end")?;
        is_used[start..=start + len].fill(true);
    }
    for (byte, is_used) in strings.iter_mut().zip(is_used) {
        if !is_used {
            *byte = 0;
        }
    }
    Ok(())
}

/// How large the structs are that the object's types name.
pub fn sizes(elf: &[u8]) -> Result<BTreeMap<String, usize>> {
    let at = section(elf, ".BTF")?.context("the object has no BTF")?;
    let btf = &elf[at];
    let strings = &btf[strings(btf)?];
    let mut sizes = BTreeMap::new();
    for found in Types::of(btf)? {
        let found = found?;
        if found.kind == STRUCT {
            let name = strings.get(found.name as usize..).unwrap_or_default();
            let name = CStr::from_bytes_until_nul(name).context("a name does not end")?;
            sizes.insert(name.to_string_lossy().into_owned(), found.size as usize);
        }
    }
    Ok(sizes)
}
