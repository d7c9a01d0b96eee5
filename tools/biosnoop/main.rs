// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biosnoop: print each block I/O.

use std::mem::MaybeUninit;
use std::time::Duration;

use clap::Parser;
use kscope::Columns;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::block;
use kscope::block::FlagNames;
use kscope::block::Layout;
use kscope::block::Needs;
use kscope::cli;
use kscope::cli::Buffer;
use kscope::cli::CgroupColumn;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::escape::c_bytes;
use kscope::names;
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

kscope::skeleton!("biosnoop");
use types::biosnoop_event as Record;

kscope::records!(Record: 96);

kscope::tool!(Biosnoop);

/// Which block I/O is done, for whom, and how long does each take?
#[derive(Parser, Debug)]
#[command(mut_arg("cgroup", |a| a.short('c')))]
#[command(mut_arg("timestamps", |a| a.short('t').alias("timestamp")))]
struct Biosnoop {
    /// Print also how long each I/O was in the queue, from its submission to its issue to the device
    #[arg(short = 'Q', long)]
    queued: bool,
    /// Print I/O of this disk only
    #[arg(short, long, value_name = "DISK", value_parser = Disk::by_name)]
    disk: Option<Disk>,
    /// Print I/O that took the device at least so many milliseconds, or a time with a unit as in 500us, 10ms, 2s
    #[arg(short, long, value_name = "MIN", value_parser = cli::milliseconds)]
    min: Option<Duration>,
    /// Print the user id
    #[arg(short = 'U', long = "print-uid")]
    print_uid: bool,
    #[command(flatten)]
    cgroup: CgroupColumn,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    buffer: Buffer,
    #[command(flatten)]
    common: Common,
}

/// One I/O that has ended.
struct Io {
    time: Wall,
    record: Record,
    disk: String,
    layer: &'static str,
    flags: String,
    cgroup: Vec<u8>,
}

impl Io {
    /// A fact about who submitted it.
    fn known<'a>(&self, value: Value<'a>) -> Value<'a> {
        if self.record.tgid != 0 { value } else { Value::Null }
    }

    fn queue_us(&self) -> Option<f64> {
        (self.record.has_queue_time != 0).then_some(self.record.queue_ns as f64 / 1e3)
    }

    fn device_us(&self) -> Option<f64> {
        (self.record.has_device_time != 0).then_some(self.record.device_ns as f64 / 1e3)
    }

    /// As in `3`; or `2+1` where one of the three is of another process.
    fn bios(&self) -> Value<'_> {
        let Record { bios, others, .. } = self.record;
        match others {
            0 => Value::Uint(bios.into()),
            _ => Value::String(format!("{}+{others}", bios.saturating_sub(others))),
        }
    }
}

fn or_null<'a>(time: Option<f64>, value: impl FnOnce(f64) -> Value<'a>) -> Value<'a> {
    time.map_or(Value::Null, value)
}

