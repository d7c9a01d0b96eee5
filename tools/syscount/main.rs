// SPDX-License-Identifier: Apache-2.0 OR MIT
//! syscount: count system calls, and the time that they take.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::time::Duration;

use clap::Parser;
use kscope::Columns;
use kscope::Error;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::cli::Interval;
use kscope::cli::Metrics;
use kscope::escape::c_bytes;
use kscope::hooks::Taken;
use kscope::intervals::Intervals;
use kscope::intervals::Tables;
use kscope::maps;
use kscope::maps::Turns;
use kscope::names;
use kscope::out;
use kscope::row::RowInfo;
use kscope::session;
use kscope::syscalls;
use kscope::syscalls::Abi;
use kscope::syscalls::Names;
use kscope::syscalls::Request;
use kscope::tasks;
use kscope::time::Wall;
use libbpf_rs::OpenObject;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;
use row::Counted;

mod row;

kscope::skeleton!("syscount");
use types::syscount_count as Count;
use types::syscount_key as Key;
use types::syscount_value as Entry;

kscope::records!(Count: 24, Entry: 40, Key: 8);
kscope::growing!(Count: count, errors, total_ns);

kscope::tool!(Syscount);

/// SYSCOUNT_NUMBERS of syscount.h.
const NUMBERS: i32 = 512;
/// SYSCOUNT_CALLS and SYSCOUNT_URING of syscount.h.
const CALLS_OF: u32 = 16;
const URING_OF: u32 = 17;
/// How many different calls there may be in a summary, with those that have no slot.
const CALLS_MAX: u32 = 4096;
/// Rows of a table, where nobody says how many.
const TOP: u32 = 10;

/// Which system calls are made, how often, and how long do they take?
#[derive(Parser, Debug)]
#[command(mut_arg("cgroup", |a| a.short('c')), mut_arg("duration", |a| a.short('d')))]
struct Syscount {
    /// Count by process, rather than by system call
    #[arg(short = 'P', long = "process")]
    per_process: bool,
    /// Sum up the time that the calls take
    #[arg(short = 'L', long)]
    latency: bool,
    /// Print times in milliseconds
    #[arg(short, long)]
    milliseconds: bool,
    /// Count calls that failed only
    #[arg(short = 'x', long = "failures")]
    failed: bool,
    /// Count calls that failed with this error only, by name or number
    #[arg(short, long, value_name = "ERRNO", value_parser = names::errno_number)]
    errno: Option<u32>,
    /// Print so many rows, the greatest [default: 10, and with --json all]
    #[arg(short = 'T', long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
    /// List the system calls of 64-bit callers, and exit
    #[arg(short, long)]
    list: bool,
    /// Print a summary each so many seconds, as the positional argument does
    #[arg(short = 'i', long = "interval", value_name = "SECONDS", value_parser = cli::duration, conflicts_with = "interval")]
    every: Option<Duration>,
    /// With -P: how many processes can be counted
    #[arg(long, value_name = "COUNT", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    entries: u32,
    #[command(flatten)]
    interval: Interval,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    common: Common,
}

impl Trace for Syscount {
    const NAME: &'static str = "syscount";
    const SUBSYSTEM: &'static str = "system calls";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Counted>()]
    }

    fn run(mut self) -> anyhow::Result<()> {
        if self.list {
            return Ok(out::lines(syscalls::all().map(|(_, name)| name))?);
        }
        self.interval.interval = self.interval.interval.or(self.every);
        let exporter = self.metrics.open(Self::NAME)?;
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(SyscountSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let task_storage = tasks::choose(open.open_object_mut(), &kernel, "begun", tasks::Of::Running)?;
        let taken = self.hooks(open.open_object_mut(), &kernel, task_storage)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.task_storage = task_storage;
            rodata.per_process = self.per_process;
            rodata.latency = self.latency;
            rodata.failed_only = self.failed || self.errno.is_some();
            rodata.only_errno = self.errno.unwrap_or(0);
            rodata.exec_is_known = taken.hooks.contains_key("exec");
            rodata.uring_complete_has_cqe = kernel.tracepoint_arg_is_pointer("io_uring_complete", 2);
        }
        if self.per_process {
            session::set_turns_entries(open.open_object_mut(), self.entries)?;
        }
        let names = Names::new(&kernel);
        drop(kernel);
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;
        session.export(exporter)?;
        session.banner("Tracing system calls, until Ctrl-C.");

        let columns = self.columns();
        let maps = &skeleton.maps;
        let mut turns = Turns::new(&maps.turn, &maps.turn_a, &maps.turn_b);
        let mut slots = Intervals::new();
        let mut tables = Tables::new(if self.per_process { self.entries } else { CALLS_MAX });
        session.intervals(&self.interval, |out| {
            let mut new: Vec<_> = turns.take()?.iter().map(counted).collect();
            if !self.per_process {
                let (_, added) = slots.next(snapshot(&skeleton)?);
                new.extend(added.into_iter().map(|(request, count)| (*request, count)));
            }
            new.retain(|(_, (count, _))| count.count > 0);
            out.export(|to| {
                self.rows_of(0.0, new.clone(), &names).iter().for_each(|row| row.export(to));
            });
            tables.add(out, new, |(count, _)| count.count);
            if !out.is_due() {
                return Ok(());
            }
            let (interval_s, table) = tables.take();
            let mut rows = self.rows_of(interval_s, table, &names);
            rows.sort_by_key(|row| Reverse((row.total_ns, row.count)));
            let all = if out.is_json() { u32::MAX } else { TOP };
            rows.truncate(self.top.unwrap_or(all) as usize);
            out.interval_time()?;
            if rows.is_empty() && !out.is_json() {
                out.text("no system calls")?;
            } else {
                out.table(&columns, &rows)?;
            }
            Ok(())
        })?;
        Ok(session.finish()?)
    }
}

