// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What filters name, and may end while a tool runs: processes, threads and cgroups (bpf/targets.bpf.h). What can
//! match nothing is refused at the start; what ends is taken out of its list; a cgroup that is made again at its path
//! is put in again. A tool ends with the last of what it filters by.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::Object;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::inotify::AddWatchFlags;
use nix::sys::inotify::InitFlags;
use nix::sys::inotify::Inotify;

use crate::Error;
use crate::cgroups::Cgroup;
use crate::libbpf::bpf_error;
use crate::options;
use crate::options::BlockCgroup;
use crate::options::FILTER_MAX;
use crate::options::Filter;
use crate::pids;
use crate::say;

/// The section of `struct kscope_targets`.
const SECTION: &str = ".data.targets";
/// What stands for nothing: no process and no cgroup has that number.
const NOTHING: u64 = u64::MAX;
/// How often that is looked at which nothing tells of.
const LOOK: Duration = Duration::from_secs(1);
/// What the last process has left under way, as a write to a disk or the end of a connection, is still shown.
const LINGER: Duration = Duration::from_millis(100);
/// PIDFD_THREAD of include/uapi/linux/pidfd.h, from 6.9 on.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;
/// What this process's tool filters by.
static GIVEN: Mutex<Given> = Mutex::new(Given { targets: Vec::new(), notes: Vec::new() });

struct Given {
    targets: Vec<Target>,
    notes: Vec<String>,
}

/// The lists of `struct kscope_targets`, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Cgroups,
    Processes,
    Threads,
}

/// An entry of a list.
struct Target {
    list: List,
    /// What the programs compare.
    number: u64,
    at: Place,
    is_there: bool,
}

/// How to see whether it is still there.
enum Place {
    /// This becomes readable at its end.
    Pidfd(OwnedFd),
    /// Ticks of its birth in /proc/PID/stat.
    Born(u64),
    Cgroup(Cgroup),
}

/// Take a filter's lists.
///
/// # Errors
/// [`Error::Usage`] if one of them can match nothing.
fn give(filter: &Filter) -> Result<(), Error> {
    let processes = tasks(List::Processes, &filter.pid)?;
    let threads = tasks(List::Threads, &filter.tid)?;
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for (targets, notes) in [processes, threads] {
        given.targets.extend(targets);
        given.notes.extend(notes);
    }
    drop(given);
    give_cgroups(filter.cgroups().cloned());
    Ok(())
}

impl Filter {
    /// Filter by these lists, of which [`Session::start`] puts those that may change into the programs' `targets`
    /// (bpf/targets.bpf.h).
    ///
    /// # Errors
    /// [`Error::Usage`] for a list that is too long, or of which nothing is there.
    ///
    /// [`Session::start`]: crate::session::Session::start
    pub fn give(&self) -> Result<(), Error> {
        match self.too_long() {
            None => give(self),
            Some(name) => Err(options::too_many(name)),
        }
    }
}

impl BlockCgroup {
    /// Filter by the cgroups in the hierarchy that the block layer uses, which [`Session::start`] puts into the
    /// programs' `targets` (bpf/targets.bpf.h): so many. None where all I/O is below one, or none is named.
    ///
    /// # Errors
    /// [`Error::Usage`].
    ///
    /// [`Session::start`]: crate::session::Session::start
    pub fn give(&self) -> Result<u32, Error> {
        let below_root: Option<Vec<&Cgroup>> = self.named().map(Option::as_ref).collect();
        let cgroups = below_root.unwrap_or_default();
        if cgroups.len() > FILTER_MAX {
            return Err(options::too_many("--cgroup"));
        }
        give_cgroups(cgroups.iter().copied().cloned());
        Ok(cgroups.len() as u32)
    }
}

/// Take a list of cgroups.
fn give_cgroups(cgroups: impl Iterator<Item = Cgroup>) {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    given.targets.extend(cgroups.map(|cgroup| Target {
        list: List::Cgroups,
        number: cgroup.id,
        at: Place::Cgroup(cgroup),
        is_there: true,
    }));
}

