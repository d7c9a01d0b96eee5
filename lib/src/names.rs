// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names for the kernel's numbers: errors, users, disks, cgroups.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirEntryExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use nix::errno::Errno;
use procfs::process::Process;

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

/// What the kernel itself tells of the times of a disk's I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskTimes {
    /// The driver takes bios and makes no requests (dm, md, zram).
    pub bios: bool,
    /// Requests carry the time of their issue: the queue gathers statistics, which it surely does for its
    /// writeback throttling.
    pub issue: bool,
}

/// [`DiskTimes`] of every disk that has a size.
pub fn disk_times() -> Vec<(String, DiskTimes)> {
    let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let with_size = disks.filter(|disk| read(disk.path().join("size")).is_some_and(|size| size > 0));
    let times = |path: PathBuf| DiskTimes {
        bios: !path.join("mq").is_dir(),
        issue: read(path.join("queue/wbt_lat_usec")).is_some_and(|limit| limit > 0),
    };
    with_size.map(|disk| (disk.file_name().to_string_lossy().into_owned(), times(disk.path()))).collect()
}

fn read_dev(sys: &Path) -> Option<u32> {
    let text = fs::read_to_string(sys.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

/// Names of disks by device number, read again when an unknown one turns up.
#[derive(Debug, Default)]
pub struct Disks(HashMap<u32, String>);

impl Disks {
    /// The disk's name, or `major:minor` where it has gone.
    pub fn name(&mut self, dev: u32) -> String {
        if !self.0.contains_key(&dev) {
            self.read();
        }
        self.0.entry(dev).or_insert_with(|| format!("{}:{}", dev >> 20, dev & 0xf_ffff)).clone()
    }

    fn read(&mut self) {
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            if let Some(dev) = read_dev(&entry.path()) {
                self.0.insert(dev, entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
}

/// A cgroup, as filters need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The kernel's id: the inode number of its directory.
    pub id: u64,
    /// How deep below the root of its hierarchy, which is 0.
    pub level: u32,
    /// The version 1 controllers of its hierarchy; none in version 2.
    pub controllers: Option<String>,
}

impl Cgroup {
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
        let id = fs::metadata(&real).map_err(|e| format!("cgroup {path:?}: {e}"))?.ino();
        let below = real.strip_prefix(&mount.point).map_or(0, |below| below.components().count());
        // A container sees a part of the hierarchy mounted: the mount's own depth counts too.
        let above = Path::new(&mount.root).components().count().saturating_sub(1);
        let level = u32::try_from(below + above).unwrap_or(u32::MAX);
        Ok(Self { id, level, controllers: mount.controllers })
    }
}

/// The cgroup by which the block layer knows who issued an I/O, in the hierarchy that it uses: version 2, or
/// that of `blkio` where version 1 has it. Nothing for a root, which all I/O is below.
///
/// # Errors
/// A sentence for the user.
pub fn block_cgroup(path: &str) -> Result<Option<Cgroup>, String> {
    let cgroup = Cgroup::at(path)?;
    let is_blkio = |names: &String| names.split(',').any(|name| name == "blkio");
    if cgroup.level == 0 {
        return Ok(None);
    }
    let v1 = mounts().into_iter().find(|mount| mount.controllers.as_ref().is_some_and(is_blkio));
    match (&cgroup.controllers, v1) {
        (None, None) => {
            let controllers =
                fs::read_to_string(Path::new(path).join("cgroup.controllers")).unwrap_or_default();
            if controllers.split_whitespace().any(|name| name == "io") {
                return Ok(Some(cgroup));
            }
            Err(format!(
                "{path:?} has no io controller, so that its I/O belongs to a cgroup above: write +io to the parent's \
                 cgroup.subtree_control"
            ))
        }
        (Some(names), _) if is_blkio(names) => Ok(Some(cgroup)),
        (_, Some(v1)) => Err(format!(
            "on this host block I/O belongs to the cgroups of {}: give a path there",
            v1.point.display()
        )),
        (Some(names), None) => {
            Err(format!("{path:?} is in the version 1 hierarchy of {names}, which has no I/O"))
        }
    }
}

struct Mount {
    point: PathBuf,
    root: String,
    controllers: Option<String>,
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

/// Paths of version 2 cgroups by id, read again when an unknown one turns up.
#[derive(Debug, Default)]
pub struct Cgroups {
    paths: HashMap<u64, Vec<u8>>,
}

impl Cgroups {
    /// The cgroup's path below the hierarchy's root, or its id in brackets where it has gone; nothing for 0.
    pub fn path(&mut self, id: u64) -> Vec<u8> {
        if id == 0 {
            return Vec::new();
        }
        if !self.paths.contains_key(&id)
            && let Some(mount) = mounts().into_iter().find(|mount| mount.controllers.is_none())
        {
            if let Ok(meta) = fs::metadata(&mount.point) {
                self.paths.insert(meta.ino(), "/".into());
            }
            self.walk(&mount.point, b"");
        }
        // Remembered too when unknown: ids are not used again, and walking is dear.
        self.paths.entry(id).or_insert_with(|| format!("[{id}]").into_bytes()).clone()
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
    fn users_by_name_and_number() {
        assert_eq!(uid("root"), Ok(0));
        assert_eq!(uid("12"), Ok(12));
        assert!(uid("no such user").is_err());
    }
}
