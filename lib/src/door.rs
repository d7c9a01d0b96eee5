// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The one door for files that others wrote: programs, libraries, debug files, perf maps.
//!
//! A path leads nowhere but into the root that it is of. A file is looked at before it is opened, as to open a
//! device, a pipe or a file of a pseudo file system may wait, or do something: what is opened is a regular file.

use std::fs;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::OpenHow;
use nix::fcntl::ResolveFlag;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::stat::Mode;

/// Why a file was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is none, or the process has ended.
    NotFound,
    /// The kernel forbids it, or it is not root's where it must be.
    Denied,
    /// A link stands where none may.
    Link,
    /// A device, a pipe, a folder.
    NotRegular,
    /// To read the file may do something.
    Pseudo,
    /// Another error.
    Failed(Errno),
}

impl Refused {
    /// In plain words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "the file was not found",
            Self::Denied => "not allowed to open the file",
            Self::Link => "the path has a symbolic link",
            Self::NotRegular => "no regular file is there",
            Self::Pseudo => "the file is of a pseudo file system",
            Self::Failed(_) => "the file can't be opened",
        }
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH | Errno::ENAMETOOLONG => Self::NotFound,
            Errno::EACCES | Errno::EPERM => Self::Denied,
            Errno::ELOOP => Self::Link,
            errno => Self::Failed(errno),
        }
    }
}

/// Whether symbolic links in a path are followed, within the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They are.
    Follow,
    /// A path with one is [`Refused::Link`].
    Refuse,
}

/// A folder that no path leads out of.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// What a process sees as `/`.
    ///
    /// # Errors
    /// The process has ended, or may not be looked at.
    pub fn of_process(pid: u32) -> Result<Self, Refused> {
        Self::open_folder(&format!("/proc/{pid}/root"))
    }

    /// What we see as `/`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ours() -> Result<Self, Refused> {
        Self::open_folder("/")
    }

    /// Its mount, and its path from the root of its mount namespace: by these it is known again.
    pub fn place(&self) -> Option<(u32, Vec<u8>)> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd())).ok()?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())?;
        let path = fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd())).ok()?;
        Some((mount, path.into_os_string().into_vec()))
    }

    fn open_folder(path: &str) -> Result<Self, Refused> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    /// Open a regular file to read it.
    ///
    /// # Errors
    /// Why not.
    pub fn open(&self, path: &Path, links: Links) -> Result<fs::File, Refused> {
        reopen(&self.find(path, links)?)
    }

    /// As [`Root::open`] of our own root, if root owns all folders of the path, links' targets included, and nobody
    /// else may change what is in them.
    ///
    /// # Errors
    /// Why not.
    pub fn open_trusted(&self, path: &Path) -> Result<fs::File, Refused> {
        let file = self.find(path, Links::Follow)?;
        // Where the links led to, as the kernel says it: this path has none.
        let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(failed)?;
        for folder in real.ancestors().skip(1) {
            let found = self.find(folder, Links::Refuse)?;
            let metadata = fs::File::from(found).metadata().map_err(failed)?;
            if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
                return Err(Refused::Denied);
            }
        }
        reopen(&file)
    }

    /// What a path leads to, which is not opened: an `O_PATH` descriptor.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(&self, path: &Path, links: Links) -> Result<OwnedFd, Refused> {
        let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if links == Links::Refuse {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
        }
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        Ok(nix::fcntl::openat2(&self.0, path, how)?)
    }
}

/// Open to read what an `O_PATH` descriptor stands for, if it is a regular file.
///
/// # Errors
/// Why not.
pub fn reopen(found: impl AsFd) -> Result<fs::File, Refused> {
    let found = found.as_fd();
    is_regular(found)?;
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(nix::fcntl::open(path.as_str(), flags, Mode::empty())?.into())
}

/// Open what a magic link stands for, as /proc/PID/map_files has them.
///
/// # Errors
/// Why not.
pub fn open_magic_link(path: &str) -> Result<fs::File, Refused> {
    reopen(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Whether an open file is the one of a line of /proc/PID/maps. What `stat` tells of a file on overlayfs or btrfs is
/// another device than a mapping of it has: then we ask the kernel by a mapping of our own.
pub fn is_mapped_as(file: &fs::File, device: &[u8], inode: u64) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
    if metadata.ino() == inode && format!("{major:02x}:{minor:02x}").as_bytes() == device {
        return true;
    }
    mapped_as(file).is_some_and(|ours| ours == (device.to_vec(), inode))
}

/// The device and the inode that /proc/self/maps has of a mapping of this file.
fn mapped_as(file: &fs::File) -> Option<(Vec<u8>, u64)> {
    let length = std::num::NonZeroUsize::new(1)?;
    // SAFETY: a new mapping, which nobody reads, and which goes before we return.
    let base =
        unsafe { nix::sys::mman::mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) };
    let base = base.ok()?;
    let start = format!("{:x}-", base.as_ptr() as usize);
    let maps = fs::read("/proc/self/maps");
    // SAFETY: it is ours.
    unsafe { nix::sys::mman::munmap(base, length.get()) }.ok()?;
    let maps = maps.ok()?;
    let line = maps.split(|byte| *byte == b'\n').find(|line| line.starts_with(start.as_bytes()))?;
    let mut words = line.split(|byte| *byte == b' ').skip(3);
    let (device, inode) = (words.next()?, words.next()?);
    Some((device.to_vec(), str::from_utf8(inode).ok()?.parse().ok()?))
}

