// SPDX-License-Identifier: Apache-2.0 OR MIT
//! execsnoop: print each program that is started.

use std::collections::HashMap;
use std::mem::MaybeUninit;

use clap::Parser;
use kscope::Capability;
use kscope::Columns;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli::Buffer;
use kscope::cli::CgroupColumn;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::cli::Timestamps;
use kscope::escape::c_bytes;
use kscope::escape::escape;
use kscope::missing::Exec as MissingOf;
use kscope::missing::Finder;
use kscope::names;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("execsnoop");
use types::execsnoop_event as Record;
use types::execsnoop_kind as RecordKind;

kscope::records!(Record: 80);

kscope::tool!(Execsnoop);

/// Which programs are started, by whom, with which arguments?
#[derive(Parser, Debug)]
#[command(mut_arg("uid", |a| a.short('u')))]
#[command(mut_arg("comm", |a| a.short('n').visible_alias("name")))]
#[command(mut_arg("cgroup", |a| a.short('c')))]
#[command(mut_arg("timestamps", |a| a.short('T').alias("time")))]
struct Execsnoop {
    /// Print failed execs too
    #[arg(short = 'x', long = "fails")]
    fails: bool,
    /// Print seconds since the start of tracing: short for --timestamps=elapsed
    #[arg(short = 't', long = "timestamp")]
    elapsed: bool,
    /// Put quotes around each argument
    #[arg(short, long)]
    quote: bool,
    /// Print at most so many arguments of each exec
    #[arg(long, value_name = "COUNT")]
    max_args: Option<usize>,
    /// Print execs that have this in one of their arguments only
    #[arg(short, long, value_name = "TEXT")]
    line: Option<String>,
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

/// One exec.
struct Exec {
    time: Wall,
    record: Record,
    filename: Vec<u8>,
    args: Vec<Vec<u8>>,
    args_cut: bool,
    quote: bool,
    cgroup: Vec<u8>,
    missing: Option<Vec<u8>>,
}

impl Exec {
    fn error(&self) -> Value<'_> {
        if self.record.ret < 0 { Value::String(names::errno(-self.record.ret)) } else { Value::Null }
    }

    /// The arguments as one text, with a mark where there are more.
    fn args_shown(&self) -> Value<'_> {
        let one = |arg: &Vec<u8>| {
            let text = escape(arg);
            if self.quote { format!("\"{}\"", text.replace('"', "\\\"")) } else { text }
        };
        let mut words: Vec<String> = self.args.iter().map(one).collect();
        if self.record.args_unreadable != 0 {
            words.push("<unreadable>".into());
        } else if self.args_cut {
            words.push("...".into());
        }
        words.extend(self.missing.as_ref().map(|path| format!("<missing: {}>", escape(path))));
        Value::String(words.join(" "))
    }
}

impl Row for Exec {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When the exec ended", |r: &Self| Value::Time(r.time))
            .column("TIME", 9),
        Field::new("uid", Kind::Uint, "Real user id", |r: &Self| Value::Uint(r.record.uid.into())),
        Field::table_only(
            "UID",
            7,
            "User id: the real one; /, and the effective one if it differs",
            |r: &Self| Value::String(names::uids(r.record.uid, r.record.euid)),
        ),
        Field::new(
            "comm",
            Kind::Bytes,
            "Name of the process, after a successful exec the new one",
            |r: &Self| Value::Bytes(c_bytes(&r.record.comm)),
        )
        .column("PCOMM", 17),
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.record.tgid.into()))
            .column("PID", 8),
        Field::new("ppid", Kind::Uint, "Process id of the parent", |r: &Self| {
            Value::Uint(r.record.ppid.into())
        })
        .column("PPID", 8),
        Field::new("ret", Kind::Int, "0, or the negative error number", |r: &Self| {
            Value::Int(r.record.ret.into())
        })
        .column("RET", 4),
        Field::new("error", Kind::Text, "Name of the error", Self::error).nullable(),
        Field::new("compat", Kind::Bool, "Whether the caller is a 32-bit one", |r: &Self| {
            Value::Bool(r.record.compat != 0)
        }),
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::new(
            "filename",
            Kind::Bytes,
            "The file that was to be executed; null if unreadable",
            |r: &Self| {
                if r.record.name_unreadable != 0 { Value::Null } else { Value::Bytes(&r.filename) }
            },
        )
        .nullable(),
        Field::new("args", Kind::List, "The arguments of the new program", |r: &Self| {
            Value::List(r.args.iter().map(Vec::as_slice).collect())
        }),
        Field::new("args_cut", Kind::Bool, "Whether there are more arguments than these", |r: &Self| {
            Value::Bool(r.args_cut)
        }),
        Field::new("args_unreadable", Kind::Bool, "Whether arguments could not be read", |r: &Self| {
            Value::Bool(r.record.args_unreadable != 0)
        }),
        Field::new(
            "euid",
            Kind::Uint,
            "Effective user id, after a successful exec that of the new program",
            |r: &Self| Value::Uint(r.record.euid.into()),
        ),
        Field::new(
            "missing",
            Kind::Bytes,
            "After ENOENT, where filename is there: the interpreter or loader that is not",
            |r: &Self| r.missing.as_deref().into(),
        )
        .nullable(),
        Field::table_only("ARGS", 0, "The arguments; ... marks that there are more", Self::args_shown),
    ];
}

