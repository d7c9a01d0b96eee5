// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cgroups, as people name them and as filters need them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use procfs::process::Process;

/// The version 1 controllers by whose hierarchy a task's cgroup can be told: those of `enum kscope_controller` of
/// bpf/cgroup.bpf.h behind version 2.
const CONTROLLERS: [&str; 8] = ["memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio"];
/// A level that user space does not know: `CGROUP_LEVEL_UNKNOWN` in bpf/cgroup.bpf.h.
pub const UNKNOWN_LEVEL: u32 = u32::MAX;
/// The inode of the first cgroup namespace (PROC_CGROUP_INIT_INO of include/linux/proc_ns.h).
const FIRST_CGROUP_NAMESPACE: u64 = 0xefff_fffb;
/// The hexadecimal digits of a container's id.
const CONTAINER_ID: usize = 64;
/// So many of them must be given at least.
const CONTAINER_PREFIX: usize = 4;
/// So many of several matches are named.
const MATCHES_SHOWN: usize = 3;

/// A cgroup, as filters need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The kernel's id: the inode number of its directory.
    pub id: u64,
    /// How deep below the root of its hierarchy, which is 0; [`UNKNOWN_LEVEL`] inside a cgroup namespace, which does
    /// not tell how deep its own root is.
    pub level: u32,
    /// The version 1 controllers of its hierarchy; none in version 2.
    pub controllers: Option<String>,
    /// Its directory.
    pub path: PathBuf,
    /// Whether one that is made at that path later is meant too: it was named so, and not by what it alone has.
    pub returns: bool,
}

/// Whether this process sees cgroups as they are, and not from the root of a namespace.
fn sees_whole_hierarchy() -> bool {
    fs::metadata("/proc/self/ns/cgroup").map_or(true, |meta| meta.ino() == FIRST_CGROUP_NAMESPACE)
}

/// The number of a hierarchy in `enum kscope_controller`, by its version 1 controllers; that of version 2 is 0.
fn controller(controllers: Option<&str>) -> Option<u32> {
    let Some(names) = controllers else { return Some(0) };
    (1..).zip(CONTROLLERS).find(|(_, known)| names.split(',').any(|name| name == *known)).map(|(n, _)| n)
}

impl Cgroup {
    /// Its hierarchy's number in `enum kscope_controller` of bpf/cgroup.bpf.h.
    pub fn controller(&self) -> Option<u32> {
        controller(self.controllers.as_deref())
    }

    /// The cgroup at a path.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn at(path: &str) -> Result<Self, String> {
        let real = fs::canonicalize(path).map_err(|e| format!("cgroup {path:?}: {e}"))?;
        let mount = mounts()
            .into_iter()
            .filter(|mount| real.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.as_os_str().len())
            .ok_or_else(|| format!("{path:?} is not below a mounted cgroup file system"))?;
        mount.cgroup(&real).map_err(|e| format!("cgroup {path:?}: {e}"))
    }

    /// The cgroup that a text names in a hierarchy: by its path, also below the mount; by its id; or, as systemd names
    /// them, by the unit that it belongs to.
    fn named(text: &str, mount: &Mount) -> Result<Self, String> {
        if text.contains('/') {
            let below = mount.point.join(text.trim_start_matches('/'));
            let is_below = !Path::new(text).exists() && below.is_dir() && !text.contains("..");
            return if is_below { Self::at(&below.to_string_lossy()) } else { Self::at(text) };
        }
        if text.is_empty() {
            return Err("an empty name".into());
        }
        let id: Option<u64> = text.parse().ok();
        let unit = format!("{text}.service");
        let is_named = |name: &OsStr| name == text || name == unit.as_str();
        if id.is_some() && fs::metadata(&mount.point).ok().map(|meta| meta.ino()) == id {
            return Self::at(&mount.point.to_string_lossy());
        }
        let found =
            mount.find(|entry| id.map_or_else(|| is_named(&entry.file_name()), |id| entry.ino() == id));
        // What has an id is never made again.
        let of = |path: &Path| mount.cgroup(path).map(|cgroup| Self { returns: id.is_none(), ..cgroup });
        match found.as_slice() {
            [] if id.is_none() && Path::new(text).exists() => Self::at(text),
            [] => Err(match id {
                Some(id) => format!("no cgroup below {} has the id {id}", mount.point.display()),
                None => format!("no cgroup below {} is named {text:?}", mount.point.display()),
            }),
            [path] => of(path).map_err(|e| format!("cgroup {text:?}: {e}")),
            several => Err(format!("{text:?} is several cgroups: {}: give the path of one", shown(several))),
        }
    }

    /// The cgroup of the container of this id, or of the only one whose id begins so: of Docker, containerd, CRI-O
    /// and Podman, each with and without systemd, which all have the id in the cgroup's name.
    fn of_container(text: &str, mount: &Mount) -> Result<Self, String> {
        // kubectl puts the runtime before it.
        let id = text.split_once("://").map_or(text, |(_, id)| id);
        let is_id = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id || !(CONTAINER_PREFIX..=CONTAINER_ID).contains(&id.len()) {
            return Err(format!(
                "not the id of a container, nor {CONTAINER_PREFIX} digits or more that it begins with"
            ));
        }
        let is = |name: &OsStr| container_of(name).is_some_and(|found| found.starts_with(id));
        let mut found = mount.find(|entry| is(&entry.file_name()));
        // Inside a container there may be cgroups that have its id too.
        found.sort();
        let all = found.clone();
        found.retain(|path| {
            let is_same = |other: &PathBuf| container_of(file_name(other)) == container_of(file_name(path));
            !all.iter().any(|other| other != path && path.starts_with(other) && is_same(other))
        });
        match found.as_slice() {
            [] => Err(format!("no cgroup below {} is that of a container {id}", mount.point.display())),
            [path] => {
                let found = mount.cgroup(path).map(|cgroup| Self { returns: false, ..cgroup });
                found.map_err(|e| format!("container {id}: {e}"))
            }
            several => Err(format!("{id} is several containers: {}: give more digits", shown(several))),
        }
    }
}

