// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The BPF objects that the kernel holds.

use std::collections::BTreeMap;

use libbpf_rs::btf::{Btf, types};
use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter};

/// A kind of BPF object; each has ids of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A program.
    Program,
    /// A map.
    Map,
    /// An attachment.
    Link,
}

/// Every BPF object in the kernel, by kind and id, with its name; a link goes by its program's.
pub fn objects() -> BTreeMap<(Kind, u32), String> {
    let programs: BTreeMap<u32, String> = ProgInfoIter::default()
        .map(|program| (program.id, program.name.to_string_lossy().into_owned()))
        .collect();
    let links = LinkInfoIter::default()
        .map(|link| ((Kind::Link, link.id), programs.get(&link.prog_id).cloned().unwrap_or_default()));
    let maps =
        MapInfoIter::default().map(|map| ((Kind::Map, map.id), map.name.to_string_lossy().into_owned()));
    let all: BTreeMap<_, _> = links.chain(maps).collect();
    programs.into_iter().map(|(id, name)| ((Kind::Program, id), name)).chain(all).collect()
}

/// Whether programs of perf events and of tracepoints' files are attached by links here: since 5.15.
///
/// # Panics
/// If the kernel has no type information.
pub fn has_perf_links() -> bool {
    let btf = Btf::from_vmlinux().expect("the kernel's type information");
    let kinds: Option<types::Enum<'_>> = btf.type_by_name("bpf_link_type");
    kinds.is_some_and(|kinds| kinds.iter().any(|m| m.name.is_some_and(|n| n == "BPF_LINK_TYPE_PERF_EVENT")))
}
