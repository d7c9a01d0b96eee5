// SPDX-License-Identifier: Apache-2.0 OR MIT
//! syscount: count system calls, and the time that they take.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use kscope::cli;
use kscope::escape::c_bytes;
use kscope::hist::IntervalEnd;
use kscope::hooks::Helper;
use kscope::intervals::Intervals;
use kscope::names;
use kscope::out;
use kscope::prelude::*;
use kscope::syscalls;
use kscope::syscalls::Abi;
use kscope::syscalls::Names;
use kscope::syscalls::Request;
use row::Counted;

mod row;

kscope::bpf!("syscount");
use bpf::hooks;
use bpf::maps;
use bpf::types::syscount_count as Count;
use bpf::types::syscount_key as Key;
use bpf::types::syscount_value as Entry;

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
    shared: Summary,
}

impl Tool for Syscount {
    const INFO: Info = Info::new("syscount", Subsystem::SystemCalls);
    type Bpf = bpf::Object;
    type Rows = (Counted,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared)
    }

    fn begin(&mut self) -> anyhow::Result<Begin> {
        if self.list {
            out::lines(syscalls::all().map(|(_, name)| name))?;
            return Ok(Begin::Done);
        }
        self.shared.interval.interval = self.shared.interval.interval.or(self.every);
        Ok(Begin::Trace)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        self.show_columns(&mut bpf);
        let is_storage = bpf.task_values(maps::BEGUN_HASH, Values::Running)?;
        let taken = bpf.choose(self.hooks(is_storage))?;
        let has_cqe = bpf.kernel().tracepoint_arg_is_pointer("io_uring_complete", 2);
        let rodata = bpf.rodata();
        rodata.per_process = self.per_process;
        rodata.latency = self.latency;
        rodata.failed_only = self.counts_errors_alone();
        rodata.only_errno = self.errno.unwrap_or(0);
        rodata.exec_is_known = taken.hooks.contains_key("exec");
        rodata.uring_complete_has_cqe = has_cqe;
        if self.per_process {
            bpf.turns_entries(self.entries)?;
        }
        let names = Names::new(bpf.kernel());
        let tracing = bpf.attach_taken(taken, |_| Ok(Vec::new()))?;
        tracing.banner("Tracing system calls, until Ctrl-C.");
        let mut slots = Intervals::new();
        tracing.counts(
            "system calls",
            if self.per_process { self.entries } else { CALLS_MAX },
            |from| {
                let mut new: Vec<_> = from.turns()?.iter().map(counted).collect();
                if !self.per_process {
                    let (_, added) = slots.next(snapshot(from)?);
                    new.extend(added.into_iter().map(|(request, count)| (*request, count)));
                }
                new.retain(|(_, (count, _))| count.count > 0);
                Ok(new)
            },
            |(count, _)| count.count,
            |to, new| {
                let end = IntervalEnd { time: Wall::now(), interval_s: 0.0 };
                self.rows(end, new.iter().cloned(), &names).iter().for_each(|row| row.export(to));
            },
            |end, table, is_json| {
                let mut rows = self.rows(end, table, &names);
                rows.sort_by_key(|row| Reverse((row.total_us, row.count)));
                rows.truncate(self.top.unwrap_or(if is_json { u32::MAX } else { TOP }) as usize);
                rows
            },
        )
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
fn snapshot(from: &Source<'_, bpf::Object>) -> Result<BTreeMap<Request, Counts>, Error> {
    let slots = (0..2).flat_map(|abi| (0..NUMBERS).map(move |nr| Request::Call(Abi::of(abi), nr)));
    let calls = slots.zip(from.percpu_sums(maps::CALLS, Count::plus)?);
    let uring_ops = from.percpu_sums(maps::URING_OPS, Count::plus)?;
    let all = calls.chain((0..=u8::MAX).map(Request::Uring).zip(uring_ops));
    Ok(all.map(|(request, count)| (request, (count, None))).collect())
}

impl Syscount {
    fn counts_errors_alone(&self) -> bool {
        self.failed || self.errno.is_some()
    }

    fn hooks(&self, is_storage: bool) -> Hooks {
        // Calls that do not return neither fail nor take a time. What is measured has its number from its beginning.
        let all = !self.latency && !self.counts_errors_alone();
        let mut unwanted = if all { vec![] } else { vec![hooks::EXIT, hooks::EXEC] };
        unwanted.extend(if self.latency { &[][..] } else { &[hooks::SYS_ENTER, hooks::URING_SUBMIT] });
        unwanted.extend((is_storage || !self.latency && !all).then_some(hooks::TASK_EXIT));
        Hooks::new()
            .without(&unwanted)
            .with_helper(&[hooks::EXIT, hooks::EXEC], Helper::TaskPtRegs)
            // Elsewhere they do not say of what.
            .with_pointer("io_uring_complete", 1)
            .with_args("io_uring_submit_sqe", 2)
            .optional(
                &[hooks::URING_SUBMIT, hooks::URING_COMPLETE],
                "operations of io_uring can't be counted on this kernel",
            )
            .optional(
                &[hooks::EXIT],
                "exit and exit_group, which do not return, can't be counted on this kernel",
            )
            .optional(
                &[hooks::EXEC],
                "this kernel does not tell execveat from execve once they have succeeded",
            )
    }

    fn show_columns(&self, bpf: &mut Opened<'_, bpf::Object>) {
        bpf.show(&[Counted::SYSCALL], !self.per_process);
        bpf.show(&[Counted::PID, Counted::COMM, Counted::VIA], self.per_process);
        bpf.show(&[Counted::ERRORS], !self.counts_errors_alone());
        bpf.show(&[Counted::TOTAL_US, Counted::MEAN_US], self.latency && !self.milliseconds);
        bpf.show(&[Counted::TOTAL_MS, Counted::MEAN_MS], self.latency && self.milliseconds);
    }

    fn rows(
        &self,
        end: IntervalEnd,
        counts: impl IntoIterator<Item = (Request, Counts)>,
        names: &Names,
    ) -> Vec<Counted> {
        let row = |(request, (count, comm)): (Request, Counts)| Counted {
            comm,
            count: count.count,
            errors: (!self.counts_errors_alone()).then_some(count.errors),
            total_us: self.latency.then_some(Micros(count.total_ns)),
            mean_us: self.latency.then(|| count.total_ns as f64 / (1e3 * count.count as f64)),
            ..Counted::new(end, request, names.name(request), names.shown(request))
        };
        counts.into_iter().map(row).collect()
    }
}
