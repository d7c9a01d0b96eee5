// SPDX-License-Identifier: Apache-2.0 OR MIT
//! gethostlatency: print each look-up of a host by the C library, and how long it took.

use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::path::PathBuf;

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
use kscope::escape::escape;
use kscope::names;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::RowInfo;
use kscope::row::Value;
use kscope::session;
use kscope::time::Wall;
use kscope::uprobe;
use kscope::uprobe::Place;
use kscope::uprobe::Uprobes;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("gethostlatency");
use types::gethostlatency_call as Call;
use types::gethostlatency_event as Record;

kscope::records!(Record: 72);

kscope::tool!(Gethostlatency);

/// Which host names are looked up, how long does it take, and which look-ups fail?
#[derive(Parser, Debug)]
struct Gethostlatency {
    /// Look at calls in this file only: a C library, or a static program with symbols
    #[arg(short, long, value_name = "PATH")]
    libc: Option<PathBuf>,
    /// Print look-ups that failed only
    #[arg(short = 'x', long)]
    failed: bool,
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

/// One look-up that has ended.
struct Lookup {
    time: Wall,
    record: Record,
    host: Vec<u8>,
    cgroup: Vec<u8>,
}

impl Lookup {
    fn call(&self) -> Call {
        Call(self.record.call.into())
    }

    fn function(&self) -> &'static str {
        let call = u64::from(self.record.call);
        FUNCTIONS.iter().find(|(_, number)| *number == call).map_or("unknown", |(name, _)| name)
    }

    /// Why it failed, if that is known: of gethostbyname() it is not where the library fails by itself.
    fn error(&self) -> Option<String> {
        let Record { failed, ret, h_errno, .. } = self.record;
        match self.call() {
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

    fn result(&self) -> Value<'_> {
        match self.error() {
            Some(error) => Value::String(error),
            None => Value::Text(if self.record.failed == 0 { "ok" } else { "failed" }),
        }
    }

    fn host(&self) -> Value<'_> {
        let known = self.record.no_host == 0 && self.record.host_unreadable == 0;
        if known { Value::Bytes(&self.host) } else { Value::Null }
    }

    fn host_shown(&self) -> Value<'_> {
        match self.host() {
            Value::Bytes(host) if self.record.host_cut != 0 => Value::String(escape(host) + "..."),
            Value::Null if self.record.no_host == 0 => Value::Text("<unreadable>"),
            host => host,
        }
    }
}

/// The functions, as enum gethostlatency_call has them.
const FUNCTIONS: &[uprobe::Function] = &[
    ("getaddrinfo", Call::GETHOSTLATENCY_GETADDRINFO.0 as u64),
    ("gethostbyname", Call::GETHOSTLATENCY_GETHOSTBYNAME.0 as u64),
    ("gethostbyname2", Call::GETHOSTLATENCY_GETHOSTBYNAME2.0 as u64),
    ("gethostbyname_r", Call::GETHOSTLATENCY_GETHOSTBYNAME_R.0 as u64),
    ("gethostbyname2_r", Call::GETHOSTLATENCY_GETHOSTBYNAME2_R.0 as u64),
    ("gethostbyaddr", Call::GETHOSTLATENCY_GETHOSTBYADDR.0 as u64),
    ("gethostbyaddr_r", Call::GETHOSTLATENCY_GETHOSTBYADDR_R.0 as u64),
    ("getnameinfo", Call::GETHOSTLATENCY_GETNAMEINFO.0 as u64),
    ("res_query", Call::GETHOSTLATENCY_RES_QUERY.0 as u64),
    ("res_search", Call::GETHOSTLATENCY_RES_SEARCH.0 as u64),
    ("res_nquery", Call::GETHOSTLATENCY_RES_NQUERY.0 as u64),
    ("res_nsearch", Call::GETHOSTLATENCY_RES_NSEARCH.0 as u64),
];

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

