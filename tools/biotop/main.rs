// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biotop: show who uses the disks most.

use std::cmp::Reverse;
use std::mem::MaybeUninit;
use std::time::Instant;

use clap::Parser;
use clap::ValueEnum;
use kscope::Columns;
use kscope::Kernel;
use kscope::Screen;
use kscope::Session;
use kscope::Trace;
use kscope::block;
use kscope::block::FlagNames;
use kscope::block::Layout;
use kscope::block::Needs;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::cli::Interval;
use kscope::cli::Metrics;
use kscope::escape::c_bytes;
use kscope::maps::Turns;
use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::names::Disk;
use kscope::names::Disks;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("biotop");
use types::biotop_key as Key;
use types::biotop_value as Counts;

kscope::records!(Key: 16, Counts: 48);

kscope::tool!(Biotop);

const IOS: Family = Family::counter("ios", "I/Os that have ended");
const BYTES: Family = Family::counter("moved", "How much I/Os have moved").bytes();
const TIME: Family =
    Family::counter("device_time", "How long I/Os took, each from its issue to its end").seconds();

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

/// What a process did on a disk in an interval.
struct Usage {
    time: Wall,
    interval_s: f64,
    key: Key,
    counts: Counts,
    disk: String,
    layer: &'static str,
    op: String,
}

impl Usage {
    /// A fact about who submitted it.
    fn known<'a>(&self, value: Value<'a>) -> Value<'a> {
        if self.key.tgid != 0 { value } else { Value::Null }
    }

    fn mean_us(&self) -> Option<f64> {
        (self.counts.timed > 0).then(|| self.counts.total_ns as f64 / self.counts.timed as f64 / 1e3)
    }

    fn export(&self, to: &mut Exporter) {
        let Counts { ios, bytes, total_ns, comm, .. } = &self.counts;
        for (family, value) in [(&IOS, ios), (&BYTES, bytes), (&TIME, total_ns)] {
            to.add(family, &[("disk", &self.disk), ("op", &self.op), ("comm", &c_bytes(comm))], *value);
        }
    }

    fn order(&self, by: Sort) -> Reverse<[u64; 3]> {
        let Counts { ios, bytes, total_ns, .. } = self.counts;
        Reverse(match by {
            Sort::All | Sort::Bytes => [bytes, ios, total_ns],
            Sort::Io => [ios, bytes, total_ns],
            Sort::Time => [total_ns, bytes, ios],
        })
    }
}

impl Row for Usage {
    const TYPE: &'static str = "row";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "The interval's end", |r: &Self| Value::Time(r.time)),
        Field::new("interval_s", Kind::Float, "The interval's length in seconds", |r: &Self| {
            Value::Float(r.interval_s, 3)
        }),
        Field::new("pid", Kind::Uint, "Process that submitted it; null if not known", |r: &Self| {
            r.known(Value::Uint(r.key.tgid.into()))
        })
        .nullable()
        .column("PID", 8),
        Field::new(
            "comm",
            Kind::Bytes,
            "Name of its thread that submitted the first I/O of the row; null if not known",
            |r: &Self| r.known(Value::Bytes(c_bytes(&r.counts.comm))),
        )
        .nullable()
        .column("COMM", 17),
        Field::new("disk", Kind::Text, "Disk", |r: &Self| Value::Text(&r.disk)).column("DISK", 9),
        Field::new("layer", Kind::Text, block::LAYERS, |r: &Self| Value::Text(r.layer)),
        Field::new("op", Kind::Text, "The operation, as the kernel names it", |r: &Self| Value::Text(&r.op))
            .column("OP", 9),
        Field::new("ios", Kind::Uint, "I/Os that ended in the interval", |r: &Self| {
            Value::Uint(r.counts.ios)
        })
        .column("I/O", 9),
        Field::new("size_bytes", Kind::Uint, "How much they moved", |r: &Self| Value::Uint(r.counts.bytes)),
        Field::table_only("KiB", 9, "How much they moved", |r: &Self| {
            Value::Float(r.counts.bytes as f64 / 1024.0, 0)
        }),
        Field::new(
            "total_us",
            Kind::Float,
            "How long they took, each from its issue to its end, in microseconds",
            |r: &Self| Value::Float(r.counts.total_ns as f64 / 1e3, 3),
        ),
        Field::new(
            "mean_us",
            Kind::Float,
            "How long one took, of those of which that is known; null if of none",
            |r: &Self| r.mean_us().map_or(Value::Null, |us| Value::Float(us, 3)),
        )
        .nullable(),
        Field::table_only("AVG(ms)", 0, "How long one took", |r: &Self| {
            r.mean_us().map_or(Value::Null, |us| Value::Float(us / 1e3, 3))
        }),
    ];
}

impl Trace for Biotop {
    const NAME: &'static str = "biotop";
    const SUBSYSTEM: &'static str = "block I/O";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Usage>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let exporter = self.metrics.open(Self::NAME)?;
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(BiotopSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let needs = Needs::of(self.disk.as_ref(), false);
        let layout = Layout::of(&kernel);
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            kscope::set_block!(rodata, &layout, &self.disk);
            rodata.follow_bios = needs.bios;
        }
        needs.size_maps(open.open_object_mut())?;
        let (hooks, _) = needs.hooks(self.disk.as_ref(), &kernel, &[]);
        let taken = hooks.choose(open.open_object_mut(), &kernel)?;
        let flag_names = FlagNames::new(&kernel);
        drop(kernel);
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;
        session.export(exporter)?;

        let columns = Columns::new(&["PID", "COMM", "DISK", "OP", "I/O", "KiB", "AVG(ms)"]);
        let mut screen = Screen::new(&self.common, self.append);
        let mut disks = Disks::default();
        let maps = &skeleton.maps;
        let mut turns = Turns::new(&maps.turn, &maps.turn_a, &maps.turn_b);
        let mut since = Instant::now();
        session.intervals(&self.interval, |out| {
            let counted = turns.take::<Key, Counts>()?;
            let interval_s = since.elapsed().as_secs_f64();
            since = Instant::now();
            let time = Wall::now();
            let usage = |(key, counts): (Key, Counts)| {
                let (disk, op) = (disks.name(key.dev), flag_names.op(key.op));
                let layer = layout.layer(key.dev, key.is_bio != 0);
                Usage { time, interval_s, key, counts, disk, layer, op }
            };
            let mut rows: Vec<Usage> = counted.into_iter().map(usage).collect();
            out.export(|to| rows.iter().for_each(|row| row.export(to)));
            rows.sort_by_key(|row| (row.order(self.sort), row.key.tgid));
            Ok(screen.show(out, &columns, &rows, self.rows.map(|rows| rows as usize))?)
        })?;
        Ok(session.finish()?)
    }
}
