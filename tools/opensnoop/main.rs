// SPDX-License-Identifier: Apache-2.0 OR MIT
//! opensnoop: print each open of a file.

use std::collections::HashMap;

use kscope::prelude::*;
use row::Open;

mod row;

kscope::bpf!("opensnoop");
use bpf::hooks;
use bpf::types::opensnoop_event as Event;
use bpf::types::opensnoop_kind as EventKind;

kscope::tool!(Opensnoop);

/// Which files are opened, by whom, and which opens fail?
#[derive(Parser, Debug)]
#[command(mut_arg("tid", |a| a.short('t')), mut_arg("uid", |a| a.short('u')))]
#[command(mut_arg("comm", |a| a.short('n').visible_alias("name")))]
#[command(mut_arg("timestamps", |a| a.short('T').alias("timestamp")))]
#[command(mut_arg("duration", |a| a.short('d')))]
struct Opensnoop {
    /// Print failed opens only
    #[arg(short = 'x', long = "failed")]
    failed: bool,
    /// Print the flags and the mode, by name
    #[arg(short = 'e', long = "extended-fields")]
    extended: bool,
    /// Print relative paths in full: with the directory that they start from
    #[arg(short = 'F', long = "full-path")]
    full_path: bool,
    #[command(flatten)]
    uid: UidColumn,
    #[command(flatten)]
    shared: Snoop,
}

impl Tool for Opensnoop {
    const INFO: Info = Info::new("opensnoop", Subsystem::FileSystems);
    type Bpf = bpf::Object;
    type Rows = (Open<'static>,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).uid(&self.uid)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.show(&[Open::FLAGS, Open::MODE], self.extended);
        bpf.rodata().uring_complete_has_cqe = bpf.kernel().tracepoint_args("io_uring_complete") == Some(3);
        bpf.rodata().failed_only = self.failed;
        bpf.rodata().full_path = self.full_path;
        let hooks = Hooks::new().with_args("io_uring_submit_sqe", 2).optional(
            &[hooks::URING_SUBMIT, hooks::URING_COMPLETE],
            "opens through io_uring can't be seen on this kernel",
        );
        let mut submitted: HashMap<u64, (Event, Vec<u8>)> = HashMap::new();
        bpf.attach(hooks)?.stream::<Open<'_>, _>(|event: &Event, tail, out| {
            let print = |event: &Event, tail: &[u8], out: &mut Out| {
                let open = Open::new(event, tail, self.full_path, out);
                Ok(out.row(&open)?)
            };
            match EventKind(event.kind.into()) {
                EventKind::OPENSNOOP_URING_SUBMIT => {
                    submitted.insert(event.req, (*event, tail.to_vec()));
                    Ok(())
                }
                EventKind::OPENSNOOP_URING_COMPLETE => {
                    let Some((mut open, tail)) = submitted.remove(&event.req) else { return Ok(()) };
                    (open.task.time_ns, open.ret) = (event.task.time_ns, event.ret);
                    if self.failed && open.ret >= 0 { Ok(()) } else { print(&open, &tail, out) }
                }
                _ => print(event, tail, out),
            }
        })
    }
}