/// The parts of arguments that came ahead of their exec, by process and time.
#[derive(Default)]
struct Parts(HashMap<(u32, u64), Vec<u8>>);

impl Parts {
    /// Add a part; what does not follow on the last one shows a gap, and is of no use.
    fn add(&mut self, record: &Record, bytes: &[u8]) {
        // Of an exec that was lost itself, the parts stay: a process has one exec at a time.
        if record.args_offset == 0 {
            self.0.retain(|(tgid, _), _| *tgid != record.tgid);
        }
        let parts = self.0.entry((record.tgid, record.time_ns)).or_default();
        if parts.len() == record.args_offset as usize {
            parts.extend(bytes);
        }
    }

    /// All arguments of an exec, of which the last part came with it, and whether some are missing.
    fn finish(&mut self, record: &Record, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut parts = self.0.remove(&(record.tgid, record.time_ns)).unwrap_or_default();
        let gap = parts.len() != record.args_offset as usize;
        if !gap {
            parts.extend(bytes);
        }
        (parts, gap)
    }
}

impl Trace for Execsnoop {
    const NAME: &'static str = "execsnoop";
    const SUBSYSTEM: &'static str = "processes";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Exec>()]
    }

    fn run(mut self) -> anyhow::Result<()> {
        if self.elapsed {
            self.common.timestamps = Some(Timestamps::Elapsed);
        }
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(ExecsnoopSkelBuilder::default(), &mut storage, &self.common)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.want_uid = self.common.json || self.print_uid;
            rodata.want_cgroup = self.common.json || self.cgroup.print_cgroup;
        }
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        let unwanted: &[_] = if self.fails { &[] } else { &["failed_exec"] };
        let taken = Hooks::new().without(unwanted).choose(open.open_object_mut(), &Kernel::new()?)?;
        let skeleton = session::load(open)?;
        // To look at the files of others, for what is missing.
        let keep: &[_] =
            if self.fails { &[Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH] } else { &[] };
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, keep)?;

        let columns = self.columns();
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        let mut parts = Parts::default();
        let mut finder = Finder::default();
        session.stream(&skeleton.maps.events, |bytes, out| {
            let (record, tail) = kscope::record::<Record>(bytes)?;
            if RecordKind(record.kind.into()) == RecordKind::EXECSNOOP_ARGS {
                parts.add(&record, tail);
                return Ok(());
            }
            let (name, tail) = tail.split_at(usize::from(record.name_len).min(tail.len()));
            let (dir, args) = tail.split_at(usize::from(record.dir_len).min(tail.len()));
            let (args, gap) = parts.finish(&record, args);
            if !self.has_line(&args) {
                out.filtered();
                return Ok(());
            }
            let time = out.clock().wall(record.time_ns);
            let cgroup = cgroups.path(record.cgroup);
            let mut exec = self.exec(time, record, c_bytes(name).to_vec(), &args, gap, cgroup);
            exec.missing = missing_of(&record, &exec.filename, dir).and_then(|exec| finder.find(exec));
            Ok(out.row(&columns, &exec)?)
        })?;
        Ok(session.finish()?)
    }
}

impl Execsnoop {
    fn columns(&self) -> Columns<Exec> {
        let mut titles = vec!["PCOMM", "PID", "PPID", "RET", "ARGS"];
        titles.extend(self.common.timestamps.map(|_| "TIME"));
        titles.extend(self.print_uid.then_some("UID"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        Columns::new(&titles)
    }

    /// Whether one of all the arguments, printed or not, has what --line asks for.
    fn has_line(&self, args: &[u8]) -> bool {
        let has = |text: &String| args.split(|byte| *byte == 0).any(|arg| contains(arg, text.as_bytes()));
        self.line.as_ref().is_none_or(has)
    }

    fn exec(
        &self,
        time: Wall,
        record: Record,
        filename: Vec<u8>,
        args: &[u8],
        gap: bool,
        cgroup: Vec<u8>,
    ) -> Exec {
        let mut list: Vec<Vec<u8>> = args.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        // Each argument is ended by a NUL: behind the last one there is nothing, or one that was cut.
        if list.last().is_some_and(Vec::is_empty) {
            list.pop();
        }
        let mut args_cut = gap || record.args_cut != 0 || record.args_unreadable != 0;
        if let Some(max) = self.max_args
            && list.len() > max
        {
            list.truncate(max);
            args_cut = true;
        }
        Exec { time, record, filename, args: list, args_cut, quote: self.quote, cgroup, missing: None }
    }
}

/// Where to look for what an exec found missing.
fn missing_of(record: &Record, filename: &[u8], names: &[u8]) -> Option<MissingOf> {
    let marks = record.dir_marks & ((1 << names::PATH_ALL_SHIFT) - 1);
    if record.root_mnt_id == 0 || marks & (names::PATH_CUT | names::PATH_UNREACHABLE) != 0 {
        return None;
    }
    let (below, above) = names.split_at(usize::from(record.dir_below).min(names.len()));
    let dir = (marks & names::PATH_DELETED == 0).then(|| names::path(below, 0));
    let file =
        if filename.starts_with(b"/") { filename.to_vec() } else { [dir.as_deref()?, filename].join(&b'/') };
    Some(MissingOf {
        pids: [record.tgid, record.ppid],
        mount: record.root_mnt_id,
        root: names::path(above, 0),
        file,
        cwd: dir.filter(|_| record.dir_is_cwd != 0),
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}
