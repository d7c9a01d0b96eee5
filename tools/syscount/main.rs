// SPDX-License-Identifier: Apache-2.0 OR MIT
//! syscount: count system calls, and the time that they take.

use std::cmp::Reverse;
use std::time::Duration;

use counts::Counts;
use kscope::hist::IntervalEnd;
use kscope::intervals::Intervals;
use kscope::names;
use kscope::options;
use kscope::out;
use kscope::prelude::*;
use kscope::syscalls;
use kscope::syscalls::Names;
use kscope::syscalls::Request;
use row::Counted;

mod counts;
mod row;

kscope::bpf!("syscount");
use bpf::maps;

kscope::tool!(Syscount);

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
    #[arg(short = 'i', long = "interval", value_name = "SECONDS", value_parser = options::duration, conflicts_with = "interval")]
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
                let mut new: Vec<_> = from.turns()?.iter().map(counts::of_entry).collect();
                if !self.per_process {
                    let (_, added) = slots.next(counts::in_slots(from)?);
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

impl Syscount {
    fn counts_errors_alone(&self) -> bool {
        self.failed || self.errno.is_some()
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
