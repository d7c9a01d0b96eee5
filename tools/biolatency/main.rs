// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biolatency: summarise how long block I/O takes.

use kscope::block::FlagNames;
use kscope::block::Layout;
use kscope::block::Needs;
use kscope::disks::Disk;
use kscope::disks::Disks;
use kscope::hist::HistArgs;
use kscope::intervals::Intervals;
use kscope::options::BlockCgroup;
use kscope::options::Common;
use kscope::options::Interval;
use kscope::options::Metrics;
use kscope::prelude::*;
use row::Ios;
use row::Latency;

mod row;

kscope::bpf!("biolatency");
use bpf::hooks;
use bpf::maps;

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