/// What was counted, with a process's name.
type Counts = (Count, Option<Vec<u8>>);

/// An entry of the map whose keys come and go.
fn counted((key, entry): &(Key, Entry)) -> (Request, Counts) {
    let comm = || Some(c_bytes(&entry.comm).to_vec());
    match key.kind {
        CALLS_OF => (Request::CallsOf(key.id), (entry.count, comm())),
        URING_OF => (Request::UringOf(key.id), (entry.count, comm())),
        abi => (Request::Call(Abi::of(abi), key.id.cast_signed()), (entry.count, None)),
    }
}

/// All counts that have a slot.
fn snapshot(skeleton: &SyscountSkel<'_>) -> Result<BTreeMap<Request, Counts>, Error> {
    let slots = (0..2).flat_map(|abi| (0..NUMBERS).map(move |nr| Request::Call(Abi::of(abi), nr)));
    let calls = slots.zip(maps::percpu_sums(&skeleton.maps.calls, Count::plus)?);
    let uring_ops = maps::percpu_sums(&skeleton.maps.uring_ops, Count::plus)?;
    let all = calls.chain((0..=u8::MAX).map(Request::Uring).zip(uring_ops));
    Ok(all.map(|(request, count)| (request, (count, None))).collect())
}

impl Syscount {
    fn counts_errors_alone(&self) -> bool {
        self.failed || self.errno.is_some()
    }

    fn hooks(&self, object: &mut OpenObject, kernel: &Kernel, task_storage: bool) -> Result<Taken, Error> {
        // Calls that do not return neither fail nor take a time. What is measured has its number from its beginning.
        let all = !self.latency && !self.counts_errors_alone();
        let mut unwanted = if all { vec![] } else { vec!["exit", "exec"] };
        unwanted.extend(if self.latency { &[][..] } else { &["sys_enter", "uring_submit"] });
        unwanted.extend((task_storage || !self.latency && !all).then_some("task_exit"));
        Hooks::new()
            .without(&unwanted)
            .with_helper(&["exit", "exec"], "BPF_FUNC_task_pt_regs")
            // Elsewhere they do not say of what.
            .with_pointer("io_uring_complete", 1)
            .with_args("io_uring_submit_sqe", 2)
            .optional(
                &["uring_submit", "uring_complete"],
                "operations of io_uring can't be counted on this kernel",
            )
            .optional(&["exit"], "exit and exit_group, which do not return, can't be counted on this kernel")
            .optional(&["exec"], "this kernel does not tell execveat from execve once they have succeeded")
            .choose(object, kernel)
    }

    fn rows_of(
        &self,
        interval_s: f64,
        added: impl IntoIterator<Item = (Request, Counts)>,
        names: &Names,
    ) -> Vec<Counted> {
        let time = Wall::now();
        let row = |(request, (count, comm)): (Request, Counts)| Counted {
            time,
            interval_s,
            request,
            name: names.name(request),
            shown: names.shown(request),
            comm,
            count: count.count,
            errors: (!self.counts_errors_alone()).then_some(count.errors),
            total_ns: self.latency.then_some(count.total_ns),
        };
        added.into_iter().map(row).collect()
    }

    fn columns(&self) -> Columns<Counted> {
        let mut titles =
            if self.per_process { vec!["PID", "COMM", "VIA", "COUNT"] } else { vec!["SYSCALL", "COUNT"] };
        titles.extend((!self.counts_errors_alone()).then_some("ERRORS"));
        match (self.latency, self.milliseconds) {
            (true, false) => titles.extend(["TOTAL(us)", "MEAN(us)"]),
            (true, true) => titles.extend(["TOTAL(ms)", "MEAN(ms)"]),
            (false, _) => (),
        }
        Columns::new(&titles)
    }
}
