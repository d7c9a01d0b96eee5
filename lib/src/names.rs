// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names for the kernel's numbers: errors, capabilities, users, disks, cgroups.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
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
use nix::errno::Errno;
use nix::sys::signal::Signal;
use procfs::process::Process;

use crate::Error;
use crate::escape::c_bytes;
use crate::session::bpf_error;

/// The name of a positive errno, `ENOENT`, or its number.
pub fn errno(errno: i32) -> String {
    // Kernel-internal numbers that tracers see before the return to user space (include/linux/errno.h).
    let internal = match errno {
        512 => "ERESTARTSYS",
        513 => "ERESTARTNOINTR",
        514 => "ERESTARTNOHAND",
        515 => "ENOIOCTLCMD",
        516 => "ERESTART_RESTARTBLOCK",
        517 => "EPROBE_DEFER",
        518 => "EOPENSTALE",
        519 => "ENOPARAM",
        529 => "EIOCBQUEUED",
        530 => "ERECALLCONFLICT",
        _ => "",
    };
    if !internal.is_empty() {
        return internal.into();
    }
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => errno.to_string(),
        known => format!("{known:?}"),
    }
}

/// The errno of a name or positive number: the opposite of [`errno`].
///
/// # Errors
/// A sentence for the user.
pub fn errno_number(text: &str) -> Result<u32, String> {
    const MAX: u32 = 4095;
    let upper = text.to_uppercase();
    let name = match upper.as_str() {
        "EWOULDBLOCK" => "EAGAIN",
        "ENOTSUP" => "EOPNOTSUPP",
        "EDEADLOCK" => "EDEADLK",
        name => name,
    };
    let number = text.parse().ok().or_else(|| (1..=MAX).find(|n| errno(n.cast_signed()) == name));
    number
        .filter(|n| (1..=MAX).contains(n))
        .ok_or_else(|| format!("{text:?} is no errno: give a name or a number"))
}

/// The name of a signal, `SIGKILL`, or its number. Real-time ones have those that the C library and `kill -l` give
/// them: `SIGRTMIN+3`, and in their upper half `SIGRTMAX-14`. The kernel's first two belong to the C library itself.
pub fn signal(signal: u32) -> String {
    const SIGRTMIN: u32 = 34;
    const UPPER_FIRST: u32 = 50;
    const SIGRTMAX: u32 = 64;
    match (Signal::try_from(signal.cast_signed()), signal) {
        (Ok(known), _) => known.as_str().into(),
        (_, SIGRTMIN) => "SIGRTMIN".into(),
        (_, SIGRTMAX) => "SIGRTMAX".into(),
        (_, SIGRTMIN..UPPER_FIRST) => format!("SIGRTMIN+{}", signal - SIGRTMIN),
        (_, UPPER_FIRST..SIGRTMAX) => format!("SIGRTMAX-{}", SIGRTMAX - signal),
        _ => signal.to_string(),
    }
}

/// The name of a capability, `CAP_CHOWN`, or its number.
pub fn capability(number: u32) -> String {
    let known = caps::all().into_iter().find(|capability| u32::from(capability.index()) == number);
    known.map_or_else(|| number.to_string(), |capability| capability.to_string())
}

/// The number of a capability, by its name with or without `CAP_`, or of one of that number.
///
/// # Errors
/// A sentence for the user.
pub fn capability_number(text: &str) -> Result<u32, String> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    let known = caps::all().into_iter().find(|capability| capability.to_string() == name);
    let number = text.parse().ok().filter(|number| *number < CAPABILITIES_MAX);
    known.map(|capability| capability.index().into()).or(number).ok_or_else(|| {
        format!("there is no capability {text:?} (as in NET_ADMIN, or a number below {CAPABILITIES_MAX})")
    })
}

/// There are more names above ([`path`]).
pub const PATH_CUT: u8 = 1;
/// The names do not begin at the root.
pub const PATH_UNREACHABLE: u8 = 2;
/// What they are of has been removed from its directory.
pub const PATH_DELETED: u8 = 4;
/// The marks of all names of a record, where its low half has those of the names below the task's root.
pub const PATH_ALL_SHIFT: u8 = 4;

/// The path that names stand for, which come from the innermost outwards, each ended by a NUL, with the marks that
/// `enum path_mark` of bpf/path.bpf.h has. It shows those as the kernel does: `(unreachable)` before it, ` (deleted)`
/// behind it; and `...` for names above, where some are missing.
pub fn path(names: &[u8], marks: u8) -> Vec<u8> {
    // A file system's own root may be among them.
    let is_name = |name: &&[u8]| !name.is_empty() && *name != b"/";
    let names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(is_name).collect();
    let mut path = match marks {
        _ if marks & PATH_CUT != 0 => b"...".to_vec(),
        _ if marks & PATH_UNREACHABLE != 0 => b"(unreachable)".to_vec(),
        _ => Vec::new(),
    };
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend(*name);
    }
    if names.is_empty() {
        path.push(b'/');
    }
    if marks & PATH_DELETED != 0 {
        path.extend(b" (deleted)");
    }
    path
}

