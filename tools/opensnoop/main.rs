// SPDX-License-Identifier: Apache-2.0 OR MIT
//! opensnoop: print each open of a file.

use std::collections::HashMap;
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
use kscope::names;
use kscope::open_flags;
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

kscope::skeleton!("opensnoop");
use types::opensnoop_event as Record;
use types::opensnoop_kind as RecordKind;

kscope::records!(Record: 88);

kscope::tool!(Opensnoop);

/// Which files are opened, by whom, and which opens fail?
#[derive(Parser, Debug)]
#[command(mut_arg("tid", |a| a.short('t')), mut_arg("uid", |a| a.short('u')))]
#[command(mut_arg("comm", |a| a.short('n').visible_alias("name")))]
#[command(mut_arg("timestamps", |a| a.short('T').alias("timestamp")))]
#[command(mut_arg("duration", |a| a.short('d')))]
struct Opensnoop {
    /// Print failed opens only
    #[arg(short = 'x', long = "failed")]
    failed: bool,
    /// Print the flags and the mode, by name
    #[arg(short = 'e', long = "extended-fields")]
    extended: bool,
    /// Print relative paths in full: with the directory that they start from
    #[arg(short = 'F', long = "full-path")]
    full_path: bool,
    /// Print the user id
    #[arg(short = 'U', long = "print-uid")]
    print_uid: bool,
    #[command(flatten)]
    cgroup: CgroupColumn,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    buffer: Buffer,
    #[command(flatten)]
    common: Common,
}

/// One open that has ended.
struct Open {
    time: Wall,
    record: Record,
    path: Vec<u8>,
    full: Option<FullPath>,
    cgroup: Vec<u8>,
}

/// With -F: where the path leads, as its caller sees it.
struct FullPath {
    path: Vec<u8>,
    /// The directory that is the root for it, where it is not that of the mount namespace.
    root: Option<Vec<u8>>,
    mark: Option<&'static str>,
}

impl FullPath {
    /// The names of the directory that the path starts from come innermost first; of an absolute path, that is the
    /// caller's root.
    fn new(record: &Record, path: &[u8], names: &[u8]) -> Option<Self> {
        if path.is_empty() || record.dir_unknown != 0 {
            return None;
        }
        let (below, above) = names.split_at(usize::from(record.dir_below).min(names.len()));
        let all_marks = record.dir_marks >> names::PATH_ALL_SHIFT;
        let marks = record.dir_marks & ((1 << names::PATH_ALL_SHIFT) - 1);
        let is_reached = marks & (names::PATH_CUT | names::PATH_UNREACHABLE) == 0;
        let (mut full, root) = if record.in_root != 0 {
            (b"/".to_vec(), Some(names::path(names, all_marks)))
        } else if is_reached && below.is_empty() {
            (b"/".to_vec(), Some(names::path(above, all_marks)))
        } else {
            let root = names::path(above, all_marks & !names::PATH_DELETED);
            (names::path(below, marks), is_reached.then_some(root))
        };
        if full.last() != Some(&b'/') {
            full.push(b'/');
        }
        full.extend(path.strip_prefix(b"/").unwrap_or(path));
        let mark = [
            (names::PATH_DELETED, "deleted"),
            (names::PATH_UNREACHABLE, "unreachable"),
            (names::PATH_CUT, "cut"),
        ]
        .into_iter()
        .find_map(|(bit, name)| (marks & bit != 0).then_some(name));
        Some(Self { path: full, root: root.filter(|root| root != b"/"), mark })
    }

    fn shown(&self) -> Value<'_> {
        match &self.root {
            None => Value::Bytes(&self.path),
            Some(root) => Value::Owned([b"(root ", root.as_slice(), b")", &self.path].concat()),
        }
    }
}

impl Open {
    fn path_shown(&self) -> Value<'_> {
        match (self.path_error(), &self.full) {
            (Some(why), _) => Value::String(format!("<unreadable: {}>", why.replace('_', " "))),
            (None, Some(full)) => full.shown(),
            (None, None) => Value::Bytes(&self.path),
        }
    }

    /// Why the path could not be read: where the kernel could not either, its address is wrong. Else the call had
    /// ended before anybody read it, as where seccomp refuses it.
    fn path_error(&self) -> Option<&'static str> {
        let is_wrong = self.record.ret == -libc::EFAULT;
        let why = if is_wrong { "bad_address" } else { "not_in_memory" };
        (self.record.path_unreadable != 0).then_some(why)
    }

    /// The real user's id, and that whose rights count where it is another.
    fn uid_shown(&self) -> Value<'_> {
        Value::String(names::uids(self.record.uid, self.record.fsuid))
    }

    /// The result of an open into an io_uring's own table of files is no descriptor.
    fn fd(&self) -> i32 {
        if self.record.direct != 0 { -1 } else { self.record.ret.max(-1) }
    }

    fn error(&self) -> Value<'_> {
        if self.record.ret < 0 { Value::String(names::errno(-self.record.ret)) } else { Value::Null }
    }

    fn origin(&self) -> &'static str {
        match (self.record.kind == RecordKind::OPENSNOOP_SYSCALL.0 as u8, self.record.compat != 0) {
            (true, false) => "syscall",
            (true, true) => "syscall32",
            (false, _) => "io_uring",
        }
    }
}

