// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tcpconnect: print each TCP connect with its result.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;

use clap::Parser;
use kscope::Columns;
use kscope::Error;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli::Buffer;
use kscope::cli::CgroupColumn;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::cli::Interval;
use kscope::escape::c_bytes;
use kscope::maps;
use kscope::names;
use kscope::net;
use kscope::net::HasEnds;
use kscope::net::Ports;
use kscope::out::Out;
use kscope::pinned::PinnedMaps;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("tcpconnect");
use types::kscope_ends as Ends;
use types::tcpconnect_count as Sum;
use types::tcpconnect_event as Record;
use types::tcpconnect_result as Outcome;

kscope::records!(Ends: 36, Sum: 16, Record: 96);

kscope::tool!(Tcpconnect);

/// Who connects to where over TCP, and which connects fail?
#[derive(Parser, Debug)]
#[command(mut_arg("timestamps", |a| a.short('t').alias("timestamp")))]
#[command(mut_arg("uid", |a| a.short('u')))]
struct Tcpconnect {
    /// Count connects by their addresses and remote port
    #[arg(short = 'c', long = "count")]
    counts: bool,
    /// Print the user id
    #[arg(short = 'U', long)]
    print_uid: bool,
    /// Print the local port; with -c, count by it too
    #[arg(short = 's', long, visible_short_alias = 'L', visible_alias = "lport")]
    source_port: bool,
    /// Trace these remote ports only: a list, also of ranges as in 8000-8099
    #[arg(short = 'P', long = "port", value_name = "PORTS", value_delimiter = ',', value_parser = net::ports)]
    ports: Vec<Ports>,
    /// Leave out connects that fail before anything is sent: on a kernel that refuses fexit programs, to see them
    /// costs every system call of every process some time
    #[arg(long)]
    sent_only: bool,
    /// Trace IPv4 only: by what the packets are, also of IPv6 sockets
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Trace IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,
    #[command(flatten)]
    interval: Interval,
    #[command(flatten)]
    pinned: PinnedMaps,
    #[command(flatten)]
    cgroup: CgroupColumn,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    buffer: Buffer,
    #[command(flatten)]
    common: Common,
}

/// A connect, when its result is known.
struct Connect {
    time: Wall,
    record: Record,
    cgroup: Vec<u8>,
}

impl Connect {
    fn result(&self) -> &'static str {
        match Outcome(self.record.result.into()) {
            Outcome::TCPCONNECT_CONNECTED => "connected",
            Outcome::TCPCONNECT_FAILED => "failed",
            Outcome::TCPCONNECT_ABANDONED => "abandoned",
            _ => "pending",
        }
    }

    fn error_or<'a>(&'a self, otherwise: Value<'a>) -> Value<'a> {
        let error = self.record.error.cast_signed();
        if error == 0 { otherwise } else { Value::String(names::errno(error)) }
    }

    fn latency(&self, unit_ns: f64) -> Value<'_> {
        let ns = self.record.latency_ns as f64;
        if ns == 0.0 { Value::Null } else { Value::Float(ns / unit_ns, 3) }
    }
}

kscope::has_ends!(Connect, record.ends);

impl Row for Connect {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When its result was known", |r: &Self| Value::Time(r.time))
            .column("TIME", 9),
        Field::new("uid", Kind::Uint, "User id", |r: &Self| Value::Uint(r.record.uid.into()))
            .column("UID", 6),
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.record.tgid.into()))
            .column("PID", 7),
        Field::new("tid", Kind::Uint, "Thread id", |r: &Self| Value::Uint(r.record.tid.into())),
        Field::new("comm", Kind::Bytes, "Name of the thread", |r: &Self| {
            Value::Bytes(c_bytes(&r.record.comm))
        })
        .column("COMM", 11),
        Field::cgroup(|r: &Self| Value::Bytes(&r.cgroup)),
        Field::new("ip_version", Kind::Uint, "4 or 6, as its packets are", Self::ip_version)
            .nullable()
            .column("IP", 3),
        Field::new("local_address", Kind::Text, "Address on this host", Self::local_address)
            .nullable()
            .column("SADDR", 16),
        Field::new("local_port", Kind::Uint, "Port on this host", Self::local_port)
            .nullable()
            .column("SPORT", 6),
        Field::new("remote_address", Kind::Text, "Address of the other side", Self::remote_address)
            .nullable()
            .column("DADDR", 16),
        Field::new("remote_port", Kind::Uint, "Port of the other side", Self::remote_port)
            .nullable()
            .column("DPORT", 6),
        Field::table_only("MS", 7, "Milliseconds to the answer", |r: &Self| r.latency(1e6)),
        Field::table_only("RESULT", 0, "The error, or what became of it", |r: &Self| {
            r.error_or(Value::Text(r.result()))
        }),
        Field::new("result", Kind::Text, "connected, failed, abandoned or pending", |r: &Self| {
            Value::Text(r.result())
        }),
        Field::new("errno", Kind::Uint, "Error number, or 0", |r: &Self| Value::Uint(r.record.error.into())),
        Field::new("error", Kind::Text, "Name of the error", |r: &Self| r.error_or(Value::Null)).nullable(),
        Field::new(
            "latency_us",
            Kind::Float,
            "Microseconds from the first packet to the answer; null if there was none",
            |r: &Self| r.latency(1e3),
        )
        .nullable(),
    ];
}

