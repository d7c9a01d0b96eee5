// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of tcplife.

use kscope::net::Ends;
use kscope::net::Place;
use kscope::prelude::*;

use super::bpf::types::tcplife_event as Event;
use super::bpf::types::tcplife_side as Side;

/// A connection that has ended.
#[derive(Row)]
#[row(type = "event", table = "TIME? PID COMM CGROUP? LADDR LPORT RADDR RPORT TX_KB RX_KB MS NETNS? MPTCP?")]
pub struct Connection {
    /// When it ended
    #[row(column = "TIME")]
    time: Wall,
    /// Id of the process that owns it
    #[row(column = "PID", width = 7)]
    pid: Option<Pid>,
    /// Name of the owner's thread
    #[row(column = "COMM", width = 11)]
    comm: Option<Comm>,
    /// User id of the owner
    uid: Option<Uid>,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    cgroup: Option<Vec<u8>>,
    /// connected, or accepted
    side: Option<&'static str>,
    /// 4 or 6, as its packets are
    ip_version: Option<u8>,
    #[row(flatten)]
    #[row(also(column = "TX_KB", width = 6, help = "KiB that the other side acknowledged", value = Self::sent))]
    #[row(also(column = "RX_KB", width = 6, help = "KiB received", value = Self::received))]
    ends: Ends,
    /// Bytes of data that the other side acknowledged
    sent_bytes: u64,
    /// Bytes of data received
    #[row(also(
        column = "MS",
        width = 10,
        help = "Milliseconds from the establishment to the end",
        value = Self::duration
    ))]
    received_bytes: u64,
    /// Microseconds from the establishment to the end; null if it began before the tool
    duration_us: Option<Micros>,
    #[row(flatten)]
    place: Place,
}

impl Connection {
    /// Of an event.
    pub fn new(event: &Event, out: &mut Out) -> Self {
        let Task { time, pid, uid, comm, cgroup, .. } = out.task(&event.task);
        let has_owner = pid.0 != 0;
        let ends = event.ends.at(&event.place);
        Self {
            time,
            pid: has_owner.then_some(pid),
            comm: has_owner.then_some(comm),
            uid: has_owner.then_some(uid),
            cgroup: cgroup.filter(|_| has_owner),
            side: match Side(event.side.into()) {
                Side::TCPLIFE_CONNECTED => Some("connected"),
                Side::TCPLIFE_ACCEPTED => Some("accepted"),
                _ => None,
            },
            ip_version: ends.ip_version(),
            ends,
            sent_bytes: event.sent,
            received_bytes: event.received,
            duration_us: (event.duration_ns != 0).then_some(Micros(event.duration_ns)),
            place: event.place.row(),
        }
    }

    fn sent(&self) -> Value<'_> {
        Value::Float(self.sent_bytes as f64 / 1024.0, 2)
    }

    fn received(&self) -> Value<'_> {
        Value::Float(self.received_bytes as f64 / 1024.0, 2)
    }

    fn duration(&self) -> Value<'_> {
        millis(self.duration_us.map(|Micros(ns)| ns), 2)
    }
}