fn failed(error: std::io::Error) -> Refused {
    error.raw_os_error().map_or(Refused::Failed(Errno::EIO), |errno| Errno::from_raw(errno).into())
}

/// Whether it is a regular file, of no pseudo file system.
fn is_regular(found: impl AsFd) -> Result<(), Refused> {
    let found = found.as_fd();
    let mode = nix::sys::stat::fstat(found)?.st_mode;
    if mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Refused::NotRegular);
    }
    let kind = nix::sys::statfs::fstatfs(found)?.filesystem_type().0 as u32;
    if PSEUDO.contains(&kind) { Err(Refused::Pseudo) } else { Ok(()) }
}

/// File systems whose files are no data: `f_type` of statfs(2), from include/uapi/linux/magic.h and from the file
/// systems' own sources.
const PSEUDO: [u32; 29] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x7472_6163, // tracefs
    0x6462_6720, // debugfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0xcafe_4a11, // bpf
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x6165_676c, // pstore
    0x1cd1,      // devpts
    0x4249_4e4d, // binfmt_misc
    0x6e73_6673, // nsfs
    0x5049_4446, // pidfs
    0x5049_5045, // pipefs
    0x534f_434b, // sockfs
    0x0904_1934, // anonymous inodes
    0x1980_0202, // mqueue
    0x9fa2,      // usbfs
    0x6573_5543, // fusectl
    0x0765_5821, // resctrl
    0x6c6f_6f70, // binder
    0xabba_1974, // xenfs
    0x6759_6969, // rpc_pipefs
    0x6e66_7364, // nfsd
    0x0a64_7361, // functionfs
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;

    use super::*;

    fn refusal(result: Result<fs::File, Refused>) -> Refused {
        result.unwrap_err()
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("kscope-door-{name}-{}", std::process::id()));
        _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = scratch("kinds");
        let root = Root::ours().unwrap();
        let path = |name: &str| folder.join(name);
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::os::unix::fs::symlink("/proc/self/exe", path("magic")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        assert!(fs::metadata(path("pipe")).unwrap().file_type().is_fifo());
        let file = root.open(&path("file"), Links::Refuse).unwrap();
        assert_eq!(std::io::read_to_string(file).unwrap(), "text");
        assert!(root.open(&path("link"), Links::Follow).is_ok());
        assert_eq!(refusal(root.open(&path("link"), Links::Refuse)), Refused::Link);
        assert_eq!(refusal(root.open(&path("magic"), Links::Follow)), Refused::Link);
        // Nobody writes into it: to open it would wait.
        assert_eq!(refusal(root.open(&path("pipe"), Links::Refuse)), Refused::NotRegular);
        assert_eq!(refusal(root.open(&folder, Links::Refuse)), Refused::NotRegular);
        assert_eq!(refusal(root.open(&path("none"), Links::Refuse)), Refused::NotFound);
        for pseudo in ["/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            assert_eq!(refusal(root.open(Path::new(pseudo), Links::Refuse)), Refused::Pseudo, "{pseudo}");
        }
        assert_eq!(refusal(root.open(Path::new("/dev/null"), Links::Follow)), Refused::NotRegular);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_is_told_from_another() {
        let file = open_magic_link("/proc/self/exe").unwrap();
        let maps = fs::read("/proc/self/maps").unwrap();
        let (device, inode) = mapped_as(&file).unwrap();
        let shown = [&device[..], b" ", inode.to_string().as_bytes()].concat();
        assert!(memchr::memmem::find(&maps, &shown).is_some());
        assert!(is_mapped_as(&file, &device, inode));
        assert!(!is_mapped_as(&file, &device, inode + 1));
        assert!(!is_mapped_as(&file, b"ff:ff", inode));
    }

    #[test]
    fn folders_of_others_are_not_trusted() {
        let folder = scratch("owners");
        fs::write(folder.join("file"), "text").unwrap();
        // Everybody may write to the folder of temporary files.
        assert_eq!(refusal(Root::ours().unwrap().open_trusted(&folder.join("file"))), Refused::Denied);
        fs::remove_dir_all(folder).unwrap();
        let trusted = ["/etc/passwd", "/usr/lib/os-release"].map(Path::new);
        assert!(trusted.iter().any(|path| Root::ours().unwrap().open_trusted(path).is_ok()));
    }
}
