// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `capability`: system calls of which each asks for one known capability, once.

use std::os::fd::IntoRawFd as _;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{close, getpid, gettid};
use serde_json::json;

use crate::args::Args;
use crate::call::Call;
use crate::protocol::{comm_hex, emit, session};

/// The longest name of a host, in bytes.
const HOST_NAME_MAX: usize = 64;

/// One of these calls.
struct Action {
    name: String,
    /// Number and name of the capability: linux/capability.h.
    cap: (u32, &'static str),
    audit: bool,
    insetid: bool,
    /// It concerns this process's user namespace, not that of the host name, the network or the processes.
    own_ns: bool,
    call: Call,
    /// It makes a descriptor.
    opens: bool,
    /// EPERM is the refusal, and another error what comes after the capability was granted.
    tells: bool,
}

impl Action {
    fn new(name: &str) -> Result<Self> {
        let action = |cap, call| Self {
            name: name.into(),
            cap,
            audit: true,
            insetid: false,
            own_ns: false,
            call,
            opens: false,
            tells: true,
        };
        Ok(match name {
            "chroot" => {
                let call = Call::native(libc::SYS_chroot, [c"/".as_ptr() as usize]);
                Self { own_ns: true, ..action((18, "CAP_SYS_CHROOT"), call) }
            }
            // A name that is too long, which is looked at later.
            "sethostname" => {
                let args = [c"".as_ptr() as usize, HOST_NAME_MAX + 1];
                action((21, "CAP_SYS_ADMIN"), Call::native(libc::SYS_sethostname, args))
            }
            // Numbers that do not order a restart.
            "reboot" => action((22, "CAP_SYS_BOOT"), Call::native(libc::SYS_reboot, [0; 4])),
            "raw-socket" => {
                let args = [libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP].map(|arg| arg as usize);
                Self { opens: true, ..action((13, "CAP_NET_RAW"), Call::native(libc::SYS_socket, args)) }
            }
            // To itself, which everybody may: it is asked for, and does not matter.
            "setuid" => {
                let call = Call::native(libc::SYS_setuid, [nix::unistd::getuid().as_raw() as usize]);
                Self { insetid: true, own_ns: true, tells: false, ..action((7, "CAP_SETUID"), call) }
            }
            // Of a file in memory: whether its trusted attributes are shown. Nobody is told of the refusal.
            "listxattr" => {
                let file = memfd_create(c"workload", MFdFlags::empty()).context("memfd_create")?;
                let call = Call::native(libc::SYS_flistxattr, [file.into_raw_fd() as usize, 0, 0]);
                Self { audit: false, tells: false, ..action((21, "CAP_SYS_ADMIN"), call) }
            }
            _ => bail!("there is no call {name:?}"),
        })
    }

    fn act(&self) -> Result<i32> {
        // SAFETY: these are their arguments, and what they point to is never freed.
        let result = unsafe { self.call.make() };
        if self.opens && result >= 0 {
            close(result)?;
        }
        Ok(result)
    }

    fn granted(&self, result: i32) -> Option<bool> {
        self.tells.then_some(result != -(Errno::EPERM as i32))
    }
}

pub fn run(mut args: Args) -> Result<()> {
    let count: usize = args.optional("--count")?.unwrap_or(1);
    let new_ns = args.optional::<u8>("--user-ns")?.is_some();
    let actions = args.words()?.iter().map(|name| Action::new(name)).collect::<Result<Vec<_>>>()?;
    ensure!(!actions.is_empty(), "which calls?");
    let outer_ns = user_ns()?;
    if new_ns {
        match unshare(CloneFlags::CLONE_NEWUSER) {
            Ok(()) => (),
            Err(error) => return Err(crate::protocol::Refused(format!("user namespaces: {error}")).into()),
        }
    }
    let own_ns = user_ns()?;
    let comm = comm_hex()?;
    // Memory may ask for a capability too: none is taken before all is done.
    let mut results = vec![0; actions.len()];
    session(|| {
        for _ in 0..count {
            for (action, result) in actions.iter().zip(&mut results) {
                *result = action.act()?;
            }
        }
        for (action, result) in actions.iter().zip(results) {
            emit(&json!({
                "call": action.name, "pid": getpid().as_raw(), "tid": gettid().as_raw(), "comm_hex": comm,
                "cap": action.cap.0, "name": action.cap.1, "audit": action.audit, "insetid": action.insetid,
                "granted": action.granted(result), "times": count,
                "user_ns": if action.own_ns { own_ns } else { outer_ns }, "cred_user_ns": own_ns,
            }))?;
        }
        Ok(())
    })
}

/// The inode of this process's user namespace.
fn user_ns() -> Result<u64> {
    let link = std::fs::read_link("/proc/self/ns/user")?.to_string_lossy().into_owned();
    link.trim_start_matches("user:[").trim_end_matches(']').parse().context(link)
}
