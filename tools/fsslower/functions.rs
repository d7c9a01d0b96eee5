// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What there is to hook: the functions of each file system, and the system calls.

use kscope::Hooks;
use kscope::hooks::Hook;
use kscope::syscalls;
use kscope::syscalls::Abi;
use kscope::tool::Alias;

use super::bpf::hooks;
use super::bpf::types::fsslower_form as Form;
use super::bpf::types::fsslower_op as Op;

/// The hooks of functions, and the operation's place in [`Functions`].
pub(crate) const HOOKS: [(Hook, usize); 4] =
    [(hooks::READ, 0), (hooks::WRITE, 1), (hooks::OPEN, 2), (hooks::FSYNC, 3)];

/// A type of file systems: its names in /proc/filesystems, and what reads, writes, opens and syncs its files.
type Functions = (&'static [&'static str], [&'static [&'static str]; 4]);

/// From the `file_operations` of each (fs/*/file.c; bcachefs and zfs are modules of their own).
const FUNCTIONS: [Functions; 8] = [
    // It serves ext3 too, and under that name.
    (
        &["ext4", "ext3"],
        [&["ext4_file_read_iter"], &["ext4_file_write_iter"], &["ext4_file_open"], &["ext4_sync_file"]],
    ),
    (&["xfs"], [&["xfs_file_read_iter"], &["xfs_file_write_iter"], &["xfs_file_open"], &["xfs_file_fsync"]]),
    (
        &["btrfs"],
        [&["btrfs_file_read_iter"], &["btrfs_file_write_iter"], &["btrfs_file_open"], &["btrfs_sync_file"]],
    ),
    (
        &["f2fs"],
        [&["f2fs_file_read_iter"], &["f2fs_file_write_iter"], &["f2fs_file_open"], &["f2fs_sync_file"]],
    ),
    (
        &["nfs", "nfs4"],
        [&["nfs_file_read"], &["nfs_file_write"], &["nfs4_file_open", "nfs_file_open"], &["nfs_file_fsync"]],
    ),
    (
        &["fuse", "fuseblk", "virtiofs"],
        [&["fuse_file_read_iter"], &["fuse_file_write_iter"], &["fuse_open"], &["fuse_fsync"]],
    ),
    (&["bcachefs"], [&["bch2_read_iter"], &["bch2_write_iter"], &["bch2_open"], &["bch2_fsync"]]),
    (&["zfs"], [&["zpl_iter_read"], &["zpl_iter_write"], &["zpl_open"], &["zpl_fsync"]]),
];

/// The names by which bcc and libbpf-tools know the tool for one type.
pub(crate) const ALIASES: &[Alias] = &[
    ("bcachefsslower", &["--type", "bcachefs"]),
    ("btrfsslower", &["--type", "btrfs"]),
    ("ext4slower", &["--type", "ext4"]),
    ("f2fsslower", &["--type", "f2fs"]),
    ("fuseslower", &["--type", "fuse"]),
    ("nfsslower", &["--type", "nfs"]),
    ("xfsslower", &["--type", "xfs"]),
    ("zfsslower", &["--type", "zfs"]),
];

fn known(name: &str) -> Option<&'static Functions> {
    FUNCTIONS.iter().find(|(names, _)| names[0] == name)
}

/// The names that the kernel has for a type: the same functions may serve more than one.
pub(crate) fn type_names(name: &str) -> Vec<&str> {
    known(name).map_or_else(|| vec![name], |(names, _)| names.to_vec())
}

/// The name as the kernel's side compares it.
pub(crate) fn type_words(name: &str) -> [u64; 2] {
    let mut bytes = [0u8; 16];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    [word(0), word(8)]
}

/// Hook the functions of a type, if it is known.
pub(crate) fn at(hooks: Hooks, name: &str) -> Option<Hooks> {
    let (_, functions) = known(name)?;
    Some(HOOKS.iter().fold(hooks, |hooks, (hook, at)| hooks.at(*hook, functions[*at])))
}

