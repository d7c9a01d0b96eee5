// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The numbers that /proc knows tasks by.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// The inode of the first pid namespace (PROC_PID_INIT_INO there).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

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

/// The process of a thread, as /proc tells it; a process is its own.
pub fn process_of(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}
