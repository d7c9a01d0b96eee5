// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands run by others than root.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use caps::Capability;
use nix::errno::Errno;

/// A user and the capabilities that a command is started with.
#[derive(Clone, Debug)]
pub struct Who {
    uid: u32,
    capabilities: u64,
}

impl Who {
    /// The number of the user who is nobody.
    pub const NOBODY: u32 = 65534;

    /// The user `uid` with these capabilities and no others; user 0 gets no more than any other.
    pub fn new(uid: u32, capabilities: &[Capability]) -> Self {
        Self { uid, capabilities: capabilities.iter().map(Capability::bitmask).fold(0, |all, one| all | one) }
    }

    pub(crate) fn run(&self, command: &mut Command) {
        let Self { uid, capabilities } = *self;
        // SAFETY: the closure makes system calls, and nothing else.
        unsafe { command.pre_exec(move || change(uid, capabilities)) };
    }
}

/// `struct __user_cap_header_struct` of linux/capability.h.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, of which version 3 takes two: the low and the high halves.
#[repr(C)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;
/// Root is a user as any other: linux/securebits.h.
const SECBIT_NOROOT: libc::c_ulong = 1;
/// Capabilities outlive the change of user.
const SECBIT_KEEP_CAPS: libc::c_ulong = 1 << 4;

/// Become that user. Async-signal-safe.
fn change(uid: u32, capabilities: u64) -> io::Result<()> {
    let done = |result: libc::c_long| Errno::result(result).map(drop).map_err(io::Error::from);
    // The program may lie in somebody's own folder. What is not inheritable ends with the execve.
    let now = capabilities | Capability::CAP_DAC_OVERRIDE.bitmask();
    let half = |n: u32| {
        let [now, later] = [now, capabilities].map(|all| (all >> n) as u32);
        Data { effective: now, permitted: now, inheritable: later }
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: system calls that read what they are given, which has the layout that they expect.
    unsafe {
        done(libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_KEEP_CAPS, 0, 0, 0).into())?;
        done(libc::syscall(libc::SYS_setgroups, 0usize, 0usize))?;
        done(libc::syscall(libc::SYS_setresgid, uid, uid, uid))?;
        done(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        done(libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()))?;
        for n in (0..u64::BITS).filter(|n| capabilities & (1 << n) != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
            done(libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(n), 0, 0).into())?;
        }
    }
    Ok(())
}
