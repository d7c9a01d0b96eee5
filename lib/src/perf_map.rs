// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Perf maps: the names that a process gives to code that it makes, in /tmp/perf-PID.map. Each line has a start and a
//! size in hexadecimal and a name (tools/perf/Documentation/jit-interface.txt of the kernel's source).
//!
//! A process appends: the newest line counts. So a map is read from its end to its beginning, until all that is asked
//! for has a name, and nothing of it is kept. It may be written at the process's end, and may be gone by then.

pub(crate) mod lines;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::door::Links;
use crate::door::Refused;
use crate::door::Root;
use crate::namer::Namer;
use crate::symbol::Why;

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

#[cfg(test)]
mod tests {

    use super::*;

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
}
