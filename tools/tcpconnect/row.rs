// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rows of tcpconnect.

use std::net::SocketAddr;

use kscope::escape::c_bytes;
use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::metrics::Label;
use kscope::names;
use kscope::net;
use kscope::net::HasEnds;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::Value;
use kscope::time::Wall;

use super::Key;
use super::Record;
use super::Sum;
use super::types::tcpconnect_result as Outcome;

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

/// A connect, when its result is known.
pub struct Connect {
    /// When its result was known.
    pub time: Wall,
    /// What the kernel's side says.
    pub record: Record,
    /// The path of its cgroup.
    pub cgroup: Vec<u8>,
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

/// A row that knows what the program asked for.
trait HasAsked {
    /// The end that it asked for, where the kernel made another one of it.
    fn asked(&self) -> Option<SocketAddr>;

    fn asked_end(&self) -> Value<'_> {
        self.asked().map_or(Value::Null, |asked| Value::String(asked.to_string()))
    }

    fn asked_address(&self) -> Value<'_> {
        self.asked().map_or(Value::Null, |asked| Value::String(asked.ip().to_string()))
    }

    fn asked_port(&self) -> Value<'_> {
        self.asked().map_or(Value::Null, |asked| Value::Uint(asked.port().into()))
    }
}

impl HasAsked for Connect {
    fn asked(&self) -> Option<SocketAddr> {
        let Record { is_moved, asked, asked_port, .. } = self.record;
        (is_moved != 0).then(|| SocketAddr::new(net::address(asked), asked_port))
    }
}

impl HasAsked for Count {
    fn asked(&self) -> Option<SocketAddr> {
        let Key { is_moved, asked, asked_port, .. } = self.key;
        (is_moved != 0).then(|| SocketAddr::new(net::address(asked), asked_port))
    }
}

const fn asked_column<R: HasAsked>() -> Field<R> {
    Field::table_only("ASKED", 0, "What the program asked for, if that was another end", R::asked_end)
}

const fn asked_address<R: HasAsked>() -> Field<R> {
    const HELP: &str = "Address that the program asked for, if that was another end; else null";
    Field::new("asked_address", Kind::Text, HELP, R::asked_address).nullable()
}

const fn asked_port<R: HasAsked>() -> Field<R> {
    Field::new("asked_port", Kind::Uint, "The port that goes with asked_address", R::asked_port).nullable()
}

kscope::has_ends!(Connect, record);

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
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::new("ip_version", Kind::Uint, "4 or 6, as its packets are", Self::ip_version)
            .nullable()
            .column("IP", 3),
        Field::local_address(),
        Field::local_column("SADDR"),
        Field::local_port("SPORT", "Port on this host"),
        Field::remote_address(),
        Field::remote_column("DADDR"),
        Field::remote_port("DPORT"),
        Field::table_only("MS", 7, "Milliseconds to the answer", |r: &Self| r.latency(1e6)),
        Field::table_only("RESULT", 13, "The error, or what became of it", |r: &Self| {
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
            "Microseconds from the first packet to the answer; null if there was none, or it is not known",
            |r: &Self| r.latency(1e3),
        )
        .nullable(),
        Field::netns(),
        Field::scope(),
        Field::mptcp_token(),
        asked_column(),
        asked_address(),
        asked_port(),
    ];
}

/// The connects of one interval between two ends.
pub struct Count {
    /// The interval's end.
    pub time: Wall,
    /// From where to where.
    pub key: Key,
    /// Connects with a result.
    pub connects: u64,
    /// Those that failed.
    pub failed: u64,
}

kscope::has_ends!(Count, key);

impl Row for Count {
    const TYPE: &'static str = "row";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "The interval's end", |r: &Self| Value::Time(r.time)),
        Field::local_address(),
        Field::local_column("LADDR"),
        Field::local_port("LPORT", "With -s: port on this host"),
        Field::remote_address(),
        Field::remote_column("RADDR"),
        Field::remote_port("RPORT"),
        Field::new("connects", Kind::Uint, "Connects with a result", |r: &Self| Value::Uint(r.connects))
            .column("CONNECTS", 9),
        Field::new("failed", Kind::Uint, "Those that failed", |r: &Self| Value::Uint(r.failed))
            .column("FAILED", 8),
        Field::netns(),
        Field::scope(),
        asked_column(),
        asked_address(),
        asked_port(),
    ];
}
