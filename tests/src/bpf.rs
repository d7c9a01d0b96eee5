// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The BPF objects that the kernel holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use libbpf_rs::btf::{Btf, types};
use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter};
use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType};

use crate::mounted::Mounted;

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

/// How many entries the maps of this name hold, all together.
pub fn entries(name: &str) -> usize {
    let maps = MapInfoIter::default().filter(|map| map.name == name);
    maps.filter_map(|map| MapHandle::from_map_id(map.id).ok()).map(|map| map.keys().count()).sum()
}

/// A hash map that is pinned in a BPF file system of its own.
pub struct PinnedMap {
    map: MapHandle,
    path: PathBuf,
    _place: Mounted,
}

impl PinnedMap {
    /// With keys of 8 bytes, under this name.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(name: &str) -> Self {
        Self::of_keys(name, 8)
    }

    /// With keys of so many bytes.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn of_keys(name: &str, key_size: u32) -> Self {
        let options = libbpf_rs::libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_create_opts>() as u64,
            ..Default::default()
        };
        let mut map = MapHandle::create(MapType::Hash, Some("kscope_test"), key_size, 8, 64, &options)
            .unwrap_or_else(|error| panic!("a map: {error}"));
        let place = Mounted::bpf();
        let path = place.path().join(name);
        map.pin(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { map, path, _place: place }
    }

    /// Where it is pinned.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Add a key.
    ///
    /// # Panics
    /// If it has no room.
    pub fn insert(&self, key: u64) {
        let (key, value) = (key.to_ne_bytes(), 1_u64.to_ne_bytes());
        self.map.update(&key, &value, MapFlags::ANY).unwrap_or_else(|error| panic!("{key:?}: {error}"));
    }
}
