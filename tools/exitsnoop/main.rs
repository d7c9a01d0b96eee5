// SPDX-License-Identifier: Apache-2.0 OR MIT
//! exitsnoop: print each process that ends, and how.

use kscope::names;
use kscope::prelude::*;
use kscope::users;

kscope::bpf!("exitsnoop");
use bpf::types::exitsnoop_event as Event;

kscope::tool!(Exitsnoop);

/// Which processes end, after how long, and with what status or by what signal?
#[derive(Parser, Debug)]
#[command(mut_arg("cgroup", |a| a.short('c')))]
#[command(mut_arg("timestamps", |a| a.short('t').alias("timestamp")))]
struct Exitsnoop {
    /// Print what failed only: what ended with another status than 0, or by a signal
    #[arg(short = 'x', long)]
    failed: bool,
    /// Print each thread, rather than each process; --tid does so too
    #[arg(short = 'T', long)]
    threaded: bool,
    #[command(flatten)]
    uid: UidColumn,
    #[command(flatten)]
    shared: Snoop,
}

/// One process, or thread, that has ended.
#[derive(Row)]
#[row(type = "event", table = "TIME? UID? PCOMM PID PPID TID AGE(s) CGROUP? EXIT_CODE")]
struct Exit {
    /// When it ended
    #[row(column = "TIME")]
    time: Wall,
    /// What ended: process, or with -T thread
    kind: &'static str,
    /// Real user id
    #[row(also(
        column = "UID",
        width = 7,
        help = "User id: the real one; /, and the effective one if it differs",
        value = Self::uids
    ))]
    uid: Uid,
    /// Name of the process; with -T, of the thread
    #[row(column = "PCOMM")]
    comm: Comm,
    /// Process id
    #[row(column = "PID")]
    pid: Pid,
    /// Process id of the parent when it ended
    #[row(column = "PPID")]
    ppid: Pid,
    /// Thread id; of a process, its own id
    #[row(column = "TID")]
    tid: Tid,
    /// Seconds since it was made
    #[row(column = "AGE(s)", width = 8, decimals = 2)]
    age_s: f64,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    #[row(also(column = "EXIT_CODE", help = "0, the status, or the signal", value = Self::status))]
    cgroup: Option<Vec<u8>>,
    /// Exit status; null after a signal
    exit_code: Option<u32>,
    /// Number of the signal that ended it
    signal: Option<u32>,
    /// Name of that signal
    signal_name: Option<Signal>,
    /// Whether it left a core dump
    core_dumped: bool,
    /// Whether it was the kernel's own: it has no status
    kernel_thread: bool,
    /// Effective user id
    euid: Uid,
}

impl Exit {
    fn uids(&self) -> Value<'_> {
        Value::String(users::uids(self.uid.0, self.euid.0))
    }

    fn status(&self) -> Value<'_> {
        match (self.exit_code, self.signal) {
            (Some(0), _) => Value::Text("0"),
            (Some(code), _) => Value::String(format!("code {code}")),
            (None, Some(signal)) => {
                let core = if self.core_dumped { ", core dumped" } else { "" };
                Value::String(format!("signal {signal} ({}{core})", names::signal(signal)))
            }
            (None, None) => Value::Null,
        }
    }
}

impl Tool for Exitsnoop {
    const INFO: Info = Info::new("exitsnoop", Subsystem::Processes);
    type Bpf = bpf::Object;
    type Rows = (Exit,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).uid(&self.uid)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        let threads = self.threaded || !self.shared.filter.tid.is_empty();
        bpf.rodata().passes_group_dead = bpf.kernel().tracepoint_args("sched_process_exit") == Some(2);
        bpf.rodata().threads = threads;
        bpf.rodata().failed_only = self.failed;
        let kind = if threads { "thread" } else { "process" };
        bpf.attach(Hooks::new())?.stream::<Exit, _>(|event: &Event, _, out| {
            // As wait(2) encodes it.
            let (is_user, signal) = (event.kernel == 0, event.exit_code & 0x7f);
            let by_signal = (is_user && signal != 0).then_some(signal);
            let Task { time, pid, tid, uid, comm, cgroup } = out.task(&event.task);
            let exit = Exit {
                time,
                kind,
                uid,
                comm,
                pid,
                ppid: Pid(event.ppid),
                tid,
                age_s: event.task.time_ns.saturating_sub(event.start_ns) as f64 / 1e9,
                cgroup,
                exit_code: (is_user && signal == 0).then_some(event.exit_code >> 8 & 0xff),
                signal: by_signal,
                signal_name: by_signal.map(Signal),
                core_dumped: by_signal.is_some() && event.exit_code & 0x80 != 0,
                kernel_thread: !is_user,
                euid: Uid(event.euid),
            };
            Ok(out.row(&exit)?)
        })
    }
}
