// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biolatency: summarise how long block I/O takes.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;

use clap::Parser;
use kscope::Error;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::block;
use kscope::block::FlagNames;
use kscope::block::Layout;
use kscope::block::Needs;
use kscope::cli::BlockCgroup;
use kscope::cli::Common;
use kscope::cli::Interval;
use kscope::cli::Metrics;
use kscope::hist;
use kscope::hist::Hist;
use kscope::hist::Measured;
use kscope::hist::Unit;
use kscope::intervals::Intervals;
use kscope::maps;
use kscope::metrics::Family;
use kscope::metrics::Label;
use kscope::names::Disk;
use kscope::names::Disks;
use kscope::out::Out;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("biolatency");
use types::biolatency_key as Key;
use types::kscope_hist as KernelHist;

kscope::records!(Key: 16, KernelHist: 1032);

kscope::tool!(Biolatency);

/// How long does block I/O take?
#[derive(Parser, Debug)]
#[command(mut_arg("timestamps", |a| a.short('T').alias("timestamp")))]
struct Biolatency {
    /// Measure from the submission, and so with the time in the queue, rather than from the issue to the device
    #[arg(short = 'Q', long)]
    queued: bool,
    /// Print a histogram for each disk
    #[arg(short = 'D', long = "per-disk")]
    per_disk: bool,
    /// Print a histogram for each operation with its flags
    #[arg(short = 'F', long = "flag")]
    per_flags: bool,
    /// Measure this disk only
    #[arg(short, long, value_name = "DISK", value_parser = Disk::by_name)]
    disk: Option<Disk>,
    #[command(flatten)]
    cgroup: BlockCgroup,
    /// Count in milliseconds
    #[arg(short, long)]
    milliseconds: bool,
    #[command(flatten)]
    interval: Interval,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    common: Common,
}

const IO: Family = Family::histogram("io", "How long block I/O took");

/// A histogram of one interval.
struct Latency {
    time: Wall,
    interval_s: f64,
    disk: Option<String>,
    flags: Option<String>,
    layer: u32,
    titled: bool,
    queued: bool,
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
        Field::new("from", Kind::Text, "What the time begins with: issue, or submission (-Q)", |r: &Self| {
            Value::Text(from(r.queued))
        }),
        Field::new("layer", Kind::Text, block::LAYERS, |r: &Self| Value::Text(layer(r.layer))),
        Field::new("disk", Kind::Text, "With -D: the disk", |r: &Self| {
            r.disk.as_deref().map_or(Value::Null, Value::Text)
        })
        .nullable(),
        Field::new(
            "flags",
            Kind::Text,
            "With -F: the operation and its flags, as the kernel names them",
            |r: &Self| r.flags.as_deref().map_or(Value::Null, Value::Text),
        )
        .nullable(),
        hist::count("I/Os that ended in the interval"),
        hist::total_us(),
        hist::mean_us(),
        hist::percentiles(),
        hist::buckets(),
    ];
}

fn from(queued: bool) -> &'static str {
    if queued { "submission" } else { "issue" }
}

/// By `enum biolatency_layer` of biolatency.h.
const LAYERS: [&str; 3] = ["request", "stacked", "bio"];

fn layer(layer: u32) -> &'static str {
    LAYERS.get(layer as usize).copied().unwrap_or_default()
}

impl Trace for Biolatency {
    const NAME: &'static str = "biolatency";
    const SUBSYSTEM: &'static str = "block I/O";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Latency>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let unit = if self.milliseconds { hist::MILLISECONDS } else { hist::MICROSECONDS };
        let cgroups = self.cgroup.give()?;
        let exporter = self.metrics.open(Self::NAME)?;
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(BiolatencySkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        if cgroups > 0 && !kernel.has_member("bio", "bi_blkg") {
            Err(Error::Usage("this kernel does not know the cgroup of an I/O (CONFIG_BLK_CGROUP)".into()))?;
        }
        let needs = Needs::of(self.disk.as_ref(), self.queued);
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            rodata.follow_bios = needs.bios;
            rodata.unit_ns = unit.ns;
            rodata.per_disk = self.per_disk;
            rodata.per_flags = self.per_flags;
            rodata.from_submission = self.queued;
            rodata.cgroups = cgroups;
            kscope::set_block!(rodata, &Layout::of(&kernel), &self.disk);
        }
        // What no hook that is wanted fills takes no memory.
        let object = open.open_object_mut();
        needs.size_maps(object)?;
        for (map, is_filled) in [
            ("hists", self.per_disk || self.per_flags),
            ("issued", needs.issue && !self.queued),
            ("submitted", self.queued),
        ] {
            if !is_filled {
                session::set_max_entries(object, map, 1)?;
            }
        }
        let others: &[&str] = if self.queued { &["issue"] } else { &["throttle"] };
        let (hooks, note) = needs.hooks(self.disk.as_ref(), &kernel, others);
        let mut taken = hooks.choose(object, &kernel)?;
        taken.notes.extend(note);
        let flag_names = FlagNames::new(&kernel);
        drop(kernel);
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;
        session.export(exporter)?;
        session.banner("Tracing block I/O, until Ctrl-C.");

