// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Privilege: ask for what is needed with one sentence, give up the rest once attached.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use caps::CapSet;
use caps::Capability;
use caps::CapsHashSet;
use nix::errno::Errno;

use crate::Error;

/// The inode of the first user namespace (PROC_USER_INIT_INO of include/linux/proc_ns.h).
const FIRST_USER_NAMESPACE: u64 = 0xefff_fffd;
/// A command that bpf(2) does not have.
const NO_COMMAND: libc::c_int = 0xffff;
/// What a kernel with bpf(2) has.
const OF_BPF: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
/// The mode of a process that has filters, in its status.
const SECCOMP_FILTER: &str = "2";

/// Check that BPF programs can be loaded and attached.
///
/// # Errors
/// [`Error::Privilege`] names the missing capabilities.
pub(crate) fn require() -> Result<(), Error> {
    if !Path::new("/proc/self").exists() {
        return Err(Error::NoProc);
    }
    if fs::metadata("/proc/self/ns/user").is_ok_and(|meta| meta.ino() != FIRST_USER_NAMESPACE) {
        return Err(Error::UserNamespace);
    }
    let effective = caps::read(None, CapSet::Effective).map_err(|e| Error::Capabilities(e.to_string()))?;
    if effective.contains(&Capability::CAP_SYS_ADMIN) {
        return may_call();
    }
    let missing: Vec<String> = [Capability::CAP_BPF, Capability::CAP_PERFMON]
        .into_iter()
        .filter(|capability| !effective.contains(capability))
        .map(|capability| capability.to_string())
        .collect();
    if missing.is_empty() { may_call() } else { Err(Error::Privilege(missing.join(" and "))) }
}

/// Whether bpf(2) gets as far as to look at what it is asked for.
fn may_call() -> Result<(), Error> {
    // SAFETY: no memory is passed, and no such command exists.
    let result = unsafe { libc::syscall(libc::SYS_bpf, NO_COMMAND, std::ptr::null::<u8>(), 0) };
    match Errno::result(result) {
        Err(Errno::ENOSYS) if !Path::new(OF_BPF).exists() => Err(Error::NoBpf),
        Err(errno @ (Errno::ENOSYS | Errno::EPERM | Errno::EACCES)) => Err(refused("bpf(2)", errno)),
        _ => Ok(()),
    }
}

/// Who refuses a system call for which the capabilities suffice.
pub(crate) fn refused(call: &'static str, errno: Errno) -> Error {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    let errno = crate::names::errno(errno as i32);
    if mode.is_some_and(|mode| mode.trim() == SECCOMP_FILTER) {
        Error::Seccomp { call, errno }
    } else {
        Error::Forbidden { call, errno }
    }
}

/// Give up every capability that is not in `keep`, for good.
///
/// `still_works` tells whether the tool can read its maps without CAP_BPF: before Linux 5.19 it can not
/// where unprivileged BPF is off, and then that capability is kept.
pub(crate) fn give_up(keep: &[Capability], still_works: impl Fn() -> bool) -> Result<(), Error> {
    let error = |e: caps::errors::CapsError| Error::Capabilities(e.to_string());
    let permitted = caps::read(None, CapSet::Permitted).map_err(error)?;
    // No program that it could execute, and no debugger of the same user, gives it any back.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(error)? {
        caps::clear(None, CapSet::Bounding).map_err(error)?;
    }
    nix::sys::prctl::set_dumpable(false).map_err(|e| Error::Capabilities(e.to_string()))?;
    let mut kept: CapsHashSet = permitted.iter().copied().filter(|c| keep.contains(c)).collect();
    caps::set(None, CapSet::Effective, &kept).map_err(error)?;
    if !still_works() {
        // CAP_SYS_ADMIN stands in for CAP_BPF where a process has only that.
        let needed = [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN];
        kept.extend(needed.into_iter().find(|c| permitted.contains(c)));
        caps::set(None, CapSet::Effective, &kept).map_err(error)?;
    }
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(error)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(error)?;
    nix::sys::prctl::set_no_new_privs().map_err(|e| Error::Capabilities(e.to_string()))
}