/// The id of the real user, and behind a `/` that of the user whose rights count, where it is another.
pub fn uids(real: u32, effective: u32) -> String {
    if real == effective { real.to_string() } else { format!("{real}/{effective}") }
}

/// The user id of a name or number.
///
/// # Errors
/// A sentence for the user.
pub fn uid(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    lookup_user(text).ok_or_else(|| format!("there is no user {text:?} on this host"))
}

#[cfg(not(target_feature = "crt-static"))]
fn lookup_user(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// A static binary has no name service: it knows the users in /etc/passwd.
#[cfg(target_feature = "crt-static")]
fn lookup_user(name: &str) -> Option<u32> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// A whole disk, as the kernel numbers and names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's internal device number: major << 20 | minor.
    pub dev: u32,
    /// As in /sys/block, where `!` stands for `/`.
    pub name: String,
}

impl Disk {
    /// The disk of this name.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn by_name(name: &str) -> Result<Self, String> {
        let name = name.strip_prefix("/dev/").unwrap_or(name);
        let file = name.replace('/', "!");
        if let Some(dev) = read_dev(&Path::new("/sys/block").join(&file)) {
            return Ok(Self { dev, name: file });
        }
        let class = Path::new("/sys/class/block").join(&file);
        let whole = fs::canonicalize(class)
            .ok()
            .and_then(|path| Some(path.parent()?.file_name()?.to_string_lossy().into_owned()));
        Err(match whole {
            Some(whole) => format!("{name} is a partition: name its disk, {whole}"),
            None => format!("there is no disk {name:?}: see /sys/block"),
        })
    }
}

