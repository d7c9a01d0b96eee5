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
use kscope::cli::Metrics;
use kscope::maps;
use kscope::maps::Turns;
use kscope::names;
use kscope::net;
use kscope::net::Ports;
use kscope::net::SocketColumns;
use kscope::out::Out;
use kscope::pinned::PinnedMaps;
use kscope::row::RowInfo;
use kscope::session;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;
use row::Connect;
use row::Count;

mod row;

kscope::skeleton!("tcpconnect");
use types::kscope_ends as Ends;
use types::kscope_place as Place;
use types::tcpconnect_count as Sum;
use types::tcpconnect_event as Record;
use types::tcpconnect_key as Key;

kscope::growing!(Sum: connects, failed);
kscope::records!(Ends: 36, Place: 12, Key: 68, Sum: 16, Record: 128);

/// At most this many pairs of ends are counted between two readings.
const COUNTS_MAX: u32 = 16_384;
/// At most this many have a row of their own in a summary.
const ROWS_MAX: usize = 65_536;

kscope::tool!(Tcpconnect);

/// Who connects to where over TCP, and which connects fail?
#[derive(Parser, Debug)]
#[command(mut_arg("timestamps", |a| a.short('t').alias("timestamp")))]
#[command(mut_arg("uid", |a| a.short('u')))]
struct Tcpconnect {
    /// Count connects by their addresses and remote port; so it is anyway where metrics are asked for
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
    metrics: Metrics,
    #[command(flatten)]
    pinned: PinnedMaps,
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

/// What was counted since the last summary. Where metrics are exported without an interval, that can be long.
#[derive(Default)]
struct Sums(BTreeMap<Vec<u8>, (Key, Sum)>);

impl Sums {
    fn add(&mut self, key: Key, sum: Sum) {
        let bytes = |key: &Key| {
            let Key { ends, place, asked, asked_port, is_moved, pad: _ } = key;
            let numbers = [ends.local_port, ends.remote_port, *asked_port, (*is_moved).into()];
            let numbers = numbers.iter().flat_map(|number| number.to_ne_bytes());
            let places = [place.netns, place.scope].into_iter().flat_map(u32::to_ne_bytes);
            [ends.local, ends.remote, *asked].into_iter().flatten().chain(numbers).chain(places).collect()
        };
        let mut key = key;
        if self.0.len() >= ROWS_MAX && !self.0.contains_key(&bytes(&key)) {
            key = Key::default();
        }
        let (_, all) = self.0.entry(bytes(&key)).or_insert_with(|| (key, Sum::default()));
        *all = all.plus(sum);
    }

    fn into_rows(self) -> impl Iterator<Item = (Key, Sum)> {
        self.0.into_values()
    }
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
        let exporter = self.metrics.open(Self::NAME)?;
        let counting = self.counts || exporter.is_some();
        if self.interval.interval.is_some() && !counting {
            Err(Error::Usage("an interval has a meaning with -c only".into()))?;
        }
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(TcpconnectSkelBuilder::default(), &mut storage, &self.common)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.ip_version = if self.ipv4 { 4 } else { u8::from(self.ipv6) * 6 };
            rodata.counting = counting;
            rodata.count_local_ports = self.source_port;
            rodata.sent_only = self.sent_only;
            rodata.filter_cgroup_map = self.pinned.cgroupmap.is_some();
            rodata.filter_mntns_map = self.pinned.mntnsmap.is_some();
            let ports = &mut rodata.remote_ports;
            net::set_ports(&mut ports.bits, &mut ports.some, &self.ports);
        }
        let pinned = self.pinned.open(open.open_object_mut())?;
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        for map in ["turn_a", "turn_b"] {
            session::set_max_entries(open.open_object_mut(), map, if counting { COUNTS_MAX } else { 1 })?;
        }
        // The other ways of this hook are run at the end of every system call of every process.
        let hooks = Hooks::new().prefer("refused", "fexit");
        let hooks = if self.sent_only { hooks.without(&["refused", "destroy"]) } else { hooks };
        let taken = hooks.choose(open.open_object_mut(), &Kernel::new()?)?;
        let skeleton = session::load(open)?;
        pinned.put_into(skeleton.object())?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;
        session.export(exporter)?;
        let run = if counting { Self::count } else { Self::stream };
        run(&self, &mut session, &skeleton)?;
        Ok(session.finish()?)
    }
}

impl Tcpconnect {
    fn stream(&self, session: &mut Session, skeleton: &TcpconnectSkel<'_>) -> anyhow::Result<()> {
        let mut titles = vec!["PID", "COMM", "IP", "SADDR", "DADDR", "DPORT", "MS", "RESULT", "ASKED"];
        titles.extend(self.common.timestamps.map(|_| "TIME"));
        titles.extend(self.print_uid.then_some("UID"));
        titles.extend(self.source_port.then_some("SPORT"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        titles.extend(self.columns.titles());
        let columns = Columns::new(&titles);
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
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
        let mut titles = vec!["LADDR", "RADDR", "RPORT", "CONNECTS", "FAILED", "ASKED"];
        titles.extend(self.source_port.then_some("LPORT"));
        titles.extend(self.columns.print_netns.then_some("NETNS"));
        let columns = Columns::new(&titles);
        session.banner("Counting connects, until Ctrl-C.");
        let maps = &skeleton.maps;
        let mut turns = Turns::new(&maps.turn, &maps.turn_a, &maps.turn_b);
        let mut sums = Sums::default();
        session.intervals(&self.interval, |out| {
            let counted = turns.take::<Key, Sum>()?;
            out.export(|to| counted.iter().for_each(|(key, sum)| row::export(to, key, sum)));
            counted.into_iter().for_each(|(key, sum)| sums.add(key, sum));
            if !out.is_due() {
                return Ok(());
            }
            out.interval_time()?;
            let time = Wall::now();
            let row =
                |(key, sum): (Key, Sum)| Count { time, key, connects: sum.connects, failed: sum.failed };
            let mut rows: Vec<Count> = std::mem::take(&mut sums).into_rows().map(row).collect();
            rows.sort_by_key(|row| std::cmp::Reverse(row.connects));
            Ok(out.table(&columns, &rows)?)
        })
    }
}
