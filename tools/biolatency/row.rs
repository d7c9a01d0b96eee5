// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The histograms of biolatency.

use std::collections::BTreeMap;

use kscope::block;
use kscope::block::FlagNames;
use kscope::disks::Disks;
use kscope::hist::Hist;
use kscope::hist::IntervalEnd;
use kscope::hist::Measured;
use kscope::intervals::Intervals;
use kscope::metrics::Family;
use kscope::prelude::*;
use kscope::tool::Histograms;
use kscope::tool::Measures;

use super::Biolatency;
use super::bpf;
use super::bpf::maps;
use super::bpf::types::biolatency_key as Key;
use super::bpf::types::kscope_hist as KernelHist;

/// A histogram of one interval.
#[derive(Row)]
#[row(type = "histogram")]
pub struct Latency {
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
pub type Id = (u32, u32, u32);

/// By `enum biolatency_layer` of biolatency.h.
const LAYERS: [&str; 3] = ["request", "stacked", "bio"];

fn layer((_, _, layer): &Id) -> &'static str {
    LAYERS.get(*layer as usize).copied().unwrap_or_default()
}

/// The I/Os, by what histograms are told apart by.
pub struct Ios {
    /// What was asked for.
    pub args: Biolatency,
    /// The kernel's counts as they were.
    pub intervals: Intervals<Id, Hist>,
    /// Names of disks.
    pub disks: Disks,
    /// Names of operations.
    pub flag_names: FlagNames,
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
