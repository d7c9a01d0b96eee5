// SPDX-License-Identifier: Apache-2.0 OR MIT
//! capable: print each check of a capability.

use std::mem::MaybeUninit;

use clap::Parser;
use clap::ValueEnum;
use kscope::Columns;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Out;
use kscope::Session;
use kscope::Trace;
use kscope::cli::Buffer;
use kscope::cli::CgroupColumn;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::escape::c_bytes;
use kscope::names;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::stack;
use kscope::stack::EventFrames;
use kscope::stack::EventStacks;
use kscope::stack::Stacks;
use kscope::time::Wall;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("capable");
use types::capable_event as Record;
use types::capable_unique as UniqueKey;

kscope::records!(Record: 96);
kscope::stack_types!();

kscope::tool!(Capable);

/// Options of a check: include/linux/security.h.
const CAP_OPT_NOAUDIT: u32 = 1 << 1;
const CAP_OPT_INSETID: u32 = 1 << 2;
/// Functions of the kernel that ask with such options.
const CALLERS: [(&str, u32); 5] = [
    ("ns_capable_noaudit", CAP_OPT_NOAUDIT),
    ("has_ns_capability_noaudit", CAP_OPT_NOAUDIT),
    ("has_capability_noaudit", CAP_OPT_NOAUDIT),
    ("security_vm_enough_memory_mm", CAP_OPT_NOAUDIT),
    ("ns_capable_setid", CAP_OPT_INSETID),
];

/// What a capability check is printed once for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Unique {
    /// Every check is printed
    Off,
    /// Each process
    Pid,
    /// Each cgroup
    Cgroup,
}

/// Which capabilities do processes use, and which are they refused?
#[derive(Parser, Debug)]
#[command(mut_arg("cgroup", |a| a.short('c')))]
struct Capable {
    /// Print the thread's id too, whether the check is audited, whether it is part of setting an id, and the user
    /// namespace
    #[arg(short = 'x', long = "extra-fields")]
    extra: bool,
    /// Print each capability, granted or refused, once for each of these
    #[arg(short = 'u', long = "unique", value_name = "WHAT", default_value = "off")]
    unique: Unique,
    /// Print also checks of which no refusal is audited: those by which the kernel only tries what it may do, as at
    /// each change of a memory map
    #[arg(short = 'a', long)]
    all: bool,
    /// Print refusals only
    #[arg(long)]
    refused: bool,
    /// Print checks of these capabilities only, by name or number, as in SYS_ADMIN,net_raw
    #[arg(long = "cap", value_name = "NAME", value_delimiter = ',', value_parser = names::capability_number)]
    caps: Vec<u32>,
    #[command(flatten)]
    stacks: EventStacks,
    #[command(flatten)]
    cgroup: CgroupColumn,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    buffer: Buffer,
    #[command(flatten)]
    common: Common,
}

/// One check.
struct Check {
    time: Wall,
    record: Record,
    cgroup: Vec<u8>,
    kernel: Option<EventFrames>,
    user: Option<EventFrames>,
    truncated: Option<bool>,
}

impl Check {
    /// A tracepoint does not tell the options.
    fn option(&self, bit: u32, means: bool) -> Value<'_> {
        match self.record.opts_known {
            0 => Value::Null,
            _ => Value::Bool((self.record.opts & bit != 0) == means),
        }
    }

    fn verdict(&self) -> &'static str {
        if self.record.ret == 0 { "granted" } else { "refused" }
    }
}

impl Row for Check {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When it was decided", |r: &Self| Value::Time(r.time))
            .column("TIME", 9),
        Field::new("uid", Kind::Uint, "User id of the thread", |r: &Self| Value::Uint(r.record.uid.into()))
            .column("UID", 7),
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.record.tgid.into()))
            .column("PID", 8),
        Field::new("tid", Kind::Uint, "Thread id", |r: &Self| Value::Uint(r.record.tid.into()))
            .column("TID", 8),
        Field::new("comm", Kind::Bytes, "Name of the thread", |r: &Self| {
            Value::Bytes(c_bytes(&r.record.comm))
        })
        .column("COMM", 17),
        Field::new("cap", Kind::Uint, "Number of the capability", |r: &Self| {
            Value::Uint(r.record.cap.into())
        })
        .column("CAP", 4),
        Field::new("name", Kind::Text, "Name of the capability", |r: &Self| {
            Value::String(names::capability(r.record.cap))
        })
        .column("NAME", 23),
        Field::new("audit", Kind::Bool, "Whether a refusal is audited, where known", |r: &Self| {
            r.option(CAP_OPT_NOAUDIT, false)
        })
        .nullable()
        .column("AUDIT", 6),
        Field::new("insetid", Kind::Bool, "Whether it is part of setting an id, where known", |r: &Self| {
            r.option(CAP_OPT_INSETID, true)
        })
        .nullable()
        .column("INSETID", 8),
        Field::new("user_ns", Kind::Uint, "Inode of the user namespace that it concerns", |r: &Self| {
            Value::Uint(r.record.user_ns.into())
        })
        .column("USERNS", 11),
        Field::new("cred_user_ns", Kind::Uint, "Inode of the credentials' user namespace", |r: &Self| {
            Value::Uint(r.record.cred_user_ns.into())
        }),
        Field::new("cred_uid", Kind::Uint, "User id in the credentials that were checked", |r: &Self| {
            Value::Uint(r.record.cred_uid.into())
        }),
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::new("verdict", Kind::Text, "granted or refused", |r: &Self| Value::Text(r.verdict()))
            .column("VERDICT", 0),
        Field::new(
            "kernel_stack",
            Kind::Array,
            "With -K: the kernel's frames, innermost first",
            |r: &Self| r.kernel.as_ref().map_or(Value::Null, EventFrames::kernel),
        )
        .nullable(),
        Field::new("user_stack", Kind::Array, "With -U: the user's frames, innermost first", |r: &Self| {
            r.user.as_ref().map_or(Value::Null, EventFrames::user)
        })
        .nullable(),
        Field::new(
            "truncated",
            Kind::Bool,
            "With -K or -U: whether a stack is as deep as the limit, and may go on",
            |r: &Self| r.truncated.map_or(Value::Null, Value::Bool),
        )
        .nullable(),
    ];
}

