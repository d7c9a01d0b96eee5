// SPDX-License-Identifier: Apache-2.0 OR MIT
//! runqlat: summarise how long tasks wait for a CPU.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;

use clap::Parser;
use kscope::Error;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::cli::Interval;
use kscope::cli::Metrics;
use kscope::escape::c_bytes;
use kscope::escape::escape;
use kscope::hist;
use kscope::hist::Hist;
use kscope::hist::Measured;
use kscope::hist::Unit;
use kscope::intervals::Intervals;
use kscope::intervals::Tables;
use kscope::maps::Turns;
use kscope::metrics::Family;
use kscope::metrics::Label;
use kscope::out::Out;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::tasks;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("runqlat");
use types::runqlat_key as Key;
use types::runqlat_value as Entry;

kscope::records!(Key: 16, Entry: 1048);

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
    /// Count in milliseconds
    #[arg(short, long)]
    milliseconds: bool,
    /// How many histograms there can be
    #[arg(long, value_name = "COUNT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
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

const WAIT: Family = Family::histogram("wait", "How long tasks waited for a CPU");

/// A histogram of one interval.
struct Latency {
    time: Wall,
    interval_s: f64,
    pid: Option<u32>,
    tid: Option<u32>,
    comm: Option<Vec<u8>>,
    pidns: Option<u32>,
    unit: Unit,
    hist: Hist,
}

impl Measured for Latency {
    fn hist(&self) -> (&Hist, Unit) {
        (&self.hist, self.unit)
    }
}

impl Row for Latency {
    const TYPE: &'static str = "histogram";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "The interval's end", |r: &Self| Value::Time(r.time)),
        Field::new("interval_s", Kind::Float, "The interval's length in seconds", |r: &Self| {
            Value::Float(r.interval_s, 3)
        }),
        Field::new("pid", Kind::Uint, "With -P: the process", |r: &Self| r.pid.into()).nullable(),
        Field::new("tid", Kind::Uint, "With -L: the thread", |r: &Self| r.tid.into()).nullable(),
        Field::new(
            "comm",
            Kind::Bytes,
            "With -P: name of the process; with -L: name of the thread",
            |r: &Self| r.comm.as_deref().into(),
        )
        .nullable(),
        Field::new("pidns", Kind::Uint, "With --pidnss: the PID namespace, by its inode", |r: &Self| {
            r.pidns.into()
        })
        .nullable(),
        hist::count("Waits that ended in the interval"),
        hist::total_us(),
        hist::mean_us(),
        hist::percentiles(),
        hist::buckets(),
    ];
}

impl Trace for Runqlat {
    const NAME: &'static str = "runqlat";
    const SUBSYSTEM: &'static str = "CPU";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Latency>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let unit = if self.milliseconds { hist::MILLISECONDS } else { hist::MICROSECONDS };
        let exporter = self.metrics.open(Self::NAME)?;
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(RunqlatSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let taken = Hooks::new().choose(open.open_object_mut(), &kernel)?;
        let task_storage = tasks::choose(open.open_object_mut(), &kernel, "waits", tasks::Of::Any(&taken))?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.task_storage = task_storage;
            rodata.sched_switch_state_second = !kernel.tracepoint_arg_is_pointer("sched_switch", 1);
            rodata.unit_ns = unit.ns;
            rodata.per_process = self.per_process;
            rodata.per_thread = self.per_thread;
            rodata.per_pidns = self.per_pidns;
        }
        drop(kernel);
        if self.is_keyed() {
            session::set_turns_entries(open.open_object_mut(), self.entries)?;
        }
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;
        session.export(exporter)?;
        session.banner("Tracing waits for a CPU, until Ctrl-C.");

        let maps = &skeleton.maps;
        let mut turns = Turns::new(&maps.turn, &maps.turn_a, &maps.turn_b);
        let (mut total, mut tables) = (Intervals::new(), Tables::new(self.entries));
        session.intervals(&self.interval, |out| {
            let new = if self.is_keyed() {
                self.histograms(&mut turns)?
            } else {
                let now = maps.bss_data.as_deref().map(|bss| bss.total).unwrap_or_default();
                let now = BTreeMap::from([((0, 0, 0), (Hist::new(&now.slots, now.sum_ns), None))]);
                total.next(now).1.into_iter().map(|(id, hist)| (*id, hist)).collect()
            };
            out.export(|to| {
                for ((_, _, pidns), (hist, comm)) in &new {
                    let pidns = self.per_pidns.then(|| pidns.to_string());
                    let mut labels: Vec<Label<'_>> = Vec::new();
                    labels.extend(comm.as_ref().map(|comm| ("comm", comm as _)));
                    labels.extend(pidns.as_ref().map(|pidns| ("pidns", pidns as _)));
                    to.add_histogram(&WAIT, &labels, hist, unit);
                }
            });
            tables.add(out, new, |(hist, _)| hist.count());
            if !out.is_due() {
                return Ok(());
            }
            let (interval_s, added) = tables.take();
            out.interval_time()?;
            let mut printed = false;
            for ((tgid, tid, pidns), (hist, comm)) in added {
                // One that is empty tells something only where it is the only one.
                if hist.count() == 0 && self.is_keyed() {
                    continue;
                }
                printed = true;
                let latency = Latency {
                    time: Wall::now(),
                    interval_s,
                    pid: self.per_process.then_some(tgid),
                    tid: self.per_thread.then_some(tid),
                    comm,
                    pidns: self.per_pidns.then_some(pidns),
                    unit,
                    hist,
                };
                print(out, &latency)?;
            }
            if !printed && !out.is_json() {
                out.text("no waits for a CPU")?;
            }
            Ok(())
        })?;
        Ok(session.finish()?)
    }
}

/// Process, thread and PID namespace, 0 where not asked for.
type Id = (u32, u32, u32);
type Histograms = Vec<(Id, (Hist, Option<Vec<u8>>))>;

impl Runqlat {
    fn is_keyed(&self) -> bool {
        self.per_process || self.per_thread || self.per_pidns
    }

    /// The histograms since the last call, with the names of processes and threads.
    fn histograms(&self, turns: &mut Turns<'_>) -> Result<Histograms, Error> {
        let named = self.per_process || self.per_thread;
        let hist = |(key, entry): &(Key, Entry)| {
            let comm = named.then(|| c_bytes(&entry.comm).to_vec());
            ((key.tgid, key.tid, key.pidns), (Hist::new(&entry.hist.slots, entry.hist.sum_ns), comm))
        };
        Ok(turns.take()?.iter().map(hist).collect())
    }
}

fn print(out: &mut Out, latency: &Latency) -> Result<(), Error> {
    if out.is_json() {
        return out.json_row(latency);
    }
    let mut title: Vec<String> = Vec::new();
    title.extend(latency.pidns.map(|pidns| format!("pidns = {pidns}")));
    title.extend(latency.pid.map(|pid| format!("pid = {pid}")));
    title.extend(latency.tid.map(|tid| format!("tid = {tid}")));
    title.extend(latency.comm.as_deref().map(escape));
    if !title.is_empty() {
        out.text(&title.join(" "))?;
    }
    out.text(&latency.hist.table(latency.unit))
}
