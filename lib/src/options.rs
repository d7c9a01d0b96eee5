// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options that tools share, and how their values are read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::ValueEnum;

use crate::Error;
use crate::cgroups;
use crate::cgroups::Cgroup;
use crate::command;
use crate::users;

/// The most entries of one filter's list: `KSCOPE_FILTER_MAX` in bpf/filter.bpf.h.
pub const FILTER_MAX: usize = 32;
const COMM_MAX: usize = 15;
/// The kernel's comm, with the byte behind its end.
const COMM_LEN: usize = COMM_MAX + 1;
pub(crate) const FILTERS: &str = "Filters: a list is separated by commas";

/// How a row's time is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Timestamps {
    /// Local time of day, HH:MM:SS
    Time,
    /// Seconds since the tool began to trace
    Elapsed,
    /// RFC 3339 in UTC with nanoseconds
    Rfc3339,
}

/// Options of every tool.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every kscope tool")]
pub struct Common {
    /// Print JSON, one object a line: a header, the data, a footer (see docs/output.md)
    #[arg(long)]
    pub json: bool,
    /// Print no table header
    #[arg(long)]
    pub no_header: bool,
    /// Print the time of each row or interval
    #[arg(long, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "time")]
    pub timestamps: Option<Timestamps>,
    /// Stop after this time: seconds, or with a unit as in 500ms, 10s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Write the data into this new file, and not to stdout; a full disk is told, and tried again
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Exit with status 3 if any event was lost
    #[arg(long)]
    pub strict: bool,
    /// Say on stderr which hooks were taken, and what libbpf says
    #[arg(short, long)]
    pub verbose: bool,
    /// Attach, print the header, and exit
    #[arg(long, hide = true)]
    pub dry_run: bool,
    /// Print the JSON Schema of --json, and exit
    #[arg(long, hide = true)]
    pub json_schema: bool,
}

/// The size of the buffer between the kernel and a tool that prints events.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every kscope tool")]
pub struct Buffer {
    /// Size of the buffer between kernel and tool: bytes, or with a unit as in 512K, 16M; rounded up to a
    /// power of two of at least a page
    #[arg(long = "buffer", value_name = "SIZE", value_parser = buffer_size, default_value = "4M")]
    pub size: u32,
}

/// Which tasks to trace.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = FILTERS)]
pub struct Filter {
    /// Trace these processes only
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', value_parser = id)]
    pub pid: Vec<u32>,
    /// Trace these threads only
    #[arg(long = "tid", value_name = "TID", value_delimiter = ',', value_parser = id)]
    pub tid: Vec<u32>,
    /// Trace tasks of these users only, by name or number
    #[arg(long = "uid", value_name = "USER", value_delimiter = ',', value_parser = users::uid)]
    pub uid: Vec<u32>,
    /// Trace threads whose name contains one of these only; \\, is a comma in a name
    #[arg(long = "comm", value_name = "NAME", value_parser = |text: &str| List::of(text, comm))]
    comm: Vec<List<String>>,
    /// Trace tasks in these cgroups and below only: a path in a cgroup file system, the cgroup's id, or a systemd
    /// unit, as in nginx.service
    #[arg(long = "cgroup", value_name = "CGROUP", value_parser = |text: &str| List::of(text, cgroups::cgroup))]
    cgroup: Vec<List<Cgroup>>,
    /// Trace tasks in these containers only: their ids, or at least 4 digits that each begins with
    #[arg(long = "container", value_name = "ID", value_parser = |text: &str| List::of(text, cgroups::container))]
    container: Vec<List<Cgroup>>,
}

/// The values of one option, separated by commas. In a value, `\,` is a comma, and `\\` a backslash.
#[derive(Clone, Debug)]
struct List<T>(Vec<T>);

impl<T> List<T> {
    fn of(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let mut values = vec![String::new()];
        let mut rest = text.chars().peekable();
        while let Some(found) = rest.next() {
            match (found, values.last_mut()) {
                (',', _) => values.push(String::new()),
                ('\\', Some(value)) => {
                    value.push(rest.next_if(|next| matches!(next, ',' | '\\')).unwrap_or(found))
                }
                (_, Some(value)) => value.push(found),
                (_, None) => (),
            }
        }
        values.iter().map(|value| parse(value)).collect::<Result<_, _>>().map(Self)
    }
}

