// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of capable.

use kscope::names;
use kscope::prelude::*;
use kscope::stack::EventFrames;
use kscope::stack::Frames;

use super::Event;

/// Options of a check: include/linux/security.h.
pub const CAP_OPT_NOAUDIT: u32 = 1 << 1;
pub const CAP_OPT_INSETID: u32 = 1 << 2;

/// The number of a capability, which is shown by its name.
#[derive(Clone, Copy, Debug)]
pub struct Capability(u32);

impl Cell for Capability {
    const KIND: Kind = Kind::Text;
    const WIDTH: usize = 23;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::String(names::capability(self.0))
    }
}

/// One check.
#[derive(Row)]
#[row(type = "event", table = "TIME UID PID TID? COMM CAP NAME AUDIT? INSETID? USERNS? CGROUP? VERDICT")]
pub struct Check {
    /// When it was decided
    #[row(column = "TIME")]
    time: Wall,
    /// User id of the thread
    #[row(column = "UID")]
    uid: Uid,
    /// Process id
    #[row(column = "PID")]
    pid: Pid,
    /// Thread id
    #[row(column = "TID")]
    tid: Tid,
    /// Name of the thread
    #[row(column = "COMM")]
    comm: Comm,
    /// Number of the capability
    #[row(column = "CAP", width = 4)]
    cap: u32,
    /// Name of the capability
    #[row(column = "NAME")]
    name: Capability,
    /// Whether a refusal is audited, where known
    #[row(column = "AUDIT", width = 6)]
    audit: Option<bool>,
    /// Whether it is part of setting an id, where known
    #[row(column = "INSETID", width = 8)]
    insetid: Option<bool>,
    /// Inode of the user namespace that it concerns
    #[row(column = "USERNS", width = 11)]
    user_ns: u32,
    /// Inode of the credentials' user namespace
    cred_user_ns: u32,
    /// User id in the credentials that were checked
    cred_uid: Uid,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    cgroup: Option<Vec<u8>>,
    /// granted or refused
    #[row(column = "VERDICT")]
    verdict: &'static str,
    /// With -K: the kernel's frames, innermost first
    kernel_stack: Option<Frames>,
    /// With -U: the user's frames, innermost first
    user_stack: Option<Frames>,
    /// With -K or -U: whether a stack is as deep as the limit, and may go on
    truncated: Option<bool>,
}

impl Check {
    /// Of an event and its stacks.
    pub fn new(event: &Event, frames: Option<&EventFrames>, out: &mut Out) -> Self {
        // A tracepoint does not tell the options.
        let option = |bit: u32| (event.opts_known != 0).then_some(event.opts & bit != 0);
        let Task { time, pid, tid, uid, comm, cgroup } = out.task(&event.task);
        Self {
            time,
            uid,
            pid,
            tid,
            comm,
            cap: event.cap,
            name: Capability(event.cap),
            audit: option(CAP_OPT_NOAUDIT).map(|is_not| !is_not),
            insetid: option(CAP_OPT_INSETID),
            user_ns: event.user_ns,
            cred_user_ns: event.cred_user_ns,
            cred_uid: Uid(event.cred_uid),
            cgroup,
            verdict: if event.ret == 0 { "granted" } else { "refused" },
            kernel_stack: frames.and_then(EventFrames::kernel),
            user_stack: frames.and_then(EventFrames::user),
            truncated: frames.map(EventFrames::is_truncated),
        }
    }
}
