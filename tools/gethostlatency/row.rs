// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of gethostlatency.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;

use kscope::escape::escape;
use kscope::names;
use kscope::prelude::*;

use super::Event;
use super::FUNCTIONS;
use super::bpf::types::gethostlatency_call as Call;

/// One look-up that has ended.
#[derive(Row)]
#[row(type = "event", table = "TIME UID? PID COMM LAT(ms) RESULT CGROUP? HOST")]
pub struct Lookup {
    /// When the call ended
    #[row(column = "TIME")]
    time: Wall,
    /// User id
    #[row(column = "UID")]
    uid: Uid,
    /// Process id
    #[row(column = "PID")]
    pid: Pid,
    /// Thread id
    tid: Tid,
    /// Name of the thread
    #[row(column = "COMM")]
    comm: Comm,
    /// The function that was called
    function: &'static str,
    /// How long the call took, in microseconds
    #[row(also(column = "LAT(ms)", width = 11, help = "How long the call took", value = Self::latency_ms))]
    latency_us: Micros,
    /// Whether the call failed
    failed: bool,
    /// Why it failed, as <netdb.h> names it, if that is known
    #[row(also(column = "RESULT", width = 15, help = "ok, or why it failed", value = Self::result))]
    error: Option<String>,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    #[row(also(
        column = "HOST",
        help = "The name or the address that was looked up",
        value = Self::host_shown
    ))]
    cgroup: Option<Vec<u8>>,
    /// The name, or the address as text; null if none was passed, or unreadable
    host: Option<Vec<u8>>,
    /// Whether the name could not be read
    host_unreadable: bool,
    /// Whether the name may be longer than shown
    host_cut: bool,
    #[row(skip)]
    no_host: bool,
}

impl Lookup {
    /// Of an event, and the host that stands behind it.
    pub fn new(event: &Event, tail: &[u8], out: &mut Out) -> Self {
        let call = u64::from(event.call);
        let host = host(event.family, &tail[..usize::from(event.host_len).min(tail.len())]);
        let is_known = event.no_host == 0 && event.host_unreadable == 0;
        let Task { time, pid, tid, uid, comm, cgroup } = out.task(&event.task);
        Self {
            time,
            uid,
            pid,
            tid,
            comm,
            function: FUNCTIONS
                .iter()
                .find(|(_, number)| *number == call)
                .map_or("unknown", |(name, _)| name),
            latency_us: Micros(event.latency_ns),
            failed: event.failed != 0,
            error: error(event),
            cgroup,
            host: is_known.then_some(host),
            host_unreadable: event.host_unreadable != 0,
            host_cut: event.host_cut != 0,
            no_host: event.no_host != 0,
        }
    }

    fn latency_ms(&self) -> Value<'_> {
        millis(self.latency_us.0, 3)
    }

    fn result(&self) -> Value<'_> {
        match &self.error {
            Some(error) => Value::Text(error),
            None => Value::Text(if self.failed { "failed" } else { "ok" }),
        }
    }

    fn host_shown(&self) -> Value<'_> {
        match &self.host {
            Some(host) if self.host_cut => Value::String(escape(host) + "..."),
            Some(host) => Value::Bytes(host),
            None if self.no_host => Value::Null,
            None => Value::Text("<unreadable>"),
        }
    }
}

/// Why it failed, if that is known: of gethostbyname() it is not where the library fails by itself.
fn error(event: &Event) -> Option<String> {
    let Event { failed, ret, h_errno, .. } = *event;
    match Call(event.call.into()) {
        _ if failed == 0 => None,
        Call::GETHOSTLATENCY_GETADDRINFO | Call::GETHOSTLATENCY_GETNAMEINFO => Some(eai(ret)),
        // The call of a buffer that is too small, after which the caller comes again.
        Call::GETHOSTLATENCY_GETHOSTBYNAME_R
        | Call::GETHOSTLATENCY_GETHOSTBYNAME2_R
        | Call::GETHOSTLATENCY_GETHOSTBYADDR_R
            if ret != 0 && (ret == ERANGE || h_errno == 0) =>
        {
            Some(names::errno(ret))
        }
        _ => (h_errno != 0).then(|| host_error(h_errno)),
    }
}

/// Families of addresses, from include/linux/socket.h.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The name, or the address as text.
fn host(family: u8, bytes: &[u8]) -> Vec<u8> {
    match (family, bytes.first_chunk::<4>(), bytes.first_chunk::<16>()) {
        (AF_INET, Some(address), _) => Ipv4Addr::from(*address).to_string().into(),
        (AF_INET6, _, Some(address)) => Ipv6Addr::from(*address).to_string().into(),
        _ => bytes.to_vec(),
    }
}

/// include/uapi/asm-generic/errno-base.h
const ERANGE: i32 = 34;

/// The errors of getaddrinfo and getnameinfo, from <netdb.h>; glibc's and musl's numbers are the same.
fn eai(code: i32) -> String {
    let name = match code {
        -1 => "EAI_BADFLAGS",
        -2 => "EAI_NONAME",
        -3 => "EAI_AGAIN",
        -4 => "EAI_FAIL",
        -5 => "EAI_NODATA",
        -6 => "EAI_FAMILY",
        -7 => "EAI_SOCKTYPE",
        -8 => "EAI_SERVICE",
        -9 => "EAI_ADDRFAMILY",
        -10 => "EAI_MEMORY",
        -11 => "EAI_SYSTEM",
        -12 => "EAI_OVERFLOW",
        -105 => "EAI_IDN_ENCODE",
        _ => return code.to_string(),
    };
    name.into()
}

/// h_errno's values, from <netdb.h>.
fn host_error(code: i32) -> String {
    let name = match code {
        -1 => "NETDB_INTERNAL",
        1 => "HOST_NOT_FOUND",
        2 => "TRY_AGAIN",
        3 => "NO_RECOVERY",
        4 => "NO_DATA",
        _ => return code.to_string(),
    };
    name.into()
}
