// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Perf maps: the names that a process gives to code that it makes, in /tmp/perf-PID.map. Each line has a start and a
//! size in hexadecimal and a name (tools/perf/Documentation/jit-interface.txt of the kernel's source).
//!
//! A process appends: the newest line counts. So a map is read from its end to its beginning, until all that is asked
//! for has a name, and nothing of it is kept. It may be written at the process's end, and may be gone by then.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::demangle;
use crate::door::Links;
use crate::door::Refused;
use crate::door::Root;
use crate::namer::Namer;
use crate::spaces::Why;

const NONE: Why = "made at run time, and the process has no perf map in /tmp";
const NOT_THERE: Why = "made at run time, and not in the process's perf map";
const OUTLIVED: Why = "made at run time; the process and its /tmp had ended before a perf map was looked for";
pub(crate) const CLOSED: Why =
    "made at run time, and the process's perf map was closed before the stack came";
const NOT_OURS: Why = "made at run time, and others than the process's user may write to its perf map";
const OLD: Why = "made at run time, and the perf map in /tmp is older than the process";
const LINK: Why = "made at run time, and the path of its perf map has a symbolic link";
const DENIED: Why = "made at run time, and opening its perf map is not allowed";
const NO_FILE: Why = "made at run time, and its perf map is no regular file";
const UNREADABLE: Why = "made at run time, and its perf map can't be read";
const TOO_LONG: Why = "made at run time, and not in the part of the process's perf map that was read";

/// So much of one map is read at a time.
const MAP_MAX: u64 = 256 << 20;
/// So much of all maps together.
const ALL_MAX: u64 = 1 << 30;
const BLOCK: u64 = 256 << 10;
/// What is longer is no line of a perf map.
const LINE_MAX: usize = 64 << 10;
/// A map may be there by now, but to look costs.
const AGAIN: Duration = Duration::from_millis(50);
/// The clock that files have may lag, and that of processes counts in hundredths of a second.
const CLOCKS_DIFFER: i64 = 2;

/// How much may still be read of perf maps.
pub(crate) struct Budget(u64);

impl Budget {
    /// For one time that names are asked for.
    pub fn new() -> Self {
        Self(ALL_MAX)
    }
}

/// The perf map of a process.
pub(crate) struct PerfMap {
    pid: u32,
    process: Option<Process>,
    /// It is held, as it may be removed before names are asked for.
    file: Option<fs::File>,
    tried: Option<Instant>,
}

/// What must be known of a process to find its map when it has ended.
#[derive(PartialEq, Eq)]
struct Process {
    /// In its own namespace, as the map's name has it.
    inner: u32,
    user: u32,
    /// In seconds since the epoch.
    started: i64,
    /// In ticks since the boot, which tells it from a later one of the same number.
    ticks: u64,
    /// Whether its files are ours, so that its /tmp is there when it has ended.
    at_home: bool,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
        let inner = str::from_utf8(line).ok()?.split_whitespace().last()?.parse().ok()?;
        let user = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
        let ticks = start_ticks(pid)?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
        let clock = |id| nix::time::clock_gettime(id).ok().map(|time| time.tv_sec());
        let now = clock(nix::time::ClockId::CLOCK_REALTIME)?;
        let up = clock(nix::time::ClockId::CLOCK_BOOTTIME)?;
        let started = now - up + i64::try_from(ticks / u64::try_from(per_second).ok()?).ok()?;
        let same = |what: &str| {
            let of = |pid: &str| fs::metadata(format!("/proc/{pid}/{what}")).map(|m| (m.dev(), m.ino())).ok();
            of("self").is_some_and(|ours| of(&pid.to_string()) == Some(ours))
        };
        Some(Self { inner, user, started, ticks, at_home: same("ns/mnt") && same("root") })
    }
}

/// When a process began, which tells that it has not ended: one that nobody has waited for yet has no files any more.
/// It is in /proc/PID/stat, of which field 2, in brackets, may hold anything.
fn start_ticks(pid: u32) -> Option<u64> {
    const STATE: usize = 3;
    const THREADS: usize = 20;
    const START: usize = 22;
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(stat.get(name_end + 2..)?).ok()?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let field = |n: usize| fields.get(n - STATE).copied();
    // The first thread may end before the others.
    if matches!(field(STATE)?, "Z" | "X") && field(THREADS)?.parse::<u32>().ok()? <= 1 {
        return None;
    }
    field(START)?.parse().ok()
}

impl PerfMap {
    /// Of a process that has made code.
    pub fn of(pid: u32) -> Self {
        Self { pid, process: None, file: None, tried: None }
    }