/// The connects of one interval between two ends.
struct Count {
    time: Wall,
    ends: Ends,
    connects: u64,
    failed: u64,
}

kscope::has_ends!(Count, ends);

impl Row for Count {
    const TYPE: &'static str = "row";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "The interval's end", |r: &Self| Value::Time(r.time)),
        Field::new("local_address", Kind::Text, "Address on this host", Self::local_address)
            .nullable()
            .column("LADDR", 16),
        Field::new("local_port", Kind::Uint, "With -s: port on this host", Self::local_port)
            .nullable()
            .column("LPORT", 6),
        Field::new("remote_address", Kind::Text, "Address of the other side", Self::remote_address)
            .nullable()
            .column("RADDR", 16),
        Field::new("remote_port", Kind::Uint, "Port of the other side", Self::remote_port)
            .nullable()
            .column("RPORT", 6),
        Field::new("connects", Kind::Uint, "Connects with a result", |r: &Self| Value::Uint(r.connects))
            .column("CONNECTS", 9),
        Field::new("failed", Kind::Uint, "Those that failed", |r: &Self| Value::Uint(r.failed))
            .column("FAILED", 0),
    ];
}

impl Trace for Tcpconnect {
    const NAME: &'static str = "tcpconnect";
    const SUBSYSTEM: &'static str = "network";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Connect>(), RowInfo::of::<Count>()]
    }

    fn run(self) -> anyhow::Result<()> {
        if self.interval.interval.is_some() && !self.counts {
            Err(Error::Usage("an interval has a meaning with -c only".into()))?;
        }
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(TcpconnectSkelBuilder::default(), &mut storage, &self.common)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.ip_version = if self.ipv4 { 4 } else { u8::from(self.ipv6) * 6 };
            rodata.counting = self.counts;
            rodata.count_local_ports = self.source_port;
            rodata.filter_cgroup_map = self.pinned.cgroupmap.is_some();
            rodata.filter_mntns_map = self.pinned.mntnsmap.is_some();
            let ports = &mut rodata.remote_ports;
            net::set_ports(&mut ports.bits, &mut ports.some, &self.ports);
        }
        let pinned = self.pinned.open(open.open_object_mut())?;
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        session::set_max_entries(open.open_object_mut(), "counts", if self.counts { 16384 } else { 1 })?;
        // The other ways of this hook are run at the end of every system call of every process.
        let hooks = Hooks::new().prefer("refused", "fexit");
        let hooks = if self.sent_only { hooks.without(&["refused"]) } else { hooks };
        let taken = hooks.choose(open.open_object_mut(), &Kernel::new()?)?;
        let skeleton = session::load(open)?;
        pinned.put_into(skeleton.object())?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;
        let run = if self.counts { Self::count } else { Self::stream };
        run(&self, &mut session, &skeleton)?;
        Ok(session.finish()?)
    }
}

impl Tcpconnect {
    fn stream(&self, session: &mut Session, skeleton: &TcpconnectSkel<'_>) -> anyhow::Result<()> {
        let mut titles = vec!["PID", "COMM", "IP", "SADDR", "DADDR", "DPORT", "MS", "RESULT"];
        titles.extend(self.common.timestamps.map(|_| "TIME"));
        titles.extend(self.print_uid.then_some("UID"));
        titles.extend(self.source_port.then_some("SPORT"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        let columns = Columns::new(&titles);
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::default();
        let mut print = |record: Record, out: &mut Out| {
            let (time, cgroup) = (out.clock().wall(record.time_ns), cgroups.path(record.cgroup));
            out.row(&columns, &Connect { time, record, cgroup })
        };
        session.stream(&skeleton.maps.events, |bytes, out| {
            let (record, _) = kscope::record::<Record>(bytes)?;
            Ok(print(record, out)?)
        })?;
        let mut pending = maps::entries::<u64, Record>(&skeleton.maps.attempts)?;
        pending.sort_by_key(|(_, record)| record.time_ns);
        for (_, record) in pending {
            session.out().found();
            print(record, session.out())?;
        }
        Ok(())
    }

    fn count(&self, session: &mut Session, skeleton: &TcpconnectSkel<'_>) -> anyhow::Result<()> {
        let mut titles = vec!["LADDR", "RADDR", "RPORT", "CONNECTS", "FAILED"];
        titles.extend(self.source_port.then_some("LPORT"));
        let columns = Columns::new(&titles);
        session.banner("Counting connects, until Ctrl-C.");
        let mut before: BTreeMap<_, Sum> = BTreeMap::new();
        session.intervals(&self.interval, |out| {
            out.interval_time()?;
            let mut rows = Vec::new();
            for (ends, sum) in maps::entries::<Ends, Sum>(&skeleton.maps.counts)? {
                let key = (ends.local, ends.local_port, ends.remote, ends.remote_port);
                let old = before.insert(key, sum).unwrap_or_default();
                let (connects, failed) = (sum.connects - old.connects, sum.failed - old.failed);
                if connects > 0 {
                    rows.push(Count { time: Wall::now(), ends, connects, failed });
                }
            }
            rows.sort_by_key(|row| std::cmp::Reverse(row.connects));
            Ok(out.table(&columns, &rows)?)
        })
    }
}
