// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biotop: show who uses the disks most.

use std::cmp::Reverse;

use clap::ValueEnum;
use kscope::block::FlagNames;
use kscope::block::Layout;
use kscope::block::Needs;
use kscope::disks::Disk;
use kscope::disks::Disks;
use kscope::options::Common;
use kscope::options::Filter;
use kscope::options::Interval;
use kscope::options::Metrics;
use kscope::prelude::*;
use row::Usage;

mod row;

kscope::bpf!("biotop");
use bpf::types::biotop_key as Key;
use bpf::types::biotop_value as Counts;

kscope::tool!(Biotop);

/// Who uses the disks most?
#[derive(Parser, Debug)]
#[command(mut_arg("cgroup", |a| a.short('c')))]
#[command(mut_arg("interval", |a| a.default_value("1").help("Show the table each so many seconds")))]
#[command(mut_arg("count", |a| a.help("Stop after so many tables")))]
struct Biotop {
    /// Append each table to the last one, rather than refresh the screen; so it is anyway where stdout is no terminal
    #[arg(short = 'C', long = "noclear")]
    append: bool,
    /// Show so many rows at most [default: 20; with --json, all]
    #[arg(short, long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    /// What the order goes by
    #[arg(short, long, value_name = "SORT", value_enum, default_value = "all")]
    sort: Sort,
    /// Show I/O of this disk only
    #[arg(short, long, value_name = "DISK", value_parser = Disk::by_name)]
    disk: Option<Disk>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    interval: Interval,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Bytes; where these are equal, I/Os, and then time
    All,
    /// I/Os
    Io,
    /// Bytes
    Bytes,
    /// Total time that the I/Os took
    Time,
}

impl Sort {
    fn order(self, row: &Usage) -> Reverse<[u64; 3]> {
        let Usage { ios, size_bytes: bytes, total_us: Micros(ns), .. } = row;
        Reverse(match self {
            Self::All | Self::Bytes => [*bytes, *ios, *ns],
            Self::Io => [*ios, *bytes, *ns],
            Self::Time => [*ns, *bytes, *ios],
        })
    }
}

impl Tool for Biotop {
    const INFO: Info = Info::new("biotop", Subsystem::BlockIo);
    type Bpf = bpf::Object;
    type Rows = (Usage,);

    fn shared(&self) -> Shared<'_> {
        Shared::of(&self.common).filter(&self.filter).interval(&self.interval).metrics(&self.metrics)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        let needs = Needs::of(self.disk.as_ref(), false);
        let (layout, flag_names) = (Layout::of(bpf.kernel()), FlagNames::new(bpf.kernel()));
        kscope::set_block!(bpf.rodata(), &layout, &self.disk);
        bpf.rodata().follow_bios = needs.bios;
        needs.size_maps(bpf.object())?;
        let (hooks, _) = needs.hooks(self.disk.as_ref(), bpf.kernel(), &[]);
        let mut disks = Disks::default();
        bpf.attach(hooks)?.top(self.append, self.rows.map(|rows| rows as usize), |end, from, out| {
            let row = |(key, counts): &(Key, Counts)| {
                let layer = layout.layer(key.dev, key.is_bio != 0);
                Usage::new(end, key, counts, disks.name(key.dev), layer, flag_names.op(key.op))
            };
            let mut rows: Vec<Usage> = from.turns()?.iter().map(row).collect();
            out.export(|to| rows.iter().for_each(|row| row.export(to)));
            rows.sort_by_key(|row| (self.sort.order(row), row.submitter()));
            Ok(rows)
        })
    }
}