/// Whose I/O to measure, in tools that see the block layer.
#[derive(Args, Clone, Debug)]
pub struct BlockCgroup {
    /// Measure I/O that was issued in these cgroups and below only: a path, the cgroup's id, or a systemd unit
    #[arg(short, long, value_name = "CGROUP", value_parser = |text: &str| List::of(text, cgroups::block_cgroup))]
    cgroup: Vec<List<Option<Cgroup>>>,
    /// Measure I/O that was issued in these containers only: their ids, or at least 4 digits that each begins with
    #[arg(long, value_name = "ID", value_parser = |text: &str| List::of(text, cgroups::block_container))]
    container: Vec<List<Option<Cgroup>>>,
}

impl BlockCgroup {
    /// The cgroups that are named; nothing stands for a root, which all I/O is below.
    pub(crate) fn named(&self) -> impl Iterator<Item = &Option<Cgroup>> {
        self.cgroup.iter().chain(&self.container).flat_map(|list| &list.0)
    }
}

/// A column of tools that print events.
#[derive(Args, Clone, Debug)]
pub struct CgroupColumn {
    /// Print the cgroup
    #[arg(long = "print-cgroup", visible_alias = "show-cgroup")]
    pub print_cgroup: bool,
}

/// A column of tools that print events.
#[derive(Args, Clone, Debug)]
pub struct UidColumn {
    /// Print the user id
    #[arg(short = 'U', long = "print-uid")]
    pub print_uid: bool,
}

/// How often a summary is printed.
#[derive(Args, Clone, Debug)]
pub struct Interval {
    /// Print a summary each so many seconds; without it, one at the end
    #[arg(value_parser = duration)]
    pub interval: Option<Duration>,
    /// Stop after so many summaries
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// The summary as metrics.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Metrics: the summary for Prometheus (see docs/output.md)")]
pub struct Metrics {
    /// Serve OpenMetrics over HTTP at /metrics, as on 127.0.0.1:9435; without an interval, until stopped
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen)]
    pub metrics_listen: Option<SocketAddr>,
    /// Write the metrics of each interval into this file, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub textfile: Option<PathBuf>,
    /// Have at most so many series of each metric; the rest is added up in one that is named other
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub metrics_series: u32,
}

/// An address to listen on; as with other exporters, `:9435` is that port of every address.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let full = match text.strip_prefix("localhost:").or(text.strip_prefix(':')) {
        Some(port) if text.starts_with(':') => format!("[::]:{port}"),
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.into(),
    };
    full.parse().map_err(|_| "not an address with a port, as in 127.0.0.1:9435, [::1]:9435 or :9435".into())
}

/// A time: seconds, or a number with ms, s, m or h.
///
/// # Errors
/// A sentence for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("the units are ms, s, m and h".into()),
    };
    let number: f64 = number.parse().map_err(|_| "not a number of seconds".to_string())?;
    match Duration::try_from_secs_f64(number * unit) {
        // A year: longer ones make no sense and would overflow later.
        Ok(time) if !time.is_zero() && time.as_secs() <= 366 * 86_400 => Ok(time),
        _ => Err("must be more than nothing and less than a year".into()),
    }
}

/// A threshold: milliseconds, or a number with us, ms, s, m or h; 0 is none.
///
/// # Errors
/// A sentence for the user.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    let (number, to_ms) = match text.strip_suffix("us") {
        Some(number) => (number, 0.001),
        None => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(0.0) => Ok(Duration::ZERO),
        Ok(number) => duration(&format!("{}ms", number * to_ms)),
        Err(_) => {
            duration(text).map_err(|_| "not a number of milliseconds, nor one with us, ms, s, m or h".into())
        }
    }
}

/// A size in bytes as a power of two, for a ring buffer.
fn buffer_size(text: &str) -> Result<u32, String> {
    let (number, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| "not a size: give bytes, or as in 512K, 16M".to_string())?;
    let bytes = number.checked_mul(1 << shift).filter(|n| (1..=1 << 30).contains(n));
    let bytes = bytes.ok_or("must be between 1 and 1G")?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    let size = bytes.max(page.unsigned_abs()).next_power_of_two();
    u32::try_from(size).map_err(|e| e.to_string())
}

