// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What there is to hook: the functions of each file system, and the system calls.

use kscope::Hooks;

use super::types::fsslower_call as Call;

/// The hooks of functions, and the operation's place in [`Functions`].
pub(crate) const HOOKS: [(&str, usize); 4] = [("read", 0), ("write", 1), ("open", 2), ("fsync", 3)];

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
pub(crate) const ALIASES: &[(&str, &[&str])] = &[
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
    Some(HOOKS.iter().fold(hooks, |hooks, (hook, at)| hooks.at(hook, functions[*at])))
}

/// The system calls, by number: of 64-bit callers in the lower four bits, of 32-bit ones in the upper.
pub(crate) fn calls() -> [u8; 512] {
    let mut calls = [0; 512];
    let native = NATIVE.iter().map(|(nr, call)| (*nr as usize, call.0 as u8));
    let compat = COMPAT.iter().map(|(nr, call)| (*nr, (call.0 as u8) << 4));
    native.chain(compat).for_each(|(nr, call)| calls[nr] |= call);
    calls
}

const NATIVE: &[(libc::c_long, Call)] = &[
    (libc::SYS_read, Call::FSSLOWER_CALL_READ),
    (libc::SYS_readv, Call::FSSLOWER_CALL_READ),
    (libc::SYS_write, Call::FSSLOWER_CALL_WRITE),
    (libc::SYS_writev, Call::FSSLOWER_CALL_WRITE),
    (libc::SYS_pread64, Call::FSSLOWER_CALL_PREAD),
    (libc::SYS_preadv, Call::FSSLOWER_CALL_PREAD),
    (libc::SYS_pwrite64, Call::FSSLOWER_CALL_PWRITE),
    (libc::SYS_pwritev, Call::FSSLOWER_CALL_PWRITE),
    (libc::SYS_preadv2, Call::FSSLOWER_CALL_PREADV2),
    (libc::SYS_pwritev2, Call::FSSLOWER_CALL_PWRITEV2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Call::FSSLOWER_CALL_OPEN),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, Call::FSSLOWER_CALL_OPEN),
    (libc::SYS_openat, Call::FSSLOWER_CALL_OPEN),
    (libc::SYS_openat2, Call::FSSLOWER_CALL_OPEN),
    (libc::SYS_fsync, Call::FSSLOWER_CALL_FSYNC),
    (libc::SYS_fdatasync, Call::FSSLOWER_CALL_FSYNC),
];

/// arch/x86/entry/syscalls/syscall_32.tbl, and arch/arm64/tools/syscall_32.tbl, which differ in the last lines.
const COMPAT: &[(usize, Call)] = &[
    (3, Call::FSSLOWER_CALL_READ),
    (4, Call::FSSLOWER_CALL_WRITE),
    (5, Call::FSSLOWER_CALL_OPEN),
    (8, Call::FSSLOWER_CALL_OPEN),
    (118, Call::FSSLOWER_CALL_FSYNC),
    (145, Call::FSSLOWER_CALL_READ),
    (146, Call::FSSLOWER_CALL_WRITE),
    (148, Call::FSSLOWER_CALL_FSYNC),
    (180, Call::FSSLOWER_CALL_PREAD),
    (181, Call::FSSLOWER_CALL_PWRITE),
    (437, Call::FSSLOWER_CALL_OPEN),
    #[cfg(target_arch = "x86_64")]
    (295, Call::FSSLOWER_CALL_OPEN),
    #[cfg(target_arch = "x86_64")]
    (333, Call::FSSLOWER_CALL_PREAD),
    #[cfg(target_arch = "x86_64")]
    (334, Call::FSSLOWER_CALL_PWRITE),
    #[cfg(target_arch = "x86_64")]
    (378, Call::FSSLOWER_CALL_PREADV2),
    #[cfg(target_arch = "x86_64")]
    (379, Call::FSSLOWER_CALL_PWRITEV2),
    #[cfg(target_arch = "aarch64")]
    (322, Call::FSSLOWER_CALL_OPEN),
    #[cfg(target_arch = "aarch64")]
    (361, Call::FSSLOWER_CALL_PREAD),
    #[cfg(target_arch = "aarch64")]
    (362, Call::FSSLOWER_CALL_PWRITE),
    #[cfg(target_arch = "aarch64")]
    (392, Call::FSSLOWER_CALL_PREADV2),
    #[cfg(target_arch = "aarch64")]
    (393, Call::FSSLOWER_CALL_PWRITEV2),
];