        let mut disks = Disks::default();
        let mut intervals = Intervals::new();
        session.intervals(&self.interval, |out| {
            let now = snapshot(&skeleton, self.per_disk || self.per_flags)?;
            out.export(|to| {
                for ((dev, flags, layer_of), hist) in &now {
                    let disk = self.per_disk.then(|| disks.name(*dev));
                    let flags = self.per_flags.then(|| flag_names.text(*flags));
                    let (from, layer) = (from(self.queued), layer(*layer_of));
                    let mut labels: Vec<Label<'_>> = vec![("from", &from), ("layer", &layer)];
                    labels.extend(disk.as_ref().map(|disk| ("disk", disk as _)));
                    labels.extend(flags.as_ref().map(|flags| ("flags", flags as _)));
                    to.histogram(&IO, &labels, hist, unit);
                }
            });
            if !out.is_due() {
                return Ok(());
            }
            let (interval_s, added) = intervals.next(now);
            out.interval_time()?;
            let mut printed = false;
            let none = added.iter().all(|(_, hist)| hist.count() == 0);
            for ((dev, flags, layer_of), hist) in added {
                // One that is empty tells something only where it is the only one that there may be.
                let is_first = !self.per_disk && !self.per_flags && *layer_of == 0;
                let tells = is_first && (none || self.disk.is_none());
                if hist.count() == 0 && !tells {
                    continue;
                }
                printed = true;
                let latency = Latency {
                    time: Wall::now(),
                    interval_s,
                    disk: self.per_disk.then(|| disks.name(*dev)),
                    flags: self.per_flags.then(|| flag_names.text(*flags)),
                    layer: *layer_of,
                    // Which disk it is says that too.
                    titled: !self.per_disk && self.disk.is_none(),
                    queued: self.queued,
                    unit,
                    hist,
                };
                print(out, &latency)?;
            }
            if !printed && !out.is_json() {
                out.text("no block I/O")?;
            }
            Ok(())
        })?;
        Ok(session.finish()?)
    }
}

type Snapshot = BTreeMap<(u32, u32, u32), Hist>;

fn snapshot(skeleton: &BiolatencySkel<'_>, keyed: bool) -> anyhow::Result<Snapshot> {
    let hist = |hist: &KernelHist| Hist::new(&hist.slots, hist.sum_ns);
    if keyed {
        let entries = maps::entries::<Key, KernelHist>(&skeleton.maps.hists)?;
        return Ok(entries
            .iter()
            .map(|(key, value)| ((key.dev, key.cmd_flags, key.layer), hist(value)))
            .collect());
    }
    let total = skeleton.maps.bss_data.as_deref().map(|bss| bss.total).unwrap_or_default();
    Ok(total.iter().zip(0..).map(|(value, layer)| ((0, 0, layer), hist(value))).collect())
}

fn print(out: &mut Out, latency: &Latency) -> Result<(), Error> {
    if out.is_json() {
        return out.json_row(latency);
    }
    let mut title: Vec<String> = Vec::new();
    title.extend(latency.disk.as_ref().map(|disk| format!("disk = {disk}")));
    title.extend(latency.flags.as_ref().map(|flags| format!("flags = {flags}")));
    match layer(latency.layer) {
        "bio" => title.push("devices without requests (dm, md, zram), by bio".into()),
        "stacked" if latency.titled => {
            title.push("devices on top of files or other disks (loop, dm-multipath)".into())
        }
        _ => (),
    }
    if !title.is_empty() {
        out.text(&title.join("  "))?;
    }
    out.text(&latency.hist.table(latency.unit))
}