/// The system calls, by number: of 64-bit callers in the lower half, of 32-bit ones in the upper.
pub(crate) fn calls() -> [u16; 512] {
    let entry = |abi, number| {
        let name = syscalls::name(abi, number)?;
        let (_, op, form) = CALLS.iter().find(|(names, ..)| names.split(' ').any(|known| known == name))?;
        Some((op.0 as u16 + 1) | (form.0 as u16) << 4)
    };
    let numbers: [u16; 512] = std::array::from_fn(|number| number as u16);
    numbers.map(|number| {
        let of = |abi| entry(abi, number.into()).unwrap_or(0);
        of(Abi::Native) | of(Abi::Compat) << 8
    })
}

/// What system calls of these names do, and which arguments say to what.
const CALLS: &[(&str, Op, Form)] = &[
    ("read readv", Op::FSSLOWER_READ, Form::FSSLOWER_FD),
    ("pread64 preadv", Op::FSSLOWER_READ, Form::FSSLOWER_FD_AT),
    ("preadv2", Op::FSSLOWER_READ, Form::FSSLOWER_FD_AT_OR_POS),
    ("write writev", Op::FSSLOWER_WRITE, Form::FSSLOWER_FD),
    ("pwrite64 pwritev", Op::FSSLOWER_WRITE, Form::FSSLOWER_FD_AT),
    ("pwritev2", Op::FSSLOWER_WRITE, Form::FSSLOWER_FD_AT_OR_POS),
    ("open creat", Op::FSSLOWER_OPEN, Form::FSSLOWER_PATH),
    ("openat openat2", Op::FSSLOWER_OPEN, Form::FSSLOWER_DIR_PATH),
    ("fsync fdatasync syncfs sync_file_range arm_sync_file_range", Op::FSSLOWER_FSYNC, Form::FSSLOWER_FD),
    ("getdents getdents64", Op::FSSLOWER_READDIR, Form::FSSLOWER_FD),
    ("fstat fstat64 fstatfs fstatfs64 fgetxattr flistxattr", Op::FSSLOWER_STAT, Form::FSSLOWER_FD),
    (
        "stat lstat stat64 lstat64 statfs statfs64 access readlink getxattr lgetxattr listxattr llistxattr chdir",
        Op::FSSLOWER_STAT,
        Form::FSSLOWER_PATH,
    ),
    (
        "newfstatat fstatat64 statx faccessat faccessat2 readlinkat",
        Op::FSSLOWER_STAT,
        Form::FSSLOWER_DIR_PATH,
    ),
    ("sendfile sendfile64", Op::FSSLOWER_COPY, Form::FSSLOWER_TO_FROM),
    ("copy_file_range splice", Op::FSSLOWER_COPY, Form::FSSLOWER_FROM_TO),
    (
        "ftruncate ftruncate64 fallocate fchmod fchown fchown32 fsetxattr fremovexattr flock",
        Op::FSSLOWER_CHANGE,
        Form::FSSLOWER_FD,
    ),
    (
        "unlink rename mkdir rmdir link truncate truncate64 chmod chown chown32 lchown lchown32 mknod utime utimes \
         setxattr lsetxattr removexattr lremovexattr",
        Op::FSSLOWER_CHANGE,
        Form::FSSLOWER_PATH,
    ),
    (
        "unlinkat renameat renameat2 mkdirat linkat fchmodat fchmodat2 fchownat mknodat utimensat utimensat_time64 futimesat",
        Op::FSSLOWER_CHANGE,
        Form::FSSLOWER_DIR_PATH,
    ),
    ("symlink", Op::FSSLOWER_CHANGE, Form::FSSLOWER_PATH2),
    ("symlinkat", Op::FSSLOWER_CHANGE, Form::FSSLOWER_DIR_PATH2),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_that_of_a_call() {
        let known: Vec<&str> = [Abi::Native, Abi::Compat]
            .into_iter()
            .flat_map(|abi| (0..512).filter_map(move |number| syscalls::name(abi, number)))
            .collect();
        for name in CALLS.iter().flat_map(|(names, ..)| names.split(' ')) {
            // Of the other architecture.
            let elsewhere = ["arm_sync_file_range"].contains(&name) || !cfg!(target_arch = "x86_64");
            assert!(known.contains(&name) || elsewhere, "{name}");
        }
        let calls = calls();
        assert_eq!(calls[libc::SYS_read as usize] & 15, Op::FSSLOWER_READ.0 as u16 + 1);
        assert_eq!(calls[libc::SYS_ioctl as usize] & 255, 0);
    }
}
