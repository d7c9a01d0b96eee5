// SPDX-License-Identifier: Apache-2.0 OR MIT
//! runqlat: summarise how long tasks wait for a CPU.

use kscope::escape::c_bytes;
use kscope::escape::escape;
use kscope::hist::Hist;
use kscope::hist::HistArgs;
use kscope::hist::IntervalEnd;
use kscope::hist::Measured;
use kscope::intervals::Intervals;
use kscope::metrics::Family;
use kscope::prelude::*;
use kscope::tool::Histograms;
use kscope::tool::Measures;

kscope::bpf!("runqlat");
use bpf::maps;
use bpf::types::runqlat_key as Key;
use bpf::types::runqlat_value as Entry;

kscope::tool!(Runqlat);

/// How long do tasks that could run wait for a CPU?
#[derive(Parser, Debug)]
#[command(mut_arg("timestamps", |a| a.short('T').alias("timestamp")))]
#[command(mut_arg("cgroup", |a| a.short('c')))]
struct Runqlat {
    /// Print a histogram for each process
    #[arg(short = 'P', long = "pids")]
    per_process: bool,
    /// Print a histogram for each thread
    #[arg(short = 'L', long = "tids")]
    per_thread: bool,
    /// Print a histogram for each PID namespace
    #[arg(long = "pidnss")]
    per_pidns: bool,
    #[command(flatten)]
    hist: HistArgs,
    /// How many histograms there can be
    #[arg(long, value_name = "COUNT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    entries: u32,
    #[command(flatten)]
    shared: Summary,
}

/// A histogram of one interval.
#[derive(Row)]
#[row(type = "histogram")]
struct Latency {
    #[row(flatten)]
    end: IntervalEnd,
    /// With -P: the process
    pid: Option<Pid>,
    /// With -L: the thread
    tid: Option<Tid>,
    /// With -P: name of the process; with -L: name of the thread
    comm: Option<Vec<u8>>,
    /// With --pidnss: the PID namespace, by its inode
    pidns: Option<u32>,
    #[row(flatten, helps("count" = "Waits that ended in the interval"))]
    waits: Measured,
}

/// Process, thread and PID namespace, 0 where not asked for.
type Id = (u32, u32, u32);

struct Waits {
    args: Runqlat,
    total: Intervals<Id, Hist>,
}

impl Histograms for Waits {
    type Bpf = bpf::Object;
    type Key = Id;
    type With = Option<Vec<u8>>;
    type Row = Latency;

    const OF: &'static str = "waits for a CPU";
    const METRIC: Family = Family::histogram("wait", "How long tasks waited for a CPU");

    fn take(&mut self, from: &mut Source<'_, Self::Bpf>) -> Result<Measures<Id, Self::With>, Error> {
        if !self.args.is_keyed() {
            let total = from.bss().map(|bss| bss.total).unwrap_or_default();
            let now = [((0, 0, 0), Hist::new(&total.slots, total.sum_ns))].into();
            return Ok(self.total.next(now).1.into_iter().map(|(id, hist)| (*id, (hist, None))).collect());
        }
        let named = self.args.per_process || self.args.per_thread;
        let hist = |(key, entry): (Key, Entry)| {
            let comm = named.then(|| c_bytes(&entry.comm).to_vec());
            ((key.tgid, key.tid, key.pidns), (Hist::new(&entry.hist.slots, entry.hist.sum_ns), comm))
        };
        Ok(from.turns()?.into_iter().map(hist).collect())
    }

    fn labels(&mut self, (_, _, pidns): &Id, comm: &Self::With) -> Vec<(&'static str, Vec<u8>)> {
        let pidns = self.args.per_pidns.then(|| ("pidns", pidns.to_string().into_bytes()));
        comm.clone().map(|comm| ("comm", comm)).into_iter().chain(pidns).collect()
    }

    fn shows_empty(&self, _: &Id, _: bool) -> bool {
        // It tells something only where it is the only one.
        !self.args.is_keyed()
    }

    fn row(
        &mut self,
        end: IntervalEnd,
        (pid, tid, pidns): Id,
        comm: Self::With,
        waits: Measured,
    ) -> (Option<String>, Latency) {
        let Runqlat { per_process, per_thread, per_pidns, .. } = self.args;
        let of = |what: &str, number: u32, is_asked: bool| is_asked.then(|| format!("{what} = {number}"));
        let title = [of("pidns", pidns, per_pidns), of("pid", pid, per_process), of("tid", tid, per_thread)];
        let title: Vec<String> = title.into_iter().chain([comm.as_deref().map(escape)]).flatten().collect();
        let row = Latency {
            end,
            pid: per_process.then_some(Pid(pid)),
            tid: per_thread.then_some(Pid(tid)),
            comm,
            pidns: per_pidns.then_some(pidns),
            waits,
        };
        ((!title.is_empty()).then(|| title.join(" ")), row)
    }
}

impl Runqlat {
    fn is_keyed(&self) -> bool {
        self.per_process || self.per_thread || self.per_pidns
    }
}

impl Tool for Runqlat {
    const INFO: Info = Info::new("runqlat", Subsystem::Cpu);
    type Bpf = bpf::Object;
    type Rows = (Latency,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.task_values(maps::WAITS_HASH, Values::Any)?;
        bpf.rodata().unit_ns = self.hist.unit().ns;
        bpf.rodata().per_process = self.per_process;
        bpf.rodata().per_thread = self.per_thread;
        bpf.rodata().per_pidns = self.per_pidns;
        if self.is_keyed() {
            bpf.turns_entries(self.entries)?;
        }
        let tracing = bpf.attach(Hooks::new())?;
        tracing.banner("Tracing waits for a CPU, until Ctrl-C.");
        let (unit, entries) = (self.hist.unit(), self.entries);
        tracing.histograms(Waits { args: self, total: Intervals::new() }, unit, entries)
    }
}