impl Row for Io {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When it ended", |r: &Self| Value::Time(r.time)).column("TIME", 9),
        Field::new("uid", Kind::Uint, "User id of who submitted it; null if not known", |r: &Self| {
            r.known(Value::Uint(r.record.uid.into()))
        })
        .nullable()
        .column("UID", 7),
        Field::new(
            "comm",
            Kind::Bytes,
            "Name of the thread that submitted it; null if not known",
            |r: &Self| r.known(Value::Bytes(c_bytes(&r.record.comm))),
        )
        .nullable()
        .column("COMM", 16),
        Field::new("pid", Kind::Uint, "Process that submitted it; null if not known", |r: &Self| {
            r.known(Value::Uint(r.record.tgid.into()))
        })
        .nullable()
        .column("PID", 8),
        Field::new("tid", Kind::Uint, "Thread that submitted it; null if not known", |r: &Self| {
            r.known(Value::Uint(r.record.tid.into()))
        })
        .nullable(),
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::new("disk", Kind::Text, "Disk", |r: &Self| Value::Text(&r.disk)).column("DISK", 8),
        Field::new("layer", Kind::Text, block::LAYERS, |r: &Self| Value::Text(r.layer)),
        Field::new("sector", Kind::Uint, "Where on the disk it begins, in units of 512 bytes", |r: &Self| {
            Value::Uint(r.record.sector)
        })
        .column("SECTOR", 11),
        Field::new("size_bytes", Kind::Uint, "How much", |r: &Self| Value::Uint(r.record.bytes.into()))
            .column("BYTES", 8),
        Field::new(
            "bios",
            Kind::Uint,
            "How many bios were merged into it; of a flush, how many requests wait for it",
            |r: &Self| Value::Uint(r.record.bios.into()),
        ),
        Field::new(
            "bios_of_others",
            Kind::Uint,
            "How many of these other processes submitted",
            |r: &Self| Value::Uint(r.record.others.into()),
        ),
        Field::table_only(
            "BIOS",
            5,
            "Bios merged into it; as 2+1 where one is of another process",
            Self::bios,
        ),
        Field::new(
            "partial",
            Kind::Bool,
            "Whether the device did a part of a request, and will be given the rest again",
            |r: &Self| Value::Bool(r.record.is_part != 0),
        ),
        Field::new(
            "queue_us",
            Kind::Float,
            "From the submission to the issue to the device, in microseconds; null if not known",
            |r: &Self| or_null(r.queue_us(), |us| Value::Float(us, 3)),
        )
        .nullable(),
        Field::table_only("QUE(ms)", 9, "From the submission to the issue, in milliseconds", |r: &Self| {
            or_null(r.queue_us(), |us| Value::Float(us / 1e3, 3))
        }),
        Field::new(
            "device_us",
            Kind::Float,
            "From the issue to the end, in microseconds; of a bio, from its submission; null if not known",
            |r: &Self| or_null(r.device_us(), |us| Value::Float(us, 3)),
        )
        .nullable(),
        Field::table_only("LAT(ms)", 8, "From the issue to the end, in milliseconds", |r: &Self| {
            or_null(r.device_us(), |us| Value::Float(us / 1e3, 3))
        }),
        Field::new("error", Kind::Text, "The error of one that failed, or null", |r: &Self| {
            block::error(r.record.status).map_or(Value::Null, Value::String)
        })
        .nullable(),
        Field::new(
            "flags",
            Kind::Text,
            "The operation and its flags, as the kernel names them",
            |r: &Self| Value::Text(&r.flags),
        ),
        Field::table_only("FLAGS", 0, "The same, and behind it the error of one that failed", |r: &Self| {
            let error = block::error(r.record.status).map(|error| format!(" {error}"));
            Value::String(r.flags.clone() + &error.unwrap_or_default())
        }),
    ];
}

impl Trace for Biosnoop {
    const NAME: &'static str = "biosnoop";
    const SUBSYSTEM: &'static str = "block I/O";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Io>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(BiosnoopSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let json = self.common.json;
        let queued = json || self.queued;
        let needs = Needs::of(self.disk.as_ref(), queued);
        let layout = Layout::of(&kernel);
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            kscope::set_block!(rodata, &layout, &self.disk);
            rodata.min_ns = self.min.map_or(0, |min| u64::try_from(min.as_nanos()).unwrap_or(u64::MAX));
            rodata.want_queue_time = queued;
            rodata.want_uid = json || self.print_uid;
            rodata.want_cgroup = json || self.cgroup.print_cgroup;
            rodata.follow_bios = needs.bios;
        }
        needs.size_maps(open.open_object_mut())?;
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        let (hooks, note) = needs.hooks(self.disk.as_ref(), &kernel, &[]);
        let mut taken = hooks.choose(open.open_object_mut(), &kernel)?;
        taken.notes.extend(note);
        let flag_names = FlagNames::new(&kernel);
        drop(kernel);
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;

        let columns = self.columns();
        session.out().header(&columns)?;
        let mut disks = Disks::default();
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        session.stream(&skeleton.maps.events, |bytes, out| {
            let (record, _) = kscope::record::<Record>(bytes)?;
            let io = Io {
                time: out.clock().wall(record.time_ns),
                disk: disks.name(record.dev),
                layer: layout.layer(record.dev, record.is_bio != 0),
                flags: flag_names.text(record.cmd_flags),
                cgroup: cgroups.path(record.cgroup),
                record,
            };
            Ok(out.row(&columns, &io)?)
        })?;
        Ok(session.finish()?)
    }
}

impl Biosnoop {
    fn columns(&self) -> Columns<Io> {
        let mut titles = vec!["COMM", "PID", "DISK", "SECTOR", "BYTES", "BIOS", "LAT(ms)", "FLAGS"];
        titles.extend(self.common.timestamps.map(|_| "TIME"));
        titles.extend(self.queued.then_some("QUE(ms)"));
        titles.extend(self.print_uid.then_some("UID"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        Columns::new(&titles)
    }
}