impl Trace for Capable {
    const NAME: &'static str = "capable";
    const SUBSYSTEM: &'static str = "security";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Check>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let stacks = self.stacks.options();
        let namer = stacks.namer()?;
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(CapableSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let callers = kernel.places(&CALLERS.map(|(name, _)| name));
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.unique = match self.unique {
                Unique::Off => UniqueKey::CAPABLE_UNIQUE_OFF.0,
                Unique::Pid => UniqueKey::CAPABLE_UNIQUE_PID.0,
                Unique::Cgroup => UniqueKey::CAPABLE_UNIQUE_CGROUP.0,
            };
            rodata.stack_depth = stacks.depth()?;
            rodata.stack_want_kernel = self.stacks.kernel_stack;
            rodata.stack_want_user = self.stacks.user_stack;
            rodata.audited_only = !self.all;
            rodata.refused_only = self.refused;
            rodata.caps = self.caps.iter().fold(0, |set, cap| set | 1 << cap);
            for (caller, (at, place)) in rodata.callers.iter_mut().zip(&callers) {
                (caller.start, caller.end, caller.opts) = (place.start, place.end, CALLERS[*at].1);
            }
            rodata.callers_len = callers.len() as u32;
            rodata.want_cgroup = self.common.json || self.cgroup.print_cgroup;
        }
        let object = open.open_object_mut();
        session::set_buffer(object, &self.buffer)?;
        self.stacks.size_maps(object)?;
        if self.unique == Unique::Off {
            session::set_max_entries(object, "seen", 1)?;
        }
        // A tracepoint does not tell the options of a check, and who asked tells them only where the kernel shows
        // its addresses; -x takes the surest way.
        let hooks = stacks.hooks(Hooks::new());
        let untold = callers.is_empty();
        let hooks = if self.extra || untold {
            hooks.prefer("check", "fexit").prefer("check", "kprobe")
        } else {
            hooks
        };
        let mut taken = hooks.choose(object, &kernel)?;
        let by_function = taken.hooks.values().any(|way| way.contains("fexit") || way.contains("kretprobe"));
        if untold && !by_function {
            taken.notes.push(
                "whether a check is audited or part of setting an id can't be seen here, so that all are printed: \
                 the kernel shows its addresses with CAP_SYSLOG only"
                    .into(),
            );
        }
        drop(kernel);
        let skeleton = session::load(open)?;
        let keep = stacks.capabilities();
        let mut session = Session::start(Self::NAME, &self.common, skeleton.object(), &taken, &keep)?;
        let slots = stack_slots(&skeleton.maps.stack_slots)?;
        let stacks = self.stacks.any().then(|| Stacks::start(&stacks, namer, stack::Taken::InHook, slots));
        let stacks = stacks.transpose()?;

        let columns = self.columns();
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        let on_record = |bytes: &[u8], out: &mut Out| {
            if let Some(stacks) = stacks.as_ref().filter(|_| stack::is_stack(bytes)) {
                return Ok(stacks.record::<types::stack_head>(bytes)?);
            }
            let (record, _) = kscope::record::<Record>(bytes)?;
            let frames =
                stacks.as_ref().map(|s| s.of_event(record.kernel_stack, record.user_stack)).transpose()?;
            let lines = frames.as_ref().filter(|_| !out.is_json()).map_or_else(Vec::new, EventFrames::lines);
            let truncated = frames.as_ref().map(EventFrames::is_truncated);
            let kernel = frames.clone().filter(|_| self.stacks.kernel_stack);
            let user = frames.filter(|_| self.stacks.user_stack);
            let time = out.clock().wall(record.time_ns);
            out.row(
                &columns,
                &Check { time, record, cgroup: cgroups.path(record.cgroup), kernel, user, truncated },
            )?;
            Ok(lines.iter().try_for_each(|line| out.text(line))?)
        };
        match &stacks {
            Some(stacks) => {
                session.stream_following(&mut stacks.ends(|| ()), &skeleton.maps.events, on_record)?
            }
            None => session.stream(&skeleton.maps.events, on_record)?,
        }
        Ok(session.finish()?)
    }
}

impl Capable {
    fn columns(&self) -> Columns<Check> {
        let mut titles = vec!["TIME", "UID", "PID", "COMM", "CAP", "NAME", "VERDICT"];
        titles.extend(self.extra.then_some(["TID", "AUDIT", "INSETID", "USERNS"]).into_iter().flatten());
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        Columns::new(&titles)
    }
}