/// Those that live, and why others are left out.
fn tasks(list: List, ids: &[u32]) -> Result<(Vec<Target>, Vec<String>), Error> {
    let (mut targets, mut whys) = (Vec::new(), Vec::new());
    for id in ids {
        let found = if list == List::Processes { process(*id).map_err(Error::Usage)? } else { thread(*id) };
        match found {
            Ok(at) => targets.push(Target { list, number: u64::from(*id), at, is_there: true }),
            Err(why) => whys.push(why),
        }
    }
    if targets.is_empty() && !ids.is_empty() {
        Err(Error::Usage(whys.join("; ")))
    } else {
        Ok((targets, whys))
    }
}

/// A process; or why there is none.
///
/// # Errors
/// It is no process: a mistake, and none that time has made.
fn process(id: u32) -> Result<Result<Place, String>, String> {
    match pids::process_of(id) {
        Some(process) if process != id => {
            return Err(format!(
                "{id} is a thread of process {process}: give --pid {process}, or --tid {id}"
            ));
        }
        _ => (),
    }
    match pidfd_open(id, 0) {
        Ok(fd) if is_readable(&fd) => Ok(Err(format!("process {id} has ended"))),
        Ok(fd) => Ok(Ok(Place::Pidfd(fd))),
        Err(Errno::ESRCH) => Ok(Err(format!("there is no process {id}"))),
        // Where /proc does not tell whose.
        Err(Errno::EINVAL | Errno::ENOENT) => {
            Err(format!("{id} is a thread, and no process: give --tid {id}"))
        }
        Err(_) => Ok(born(List::Processes, id).ok_or_else(|| format!("there is no process {id}"))),
    }
}

/// A thread; or why there is none.
fn thread(id: u32) -> Result<Place, String> {
    let missing = || format!("there is no thread {id}");
    match pidfd_open(id, PIDFD_THREAD) {
        Ok(fd) if is_readable(&fd) => Err(format!("thread {id} has ended")),
        Ok(fd) => Ok(Place::Pidfd(fd)),
        Err(Errno::ESRCH) => Err(missing()),
        Err(_) => born(List::Threads, id).ok_or_else(missing),
    }
}

/// The kernel takes the number to be one of this process's namespace, which is not always that of /proc.
fn pidfd_open(id: u32, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    if pids::own_pid() != std::process::id() {
        return Err(Errno::ENOSYS);
    }
    // SAFETY: no memory is passed; the descriptor that it returns is owned by nobody else, and fits into 32 bits.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, id, flags))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// A living task by its birth.
fn born(list: List, id: u32) -> Option<Place> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    parse_stat(&stat, list == List::Processes).map(Place::Born)
}

/// The birth in the text of /proc/PID/stat, if the task lives. The first thread of a process may have ended before the
/// others.
fn parse_stat(stat: &str, is_process: bool) -> Option<u64> {
    // From the third field on: state, ... number of threads, ... birth.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let threads: u32 = fields.get(17)?.parse().ok()?;
    let has_ended = matches!(*fields.first()?, "Z" | "X" | "x") && !(is_process && threads > 1);
    if has_ended { None } else { fields.get(19)?.parse().ok() }
}

/// What a tool filters by, while it runs.
pub(crate) struct Targets {
    targets: Vec<Target>,
    notes: Vec<String>,
    map: Option<MapHandle>,
    made: Option<Inotify>,
    look_again: Instant,
    over: Option<Instant>,
}