fn read_dev(sys: &Path) -> Option<u32> {
    let text = fs::read_to_string(sys.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

/// Names of disks by device number, which another disk may have later.
#[derive(Debug, Default)]
pub struct Disks(HashMap<u32, (String, Instant)>);

/// So old may a disk's name be.
const DISK_AGE: Duration = Duration::from_secs(1);
/// At most this many are kept.
const DISKS_MAX: usize = 4096;

impl Disks {
    /// The disk's name, also where it has gone since; `major:minor` where that was before it was asked for.
    pub fn name(&mut self, dev: u32) -> String {
        if let Some((name, read)) = self.0.get(&dev)
            && read.elapsed() < DISK_AGE
        {
            return name.clone();
        }
        let number = format!("{}:{}", dev >> 20, dev & 0xf_ffff);
        let link = fs::read_link(Path::new("/sys/dev/block").join(&number)).ok();
        let name = link.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        let before = self.0.remove(&dev).map(|(name, _)| name);
        let name = name.or(before).unwrap_or(number);
        if self.0.len() >= DISKS_MAX {
            self.0.clear();
        }
        self.0.insert(dev, (name.clone(), Instant::now()));
        name
    }
}

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

/// The bits of a set of capabilities.
const CAPABILITIES_MAX: u32 = 64;

/// The version 1 controllers by whose hierarchy a task's cgroup can be told: those of `enum kscope_controller` of
/// bpf/cgroup.bpf.h behind version 2.
const CONTROLLERS: [&str; 8] = ["memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio"];

/// A level that user space does not know: `CGROUP_LEVEL_UNKNOWN` in bpf/cgroup.bpf.h.
pub const UNKNOWN_LEVEL: u32 = u32::MAX;
/// The inode of the first cgroup namespace (PROC_CGROUP_INIT_INO of include/linux/proc_ns.h).
const FIRST_CGROUP_NAMESPACE: u64 = 0xefff_fffb;
/// The inode of the first pid namespace (PROC_PID_INIT_INO there).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
/// The hexadecimal digits of a container's id.
const CONTAINER_ID: usize = 64;
/// So many of them must be given at least.
const CONTAINER_PREFIX: usize = 4;
/// So many of several matches are named.
const MATCHES_SHOWN: usize = 3;

/// Whether this process sees cgroups as they are, and not from the root of a namespace.
fn sees_whole_hierarchy() -> bool {
    fs::metadata("/proc/self/ns/cgroup").map_or(true, |meta| meta.ino() == FIRST_CGROUP_NAMESPACE)
}

/// The number that /proc knows this process by: there, users and tools look numbers up.
pub fn own_pid() -> u32 {
    let link = fs::read_link("/proc/self").ok();
    link.and_then(|link| link.to_str()?.parse().ok()).unwrap_or_else(std::process::id)
}

/// The pid namespace whose numbers /proc has, which is that of this process unless it is new and /proc is not; none
/// for the first one, whose numbers are the kernel's own.
pub fn pid_namespace() -> Option<u32> {
    let of = if own_pid() == std::process::id() { "self" } else { "1" };
    let inode = fs::metadata(format!("/proc/{of}/ns/pid")).ok()?.ino();
    u32::try_from(inode).ok().filter(|_| inode != FIRST_PID_NAMESPACE)
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

/// The process of a thread, as /proc tells it; a process is its own.
pub fn process_of(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The mount of version 2 that shows most of the hierarchy.
fn cgroup2() -> Result<Mount, String> {
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

struct Mount {
    point: PathBuf,
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

/// Whether there are version 1 hierarchies that containers are in.
pub(crate) fn has_version_1() -> bool {
    mounts().iter().any(|mount| controller(mount.controllers.as_deref()) > Some(0))
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
            mount: cgroup2().ok().map(|mount| mount.point).filter(|_| shows_cgroups()),
            walked: Instant::now(),
            room: 0,
            hides_root: has_version_1(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names() {
        assert_eq!(errno(2), "ENOENT");
        assert_eq!(errno(512), "ERESTARTSYS");
        assert_eq!(errno(4000), "4000");
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal(9), "SIGKILL");
        let realtime = [
            (33, "33"),
            (34, "SIGRTMIN"),
            (37, "SIGRTMIN+3"),
            (49, "SIGRTMIN+15"),
            (50, "SIGRTMAX-14"),
            (63, "SIGRTMAX-1"),
            (64, "SIGRTMAX"),
            (65, "65"),
        ];
        for (number, name) in realtime {
            assert_eq!(signal(number), name);
        }
    }

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

    #[test]
    fn errors_have_numbers() {
        for (text, number) in
            [("ENOENT", 2), ("eagain", 11), ("EWOULDBLOCK", 11), ("ERESTARTSYS", 512), ("13", 13)]
        {
            assert_eq!(errno_number(text), Ok(number));
        }
        for bad in ["", "ENOTHING", "0", "-1", "4096", "2 "] {
            assert!(errno_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_have_numbers() {
        for (text, number) in [("CAP_CHOWN", 0), ("net_admin", 12), ("Cap_Bpf", 39), ("63", 63), ("7", 7)] {
            assert_eq!(capability_number(text), Ok(number));
        }
        for bad in ["", "64", "-1", "CAP_", "NOTHING", "CAP_CAP_CHOWN"] {
            assert!(capability_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_have_names() {
        assert_eq!(capability(21), "CAP_SYS_ADMIN");
        assert_eq!(capability(63), "63");
    }

    #[test]
    fn paths_begin_at_the_root_or_where_they_are_cut() {
        assert_eq!(path(b"c\0b\0a\0", 0), b"/a/b/c");
        assert_eq!(path(b"c\0", PATH_CUT), b".../c");
        assert_eq!(path(b"", 0), b"/");
    }

    #[test]
    fn paths_that_lead_nowhere_are_marked() {
        assert_eq!(path(b"b\0a\0", PATH_DELETED), b"/a/b (deleted)");
        assert_eq!(path(b"b\0", PATH_UNREACHABLE), b"(unreachable)/b");
        assert_eq!(path(b"", PATH_UNREACHABLE), b"(unreachable)/");
        assert_eq!(path(b"b\0/\0", PATH_UNREACHABLE), b"(unreachable)/b");
        assert_eq!(path(b"b\0", PATH_UNREACHABLE | PATH_DELETED), b"(unreachable)/b (deleted)");
        assert_eq!(path(b"b\0", PATH_CUT | PATH_DELETED), b".../b (deleted)");
    }

    #[test]
    fn users_are_one_or_two() {
        assert_eq!(uids(7, 7), "7");
        assert_eq!(uids(0, 65534), "0/65534");
    }

    #[test]
    fn disks_have_the_names_of_now() {
        let mut disks = Disks::default();
        let all = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        for (dev, name) in all.filter_map(|entry| Some((read_dev(&entry.path())?, entry.file_name()))) {
            assert_eq!(disks.name(dev), name.to_string_lossy());
        }
        // A number that no driver has.
        assert_eq!(disks.name(4000 << 20 | 7), "4000:7");
        (0..2 * DISKS_MAX as u32).for_each(|minor| drop(disks.name(4000 << 20 | minor)));
        assert!(disks.0.len() <= DISKS_MAX);
    }

    #[test]
    fn users_by_name_and_number() {
        assert_eq!(uid("root"), Ok(0));
        assert_eq!(uid("12"), Ok(12));
        assert!(uid("no such user").is_err());
    }
}
