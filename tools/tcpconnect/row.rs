// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rows of tcpconnect.

use std::net::SocketAddr;
use std::num::NonZero;

use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::metrics::Label;
use kscope::net;
use kscope::net::Ends;
use kscope::net::Place;
use kscope::prelude::*;

use super::Event;
use super::Key;
use super::Sum;
use super::bpf::types::tcpconnect_result as Outcome;

const CONNECTS: Family = Family::counter("connects", "Connects with a result");
const FAILED: Family = Family::counter("failed_connects", "Connects that failed");

/// Add what was counted between two ends to the metrics.
pub fn export(to: &mut Exporter, key: &Key, sum: &Sum) {
    let ends = &key.ends;
    let (address, port) = (net::address(ends.remote).to_string(), ends.remote_port.to_string());
    let labels: [Label<'_>; 2] = [("remote_address", &address), ("remote_port", &port)];
    to.add(&CONNECTS, &labels, sum.connects);
    to.add(&FAILED, &labels, sum.failed);
}

/// The part of a row that tells what the program asked for, where the kernel made another end of it.
#[derive(Row)]
pub struct Asked {
    /// Address that the program asked for, if that was another end; else null
    asked_address: Option<String>,
    /// The port that goes with asked_address
    asked_port: Option<u16>,
}

impl Asked {
    fn of(end: Option<SocketAddr>) -> Self {
        Self { asked_address: end.map(|end| end.ip().to_string()), asked_port: end.map(|end| end.port()) }
    }
}

fn asked(is_moved: bool, address: [u8; 16], port: u16) -> Option<SocketAddr> {
    is_moved.then(|| SocketAddr::new(net::address(address), port))
}

fn shown(end: Option<SocketAddr>) -> Value<'static> {
    end.map_or(Value::Null, |end| Value::String(end.to_string()))
}

/// A connect, when its result is known.
#[derive(Row)]
#[row(
    type = "event",
    table = "TIME? UID? PID COMM CGROUP? IP SADDR SPORT? DADDR DPORT MS RESULT NETNS? MPTCP? ASKED"
)]
pub struct Connect {
    /// When its result was known
    #[row(column = "TIME")]
    time: Wall,
    /// User id
    #[row(column = "UID", width = 6)]
    uid: Uid,
    /// Process id
    #[row(column = "PID", width = 7)]
    pid: Pid,
    /// Thread id
    tid: Tid,
    /// Name of the thread
    #[row(column = "COMM", width = 11)]
    comm: Comm,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    cgroup: Option<Vec<u8>>,
    /// 4 or 6, as its packets are
    #[row(column = "IP", width = 3)]
    ip_version: Option<u8>,
    #[row(flatten, titles("LADDR" = "SADDR", "LPORT" = "SPORT", "RADDR" = "DADDR", "RPORT" = "DPORT"))]
    #[row(also(column = "MS", width = 7, help = "Milliseconds to the answer", value = Self::latency))]
    #[row(also(
        column = "RESULT",
        width = 13,
        help = "The error, or what became of it",
        value = Self::result_shown
    ))]
    ends: Ends,
    /// connected, failed, abandoned or pending
    result: &'static str,
    /// Error number, or 0
    errno: u32,
    /// Name of the error
    error: Option<Errno>,
    /// Microseconds from the first packet to the answer; null if there was none, or it is not known
    latency_us: Option<Micros>,
    #[row(flatten)]
    #[row(also(
        column = "ASKED",
        help = "What the program asked for, if that was another end",
        value = Self::asked_shown
    ))]
    place: Place,
    #[row(flatten)]
    asked: Asked,
    #[row(skip)]
    asked_end: Option<SocketAddr>,
}

impl Connect {
    /// Of an event.
    pub fn new(event: &Event, out: &mut Out) -> Self {
        let ends = event.ends.at(&event.place);
        let asked_end = asked(event.is_moved != 0, event.asked, event.asked_port);
        let errno = event.error.cast_signed();
        let Task { time, pid, tid, uid, comm, cgroup } = out.task(&event.task);
        Self {
            time,
            uid,
            pid,
            tid,
            comm,
            cgroup,
            ip_version: ends.ip_version(),
            ends,
            result: match Outcome(event.result.into()) {
                Outcome::TCPCONNECT_CONNECTED => "connected",
                Outcome::TCPCONNECT_FAILED => "failed",
                Outcome::TCPCONNECT_ABANDONED => "abandoned",
                _ => "pending",
            },
            errno: event.error,
            error: (errno != 0).then_some(Errno(errno)),
            latency_us: (event.latency_ns != 0).then_some(Micros(event.latency_ns)),
            place: event.place.row(),
            asked: Asked::of(asked_end),
            asked_end,
        }
    }

    fn latency(&self) -> Value<'_> {
        millis(self.latency_us.map(|Micros(ns)| ns), 3)
    }

    fn result_shown(&self) -> Value<'_> {
        self.error.as_ref().map_or(Value::Text(self.result), |error| error.cell(0))
    }

    fn asked_shown(&self) -> Value<'_> {
        shown(self.asked_end)
    }
}

/// The connects of one interval between two ends.
#[derive(Row)]
#[row(type = "row", table = "LADDR LPORT? RADDR RPORT CONNECTS FAILED NETNS? ASKED")]
pub struct Count {
    /// The interval's end
    time: Wall,
    #[row(flatten, helps("local_port" = "With -s: port on this host"))]
    ends: Ends,
    /// Connects with a result
    #[row(column = "CONNECTS", width = 9)]
    pub connects: u64,
    /// Those that failed
    #[row(column = "FAILED", width = 8)]
    failed: u64,
    /// Network namespace, by its inode number
    #[row(column = "NETNS", width = 11)]
    netns: Option<NonZero<u32>>,
    /// Interface of link-local addresses, by its number
    #[row(also(
        column = "ASKED",
        help = "What the program asked for, if that was another end",
        value = Self::asked_shown
    ))]
    scope: Option<NonZero<u32>>,
    #[row(flatten)]
    asked: Asked,
    #[row(skip)]
    asked_end: Option<SocketAddr>,
}

impl Count {
    /// Of what was counted between two ends.
    pub fn new(time: Wall, key: &Key, sum: &Sum) -> Self {
        let asked_end = asked(key.is_moved != 0, key.asked, key.asked_port);
        Self {
            time,
            ends: key.ends.at(&key.place),
            connects: sum.connects,
            failed: sum.failed,
            netns: NonZero::new(key.place.netns),
            scope: NonZero::new(key.place.scope),
            asked: Asked::of(asked_end),
            asked_end,
        }
    }

    fn asked_shown(&self) -> Value<'_> {
        shown(self.asked_end)
    }
}
