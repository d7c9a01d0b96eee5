// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What reads bytes of others, for the targets in fuzz/: only with `--cfg fuzzing`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::collections::HashSet;
use std::fs;
use std::io::Write as _;

use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;

use crate::btf::Types;
use crate::elf::Elf;
use crate::elf_names::Extent;
use crate::elf_names::FileNames;
use crate::mappings;
use crate::metrics;
use crate::namer::Namer;
use crate::perf_map;

/// Where names are asked for.
const OFFSETS: [u64; 6] = [0, 0x40, 0x1000, 0x1040, 1 << 20, u64::MAX];

fn file(bytes: &[u8]) -> fs::File {
    let mut file = fs::File::from(memfd_create(c"fuzzing", MFdFlags::MFD_CLOEXEC).expect("a file in memory"));
    file.write_all(bytes).expect("room for it");
    file
}

/// Types of a kernel.
pub fn btf(bytes: &[u8]) {
    let Some(types) = Types::parse_bytes(bytes) else { return };
    let names: HashSet<&[u8]> = types.all().take(64).map(|found| found.name()).collect();
    for found in types.all() {
        _ = (
            found.bare().kind(),
            found.parameters().count(),
            found.entry_names().count(),
            found.enumerators().count(),
        );
    }
    _ = (types.find(libbpf_sys::BTF_KIND_STRUCT, "task_struct").is_some(), types.enumerator("BPF_PROG_LOAD"));
    if let Some(subset) = types.only(&names) {
        assert!(Types::parse_bytes(&subset).is_some(), "what is written can be read");
    }
}

/// A perf map: the first byte says whether it is complete.
pub fn perf_map(bytes: &[u8]) {
    let Some((complete, text)) = bytes.split_first() else { return };
    let asked = BTreeSet::from_iter(OFFSETS);
    let found =
        perf_map::lines::search(&file(text), asked, complete & 1 != 0, 1 << 20).expect("a file in memory");
    assert!(found.names.iter().all(|(address, (_, start))| start <= address), "code covers its addresses");
}

/// Lines of /proc/PID/maps, and records of new mappings.
pub fn maps(bytes: &[u8]) {
    bytes.split_inclusive(|byte| *byte == b'\n').for_each(|line| _ = mappings::parse(1, line));
    _ = mappings::mapping(bytes);
}

/// A program, or a library; it is its own debug file too.
pub fn elf(bytes: &[u8]) {
    let file = file(bytes);
    if let Ok(Some(elf)) = Elf::read(&file) {
        _ = (elf.interpreter(), elf.functions(&["main", "getaddrinfo"]));
    }
    let itself = |of: &fs::File, _: &_| of.try_clone().into_iter().collect();
    for extent in [Extent::All, Extent::Symbols] {
        if let Ok(names) = FileNames::read(&file, extent, itself) {
            OFFSETS.iter().for_each(|offset| _ = names.find(*offset));
        }
    }
}

/// The same by a process of its own, which may die of it: the answer has its length all the same.
pub fn namer(bytes: &[u8]) {
    thread_local!(static NAMER: RefCell<Namer> = RefCell::new(Namer::fork().expect("a process")));
    let itself = |of: &fs::File, _: &_| of.try_clone().into_iter().collect();
    let found = NAMER.with_borrow_mut(|namer| namer.file(&file(bytes), &OFFSETS, itself));
    assert_eq!(found.len(), OFFSETS.len());
}

/// What a client of the metrics sends.
pub fn http(bytes: &[u8]) {
    metrics::parse_request(bytes);
}