    /// Look whether there is one, as long as the process lives.
    pub fn look(&mut self) {
        if self.file.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < AGAIN) {
            return;
        }
        self.tried = Some(Instant::now());
        if self.process.is_none() {
            self.process = Process::read(self.pid);
        }
        self.file = self.open().ok();
    }

    fn lives(&self) -> bool {
        self.process.as_ref().is_some_and(|process| start_ticks(self.pid) == Some(process.ticks))
    }

    fn open(&self) -> Result<fs::File, Why> {
        let process = self.process.as_ref().ok_or(OUTLIVED)?;
        let root = match self.lives() {
            true => Root::of_process(self.pid),
            false if process.at_home => Root::ours(),
            false => return Err(OUTLIVED),
        };
        let path = format!("/tmp/perf-{}.map", process.inner);
        let file = root.and_then(|root| root.open(Path::new(&path), Links::Refuse));
        let file = file.map_err(|refused| match refused {
            Refused::NotFound => NONE,
            Refused::Link => LINK,
            Refused::Denied => DENIED,
            Refused::NotRegular | Refused::Pseudo => NO_FILE,
            Refused::Failed(_) => UNREADABLE,
        })?;
        let found = file.metadata().map_err(|_| UNREADABLE)?;
        if (found.uid() != process.user && found.uid() != 0) || found.mode() & 0o002 != 0 {
            return Err(NOT_OURS);
        }
        // Left by an earlier process of the same number.
        if found.mtime() < process.started.saturating_sub(CLOCKS_DIFFER) {
            return Err(OLD);
        }
        Ok(file)
    }

    /// What is known of the file.
    pub fn metadata(&mut self) -> Option<fs::Metadata> {
        self.look();
        self.file.as_ref()?.metadata().ok()
    }

    /// Names of code at addresses, and where it begins.
    pub fn names(
        &mut self,
        addresses: &[u64],
        budget: &mut Budget,
        namer: &mut Namer,
    ) -> Vec<Result<(String, u64), Why>> {
        self.look();
        // The one that is there now, if there is one: the process may have made another.
        let opened = self.open();
        let file = match (&opened, &self.file) {
            (Ok(now), _) => now,
            (Err(_), Some(held)) => held,
            (Err(why), None) => return vec![Err(why); addresses.len()],
        };
        let asked: BTreeSet<u64> = addresses.iter().copied().collect();
        let allowed = budget.0.min(MAP_MAX);
        match namer.perf_map(file, &asked, !self.lives(), allowed) {
            Ok(found) => {
                budget.0 = budget.0.saturating_sub(found.read);
                let why = if found.all { NOT_THERE } else { TOO_LONG };
                addresses.iter().map(|address| found.names.get(address).cloned().ok_or(why)).collect()
            }
            Err(why) => vec![Err(why); addresses.len()],
        }
    }
}

/// What was found in a perf map.
pub(crate) struct Found {
    /// By address: the name, and where the code begins.
    pub names: BTreeMap<u64, (String, u64)>,
    /// Bytes.
    pub read: u64,
    /// Whether all of the file was read, as far as it was of use.
    pub all: bool,
}

/// Read lines from the last to the first until all addresses have a name. A last line without an end is still being
/// written unless the file is complete.
pub(crate) fn search(
    file: &fs::File,
    mut asked: BTreeSet<u64>,
    complete: bool,
    allowed: u64,
) -> io::Result<Found> {
    let length = file.metadata()?.len();
    let mut names = BTreeMap::new();
    let mut at = length;
    // The end of a line that begins in an earlier block; `None` in the midst of one that is too long.
    let mut rest: Option<Vec<u8>> = Some(Vec::new());
    let mut is_last = !complete;
    while at > 0 && length - at < allowed && !asked.is_empty() {
        let start = at.saturating_sub(BLOCK);
        let mut text = vec![0; (at - start) as usize];
        file.read_exact_at(&mut text, start)?;
        at = start;
        let too_long = rest.is_none();
        text.extend(rest.take().unwrap_or_default());
        let mut lines = text.as_slice();
        let first = if at == 0 { None } else { memchr::memchr(b'\n', &text) };
        let mut drop_last = too_long;
        let mut take = |line: &[u8]| {
            let partial = std::mem::take(&mut is_last);
            let dropped = std::mem::take(&mut drop_last);
            if !partial && !dropped {
                take_line(line, &mut asked, &mut names);
            }
        };
        if at == 0 || first.is_some() {
            let begin = first.map_or(0, |newline| newline + 1);
            lines = &lines[begin..];
            while let Some(newline) = memchr::memrchr(b'\n', lines) {
                take(&lines[newline + 1..]);
                lines = &lines[..newline];
            }
            take(lines);
            text.truncate(first.unwrap_or(0));
        }
        rest = (text.len() <= LINE_MAX && !(too_long && first.is_none())).then_some(text);
    }
    Ok(Found { names, read: length - at, all: at == 0 || asked.is_empty() })
}

/// Give the addresses that a line covers its name.
fn take_line(line: &[u8], asked: &mut BTreeSet<u64>, names: &mut BTreeMap<u64, (String, u64)>) {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (Some(start), Some(size), Some(name)) =
        (words.next().and_then(hex), words.next().and_then(hex), words.next())
    else {
        return;
    };
    let name = name.trim_ascii();
    if name.is_empty() {
        return;
    }
    // One whose size is not known covers its beginning.
    let end = start.saturating_add(size.max(1));
    let covered: Vec<u64> = asked.range(start..end).copied().collect();
    for address in covered {
        asked.remove(&address);
        names.insert(address, (demangle::cut(&String::from_utf8_lossy(name)), start));
    }
}

