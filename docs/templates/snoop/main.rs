// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname: print each process that ends.

use kscope::prelude::*;

kscope::bpf!("toolname");
use bpf::types::toolname_event as Event;

kscope::tool!(Toolname);

/// Which processes end?
#[derive(Parser, Debug)]
struct Toolname {
    #[command(flatten)]
    uid: UidColumn,
    #[command(flatten)]
    shared: Snoop,
}

/// A process that has ended.
#[derive(Row)]
#[row(type = "event", table = "TIME? UID? PID COMM CGROUP? STATUS")]
struct End {
    /// When it ended
    #[row(column = "TIME")]
    time: Wall,
    /// Real user id
    #[row(column = "UID")]
    uid: Uid,
    /// Process id
    #[row(column = "PID")]
    pid: Pid,
    /// Name of the process
    #[row(column = "COMM")]
    comm: Comm,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    cgroup: Option<Vec<u8>>,
    /// Status, as wait(2) encodes it
    #[row(column = "STATUS")]
    status: u32,
}

impl Tool for Toolname {
    const INFO: Info = Info::new("toolname", Subsystem::Processes);
    type Bpf = bpf::Object;
    type Rows = (End,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).uid(&self.uid)
    }

    fn run(self, bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.attach(Hooks::new())?.stream::<End, _>(|event: &Event, _, out| {
            let Task { time, uid, pid, comm, cgroup, .. } = out.task(&event.task);
            Ok(out.row(&End { time, uid, pid, comm, cgroup, status: event.exit_code })?)
        })
    }
}