impl Row for Lookup {
    const TYPE: &'static str = "event";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "When the call ended", |r: &Self| Value::Time(r.time))
            .column("TIME", 9),
        Field::new("uid", Kind::Uint, "User id", |r: &Self| Value::Uint(r.record.uid.into()))
            .column("UID", 7),
        Field::new("pid", Kind::Uint, "Process id", |r: &Self| Value::Uint(r.record.tgid.into()))
            .column("PID", 8),
        Field::new("tid", Kind::Uint, "Thread id", |r: &Self| Value::Uint(r.record.tid.into())),
        Field::new("comm", Kind::Bytes, "Name of the thread", |r: &Self| {
            Value::Bytes(c_bytes(&r.record.comm))
        })
        .column("COMM", 17),
        Field::new("function", Kind::Text, "The function that was called", |r: &Self| {
            Value::Text(r.function())
        }),
        Field::new("latency_us", Kind::Float, "How long the call took, in microseconds", |r: &Self| {
            Value::Float(r.record.latency_ns as f64 / 1e3, 3)
        }),
        Field::table_only("LAT(ms)", 11, "How long the call took", |r: &Self| {
            Value::Float(r.record.latency_ns as f64 / 1e6, 3)
        }),
        Field::new("failed", Kind::Bool, "Whether the call failed", |r: &Self| {
            Value::Bool(r.record.failed != 0)
        }),
        Field::new(
            "error",
            Kind::Text,
            "Why it failed, as <netdb.h> names it, if that is known",
            |r: &Self| r.error().map_or(Value::Null, Value::String),
        )
        .nullable(),
        Field::table_only("RESULT", 15, "ok, or why it failed", Self::result),
        Field::cgroup(|r: &Self| Value::known(&r.cgroup)),
        Field::table_only("HOST", 0, "The name or the address that was looked up", Self::host_shown),
        Field::new(
            "host",
            Kind::Bytes,
            "The name, or the address as text; null if none was passed, or unreadable",
            Self::host,
        )
        .nullable(),
        Field::new("host_unreadable", Kind::Bool, "Whether the name could not be read", |r: &Self| {
            Value::Bool(r.record.host_unreadable != 0)
        }),
        Field::new("host_cut", Kind::Bool, "Whether the name may be longer than shown", |r: &Self| {
            Value::Bool(r.record.host_cut != 0)
        }),
    ];
}

impl Trace for Gethostlatency {
    const NAME: &'static str = "gethostlatency";
    const SUBSYSTEM: &'static str = "applications";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Lookup>()]
    }

    fn run(self) -> anyhow::Result<()> {
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(GethostlatencySkelBuilder::default(), &mut storage, &self.common)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.failed_only = self.failed;
            rodata.want_cgroup = self.common.json || self.cgroup.print_cgroup;
        }
        session::set_buffer(open.open_object_mut(), &self.buffer)?;
        let mut taken = Hooks::new().choose(open.open_object_mut(), &Kernel::new()?)?;
        let skeleton = session::load(open)?;
        let place = self.libc.clone().map_or(Place::Libraries(uprobe::is_libc), Place::File);
        let object = skeleton.object();
        let mut probes = Uprobes::new(Self::NAME, object, FUNCTIONS, place, &self.filter.pid)?;
        taken.notes.extend(probes.notes());
        let keep = probes.capabilities();
        let attach = |_: &_| probes.attach().map(|()| Vec::new());
        let mut session = Session::start_with(Self::NAME, &self.common, object, &taken, &keep, attach)?;

        let columns = self.columns();
        session.out().header(&columns)?;
        let mut cgroups = names::Cgroups::of(skeleton.object())?;
        session.stream_following(&mut probes, &skeleton.maps.events, |bytes, out| {
            let (record, tail) = kscope::record::<Record>(bytes)?;
            let host = host(record.family, &tail[..usize::from(record.host_len).min(tail.len())]);
            let (time, cgroup) = (out.clock().wall(record.time_ns), cgroups.path(record.cgroup));
            Ok(out.row(&columns, &Lookup { time, record, host, cgroup })?)
        })?;
        Ok(session.finish()?)
    }
}

impl Gethostlatency {
    fn columns(&self) -> Columns<Lookup> {
        let mut titles = vec!["TIME", "PID", "COMM", "LAT(ms)", "RESULT", "HOST"];
        titles.extend(self.print_uid.then_some("UID"));
        titles.extend(self.cgroup.print_cgroup.then_some("CGROUP"));
        Columns::new(&titles)
    }
}