fn hex(word: &[u8]) -> Option<u64> {
    let digits = word.strip_prefix(b"0x").or_else(|| word.strip_prefix(b"0X")).unwrap_or(word);
    // It would take a sign.
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn map(text: &[u8]) -> fs::File {
        let memory = nix::sys::memfd::memfd_create(c"map", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = fs::File::from(memory);
        file.write_all(text).unwrap();
        file
    }

    fn names(text: &[u8], asked: &[u64], complete: bool) -> Vec<Option<(String, u64)>> {
        let found = search(&map(text), asked.iter().copied().collect(), complete, u64::MAX).unwrap();
        assert!(found.all);
        asked.iter().map(|address| found.names.get(address).cloned()).collect()
    }

    fn name(name: &str, start: u64) -> Option<(String, u64)> {
        Some((name.into(), start))
    }

    #[test]
    fn the_newest_line_that_covers_an_address_counts() {
        let text = b"1000 100 old\n0x2000 10 two words\n1080 100 new\n3000 10 a\n3000 10 b\n";
        let found = names(text, &[0x1040, 0x1080, 0x117f, 0x1180, 0x200f, 0x2010, 0x3000], false);
        let b = name("b", 0x3000);
        let two = name("two words", 0x2000);
        let new = name("new", 0x1080);
        assert_eq!(found, [name("old", 0x1000), new.clone(), new, None, two, None, b]);
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let text = b"nonsense\n\n1000 zz bad\n+1000 10 sign\n1000 10\n1000 10 \n0X1000 0x10 good\r\n\xff\n";
        assert_eq!(names(text, &[0x1008], false), [name("good", 0x1000)]);
        // Beyond the last address there is none.
        let text = b"fffffffffffffff0 ffff end\n10000000000000000 1 beyond\n";
        assert_eq!(names(text, &[u64::MAX - 1, 0], false), [name("end", u64::MAX - 15), None]);
        assert_eq!(names(b"5000 0 sizeless\n", &[0x5000, 0x5001], false), [name("sizeless", 0x5000), None]);
        assert_eq!(names(b"", &[1], true), [None]);
    }

    #[test]
    fn a_line_that_is_being_written_waits() {
        let text = b"1000 10 whole\n1000 10 par";
        assert_eq!(names(text, &[0x1000], false), [name("whole", 0x1000)]);
        // Nobody writes on.
        assert_eq!(names(text, &[0x1000], true), [name("par", 0x1000)]);
        assert_eq!(names(b"1000 10 par", &[0x1000], false), [None]);
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_has_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags).unwrap();
        assert!(std::path::Path::new(&format!("/proc/{pid}/stat")).exists());
        assert_eq!(start_ticks(child.id()), None);
        assert!(start_ticks(std::process::id()).is_some());
        child.wait().unwrap();
    }

    #[test]
    fn maps_of_many_blocks_are_read_from_their_end() {
        let mut text = Vec::new();
        for i in 0..100_000_u64 {
            writeln!(text, "{:x} 40 function_{i}", 0x1000 + i * 0x40).unwrap();
        }
        writeln!(text, "1000 40 newer").unwrap();
        assert!(text.len() as u64 > 4 * BLOCK);
        let asked = [0x1000, 0x1040, 0x1000 + 50_000 * 0x40 + 1, 0x1000 + 99_999 * 0x40, 0x10];
        let expected = [
            name("newer", 0x1000),
            name("function_1", 0x1040),
            name("function_50000", 0x1000 + 50_000 * 0x40),
            name("function_99999", 0x1000 + 99_999 * 0x40),
            None,
        ];
        assert_eq!(names(&text, &asked, false), expected);

        // Where not all is read, the oldest are without a name, and it is known.
        let found = search(&map(&text), asked.into_iter().collect(), false, BLOCK).unwrap();
        assert!(!found.all && found.read == BLOCK);
        assert_eq!(found.names.into_values().collect::<Vec<_>>().len(), 2);
    }

    #[test]
    fn a_line_without_an_end_takes_no_other_away() {
        for length in [LINE_MAX, BLOCK as usize, 5 * BLOCK as usize / 2] {
            for before in [0, 1, BLOCK as usize - 14, BLOCK as usize] {
                let mut text = b"1000 10 first\n2000 10 ".to_vec();
                text.resize(text.len() + before, b' ');
                text.resize(text.len() + length, b'x');
                text.extend(b"\n3000 10 last\n");
                let found = names(&text, &[0x1000, 0x3000], false);
                assert_eq!(found, [name("first", 0x1000), name("last", 0x3000)], "{length} {before}");
            }
        }
    }
}
