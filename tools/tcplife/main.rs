// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tcplife: print each TCP connection when it ends.

use std::mem::MaybeUninit;

use clap::Parser;
use kscope::Columns;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli::Buffer;
use kscope::cli::CgroupColumn;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::escape::c_bytes;
use kscope::maps;
use kscope::names;
use kscope::net;
use kscope::net::HasEnds;
use kscope::net::Ports;
use kscope::net::SocketColumns;
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

kscope::skeleton!("tcplife");
use types::kscope_ends as Ends;
use types::kscope_place as Place;
use types::tcplife_event as Record;
use types::tcplife_owner as Owner;
use types::tcplife_side as Side;

kscope::records!(Ends: 36, Place: 12, Owner: 32, Record: 120);

kscope::tool!(Tcplife);

/// Who talks to whom over TCP, for how long, and how much?
#[derive(Parser, Debug)]
#[command(mut_arg("timestamps", |a| a.short('T').alias("time")))]
struct Tcplife {
    /// Trace IPv4 only: by what the packets are, also of IPv6 sockets
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Trace IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Trace these local ports only: a list, also of ranges as in 8000-8099
    #[arg(short = 'L', long = "localport", value_name = "PORTS", value_delimiter = ',', value_parser = net::ports)]
    local_ports: Vec<Ports>,
    /// Trace these remote ports only
    #[arg(short = 'D', long = "remoteport", value_name = "PORTS", value_delimiter = ',', value_parser = net::ports)]
    remote_ports: Vec<Ports>,
    /// Print wide columns, which IPv6 addresses fit in
    #[arg(short, long)]
    wide: bool,
    /// Follow at most so many connections at a time
    #[arg(long, value_name = "N", default_value = "16384")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 22))]
    connections: u32,
    #[command(flatten)]
    columns: SocketColumns,
    #[command(flatten)]
    cgroup: CgroupColumn,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    buffer: Buffer,
    #[command(flatten)]
    common: Common,
}

/// A connection that has ended.
struct Connection {
    time: Wall,
    record: Record,
    cgroup: Vec<u8>,
}

impl Connection {
    fn of_owner<'a>(&'a self, value: Value<'a>) -> Value<'a> {
        if self.record.owner.tgid == 0 { Value::Null } else { value }
    }

    fn side(&self) -> Value<'_> {
        match Side(self.record.side.into()) {
            Side::TCPLIFE_CONNECTED => Value::Text("connected"),
            Side::TCPLIFE_ACCEPTED => Value::Text("accepted"),
            _ => Value::Null,
        }
    }

    fn duration(&self, unit_ns: f64, decimals: usize) -> Value<'_> {
        match self.record.duration_ns {
            0 => Value::Null,
            ns => Value::Float(ns as f64 / unit_ns, decimals),
        }
    }
}

fn kib(bytes: u64) -> Value<'static> {
    Value::Float(bytes as f64 / 1024.0, 2)
}

kscope::has_ends!(Connection, record);

