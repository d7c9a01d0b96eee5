// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tcplife: print each TCP connection when it ends.

use kscope::net;
use kscope::net::Ports;
use kscope::net::SocketColumns;
use kscope::prelude::*;
use row::Connection;

mod row;

kscope::bpf!("tcplife");
use bpf::hooks;
use bpf::maps;
use bpf::types::tcplife_event as Event;

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
    shared: Snoop,
}

impl Tool for Tcplife {
    const INFO: Info = Info::new("tcplife", Subsystem::Network);
    type Bpf = bpf::Object;
    type Rows = (Connection,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.show(&[Connection::NETNS], self.columns.print_netns);
        bpf.show(&[Connection::MPTCP], self.columns.print_mptcp);
        if self.wide {
            bpf.widen(&["COMM"], 17);
            bpf.widen(&["LADDR", "RADDR"], 27);
        }
        let has_cqe = bpf.kernel().tracepoint_arg_is_pointer("io_uring_complete", 2);
        let rodata = bpf.rodata();
        rodata.ip_version = if self.ipv4 { 4 } else { u8::from(self.ipv6) * 6 };
        rodata.uring_complete_has_cqe = has_cqe;
        let (local, remote) = (&mut rodata.local_ports, &mut rodata.remote_ports);
        net::set_ports(&mut local.bits, &mut local.some, &self.local_ports);
        net::set_ports(&mut remote.bits, &mut remote.some, &self.remote_ports);
        bpf.entries(maps::CONNECTIONS, self.connections)?;
        // Of these there are few, and a filter's are lost where they find no room.
        bpf.entries(maps::UNOWNED, (self.connections / 4).max(1024))?;
        let hooks = Hooks::new().with_pointer("io_uring_complete", 1).optional(
            &[hooks::URING_ACCEPT],
            "the owner of a connection that io_uring accepts into a slot of a ring is known only if it closes it \
             itself",
        );
        let mut tracing = bpf.attach(hooks)?;
        tracing.events::<Connection, _>(|event: &Event, _, out| {
            let row = Connection::new(event, out);
            Ok(out.row(&row)?)
        })?;
        // Nobody has closed these, so that they are nobody's that was asked for.
        if self.shared.filter.is_empty() {
            let mut unowned = tracing.entries::<u64, Event>(maps::UNOWNED)?;
            unowned.sort_by_key(|(_, event)| event.task.time_ns);
            for (_, event) in unowned {
                let row = Connection::new(&event, tracing.out());
                tracing.out().found();
                tracing.out().row(&row)?;
            }
        }
        tracing.finish()
    }
}
