// SPDX-License-Identifier: Apache-2.0 OR MIT
//! fsslower: print slow operations on files.

use std::fs;
use std::mem::MaybeUninit;
use std::time::Duration;

use clap::Parser;
use kscope::Columns;
use kscope::Error;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli;
use kscope::cli::Buffer;
use kscope::cli::CgroupColumn;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::escape::c_bytes;
use kscope::hooks::Taken;
use kscope::names;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::syscalls;
use kscope::syscalls::Abi;
use kscope::tasks;
use kscope::tasks::Of;
use kscope::time;
use kscope::time::Wall;
use libbpf_rs::OpenObject;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

mod functions;

kscope::skeleton!("fsslower");
use types::fsslower_event as Record;

kscope::records!(Record: 96);

kscope::tool!(Fsslower);

/// Which operations on files are slow?
#[derive(Parser, Debug)]
#[command(mut_arg("duration", |a| a.short('d')))]
struct Fsslower {
    /// Print what took at least so many milliseconds; 0 prints all
    #[arg(short = 'm', long = "min", value_name = "MS", value_parser = cli::milliseconds, default_value = "10")]
    min: Duration,
    /// Trace file systems of this type only, as /proc/filesystems names it: ext4, xfs, btrfs, nfs ...
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = fs_type)]
    fs_type: Option<String>,
    /// Measure at the system calls, also where the file system's own functions could be hooked
    #[arg(long)]
    syscalls: bool,
    /// Print comma-separated values, with the keys of --json
    #[arg(short = 'c', long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    cgroup: CgroupColumn,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    buffer: Buffer,
    #[command(flatten)]
    common: Common,
}

/// Not longer than the kernel's side compares.
fn fs_type(text: &str) -> Result<String, String> {
    match text.len() {
        1..=15 if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text.into()),
        _ => Err("not a type of file systems: see /proc/filesystems".into()),
    }
}

/// One operation that has ended.
struct Slow {
    time: Wall,
    record: Record,
    path: Option<Vec<u8>>,
    cgroup: Vec<u8>,
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
    fn operation(&self) -> (&'static str, &'static str) {
        OPERATIONS.get(usize::from(self.record.op)).copied().unwrap_or(("?", "unknown"))
    }

    fn moves_bytes(&self) -> bool {
        matches!(self.operation().0, "R" | "W" | "C")
    }

    fn is_finished(&self) -> bool {
        self.record.unfinished == 0
    }

    fn call(&self) -> Value<'_> {
        let abi = if self.record.compat == 0 { Abi::Native } else { Abi::Compat };
        let number = u32::try_from(self.record.nr).ok();
        number.and_then(|number| syscalls::name(abi, number)).map_or(Value::Null, Value::Text)
    }

    fn error(&self) -> Option<String> {
        (self.record.ret < 0).then(|| names::errno(i32::try_from(-self.record.ret).unwrap_or(i32::MAX)))
    }

    fn bytes(&self) -> Value<'_> {
        if self.is_finished() && self.moves_bytes() && self.record.ret >= 0 {
            Value::Uint(self.record.ret.unsigned_abs())
        } else {
            Value::Null
        }
    }

    fn bytes_shown(&self) -> Value<'_> {
        match self.error() {
            _ if !self.is_finished() => Value::Text("running"),
            Some(error) => Value::String(error),
            None => self.bytes(),
        }
    }

    fn offset_kib(&self) -> Value<'_> {
        if self.record.offset < 0 { Value::Null } else { Value::Int(self.record.offset / 1024) }
    }

    fn path_shown(&self) -> Value<'_> {
        match (&self.path, self.record.deleted != 0) {
            (None, _) => Value::Text("<unknown>"),
            (Some(path), false) => Value::Bytes(path),
            // As the kernel itself marks it.
            (Some(path), true) => Value::Owned([path, &b" (deleted)"[..]].concat()),
        }
    }
}

