// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Paths of cgroups by id: of those that there are, and of those that the programs tell of (bpf/cgroup_names.bpf.h).

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirEntryExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::Object;

use crate::Error;
use crate::cgroups;
use crate::escape::c_bytes;
use crate::libbpf::bpf_error;

/// The hook of bpf/cgroup_names.bpf.h.
pub(crate) const CGROUP_MADE: &str = "cgroup_made";
/// What a tool says that can't have it.
pub(crate) const NOT_MADE: &str = "this kernel does not tell when cgroups are made: the cgroup of what is gone when it is shown may not be known";
/// What a tool says of a host on which version 1 has the controllers.
pub(crate) const VERSION_1: &str =
    "version 1 cgroups are mounted: of tasks that are at the root of version 2, the cgroup is not known";
/// Whether the tool shows cgroups.
static SHOWS_CGROUPS: AtomicBool = AtomicBool::new(false);
/// At least this many paths are kept before those of cgroups that are gone are forgotten.
const PATHS_MIN: usize = 8192;
/// How often all cgroups are looked at for one that is not known.
const WALK: Duration = Duration::from_secs(1);
/// So deep cgroups are nested at most.
const NESTED_MAX: usize = 64;

/// Have the names of cgroups that are made from now on.
pub(crate) fn show_cgroups() {
    SHOWS_CGROUPS.store(true, Ordering::Relaxed);
}

/// Whether [`Cgroups`] is of use.
pub(crate) fn shows_cgroups() -> bool {
    SHOWS_CGROUPS.load(Ordering::Relaxed)
}

/// The cgroups that there are when the programs are attached: the first ones of [`Cgroups::of`].
static FIRST: Mutex<Option<HashMap<u64, Vec<u8>>>> = Mutex::new(None);

/// Look at all cgroups, before the header says that nothing is missed from now on.
pub(crate) fn look_at_cgroups() {
    if shows_cgroups() {
        let mut first = Cgroups::new(None);
        first.read();
        *FIRST.lock().unwrap_or_else(PoisonError::into_inner) = Some(first.paths);
    }
}

/// Paths of version 2 cgroups by id: of those that there were at the start, and those that were made since.
pub struct Cgroups {
    paths: HashMap<u64, Vec<u8>>,
    made: Option<MapHandle>,
    mount: Option<PathBuf>,
    walked: Instant,
    room: usize,
    hides_root: bool,
}

impl Cgroups {
    /// Those that the programs of a tool will tell of.
    ///
    /// # Errors
    /// libbpf's.
    pub fn of(object: &Object) -> Result<Self, Error> {
        let made = object.maps().find(|map| map.name() == "cgroups_made" && shows_cgroups());
        let made = made.map(|map| MapHandle::try_from(&map)).transpose();
        let mut new = Self::new(made.map_err(bpf_error("the map cgroups_made"))?);
        match FIRST.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(paths) => new.take(paths),
            None => new.read(),
        }
        Ok(new)
    }

    fn new(made: Option<MapHandle>) -> Self {
        Self {
            paths: HashMap::new(),
            made,
            mount: cgroups::cgroup2().ok().map(|mount| mount.point).filter(|_| shows_cgroups()),
            walked: Instant::now(),
            room: 0,
            hides_root: cgroups::has_version_1(),
        }
    }

    fn take(&mut self, paths: HashMap<u64, Vec<u8>>) {
        self.room = PATHS_MIN.max(paths.len().saturating_mul(2));
        self.paths = paths;
    }

    /// The cgroup's path below the root of what this process sees of the hierarchy; nothing where it is not known.
    pub fn path(&mut self, id: u64) -> Vec<u8> {
        if id == 0 {
            return Vec::new();
        }
        if self.paths.len() > self.room {
            self.read();
        }
        if let Some(path) = self.known(id, 0) {
            return path;
        }
        // It is older than the tool, or too many were made since.
        if self.walked.elapsed() > WALK {
            self.read();
        }
        self.paths.get(&id).cloned().unwrap_or_default()
    }

    /// A path that is kept, or that of one that was made.
    fn known(&mut self, id: u64, depth: usize) -> Option<Vec<u8>> {
        if let Some(path) = self.paths.get(&id) {
            return Some(path.clone());
        }
        let value = self.made.as_ref()?.lookup(&id.to_ne_bytes(), MapFlags::ANY).ok()??;
        // The parent's id, and the name (struct kscope_cgroup_name).
        let (parent, name) = value.split_first_chunk()?;
        let parent = u64::from_ne_bytes(*parent);
        let above = if depth < NESTED_MAX { self.known(parent, depth + 1)? } else { return None };
        let is_root = self.is_root(parent);
        let path = [if is_root { &[] } else { above.as_slice() }, b"/", c_bytes(name)].concat();
        self.paths.insert(id, path.clone());
        Some(path)
    }

    fn is_root(&self, id: u64) -> bool {
        let root = self.mount.as_ref().and_then(|mount| fs::metadata(mount).ok());
        root.is_some_and(|root| root.ino() == id)
    }

    /// Take the cgroups that there are, and forget others.
    fn read(&mut self) {
        self.paths.clear();
        self.walked = Instant::now();
        if let Some(mount) = self.mount.clone() {
            if let Ok(meta) = fs::metadata(&mount) {
                // Tasks' cgroups are those of version 1 there.
                let root = if self.hides_root { "" } else { "/" };
                self.paths.insert(meta.ino(), root.into());
            }
            self.walk(&mount, b"");
        }
        let paths = std::mem::take(&mut self.paths);
        self.take(paths);
    }

    fn walk(&mut self, dir: &Path, prefix: &[u8]) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = [prefix, b"/", entry.file_name().as_bytes()].concat();
                self.walk(&entry.path(), &path);
                self.paths.insert(entry.ino(), path);
            }
        }
    }
}