fn shown(paths: &[PathBuf]) -> String {
    let mut names: Vec<_> = paths.iter().take(MATCHES_SHOWN).map(|path| path.display().to_string()).collect();
    if paths.len() > MATCHES_SHOWN {
        names.push(format!("and {} more", paths.len() - MATCHES_SHOWN));
    }
    names.join(", ")
}

fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// The id in the name of a container's cgroup: `docker-<id>.scope`, `cri-containerd-<id>.scope`, `libpod-<id>.scope`,
/// `<id>`; not in that of a container's monitor, `libpod-conmon-<id>.scope`.
fn container_of(name: &OsStr) -> Option<&str> {
    let name = name.to_str()?;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (kind, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id = id.len() == CONTAINER_ID && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_id && !kind.ends_with("conmon")).then_some(id)
}

/// The cgroup that a text names: a path, an id, or a systemd unit. What version 2 does not have is looked for in version
/// 1, by the controllers that tell tasks' cgroups.
///
/// # Errors
/// A sentence for the user.
pub fn cgroup(text: &str) -> Result<Cgroup, String> {
    let cgroup = in_either_version(|mount| Cgroup::named(text, mount))?;
    match (&cgroup.controllers, cgroup.controller()) {
        (Some(v1), None) => Err(format!(
            "{text:?} is in the version 1 hierarchy of {v1}, by which no task's cgroup can be told: give its path in \
             that of one of {}",
            CONTROLLERS.join(", ")
        )),
        _ => Ok(cgroup),
    }
}

/// The cgroup of a container, of version 2, or of version 1 where it has none there.
///
/// # Errors
/// A sentence for the user.
pub fn container(text: &str) -> Result<Cgroup, String> {
    in_either_version(|mount| Cgroup::of_container(text, mount))
}

/// What is found in version 2, or else in the first of version 1 that has it; or why not in the first that there is.
fn in_either_version(find: impl Fn(&Mount) -> Result<Cgroup, String>) -> Result<Cgroup, String> {
    let by_controller = |mount: &Mount| controller(mount.controllers.as_deref());
    let mut version1: Vec<_> = mounts().into_iter().filter(|mount| by_controller(mount) > Some(0)).collect();
    version1.sort_by_key(by_controller);
    let first = cgroup2().and_then(|mount| find(&mount));
    first.or_else(|why| version1.iter().find_map(|mount| find(mount).ok()).ok_or(why))
}

/// The mount of version 2 that shows most of the hierarchy.
pub(crate) fn cgroup2() -> Result<Mount, String> {
    let version2 = mounts().into_iter().filter(|mount| mount.controllers.is_none());
    version2.min_by_key(|mount| mount.root.len()).ok_or_else(|| "no cgroup2 file system is mounted".into())
}

/// By what the block layer knows who issued an I/O.
fn block_mount() -> Result<Mount, String> {
    mounts().into_iter().find(Mount::is_blkio).map_or_else(cgroup2, Ok)
}

/// The cgroup by which the block layer knows who issued an I/O, in the hierarchy that it uses: version 2, or
/// that of `blkio` where version 1 has it. Nothing for a root, which all I/O is below.
///
/// # Errors
/// A sentence for the user.
pub fn block_cgroup(text: &str) -> Result<Option<Cgroup>, String> {
    block_cgroup_of(text, Cgroup::named(text, &block_mount()?)?)
}

