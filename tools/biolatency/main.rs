// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biolatency: summarise how long block I/O takes.

use std::collections::BTreeMap;

use kscope::block;
use kscope::block::FlagNames;
use kscope::block::Layout;
use kscope::block::Needs;
use kscope::cli::BlockCgroup;
use kscope::cli::Common;
use kscope::cli::HistArgs;
use kscope::cli::Interval;
use kscope::cli::Metrics;
use kscope::hist::Hist;
use kscope::hist::IntervalEnd;
use kscope::hist::Measured;
use kscope::intervals::Intervals;
use kscope::metrics::Family;
use kscope::names::Disk;
use kscope::names::Disks;
use kscope::prelude::*;
use kscope::tool::Histograms;
use kscope::tool::Measures;

kscope::bpf!("biolatency");
use bpf::hooks;
use bpf::maps;
use bpf::types::biolatency_key as Key;
use bpf::types::kscope_hist as KernelHist;

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
    #[command(flatten)]
    hist: HistArgs,
    #[command(flatten)]
    interval: Interval,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    common: Common,
}

/// A histogram of one interval.
#[derive(Row)]
#[row(type = "histogram")]
struct Latency {
    #[row(flatten)]
    end: IntervalEnd,
    /// What the time begins with: issue, or submission (-Q)
    from: &'static str,
    #[row(flatten)]
    layer: block::Layer,
    /// With -D: the disk
    disk: Option<String>,
    /// With -F: the operation and its flags, as the kernel names them
    flags: Option<String>,
    #[row(flatten, helps("count" = "I/Os that ended in the interval"))]
    ios: Measured,
}

/// Disk, operation with its flags, and layer, 0 where not asked for.
type Id = (u32, u32, u32);

/// By `enum biolatency_layer` of biolatency.h.
const LAYERS: [&str; 3] = ["request", "stacked", "bio"];

fn layer((_, _, layer): &Id) -> &'static str {
    LAYERS.get(*layer as usize).copied().unwrap_or_default()
}

struct Ios {
    args: Biolatency,
    intervals: Intervals<Id, Hist>,
    disks: Disks,
    flag_names: FlagNames,
}

impl Ios {
    fn from(&self) -> &'static str {
        if self.args.queued { "submission" } else { "issue" }
    }

    fn disk(&mut self, (dev, _, _): &Id) -> Option<String> {
        self.args.per_disk.then(|| self.disks.name(*dev))
    }

    fn flags(&self, (_, flags, _): &Id) -> Option<String> {
        self.args.per_flags.then(|| self.flag_names.text(*flags))
    }
}

impl Histograms for Ios {
    type Bpf = bpf::Object;
    type Key = Id;
    type With = ();
    type Row = Latency;

    const OF: &'static str = "block I/O";
    const METRIC: Family = Family::histogram("io", "How long block I/O took");

    fn take(&mut self, from: &mut Source<'_, Self::Bpf>) -> Result<Measures<Id, ()>, Error> {
        let hist = |hist: &KernelHist| Hist::new(&hist.slots, hist.sum_ns);
        let now: BTreeMap<Id, Hist> = if self.args.per_disk || self.args.per_flags {
            let entries = from.entries::<Key, KernelHist>(maps::HISTS)?;
            entries.iter().map(|(key, value)| ((key.dev, key.cmd_flags, key.layer), hist(value))).collect()
        } else {
            let total = from.bss().map(|bss| bss.total).unwrap_or_default();
            total.iter().zip(0..).map(|(value, layer)| ((0, 0, layer), hist(value))).collect()
        };
        Ok(self.intervals.next(now).1.into_iter().map(|(id, hist)| (*id, (hist, ()))).collect())
    }

    fn labels(&mut self, id: &Id, (): &()) -> Vec<(&'static str, Vec<u8>)> {
        let labels = [
            ("from", Some(self.from().to_string())),
            ("layer", Some(layer(id).to_string())),
            ("disk", self.disk(id)),
            ("flags", self.flags(id)),
        ];
        labels.into_iter().filter_map(|(name, value)| Some((name, value?.into_bytes()))).collect()
    }

    fn shows_empty(&self, (_, _, layer): &Id, all: bool) -> bool {
        // It tells something only where it is the only one that there may be.
        let is_first = !self.args.per_disk && !self.args.per_flags && *layer == 0;
        is_first && (all || self.args.disk.is_none())
    }

    fn row(&mut self, end: IntervalEnd, id: Id, (): (), ios: Measured) -> (Option<String>, Latency) {
        let (disk, flags, layer) = (self.disk(&id), self.flags(&id), layer(&id));
        let title = [
            disk.as_ref().map(|disk| format!("disk = {disk}")),
            flags.as_ref().map(|flags| format!("flags = {flags}")),
            match layer {
                "bio" => Some("devices without requests (dm, md, zram), by bio".into()),
                // Which disk it is says that too.
                "stacked" if !self.args.per_disk && self.args.disk.is_none() => {
                    Some("devices on top of files or other disks (loop, dm-multipath)".into())
                }
                _ => None,
            },
        ];
        let title: Vec<String> = title.into_iter().flatten().collect();
        let row = Latency { end, from: self.from(), layer: block::Layer { layer }, disk, flags, ios };
        ((!title.is_empty()).then(|| title.join("  ")), row)
    }
}

impl Tool for Biolatency {
    const INFO: Info = Info::new("biolatency", Subsystem::BlockIo);
    type Bpf = bpf::Object;
    type Rows = (Latency,);

    fn shared(&self) -> Shared<'_> {
        Shared::of(&self.common).interval(&self.interval).metrics(&self.metrics)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        let cgroups = self.cgroup.give()?;
        if cgroups > 0 && !bpf.kernel().has_member("bio", "bi_blkg") {
            Err(Error::Usage("this kernel does not know the cgroup of an I/O (CONFIG_BLK_CGROUP)".into()))?;
        }
        let needs = Needs::of(self.disk.as_ref(), self.queued);
        let (layout, flag_names) = (Layout::of(bpf.kernel()), FlagNames::new(bpf.kernel()));
        let rodata = bpf.rodata();
        rodata.follow_bios = needs.bios;
        rodata.unit_ns = self.hist.unit().ns;
        rodata.per_disk = self.per_disk;
        rodata.per_flags = self.per_flags;
        rodata.from_submission = self.queued;
        rodata.cgroups = cgroups;
        kscope::set_block!(rodata, &layout, &self.disk);
        // What no hook that is wanted fills takes no memory.
        needs.size_maps(bpf.object())?;
        for (map, is_filled) in [
            (maps::HISTS, self.per_disk || self.per_flags),
            (maps::ISSUED, needs.issue && !self.queued),
            (maps::SUBMITTED, self.queued),
        ] {
            if !is_filled {
                bpf.entries(map, 1)?;
            }
        }
        let other = if self.queued { hooks::ISSUE } else { hooks::THROTTLE };
        let (hooks, note) = needs.hooks(self.disk.as_ref(), bpf.kernel(), &[other]);
        note.into_iter().for_each(|note: String| bpf.note(note));
        let tracing = bpf.attach(hooks)?;
        tracing.banner("Tracing block I/O, until Ctrl-C.");
        let unit = self.hist.unit();
        let ios = Ios { args: self, intervals: Intervals::new(), disks: Disks::default(), flag_names };
        tracing.histograms(ios, unit, u32::MAX)
    }
}
