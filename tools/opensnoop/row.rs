// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of opensnoop.

use kscope::open_flags;
use kscope::open_flags::Flags;
use kscope::open_flags::Mode;
use kscope::paths;
use kscope::prelude::*;
use kscope::users;

use super::bpf::types::opensnoop_event as Event;
use super::bpf::types::opensnoop_kind as EventKind;

/// One open that has ended.
#[derive(Row)]
#[row(type = "event", table = "TIME? UID? PID COMM FD ERR FLAGS? MODE? CGROUP? PATH")]
pub struct Open<'a> {
    /// When the call ended
    #[row(column = "TIME")]
    time: Wall,
    /// Real user id
    #[row(also(
        column = "UID",
        width = 7,
        help = "User id: the real one; /, and that for files if it differs",
        value = Self::uids
    ))]
    uid: Uid,
    /// Process id
    #[row(column = "PID")]
    pid: Pid,
    /// Thread id
    tid: Tid,
    /// Name of the thread
    #[row(column = "COMM")]
    comm: Comm,
    /// File descriptor, or -1
    #[row(column = "FD", width = 4)]
    fd: i32,
    /// Error number, or 0
    #[row(column = "ERR", width = 4)]
    errno: u32,
    /// Name of the error
    error: Option<Errno>,
    /// Open flags
    #[row(column = "FLAGS", width = 28)]
    flags: Flags,
    /// Mode of a file to be created, octal
    #[row(column = "MODE", width = 5)]
    mode: Option<Mode>,
    /// syscall, syscall32 (a 32-bit caller) or io_uring
    origin: &'static str,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    #[row(also(column = "PATH", help = "Path as passed; with -F, in full", value = Self::path_shown))]
    cgroup: Option<Vec<u8>>,
    /// Path as passed; null if it could not be read
    path: Option<&'a [u8]>,
    /// Whether the path could not be read
    path_unreadable: bool,
    /// With -F: the path with the directory that it starts from
    full_path: Option<Vec<u8>>,
    /// User id whose rights decide on files
    fsuid: Uid,
    /// Why the path could not be read: not_in_memory or bad_address
    path_error: Option<&'static str>,
    /// Why full_path does not lead there: deleted, unreachable or cut
    full_path_mark: Option<&'static str>,
    /// With -F: the directory that is the root of full_path, in a chroot
    root: Option<Vec<u8>>,
}

impl<'a> Open<'a> {
    /// Of an event, and what stands behind it: the path, and with -F the names of directories.
    pub fn new(event: &Event, tail: &'a [u8], want_full: bool, out: &mut Out) -> Self {
        let (path, names) = tail.split_at(usize::from(event.path_len).min(tail.len()));
        let full = if want_full { FullPath::new(event, path, names) } else { None };
        let FullPath { path: full_path, root, mark } = full.unwrap_or_default();
        let is_syscall = event.kind == EventKind::OPENSNOOP_SYSCALL.0 as u8;
        let is_unreadable = event.path_unreadable != 0;
        let Task { time, pid, tid, uid, comm, cgroup } = out.task(&event.task);
        Self {
            time,
            uid,
            pid,
            tid,
            comm,
            // The result of an open into an io_uring's own table of files is no descriptor.
            fd: if event.direct != 0 { -1 } else { event.ret.max(-1) },
            errno: event.ret.min(0).unsigned_abs(),
            error: Errno::of(event.ret),
            flags: Flags(event.flags),
            mode: open_flags::creates(event.flags).then_some(Mode(event.mode)),
            origin: match (is_syscall, event.compat != 0) {
                (true, false) => "syscall",
                (true, true) => "syscall32",
                (false, _) => "io_uring",
            },
            cgroup,
            path: (!is_unreadable).then_some(path),
            path_unreadable: is_unreadable,
            full_path,
            fsuid: Uid(event.fsuid),
            // Where the kernel could not read it either, its address is wrong. Else the call had ended before anybody read
            // it, as where seccomp refuses it.
            path_error: is_unreadable.then_some(if event.ret == -libc::EFAULT {
                "bad_address"
            } else {
                "not_in_memory"
            }),
            full_path_mark: mark,
            root,
        }
    }

    fn uids(&self) -> Value<'_> {
        Value::String(users::uids(self.uid.0, self.fsuid.0))
    }

    fn path_shown(&self) -> Value<'_> {
        match (self.path_error, &self.full_path, &self.root) {
            (Some(why), _, _) => Value::String(format!("<unreadable: {}>", why.replace('_', " "))),
            (None, Some(full), None) => Value::Bytes(full),
            (None, Some(full), Some(root)) => Value::Owned([b"(root ", root.as_slice(), b")", full].concat()),
            (None, None, _) => self.path.into(),
        }
    }
}

/// With -F: where the path leads, as its caller sees it.
#[derive(Default)]
struct FullPath {
    path: Option<Vec<u8>>,
    /// The directory that is the root for it, where it is not that of the mount namespace.
    root: Option<Vec<u8>>,
    mark: Option<&'static str>,
}

impl FullPath {
    /// The names of the directory that the path starts from come innermost first; of an absolute path, that is the
    /// caller's root.
    fn new(event: &Event, path: &[u8], names: &[u8]) -> Option<Self> {
        if path.is_empty() || event.dir_unknown != 0 {
            return None;
        }
        let (below, above) = names.split_at(usize::from(event.dir_below).min(names.len()));
        let all_marks = event.dir_marks >> paths::PATH_ALL_SHIFT;
        let marks = event.dir_marks & ((1 << paths::PATH_ALL_SHIFT) - 1);
        let is_reached = marks & (paths::PATH_CUT | paths::PATH_UNREACHABLE) == 0;
        let (mut full, root) = if event.in_root != 0 {
            (b"/".to_vec(), Some(paths::path(names, all_marks)))
        } else if is_reached && below.is_empty() {
            (b"/".to_vec(), Some(paths::path(above, all_marks)))
        } else {
            let root = paths::path(above, all_marks & !paths::PATH_DELETED);
            (paths::path(below, marks), is_reached.then_some(root))
        };
        if full.last() != Some(&b'/') {
            full.push(b'/');
        }
        full.extend(path.strip_prefix(b"/").unwrap_or(path));
        let mark = [
            (paths::PATH_DELETED, "deleted"),
            (paths::PATH_UNREACHABLE, "unreachable"),
            (paths::PATH_CUT, "cut"),
        ]
        .into_iter()
        .find_map(|(bit, name)| (marks & bit != 0).then_some(name));
        Some(Self { path: Some(full), root: root.filter(|root| root != b"/"), mark })
    }
}