impl Row for Slow {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When it ended, or the tool did", |r: &Self| Value::Time(r.time))
            .column("TIME", 9),
        Field::new("uid", Kind::Uint, "User id", |r: &Self| Value::Uint(r.record.uid.into())),
        Field::new("comm", Kind::Bytes, "Name of the thread", |r: &Self| {
            Value::Bytes(c_bytes(&r.record.comm))
        })
        .column("COMM", 16),
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.record.tgid.into()))
            .column("PID", 8),
        Field::new("tid", Kind::Uint, "Thread id", |r: &Self| Value::Uint(r.record.tid.into())),
        Field::new("fs_type", Kind::Bytes, "Type of the file system, if known", |r: &Self| {
            match c_bytes(&r.record.fs_type) {
                [] => Value::Null,
                name => Value::Bytes(name),
            }
        })
        .nullable()
        .column("TYPE", 8),
        Field::table_only(
            "T",
            2,
            "R read, W write, O open, F fsync, D readdir, S stat, C copy, M another change",
            |r: &Self| Value::Text(r.operation().0),
        ),
        Field::new(
            "operation",
            Kind::Text,
            "read, write, open, fsync, readdir, stat (also access and readlink), copy (sendfile, splice, \
             copy_file_range), or change (of names and attributes)",
            |r: &Self| Value::Text(r.operation().1),
        ),
        Field::new("call", Kind::Text, "Name of the system call, if measured there", Self::call).nullable(),
        Field::new("finished", Kind::Bool, "Whether it ended before the tool did", |r: &Self| {
            Value::Bool(r.is_finished())
        }),
        Field::new("size_bytes", Kind::Uint, "Bytes read, written or copied", Self::bytes).nullable(),
        Field::table_only("BYTES", 8, "Bytes read, written or copied, or the error", Self::bytes_shown),
        Field::new(
            "offset_bytes",
            Kind::Uint,
            "Where in the file a read or write began, if known",
            |r: &Self| u64::try_from(r.record.offset).map_or(Value::Null, Value::Uint),
        )
        .nullable(),
        Field::table_only("OFF_KB", 8, "Where in the file it began, in KiB", Self::offset_kib),
        Field::new("error", Kind::Text, "Name of the error", |r: &Self| {
            r.error().map_or(Value::Null, Value::String)
        })
        .nullable(),
        Field::new("latency_us", Kind::Float, "How long it took, or has taken so far", |r: &Self| {
            Value::Float(r.record.latency_ns as f64 / 1e3, 3)
        }),
        Field::table_only("LAT_MS", 8, "How long it took, in ms", |r: &Self| {
            Value::Float(r.record.latency_ns as f64 / 1e6, 2)
        }),
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::new("path", Kind::Bytes, "Path of the file, if known", |r: &Self| {
            r.path.as_deref().map_or(Value::Null, Value::Bytes)
        })
        .nullable(),
        Field::new("deleted", Kind::Bool, "Whether the path leads to the file no more", |r: &Self| {
            Value::Bool(r.record.deleted != 0)
        }),
        Field::table_only("FILE", 0, "Path of the file", Self::path_shown),
    ];
}