/// [`block_cgroup`] of a container.
///
/// # Errors
/// A sentence for the user.
pub fn block_container(text: &str) -> Result<Option<Cgroup>, String> {
    block_cgroup_of(text, Cgroup::of_container(text, &block_mount()?)?)
}

fn block_cgroup_of(text: &str, cgroup: Cgroup) -> Result<Option<Cgroup>, String> {
    if cgroup.level == 0 {
        return Ok(None);
    }
    let v1 = mounts().into_iter().find(Mount::is_blkio);
    match (&cgroup.controllers, v1) {
        (None, None) => {
            let controllers = fs::read_to_string(cgroup.path.join("cgroup.controllers")).unwrap_or_default();
            if controllers.split_whitespace().any(|name| name == "io") {
                return Ok(Some(cgroup));
            }
            Err(format!(
                "{text:?} has no io controller, so that its I/O belongs to a cgroup above: write +io to the parent's \
                 cgroup.subtree_control"
            ))
        }
        (Some(names), _) if is_blkio(names) => Ok(Some(cgroup)),
        (_, Some(v1)) => Err(format!(
            "on this host block I/O belongs to the cgroups of {}: give a path there",
            v1.point.display()
        )),
        (Some(names), None) => {
            Err(format!("{text:?} is in the version 1 hierarchy of {names}, which has no I/O"))
        }
    }
}

fn is_blkio(controllers: &str) -> bool {
    controllers.split(',').any(|name| name == "blkio")
}

pub(crate) struct Mount {
    pub point: PathBuf,
    root: String,
    controllers: Option<String>,
}

impl Mount {
    fn is_blkio(&self) -> bool {
        self.controllers.as_deref().is_some_and(is_blkio)
    }

    /// The cgroup of a directory below the mount.
    fn cgroup(&self, real: &Path) -> io::Result<Cgroup> {
        let id = fs::metadata(real)?.ino();
        let below = real.strip_prefix(&self.point).map_or(0, |below| below.components().count());
        // A container sees a part of the hierarchy mounted: the mount's own depth counts too.
        let above = Path::new(&self.root).components().count().saturating_sub(1);
        let level =
            u32::try_from(below + above).ok().filter(|_| sees_whole_hierarchy()).unwrap_or(UNKNOWN_LEVEL);
        Ok(Cgroup { id, level, controllers: self.controllers.clone(), path: real.into(), returns: true })
    }

    /// The directories below the mount that are wanted.
    fn find(&self, wanted: impl Fn(&fs::DirEntry) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.point.clone()];
        while let Some(folder) = folders.pop() {
            // One that is removed meanwhile is none.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                    if wanted(&entry) {
                        found.push(entry.path());
                    }
                }
            }
        }
        found.sort();
        found
    }
}

fn mounts() -> Vec<Mount> {
    let Ok(all) = Process::myself().and_then(|me| me.mountinfo()) else { return Vec::new() };
    let controllers = |options: &HashMap<String, Option<String>>| {
        let mut names: Vec<_> = options
            .iter()
            .filter(|(k, v)| v.is_none() && k.as_str() != "rw")
            .map(|(k, _)| k.clone())
            .collect();
        names.sort();
        names.join(",")
    };
    all.into_iter()
        .filter(|mount| mount.fs_type == "cgroup2" || mount.fs_type == "cgroup")
        .map(|mount| Mount {
            controllers: (mount.fs_type == "cgroup").then(|| controllers(&mount.super_options)),
            point: mount.mount_point,
            root: mount.root,
        })
        .collect()
}

/// Whether there are version 1 hierarchies that containers are in.
pub(crate) fn has_version_1() -> bool {
    mounts().iter().any(|mount| controller(mount.controllers.as_deref()) > Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_by_the_names_of_their_cgroups() {
        let id = "0123456789abcdef".repeat(4);
        let of = |name: &str| container_of(OsStr::new(name)).map(String::from);
        for name in ["ID", "docker-ID.scope", "cri-containerd-ID.scope", "crio-ID.scope", "libpod-ID.scope"] {
            assert_eq!(of(&name.replace("ID", &id)), Some(id.clone()), "{name}");
        }
        for name in
            ["libpod-conmon-ID.scope", "crio-conmon-ID.scope", "docker-ID.slice", "IDID", "ID.service"]
        {
            assert_eq!(of(&name.replace("ID", &id)), None, "{name}");
        }
        assert_eq!(of("docker-abc.scope"), None);
    }
}