fn id(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(id) if id > 0 && id <= i32::MAX.unsigned_abs() => Ok(id),
        _ => Err("not a process or thread number".into()),
    }
}

fn comm(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("an empty name".into());
    }
    if text.len() > COMM_MAX {
        let end = (0..=COMM_MAX).rev().find(|at| text.is_char_boundary(*at));
        let start = &text[..end.unwrap_or_default()];
        return Err(format!("the kernel keeps {COMM_MAX} bytes of a thread's name: give {start:?}"));
    }
    Ok(text.into())
}

pub(crate) fn too_many(option: &str) -> Error {
    Error::Usage(format!("{option} takes at most {FILTER_MAX} values"))
}

impl Filter {
    /// The cgroups of --cgroup and --container, any of which passes.
    pub fn cgroups(&self) -> impl Iterator<Item = &Cgroup> {
        self.cgroup.iter().chain(&self.container).flat_map(|list| &list.0)
    }

    /// The names of --comm, each as two words, and the masks of their bytes (`struct kscope_name`).
    pub fn comms(&self) -> impl Iterator<Item = [u64; 4]> {
        let word = |bytes: &[u8; COMM_LEN], half: usize| {
            u64::from_le_bytes(bytes.as_chunks().0.get(half).copied().unwrap_or_default())
        };
        self.comm.iter().flat_map(|list| &list.0).map(move |name| {
            let (mut bytes, mut mask) = ([0; COMM_LEN], [0; COMM_LEN]);
            for ((to, mask), from) in bytes.iter_mut().zip(&mut mask).zip(name.as_bytes()) {
                (*to, *mask) = (*from, u8::MAX);
            }
            [word(&bytes, 0), word(&bytes, 1), word(&mask, 0), word(&mask, 1)]
        })
    }

    /// Check what a single value's parser can't see.
    pub(crate) fn too_long(&self) -> Option<&'static str> {
        [
            ("--pid", self.pid.len()),
            ("--tid", self.tid.len()),
            ("--uid", self.uid.len()),
            ("--comm", self.comms().count()),
            ("--cgroup", self.cgroups().count()),
        ]
        .into_iter()
        .find(|(_, len)| *len > FILTER_MAX)
        .map(|(name, _)| name)
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.pid.is_empty()
            && self.tid.is_empty()
            && self.uid.is_empty()
            && self.comm.is_empty()
            && self.cgroup.is_empty()
            && self.container.is_empty()
            && !command::is_given()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "x", "0", "-1", "1d", "nan", "inf", "1e300", "s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn thresholds() {
        assert_eq!(milliseconds("10"), Ok(Duration::from_millis(10)));
        assert_eq!(milliseconds("0.5"), Ok(Duration::from_micros(500)));
        assert_eq!(milliseconds("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(milliseconds("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(milliseconds("0"), Ok(Duration::ZERO));
        for bad in ["", "us", "-1", "nan", "1d", "1e300", "-0.5us"] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let list = |text: &str| List::of(text, |value| Ok(value.to_string())).map(|list| list.0);
        let is = |text: &str, values: &[&str]| assert_eq!(list(text).unwrap(), values, "{text}");
        is("a", &["a"]);
        is("a,b", &["a", "b"]);
        is(r"a\,b,c", &["a,b", "c"]);
        is(r"a\\,b", &[r"a\", "b"]);
        is(r"dev-disk-by\x2duuid.slice\", &[r"dev-disk-by\x2duuid.slice\"]);
        is(",", &["", ""]);
        assert!(List::of("a,,b", comm).is_err());
        assert!(comm("sixteen bytes \u{e9}").is_err_and(|why| why.contains("\"sixteen bytes \"")));
    }

    #[test]
    fn buffer_sizes_are_powers_of_two() {
        assert_eq!(buffer_size("8M"), Ok(8 << 20));
        assert_eq!(buffer_size("5000"), Ok(8192));
        assert_eq!(buffer_size("1"), Ok(4096));
        for bad in ["", "M", "0", "-1", "2G", "99999999999999999999", "1é"] {
            assert!(buffer_size(bad).is_err(), "{bad}");
        }
    }
}