impl Row for Open {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When the call ended", |r: &Self| Value::Time(r.time))
            .column("TIME", 9),
        Field::new("uid", Kind::Uint, "Real user id", |r: &Self| Value::Uint(r.record.uid.into())),
        Field::table_only(
            "UID",
            7,
            "User id: the real one; /, and that for files if it differs",
            Self::uid_shown,
        ),
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.record.tgid.into()))
            .column("PID", 8),
        Field::new("tid", Kind::Uint, "Thread id", |r: &Self| Value::Uint(r.record.tid.into())),
        Field::new("comm", Kind::Bytes, "Name of the thread", |r: &Self| {
            Value::Bytes(c_bytes(&r.record.comm))
        })
        .column("COMM", 17),
        Field::new("fd", Kind::Int, "File descriptor, or -1", |r: &Self| Value::Int(r.fd().into()))
            .column("FD", 4),
        Field::new("errno", Kind::Uint, "Error number, or 0", |r: &Self| {
            Value::Uint(r.record.ret.min(0).unsigned_abs().into())
        })
        .column("ERR", 4),
        Field::new("error", Kind::Text, "Name of the error", Self::error).nullable(),
        Field::new("flags", Kind::Text, "Open flags", |r: &Self| {
            Value::String(open_flags::text(r.record.flags))
        })
        .column("FLAGS", 28),
        Field::new("mode", Kind::Text, "Mode of a file to be created, octal", |r: &Self| {
            if open_flags::creates(r.record.flags) {
                Value::String(format!("{:04o}", r.record.mode & 0o7777))
            } else {
                Value::Null
            }
        })
        .nullable()
        .column("MODE", 5),
        Field::new("origin", Kind::Text, "syscall, syscall32 (a 32-bit caller) or io_uring", |r: &Self| {
            Value::Text(r.origin())
        }),
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::table_only("PATH", 0, "Path as passed; with -F, in full", |r: &Self| r.path_shown()),
        Field::new("path", Kind::Bytes, "Path as passed; null if it could not be read", |r: &Self| {
            if r.record.path_unreadable != 0 { Value::Null } else { Value::Bytes(&r.path) }
        })
        .nullable(),
        Field::new("path_unreadable", Kind::Bool, "Whether the path could not be read", |r: &Self| {
            Value::Bool(r.record.path_unreadable != 0)
        }),
        Field::new(
            "full_path",
            Kind::Bytes,
            "With -F: the path with the directory that it starts from",
            |r: &Self| r.full.as_ref().map(|full| full.path.as_slice()).into(),
        )
        .nullable(),
        Field::new("fsuid", Kind::Uint, "User id whose rights decide on files", |r: &Self| {
            Value::Uint(r.record.fsuid.into())
        }),
        Field::new(
            "path_error",
            Kind::Text,
            "Why the path could not be read: not_in_memory or bad_address",
            |r: &Self| r.path_error().into(),
        )
        .nullable(),
        Field::new(
            "full_path_mark",
            Kind::Text,
            "Why full_path does not lead there: deleted, unreachable or cut",
            |r: &Self| r.full.as_ref().and_then(|full| full.mark).into(),
        )
        .nullable(),
        Field::new(
            "root",
            Kind::Bytes,
            "With -F: the directory that is the root of full_path, in a chroot",
            |r: &Self| r.full.as_ref().and_then(|full| full.root.as_deref()).into(),
        )
        .nullable(),
    ];
}

impl Trace for Opensnoop {
    const NAME: &'static str = "opensnoop";
    const SUBSYSTEM: &'static str = "file systems";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Open>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(OpensnoopSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let json = self.common.json;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.failed_only = self.failed;
            rodata.full_path = self.full_path;
            rodata.want_uid = json || self.print_uid;
            rodata.want_cgroup = json || self.cgroup.print_cgroup;
            rodata.uring_complete_has_cqe = kernel.tracepoint_args("io_uring_complete") == Some(3);
        }
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        let taken = Hooks::new()
            .with_args("io_uring_submit_sqe", 2)
            .optional(
                &["uring_submit", "uring_complete"],
                "opens through io_uring can't be seen on this kernel",
            )
            .choose(open.open_object_mut(), &kernel)?;
        drop(kernel);
        let skeleton = session::load(open)?;
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &[])?;

        let columns = self.columns();
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        let mut submitted = HashMap::new();
        session.stream(&skeleton.maps.events, |bytes, out| {
            let (record, tail) = kscope::record::<Record>(bytes)?;
            let (record, tail) = match RecordKind(record.kind.into()) {
                RecordKind::OPENSNOOP_URING_SUBMIT => {
                    submitted.insert(record.req, (record, tail.to_vec()));
                    return Ok(());
                }
                RecordKind::OPENSNOOP_URING_COMPLETE => {
                    let Some((mut open, tail)) = submitted.remove(&record.req) else { return Ok(()) };
                    (open.time_ns, open.ret) = (record.time_ns, record.ret);
                    if self.failed && open.ret >= 0 {
                        return Ok(());
                    }
                    (open, tail)
                }
                _ => (record, tail.to_vec()),
            };
            let cgroup = cgroups.path(record.cgroup);
            self.print(out, &columns, record, &tail, cgroup)
        })?;
        Ok(session.finish()?)
    }
}

impl Opensnoop {
    fn columns(&self) -> Columns<Open> {
        let mut titles = vec!["PID", "COMM", "FD", "ERR", "PATH"];
        titles.extend(self.common.timestamps.map(|_| "TIME"));
        titles.extend(self.print_uid.then_some("UID"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        titles.extend(self.extended.then_some(["FLAGS", "MODE"]).into_iter().flatten());
        Columns::new(&titles)
    }

    fn print(
        &self,
        out: &mut Out,
        columns: &Columns<Open>,
        record: Record,
        tail: &[u8],
        cgroup: Vec<u8>,
    ) -> anyhow::Result<()> {
        let (path, names) = tail.split_at(usize::from(record.path_len).min(tail.len()));
        let full = if self.full_path { FullPath::new(&record, path, names) } else { None };
        let time = out.clock().wall(record.time_ns);
        Ok(out.row(columns, &Open { time, record, path: path.to_vec(), full, cgroup })?)
    }
}