impl Targets {
    /// Those of this process, for a tool's programs.
    ///
    /// # Errors
    /// libbpf's.
    pub fn take(object: &Object) -> Result<Self, Error> {
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (targets, notes) = (std::mem::take(&mut given.targets), std::mem::take(&mut given.notes));
        drop(given);
        let map = object.maps().find(|map| map.name() == SECTION && !targets.is_empty());
        let map = map.map(|map| MapHandle::try_from(&map)).transpose();
        let map = map.map_err(bpf_error("the map of the filter"))?;
        let returns = |target: &Target| matches!(&target.at, Place::Cgroup(cgroup) if cgroup.returns);
        // Without it, what comes again is seen a little later.
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let made = targets.iter().any(returns).then(|| Inotify::init(flags).ok()).flatten();
        let new = Self { targets, notes, map, made, look_again: Instant::now() + LOOK, over: None };
        new.watch_folders();
        new.write()?;
        Ok(new)
    }

    /// Say what was left out at the start.
    pub fn say_notes(&mut self, tool: &str) {
        self.notes.drain(..).for_each(|note| say(&format!("{tool}: {note}: left out")));
    }

    /// What becomes readable when it is time to look.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ends = self.targets.iter().filter_map(|target| match &target.at {
            Place::Pidfd(fd) => Some(fd.as_fd()),
            _ => None,
        });
        ends.chain(self.made.as_ref().map(Inotify::as_fd))
    }

    /// Whether the last of a list has ended.
    pub fn are_over(&self) -> bool {
        self.over.is_some_and(|at| at.elapsed() >= LINGER)
    }

    /// How long it may take until somebody looks.
    pub fn patience(&self) -> Duration {
        let unseen = |target: &Target| target.is_there && !matches!(target.at, Place::Pidfd(_));
        match self.over {
            Some(at) => LINGER.saturating_sub(at.elapsed()),
            None if self.targets.iter().any(unseen) => {
                self.look_again.saturating_duration_since(Instant::now())
            }
            None => LOOK,
        }
    }

    /// Look what has ended or come again, where it is time or something `woke` the tool.
    ///
    /// # Errors
    /// libbpf's.
    pub fn look(&mut self, tool: &str, woke: bool) -> Result<(), Error> {
        if self.targets.is_empty() || self.over.is_some() || !woke && Instant::now() < self.look_again {
            return Ok(());
        }
        self.look_again = Instant::now() + LOOK;
        if let Some(made) = &self.made {
            // What is in it does not matter, only that it is read.
            while made.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        let changed: Vec<_> = self.targets.iter_mut().filter_map(Target::look).collect();
        if changed.is_empty() {
            return Ok(());
        }
        self.write()?;
        self.watch_folders();
        changed.iter().for_each(|what| say(&format!("{tool}: {what}")));
        for list in [List::Cgroups, List::Processes, List::Threads] {
            let mut entries = self.targets.iter().filter(|target| target.list == list).peekable();
            if entries.peek().is_some() && entries.all(Target::is_gone_for_good) {
                self.over = Some(Instant::now());
            }
        }
        Ok(())
    }

    fn write(&self) -> Result<(), Error> {
        let Some(map) = &self.map else { return Ok(()) };
        let mut bytes = Vec::new();
        for list in [List::Cgroups, List::Processes, List::Threads] {
            let entries = self.targets.iter().filter(|target| target.list == list);
            let number = |target: &Target| if target.is_there { target.number } else { NOTHING };
            let padded = entries.map(number).chain(std::iter::repeat(NOTHING)).take(FILTER_MAX);
            bytes.extend(padded.flat_map(u64::to_ne_bytes));
        }
        map.update(&0u32.to_ne_bytes(), &bytes, MapFlags::ANY).map_err(bpf_error("setting the filter"))
    }

    /// Be told when something is made or removed where a cgroup is, or would be.
    fn watch_folders(&self) {
        let Some(made) = &self.made else { return };
        for target in &self.targets {
            let Place::Cgroup(cgroup) = &target.at else { continue };
            let folder = cgroup.path.ancestors().skip(1).find(|folder| folder.exists());
            let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            if let Some(folder) = folder.filter(|_| cgroup.returns) {
                // Where it can't be watched, it is looked at each second.
                _ = made.add_watch(folder, flags);
            }
        }
    }
}