impl Trace for Fsslower {
    const NAME: &'static str = "fsslower";
    const SUBSYSTEM: &'static str = "file systems";
    const ALIASES: &'static [(&'static str, &'static [&'static str])] = functions::ALIASES;

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Slow>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(FsslowerSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let object = open.open_object_mut();
        let task_storage = tasks::choose(object, &kernel, "starts", Of::Running)?;
        let hooks = Hooks::new().without(if task_storage { &["task_exit"] } else { &[] });
        let taken = self.choose(hooks, object, &kernel)?;
        drop(kernel);
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            rodata.task_storage = task_storage;
            kscope::set_filter!(rodata, &self.filter);
            rodata.min_ns = u64::try_from(self.min.as_nanos()).unwrap_or(u64::MAX);
            rodata.want_cgroup = self.common.json || self.csv || self.cgroup.print_cgroup;
            rodata.calls = functions::calls();
            let names = self.fs_type.as_deref().map(functions::type_names).unwrap_or_default();
            for (to, name) in rodata.types.iter_mut().zip(&names) {
                *to = functions::type_words(name);
            }
            rodata.types_len = names.len() as u32;
        }
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        let mut skeleton = session::load(open)?;
        let mut flush = None;
        let attach = |object: &_| {
            flush = Some(session::Iterator::new(object, "flush")?);
            Ok(Vec::new())
        };
        let mut session =
            Session::start_with(Self::NAME, &self.common, skeleton.object(), &taken, &[], attach)?;

        let columns = self.columns();
        if self.csv {
            session.out().set_csv();
        }
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        let bss = skeleton.maps.bss_data.as_deref_mut();
        let end = || {
            if let Some(bss) = bss {
                bss.ended_ns = time::boottime_ns();
            }
        };
        session.stream_to_the_end(&skeleton.maps.events, end, flush, |bytes, out| {
            let (record, tail) = kscope::record::<Record>(bytes)?;
            let time = out.clock().wall(record.time_ns);
            let path = path_of(&record, tail);
            Ok(out.row(&columns, &Slow { time, path, cgroup: cgroups.path(record.cgroup), record })?)
        })?;
        Ok(session.finish()?)
    }
}

/// The path, if it is known: of the file, or as the caller gave it.
fn path_of(record: &Record, tail: &[u8]) -> Option<Vec<u8>> {
    if record.path_unknown != 0 {
        return None;
    }
    let (names, rest) = tail.split_at(usize::from(record.path_len).min(tail.len()));
    let given = &rest[..usize::from(record.string_len).min(rest.len())];
    if given.starts_with(b"/") {
        return Some(given.to_vec());
    }
    // Of a file, that it is deleted has a key of its own.
    let own = if given.is_empty() { names::PATH_DELETED } else { 0 };
    let mut path = names::path(names, record.path_marks & !own);
    if !given.is_empty() {
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend(given);
    }
    Some(path)
}

impl Fsslower {
    fn columns(&self) -> Columns<Slow> {
        let mut titles = vec!["TIME", "COMM", "PID", "T", "BYTES", "OFF_KB", "LAT_MS", "FILE"];
        titles.extend(self.fs_type.is_none().then_some("TYPE"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        Columns::new(&titles)
    }

    /// The functions of the file system's own, or the system calls.
    fn choose(&self, hooks: Hooks, object: &mut OpenObject, kernel: &Kernel) -> Result<Taken, Error> {
        let of_syscalls = hooks.clone().without(&functions::HOOKS.map(|(hook, _)| hook));
        let Some(name) = self.fs_type.as_deref() else { return of_syscalls.choose(object, kernel) };
        let listed = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let names = functions::type_names(name);
        if !listed.lines().any(|line| line.split_whitespace().next_back().is_some_and(|n| names.contains(&n)))
        {
            return Err(Error::Usage(format!(
                "this kernel has no file system of type {name} (or its module is not loaded): see /proc/filesystems"
            )));
        }
        let of_functions = hooks.without(&["syscall_enter", "syscall_exit"]);
        let of_functions = match functions::at(of_functions, name) {
            Some(hooks) if !self.syscalls => hooks,
            _ => return of_syscalls.choose(object, kernel),
        };
        match of_functions.choose(object, kernel) {
            Ok(mut taken) => {
                taken.notes.push(
                    "reads, writes, opens that succeed and fsyncs are measured, by functions of the file system; \
                     --syscalls measures more operations"
                        .into(),
                );
                Ok(taken)
            }
            Err(Error::NoHook { hook, refusals }) => {
                let mut taken = of_syscalls.choose(object, kernel)?;
                let why = Error::NoHook { hook: format!("{hook} of {name}"), refusals };
                taken.notes.push(format!(
                    "{why}: measured at the system calls, so that I/O by io_uring, by mappings and by the kernel itself \
                     can't be seen"
                ));
                Ok(taken)
            }
            Err(other) => Err(other),
        }
    }
}