impl Row for Connection {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When it ended", |r: &Self| Value::Time(r.time)).column("TIME", 9),
        Field::new("pid", Kind::Uint, "Id of the process that owns it", |r: &Self| {
            r.of_owner(Value::Uint(r.record.owner.tgid.into()))
        })
        .nullable()
        .column("PID", 7),
        Field::new("comm", Kind::Bytes, "Name of the owner's thread", |r: &Self| {
            r.of_owner(Value::Bytes(c_bytes(&r.record.owner.comm)))
        })
        .nullable()
        .column("COMM", 11),
        Field::new("uid", Kind::Uint, "User id of the owner", |r: &Self| {
            r.of_owner(Value::Uint(r.record.owner.uid.into()))
        })
        .nullable(),
        Field::cgroup(|r: &Self| r.of_owner(Value::known(&r.cgroup))).nullable(),
        Field::new("side", Kind::Text, "connected, or accepted", Self::side).nullable(),
        Field::new("ip_version", Kind::Uint, "4 or 6, as its packets are", Self::ip_version).nullable(),
        Field::local_address(),
        Field::local_column("LADDR"),
        Field::local_port("LPORT", "Port on this host"),
        Field::remote_address(),
        Field::remote_column("RADDR"),
        Field::remote_port("RPORT"),
        Field::table_only("TX_KB", 6, "KiB that the other side acknowledged", |r: &Self| kib(r.record.sent)),
        Field::table_only("RX_KB", 6, "KiB received", |r: &Self| kib(r.record.received)),
        Field::new("sent_bytes", Kind::Uint, "Bytes of data that the other side acknowledged", |r: &Self| {
            Value::Uint(r.record.sent)
        }),
        Field::new("received_bytes", Kind::Uint, "Bytes of data received", |r: &Self| {
            Value::Uint(r.record.received)
        }),
        Field::table_only("MS", 10, "Milliseconds from the establishment to the end", |r: &Self| {
            r.duration(1e6, 2)
        }),
        Field::new(
            "duration_us",
            Kind::Float,
            "Microseconds from the establishment to the end; null if it began before the tool",
            |r: &Self| r.duration(1e3, 3),
        )
        .nullable(),
        Field::netns(),
        Field::scope(),
        Field::mptcp_token(),
    ];
}

impl Trace for Tcplife {
    const NAME: &'static str = "tcplife";
    const SUBSYSTEM: &'static str = "network";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Connection>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let mut storage = MaybeUninit::uninit();
        let kernel = Kernel::new()?;
        let mut open = session::open(TcplifeSkelBuilder::default(), &mut storage, &self.common)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.ip_version = if self.ipv4 { 4 } else { u8::from(self.ipv6) * 6 };
            rodata.uring_complete_has_cqe = kernel.tracepoint_arg_is_pointer("io_uring_complete", 2);
            let (local, remote) = (&mut rodata.local_ports, &mut rodata.remote_ports);
            net::set_ports(&mut local.bits, &mut local.some, &self.local_ports);
            net::set_ports(&mut remote.bits, &mut remote.some, &self.remote_ports);
        }
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        session::set_max_entries(open.open_object_mut(), "connections", self.connections)?;
        // Of these there are few, and a filter's are lost where they find no room.
        session::set_max_entries(open.open_object_mut(), "unowned", (self.connections / 4).max(1024))?;
        let taken = Hooks::new()
            .with_pointer("io_uring_complete", 1)
            .optional(
                &["uring_accept"],
                "the owner of a connection that io_uring accepts into a slot of a ring is known only if it closes it \
                 itself",
            )
            .choose(open.open_object_mut(), &kernel)?;
        drop(kernel);
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;

        let columns = self.columns();
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        let mut print = |record: Record, out: &mut Out| {
            let (time, cgroup) = (out.clock().wall(record.time_ns), cgroups.path(record.owner.cgroup));
            out.row(&columns, &Connection { time, record, cgroup })
        };
        session.stream(&skeleton.maps.events, |bytes, out| {
            let (record, _) = kscope::record::<Record>(bytes)?;
            Ok(print(record, out)?)
        })?;
        // Nobody has closed these, so that they are nobody's that was asked for.
        if self.filter.is_empty() {
            let mut unowned = maps::entries::<u64, Record>(&skeleton.maps.unowned)?;
            unowned.sort_by_key(|(_, record)| record.time_ns);
            for (_, record) in unowned {
                session.out().found();
                print(record, session.out())?;
            }
        }
        Ok(session.finish()?)
    }
}

impl Tcplife {
    fn columns(&self) -> Columns<Connection> {
        let mut titles = vec!["PID", "COMM", "LADDR", "LPORT", "RADDR", "RPORT", "TX_KB", "RX_KB", "MS"];
        titles.extend(self.common.timestamps.map(|_| "TIME"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        titles.extend(self.columns.titles());
        let columns = Columns::new(&titles);
        if self.wide { columns.widened(&["COMM"], 17).widened(&["LADDR", "RADDR"], 27) } else { columns }
    }
}
