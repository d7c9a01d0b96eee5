// SPDX-License-Identifier: Apache-2.0 OR MIT
//! exitsnoop: print each process that ends, and how.

use std::mem::MaybeUninit;

use clap::Parser;
use kscope::Columns;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli::Buffer;
use kscope::cli::CgroupColumn;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::escape::c_bytes;
use kscope::names;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("exitsnoop");
use types::exitsnoop_event as Record;

kscope::records!(Record: 72);

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
    /// Print the user id
    #[arg(short = 'U', long = "print-uid")]
    print_uid: bool,
    #[command(flatten)]
    cgroup: CgroupColumn,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    buffer: Buffer,
    #[command(flatten)]
    common: Common,
}

/// One process, or thread, that has ended.
struct Exit {
    time: Wall,
    record: Record,
    thread: bool,
    cgroup: Vec<u8>,
}

/// How it ended, as wait(2) encodes it.
enum Status {
    /// A kernel thread: nobody waits for it.
    None,
    Code(u32),
    Signal(u32),
}

impl Exit {
    fn age_s(&self) -> f64 {
        self.record.time_ns.saturating_sub(self.record.start_ns) as f64 / 1e9
    }

    fn status(&self) -> Status {
        match self.record.exit_code & 0x7f {
            _ if self.record.kernel != 0 => Status::None,
            0 => Status::Code(self.record.exit_code >> 8 & 0xff),
            signal => Status::Signal(signal),
        }
    }

    fn code(&self) -> Value<'_> {
        if let Status::Code(code) = self.status() { Value::Uint(code.into()) } else { Value::Null }
    }

    fn signal(&self) -> Value<'_> {
        if let Status::Signal(signal) = self.status() { Value::Uint(signal.into()) } else { Value::Null }
    }

    fn signal_name(&self) -> Value<'_> {
        if let Status::Signal(signal) = self.status() {
            Value::String(names::signal(signal))
        } else {
            Value::Null
        }
    }

    fn core_dumped(&self) -> bool {
        matches!(self.status(), Status::Signal(_)) && self.record.exit_code & 0x80 != 0
    }

    fn shown(&self) -> Value<'_> {
        match self.status() {
            Status::None => Value::Null,
            Status::Code(0) => Value::Text("0"),
            Status::Code(code) => Value::String(format!("code {code}")),
            Status::Signal(signal) => {
                let core = if self.core_dumped() { ", core dumped" } else { "" };
                Value::String(format!("signal {signal} ({}{core})", names::signal(signal)))
            }
        }
    }
}

impl Row for Exit {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When it ended", |r: &Self| Value::Time(r.time)).column("TIME", 9),
        Field::new("kind", Kind::Text, "What ended: process, or with -T thread", |r: &Self| {
            Value::Text(if r.thread { "thread" } else { "process" })
        }),
        Field::new("uid", Kind::Uint, "Real user id", |r: &Self| Value::Uint(r.record.uid.into())),
        Field::table_only(
            "UID",
            7,
            "User id: the real one; /, and the effective one if it differs",
            |r: &Self| Value::String(names::uids(r.record.uid, r.record.euid)),
        ),
        Field::new("comm", Kind::Bytes, "Name of the process; with -T, of the thread", |r: &Self| {
            Value::Bytes(c_bytes(&r.record.comm))
        })
        .column("PCOMM", 17),
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.record.tgid.into()))
            .column("PID", 8),
        Field::new("ppid", Kind::Uint, "Process id of the parent when it ended", |r: &Self| {
            Value::Uint(r.record.ppid.into())
        })
        .column("PPID", 8),
        Field::new("tid", Kind::Uint, "Thread id; of a process, its own id", |r: &Self| {
            Value::Uint(r.record.tid.into())
        })
        .column("TID", 8),
        Field::new("age_s", Kind::Float, "Seconds since it was made", |r: &Self| Value::Float(r.age_s(), 2))
            .column("AGE(s)", 8),
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::table_only("EXIT_CODE", 0, "0, the status, or the signal", Self::shown),
        Field::new("exit_code", Kind::Uint, "Exit status; null after a signal", Self::code).nullable(),
        Field::new("signal", Kind::Uint, "Number of the signal that ended it", Self::signal).nullable(),
        Field::new("signal_name", Kind::Text, "Name of that signal", Self::signal_name).nullable(),
        Field::new("core_dumped", Kind::Bool, "Whether it left a core dump", |r: &Self| {
            Value::Bool(r.core_dumped())
        }),
        Field::new("kernel_thread", Kind::Bool, "Whether it was the kernel's own: it has no status", |r| {
            Value::Bool(r.record.kernel != 0)
        }),
        Field::new("euid", Kind::Uint, "Effective user id", |r: &Self| Value::Uint(r.record.euid.into())),
    ];
}

impl Trace for Exitsnoop {
    const NAME: &'static str = "exitsnoop";
    const SUBSYSTEM: &'static str = "processes";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Exit>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(ExitsnoopSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let thread = self.threaded || !self.filter.tid.is_empty();
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.threads = thread;
            rodata.failed_only = self.failed;
            rodata.want_cgroup = self.common.json || self.cgroup.print_cgroup;
            rodata.passes_group_dead = kernel.tracepoint_args("sched_process_exit") == Some(2);
        }
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        let taken = Hooks::new().choose(open.open_object_mut(), &kernel)?;
        drop(kernel);
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;

        let columns = self.columns();
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        session.stream(&skeleton.maps.events, |bytes, out| {
            let (record, _) = kscope::record::<Record>(bytes)?;
            let (time, cgroup) = (out.clock().wall(record.time_ns), cgroups.path(record.cgroup));
            Ok(out.row(&columns, &Exit { time, record, thread, cgroup })?)
        })?;
        Ok(session.finish()?)
    }
}

impl Exitsnoop {
    fn columns(&self) -> Columns<Exit> {
        let mut titles = vec!["PCOMM", "PID", "PPID", "TID", "AGE(s)", "EXIT_CODE"];
        titles.extend(self.common.timestamps.map(|_| "TIME"));
        titles.extend(self.print_uid.then_some("UID"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        Columns::new(&titles)
    }
}