impl Target {
    /// Look whether it is there; what to say, where that has changed.
    fn look(&mut self) -> Option<String> {
        let kind = if self.list == List::Processes { "process" } else { "thread" };
        let number = self.number;
        let has_ended = match &self.at {
            Place::Pidfd(fd) => is_readable(fd),
            Place::Born(then) => {
                let id = u32::try_from(number).unwrap_or_default();
                !matches!(born(self.list, id), Some(Place::Born(now)) if now == *then)
            }
            Place::Cgroup(cgroup) => {
                let (returns, path) = (cgroup.returns, cgroup.path.display());
                let id = fs::metadata(&cgroup.path).ok().map(|meta| meta.ino());
                return match id {
                    Some(id) if id == number && self.is_there => None,
                    Some(id) if returns => {
                        let said = format!("the cgroup {path} was made again: tracing goes on with that");
                        (self.number, self.is_there) = (id, true);
                        Some(said)
                    }
                    _ if !self.is_there => None,
                    _ => {
                        let then = if returns { ": waiting until it is made again" } else { "" };
                        let said = format!("the cgroup {path} was removed{then}");
                        self.is_there = false;
                        Some(said)
                    }
                };
            }
        };
        if !has_ended || !self.is_there {
            return None;
        }
        self.is_there = false;
        // Closed, it wakes nobody any more.
        self.at = Place::Born(0);
        Some(format!("{kind} {number} has ended"))
    }

    fn is_gone_for_good(&self) -> bool {
        !self.is_there && !matches!(&self.at, Place::Cgroup(cgroup) if cgroup.returns)
    }
}

/// Put a [`Filter`] into the `filter` constant of a skeleton's `.rodata` (bpf/filter.bpf.h).
#[macro_export]
macro_rules! set_filter {
    ($rodata:expr, $filter:expr) => {{
        let (to, from): (_, &$crate::options::Filter) = (&mut $rodata.filter, $filter);
        from.give()?;
        to.tgids = from.pid.len() as u32;
        to.tids = from.tid.len() as u32;
        to.uid[..from.uid.len()].copy_from_slice(&from.uid);
        to.uids = from.uid.len() as u32;
        for (to, name) in to.comm.iter_mut().zip(from.comms()) {
            [to.low, to.high, to.low_mask, to.high_mask] = name;
        }
        to.comms = from.comms().count() as u32;
        for (i, cgroup) in from.cgroups().enumerate() {
            to.cgroup_level[i] = cgroup.level;
            to.cgroup_controller[i] = cgroup.controller().unwrap_or(0);
        }
        to.cgroups = from.cgroups().count() as u32;
        to.own_tgid = $crate::pids::own_pid();
        to.pidns = $crate::pids::pid_namespace().unwrap_or(0);
        to.follow = if $crate::command::is_given() { to.own_tgid } else { 0 };
        to.any = (!from.is_empty()).into();
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_have_no_birth() {
        let stat = |state: &str, threads: u32| {
            format!("7 (a) b) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 {threads} 0 4242 1 2 3")
        };
        for is_process in [true, false] {
            assert_eq!(parse_stat(&stat("S", 1), is_process), Some(4242));
            assert_eq!(parse_stat(&stat("Z", 1), is_process), None);
            assert_eq!(parse_stat(&stat("X", 1), is_process), None);
            assert_eq!(parse_stat("", is_process), None);
        }
        assert_eq!(parse_stat(&stat("Z", 2), true), Some(4242));
        assert_eq!(parse_stat(&stat("Z", 2), false), None);
    }

    #[test]
    fn tasks_are_there_or_not() {
        let own = std::process::id();
        assert!(matches!(process(own), Ok(Ok(Place::Pidfd(_)))));
        assert!(born(List::Processes, own).is_some());
        assert!(thread(own).is_ok());
        // Beyond the greatest that there may be.
        assert!(matches!(process(i32::MAX.unsigned_abs()), Ok(Err(_))));
        assert!(thread(i32::MAX.unsigned_abs()).is_err());
    }
}
