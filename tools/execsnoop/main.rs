// SPDX-License-Identifier: Apache-2.0 OR MIT
//! execsnoop: print each program that is started.

use args::Parts;
use kscope::Capability;
use kscope::escape::c_bytes;
use kscope::missing::Finder;
use kscope::options::Timestamps;
use kscope::prelude::*;
use row::Exec;

mod args;
mod row;

kscope::bpf!("execsnoop");
use bpf::hooks;
use bpf::types::execsnoop_event as Event;
use bpf::types::execsnoop_kind as EventKind;

kscope::tool!(Execsnoop);

/// Which programs are started, by whom, with which arguments?
#[derive(Parser, Debug)]
#[command(mut_arg("uid", |a| a.short('u')))]
#[command(mut_arg("comm", |a| a.short('n').visible_alias("name")))]
#[command(mut_arg("cgroup", |a| a.short('c')))]
#[command(mut_arg("timestamps", |a| a.short('T').alias("time")))]
struct Execsnoop {
    /// Print failed execs too
    #[arg(short = 'x', long = "fails")]
    fails: bool,
    /// Print seconds since the start of tracing: short for --timestamps=elapsed
    #[arg(short = 't', long = "timestamp")]
    elapsed: bool,
    /// Put quotes around each argument
    #[arg(short, long)]
    quote: bool,
    /// Print at most so many arguments of each exec
    #[arg(long, value_name = "COUNT")]
    max_args: Option<usize>,
    /// Print execs that have this in one of their arguments only
    #[arg(short, long, value_name = "TEXT")]
    line: Option<String>,
    #[command(flatten)]
    uid: UidColumn,
    #[command(flatten)]
    shared: Snoop,
}

impl Tool for Execsnoop {
    const INFO: Info = Info::new("execsnoop", Subsystem::Processes);
    type Bpf = bpf::Object;
    type Rows = (Exec<'static>,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).uid(&self.uid)
    }

    fn begin(&mut self) -> anyhow::Result<Begin> {
        if self.elapsed {
            self.shared.common.timestamps = Some(Timestamps::Elapsed);
        }
        Ok(Begin::Trace)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        if self.fails {
            // To look at the files of others, for what is missing.
            bpf.keep(&[Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH]);
        }
        let unwanted: &[_] = if self.fails { &[] } else { &[hooks::FAILED_EXEC] };
        let mut parts = Parts::default();
        let mut finder = Finder::default();
        let hooks = Hooks::new().without(unwanted);
        bpf.attach(hooks)?.stream::<Exec<'_>, _>(|event: &Event, tail, out| {
            if EventKind(event.kind.into()) == EventKind::EXECSNOOP_ARGS {
                parts.add(event, tail);
                return Ok(());
            }
            let (name, tail) = tail.split_at(usize::from(event.name_len).min(tail.len()));
            let (dir, last_args) = tail.split_at(usize::from(event.dir_len).min(tail.len()));
            let (filename, (all_args, gap)) = (c_bytes(name), parts.finish(event, last_args));
            if self.line.as_ref().is_some_and(|text| !args::has(&all_args, text)) {
                out.filtered();
                return Ok(());
            }
            let mut list = args::split(&all_args);
            let is_cut = self.max_args.is_some_and(|most| list.len() > most);
            list.truncate(self.max_args.unwrap_or(usize::MAX));
            let Task { time, pid, uid, comm, cgroup, .. } = out.task(&event.task);
            let exec = Exec {
                time,
                uid,
                comm,
                pid,
                ppid: Pid(event.ppid),
                ret: event.ret,
                error: Errno::of(event.ret),
                compat: event.compat != 0,
                cgroup,
                filename: (event.name_unreadable == 0).then_some(filename),
                args: list,
                args_cut: is_cut || gap || event.args_cut != 0 || event.args_unreadable != 0,
                args_unreadable: event.args_unreadable != 0,
                euid: Uid(event.euid),
                missing: args::missing_of(event, filename, dir).and_then(|exec| finder.find(exec)),
                quote: self.quote,
            };
            Ok(out.row(&exec)?)
        })
    }
}
