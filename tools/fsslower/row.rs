// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of fsslower.

use kscope::escape::c_bytes;
use kscope::paths;
use kscope::prelude::*;
use kscope::syscalls;
use kscope::syscalls::Abi;

use super::Event;

/// One operation that has ended.
#[derive(Row)]
#[row(type = "event", table = "TIME COMM PID TYPE? T BYTES OFF_KB LAT_MS CGROUP? FILE")]
pub struct Slow {
    /// When it ended, or the tool did
    #[row(column = "TIME")]
    time: Wall,
    /// User id
    uid: Uid,
    /// Name of the thread
    #[row(column = "COMM", width = 16)]
    comm: Comm,
    /// Process id
    #[row(column = "PID")]
    pid: Pid,
    /// Thread id
    tid: Tid,
    /// Type of the file system, if known
    #[row(column = "TYPE", width = 8)]
    #[row(also(
        column = "T",
        width = 2,
        help = "R read, W write, O open, F fsync, D readdir, S stat, C copy, M another change",
        value = Self::letter
    ))]
    fs_type: Option<Vec<u8>>,
    /// read, write, open, fsync, readdir, stat (also access and readlink), copy (sendfile, splice, copy_file_range), or
    /// change (of names and attributes)
    operation: &'static str,
    /// Name of the system call, if measured there
    call: Option<&'static str>,
    /// Whether it ended before the tool did
    finished: bool,
    /// Bytes read, written or copied
    #[row(also(
        column = "BYTES",
        width = 8,
        help = "Bytes read, written or copied, or the error",
        value = Self::bytes_shown
    ))]
    size_bytes: Option<u64>,
    /// Where in the file a read or write began, if known
    #[row(also(
        column = "OFF_KB",
        width = 8,
        help = "Where in the file it began, in KiB",
        value = Self::offset_kib
    ))]
    offset_bytes: Option<u64>,
    /// Name of the error
    error: Option<Errno>,
    /// How long it took, or has taken so far
    #[row(also(column = "LAT_MS", width = 8, help = "How long it took, in ms", value = Self::latency_ms))]
    latency_us: Micros,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    cgroup: Option<Vec<u8>>,
    /// Path of the file, if known
    path: Option<Vec<u8>>,
    /// Whether the path leads to the file no more
    #[row(also(column = "FILE", help = "Path of the file", value = Self::path_shown))]
    deleted: bool,
}

/// By `enum fsslower_op`.
const OPERATIONS: [(&str, &str); 8] = [
    ("R", "read"),
    ("W", "write"),
    ("O", "open"),
    ("F", "fsync"),
    ("D", "readdir"),
    ("S", "stat"),
    ("C", "copy"),
    ("M", "change"),
];

impl Slow {
    /// Of an event, and the names that stand behind it.
    pub fn new(event: &Event, tail: &[u8], out: &mut Out) -> Self {
        let operation = OPERATIONS.get(usize::from(event.op)).map_or("unknown", |(_, name)| name);
        let abi = if event.compat == 0 { Abi::Native } else { Abi::Compat };
        let number = u32::try_from(event.nr).ok();
        let moves_bytes = matches!(operation, "read" | "write" | "copy");
        let is_finished = event.unfinished == 0;
        let fs_type = c_bytes(&event.fs_type);
        let Task { time, pid, tid, uid, comm, cgroup } = out.task(&event.task);
        Self {
            time,
            uid,
            comm,
            pid,
            tid,
            fs_type: known(fs_type.to_vec()),
            operation,
            call: number.and_then(|number| syscalls::name(abi, number)),
            finished: is_finished,
            size_bytes: u64::try_from(event.ret).ok().filter(|_| is_finished && moves_bytes),
            offset_bytes: u64::try_from(event.offset).ok(),
            error: Errno::of(event.ret),
            latency_us: Micros(event.latency_ns),
            cgroup,
            path: path_of(event, tail),
            deleted: event.deleted != 0,
        }
    }

    fn letter(&self) -> Value<'_> {
        let found = OPERATIONS.iter().find(|(_, name)| *name == self.operation);
        Value::Text(found.map_or("?", |(letter, _)| letter))
    }

    fn bytes_shown(&self) -> Value<'_> {
        match &self.error {
            _ if !self.finished => Value::Text("running"),
            Some(error) => error.cell(0),
            None => self.size_bytes.into(),
        }
    }

    fn offset_kib(&self) -> Value<'_> {
        self.offset_bytes.map(|bytes| bytes / 1024).into()
    }

    fn latency_ms(&self) -> Value<'_> {
        millis(self.latency_us.0, 2)
    }

    fn path_shown(&self) -> Value<'_> {
        match &self.path {
            None => Value::Text("<unknown>"),
            // As the kernel itself marks it.
            Some(path) if self.deleted => Value::Owned([path, &b" (deleted)"[..]].concat()),
            Some(path) => Value::Bytes(path),
        }
    }
}

/// The path, if it is known: of the file, or as the caller gave it.
fn path_of(event: &Event, tail: &[u8]) -> Option<Vec<u8>> {
    if event.path_unknown != 0 {
        return None;
    }
    let (names, rest) = tail.split_at(usize::from(event.path_len).min(tail.len()));
    let given = &rest[..usize::from(event.string_len).min(rest.len())];
    if given.starts_with(b"/") {
        return Some(given.to_vec());
    }
    // Of a file, that it is deleted has a key of its own.
    let own = if given.is_empty() { paths::PATH_DELETED } else { 0 };
    let mut path = paths::path(names, event.path_marks & !own);
    if !given.is_empty() {
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend(given);
    }
    Some(path)
}
