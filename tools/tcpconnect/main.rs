// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tcpconnect: print each TCP connect with its result.

use counts::Sums;
use kscope::hooks::Way;
use kscope::net;
use kscope::net::Ports;
use kscope::net::SocketColumns;
use kscope::options::Interval;
use kscope::options::Metrics;
use kscope::pinned::PinnedMaps;
use kscope::prelude::*;
use row::Connect;
use row::Count;

mod counts;
mod row;

kscope::bpf!("tcpconnect");
use bpf::hooks;
use bpf::maps;
use bpf::types::tcpconnect_count as Sum;
use bpf::types::tcpconnect_event as Event;
use bpf::types::tcpconnect_key as Key;

/// At most this many pairs of ends are counted between two readings.
const COUNTS_MAX: u32 = 16_384;

kscope::tool!(Tcpconnect);

/// Who connects to where over TCP, and which connects fail?
#[derive(Parser, Debug)]
#[command(mut_arg("timestamps", |a| a.short('t').alias("timestamp")))]
#[command(mut_arg("uid", |a| a.short('u')))]
struct Tcpconnect {
    /// Count connects by their addresses and remote port; so it is anyway where metrics are asked for
    #[arg(short = 'c', long = "count")]
    counts: bool,
    #[command(flatten)]
    uid: UidColumn,
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
    shared: Snoop,
}

impl Tool for Tcpconnect {
    const INFO: Info = Info::new("tcpconnect", Subsystem::Network);
    type Bpf = bpf::Object;
    type Rows = (Connect, Count);

    fn shared(&self) -> Shared<'_> {
        let shared = Shared::from(&self.shared).uid(&self.uid);
        shared.interval(&self.interval).metrics(&self.metrics).pinned(&self.pinned)
    }

    fn begin(&mut self) -> anyhow::Result<Begin> {
        if self.interval.interval.is_some() && !self.is_counting() {
            Err(Error::Usage("an interval has a meaning with -c only".into()))?;
        }
        Ok(Begin::Trace)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.show(&[Connect::NETNS], self.columns.print_netns);
        bpf.show(&[Connect::MPTCP], self.columns.print_mptcp);
        bpf.show(&[Connect::SPORT, Count::LPORT], self.source_port);
        let rodata = bpf.rodata();
        rodata.ip_version = if self.ipv4 { 4 } else { u8::from(self.ipv6) * 6 };
        rodata.counting = self.is_counting();
        rodata.count_local_ports = self.source_port;
        rodata.sent_only = self.sent_only;
        let ports = &mut rodata.remote_ports;
        net::set_ports(&mut ports.bits, &mut ports.some, &self.ports);
        bpf.turns_entries(if self.is_counting() { COUNTS_MAX } else { 1 })?;
        // The other ways of this hook are run at the end of every system call of every process.
        let hooks = Hooks::new().prefer(hooks::REFUSED, Way::Fentry);
        let hooks = if self.sent_only { hooks.without(&[hooks::REFUSED, hooks::DESTROY]) } else { hooks };
        let tracing = bpf.attach(hooks)?;
        if self.is_counting() { count(tracing) } else { stream(tracing) }
    }
}

impl Tcpconnect {
    fn is_counting(&self) -> bool {
        self.counts || self.metrics.is_asked_for()
    }
}

fn stream(mut tracing: Tracing<'_, bpf::Object>) -> anyhow::Result<Done> {
    tracing.events::<Connect, _>(|event: &Event, _, out| {
        let row = Connect::new(event, out);
        Ok(out.row(&row)?)
    })?;
    let mut pending = tracing.entries::<u64, Event>(maps::ATTEMPTS)?;
    pending.sort_by_key(|(_, event)| event.task.time_ns);
    for (_, event) in pending {
        let row = Connect::new(&event, tracing.out());
        tracing.out().found();
        tracing.out().row(&row)?;
    }
    tracing.finish()
}

fn count(mut tracing: Tracing<'_, bpf::Object>) -> anyhow::Result<Done> {
    tracing.banner("Counting connects, until Ctrl-C.");
    let mut sums = Sums::default();
    tracing.intervals(|from, out| {
        let counted = from.turns::<Key, Sum>()?;
        out.export(|to| counted.iter().for_each(|(key, sum)| row::export(to, key, sum)));
        counted.into_iter().for_each(|(key, sum)| sums.add(key, sum));
        if !out.is_due() {
            return Ok(());
        }
        out.interval_time()?;
        let time = Wall::now();
        let mut rows: Vec<Count> = sums.take().map(|(key, sum)| Count::new(time, &key, &sum)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.connects));
        Ok(out.table(&rows)?)
    })?;
    tracing.finish()
}
