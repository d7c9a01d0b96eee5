// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process that finds names in files of others, for the tool that holds the results.
//!
//! What such a file says is not to be trusted: to read it may take without end, or end who reads it. So the tool has
//! it read by a process that has no privileges, no files but those that it is given, and little time and memory. The
//! tool forks a helper while it may still change its user; the helper forks a worker when the first name is asked for,
//! and another one when that has died or was late. The names that a worker did not give carry the reason, and those of
//! other files are not touched.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;
use std::time::Instant;

use caps::CapSet;
use caps::Capability;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use nix::sys::signal::SigHandler;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::sys::signal::signal;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::recvmsg;
use nix::sys::socket::sendmsg;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Gid;
use nix::unistd::Pid;
use nix::unistd::Uid;
use nix::unistd::fork;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::account;
use crate::debug_files::Wanted;
use crate::demangle::cut;
use crate::elf_names::Extent;
use crate::elf_names::FileNames;
use crate::elf_names::INLINED_MAX;
use crate::perf_map::lines;
use crate::sandbox;
use crate::symbol::Symbol;

const DIED: &str = "the process that read the file's symbols died of it";
const LATE: &str = "it took too long to read the file's symbols";
const NO_TIME: &str = "no time was left to read the file's symbols";
const NO_ROOM: &str = "the names of all files together take too much room";
const NO_WORKER: &str = "the process that reads symbols could not be started";
/// The footer's cause.
const UNREAD: &str = "names_not_read";

/// A file may take so long, and so much longer for each MiB that it has on its disk, up to a limit.
const FILE_TIME: Duration = Duration::from_secs(1);
const MIB_TIME: Duration = Duration::from_millis(125);
const FILE_TIME_MAX: Duration = Duration::from_secs(4);
/// All files together; it comes back while nothing is read, at a tenth of the time.
const ALL_TIME: Duration = Duration::from_secs(6);
const BACK: u32 = 10;
/// Of the worker, a limit behind the other ones, in seconds.
const CPU_TIME: u64 = 10;
/// What the worker may allocate.
const MEMORY: u64 = 96 << 20;
/// What it may map besides, which are files.
const MAPPED: u64 = 8 << 30;
/// The user and the group of nobody, on all systems.
const NOBODY: u32 = 65534;
/// Files that may be what one wants.
const CANDIDATES_MAX: usize = 16;
/// Bytes of a message.
const MESSAGE_MAX: usize = 1 << 20;
/// Names of all files, in bytes.
const NAMES_MAX: usize = 64 << 20;
/// Places that are asked for at once.
const ASKED_MAX: usize = 16384;

/// What a message is.
mod tag {
    /// To the worker: names in a program or library are wanted.
    pub const FILE: u8 = b'f';
    /// To the worker: names in a perf map are wanted.
    pub const PERF_MAP: u8 = b'm';
    /// To the worker: files that were wanted.
    pub const FOUND: u8 = b'c';
    /// To the tool: other files are wanted.
    pub const WANTED: u8 = b'w';
    /// To the tool: a name.
    pub const NAME: u8 = b'n';
    /// To the tool: there are no names, and why.
    pub const FAILED: u8 = b'e';
    /// To the tool: how much of a perf map was read, and whether that is all.
    pub const READ: u8 = b'r';
}

/// What is asked of a file: how much is read, and the offsets.
type FileQuestion = (bool, Vec<u64>);
/// What is asked of a perf map: whether it is complete, how much may be read, and the addresses.
type MapQuestion = (bool, u64, BTreeSet<u64>);
/// The number of a file that was sent, and what it wants.
type WantedFile = (usize, Vec<u8>, Option<Vec<u8>>);
/// [`Symbol`], but for its module.
type Name = (Result<String, String>, u64, Vec<String>);

/// The process, and what it may still take.
pub struct Namer {
    helper: Option<UnixStream>,
    worker: Option<UnixStream>,
    left: Duration,
    since: Instant,
    names: usize,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Died,
    Late,
    NoTime,
    NoRoom,
    NoWorker,
}

impl Failure {
    fn why(self) -> &'static str {
        match self {
            Self::Died => DIED,
            Self::Late => LATE,
            Self::NoTime => NO_TIME,
            Self::NoRoom => NO_ROOM,
            Self::NoWorker => NO_WORKER,
        }
    }
}

impl Namer {
    /// Fork the helper, while the tool has its capabilities, one thread, and none of its results.
    ///
    /// # Errors
    /// The kernel's.
    pub fn fork() -> Result<Self, Error> {
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| Error::System { what: "socketpair".into(), error })?;
        let parent = nix::unistd::getpid();
        // SAFETY: the child runs only what follows, and ends there; the tool has one thread yet.
        match unsafe { fork() }.map_err(Error::system("fork"))? {
            ForkResult::Child => {
                drop(ours);
                end_with(|| help(&theirs, parent))
            }
            ForkResult::Parent { .. } => Ok(Self::with(Some(ours))),
        }
    }

    /// Without a process, where no files of others are read.
    pub fn none() -> Self {
        Self::with(None)
    }

    fn with(helper: Option<UnixStream>) -> Self {
        Self { helper, worker: None, left: ALL_TIME, since: Instant::now(), names: 0 }
    }

    /// Names of what is at these offsets of a file: `find` gives those that may be what is wanted of a file.
    pub(crate) fn file(
        &mut self,
        file: &fs::File,
        offsets: &[u64],
        find: impl Fn(&fs::File, &Wanted) -> Vec<fs::File>,
    ) -> Vec<Symbol> {
        let mut found = Vec::with_capacity(offsets.len());
        for offsets in offsets.chunks(ASKED_MAX) {
            found.extend(self.names_at(file, offsets, &find));
        }
        found
    }

    fn names_at(
        &mut self,
        file: &fs::File,
        offsets: &[u64],
        find: &impl Fn(&fs::File, &Wanted) -> Vec<fs::File>,
    ) -> Vec<Symbol> {
        let mut found: Vec<Symbol> = Vec::new();
        let mut why = None;
        // What all of a file's information is too much for may have names by its symbols alone.
        for with_debug in [true, false] {
            let rest = &offsets[found.len()..];
            let mut names = Vec::new();
            let asked = self.ask(file_time(file), |this, worker, until| {
                let question: FileQuestion = (with_debug, rest.to_vec());
                send(worker, tag::FILE, &question, &[file.as_raw_fd()])?;
                let mut files = vec![file.try_clone()?];
                while names.len() < rest.len() {
                    match receive(worker, until)? {
                        (tag::NAME, name) => {
                            let symbol = this.symbol(parse(&name)?)?;
                            names.push(symbol);
                        }
                        (tag::FAILED, reason) => {
                            let symbol = Symbol::unknown(cut(&parse::<String>(&reason)?));
                            names.resize(rest.len(), symbol);
                        }
                        (tag::WANTED, wanted) => {
                            let (of, build_id, name) = parse::<WantedFile>(&wanted)?;
                            let of = files.get(of).ok_or(io::ErrorKind::InvalidData)?;
                            let mut candidates = find(of, &Wanted { build_id, name });
                            candidates.truncate(CANDIDATES_MAX);
                            let fds: Vec<RawFd> = candidates.iter().map(|file| file.as_raw_fd()).collect();
                            send(worker, tag::FOUND, &fds.len(), &fds)?;
                            files.extend(candidates);
                            if files.len() > 4 * CANDIDATES_MAX {
                                return Err(io::ErrorKind::InvalidData.into());
                            }
                        }
                        _ => return Err(io::ErrorKind::InvalidData.into()),
                    }
                }
                Ok(())
            });
            found.append(&mut names);
            match asked {
                // Of what ended the first reader, the second one may see less.
                Ok(()) if why.is_none() || found.iter().any(|symbol| symbol.name.is_ok()) => return found,
                Ok(()) => found.clear(),
                Err(failure) => why = why.or(Some(failure)),
            }
            if self.left.is_zero() {
                break;
            }
        }
        account::count_stack(UNREAD);
        found.resize(offsets.len(), Symbol::unknown(why.map_or(DIED, Failure::why)));
        found
    }

    /// Names of code at these addresses, from a perf map of which so much may be read.
    pub(crate) fn perf_map(
        &mut self,
        file: &fs::File,
        addresses: &BTreeSet<u64>,
        is_complete: bool,
        allowed: u64,
    ) -> Result<lines::Found, &'static str> {
        let mut found = lines::Found { names: BTreeMap::new(), read: 0, all: false };
        let asked = self.ask(file_time(file), |this, worker, until| {
            let question: MapQuestion = (is_complete, allowed, addresses.clone());
            send(worker, tag::PERF_MAP, &question, &[file.as_raw_fd()])?;
            loop {
                match receive(worker, until)? {
                    (tag::NAME, name) => {
                        let (address, name, start): (u64, String, u64) = parse(&name)?;
                        this.count_name(name.len())?;
                        if !addresses.contains(&address) || start > address {
                            return Err(io::ErrorKind::InvalidData.into());
                        }
                        found.names.insert(address, (cut(&name), start));
                    }
                    (tag::READ, read) => {
                        (found.read, found.all) = parse(&read)?;
                        return Ok(());
                    }
                    _ => return Err(io::ErrorKind::InvalidData.into()),
                }
            }
        });
        asked.map_err(|failure| {
            account::count_stack(UNREAD);
            failure.why()
        })?;
        Ok(found)
    }

    /// Have a worker answer within the time.
    fn ask(
        &mut self,
        time: Duration,
        question: impl FnOnce(&mut Self, &UnixStream, Instant) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let begin = Instant::now();
        let back = begin.saturating_duration_since(self.since) / BACK;
        self.left = self.left.saturating_add(back).min(ALL_TIME);
        if self.left.is_zero() {
            return Err(Failure::NoTime);
        }
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start_worker().map_err(|_| Failure::NoWorker)?,
        };
        let until = begin + self.left.min(time);
        let answered = question(self, &worker, until);
        self.since = Instant::now();
        self.left = self.left.saturating_sub(begin.elapsed());
        match answered {
            Ok(()) => {
                self.worker = Some(worker);
                Ok(())
            }
            // It is not used any more: the next start ends it.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Failure::Late)
            }
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(Failure::NoRoom),
            Err(_) => Err(Failure::Died),
        }
    }

    fn start_worker(&mut self) -> io::Result<UnixStream> {
        let helper = self.helper.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let (ours, theirs) = UnixStream::pair()?;
        // Nor does one that reads nothing hold the tool.
        ours.set_write_timeout(Some(FILE_TIME_MAX))?;
        send(helper, tag::FILE, &(), &[theirs.as_raw_fd()])?;
        Ok(ours)
    }

    /// A name that a worker gave, within its bounds.
    fn symbol(&mut self, (name, offset, mut inlined): Name) -> io::Result<Symbol> {
        inlined.truncate(INLINED_MAX);
        let inlined: Vec<String> = inlined.iter().map(|name| cut(name)).collect();
        let name = name.map(|name| cut(&name)).map_err(|why| cut(&why));
        let length = |name: &String| name.len();
        self.count_name(
            name.as_ref().map_or_else(length, length) + inlined.iter().map(length).sum::<usize>(),
        )?;
        Ok(Symbol { name, offset, inlined, module: None })
    }

    fn count_name(&mut self, bytes: usize) -> io::Result<()> {
        self.names = self.names.saturating_add(bytes);
        if self.names > NAMES_MAX { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }
}

/// How long an honest file takes at most. What only seems to be long has no blocks.
fn file_time(file: &fs::File) -> Duration {
    let mib = file.metadata().map_or(0, |found| found.blocks() / (2 << 10));
    let more = MIB_TIME.saturating_mul(u32::try_from(mib).unwrap_or(u32::MAX));
    FILE_TIME.saturating_add(more).min(FILE_TIME_MAX)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(io::Error::other)
}

/// A message: its length, its tag, with which come the descriptors, and its text.
fn send(to: &UnixStream, tag: u8, message: &impl Serialize, fds: &[RawFd]) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    let mut head = length.to_ne_bytes().to_vec();
    head.push(tag);
    let rights = [ControlMessage::ScmRights(fds)];
    let rights: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(&head)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent != head.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut to = to;
    to.write_all(&text)
}

/// What the tool receives: no descriptors.
fn receive(from: &UnixStream, until: Instant) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    read_until(from, &mut head, until)?;
    let (length, tag) = head_of(head)?;
    let mut text = vec![0; length];
    read_until(from, &mut text, until)?;
    Ok((tag, text))
}

fn head_of([a, b, c, d, tag]: [u8; 5]) -> io::Result<(usize, u8)> {
    let length = u32::from_ne_bytes([a, b, c, d]) as usize;
    if length > MESSAGE_MAX { Err(io::ErrorKind::InvalidData.into()) } else { Ok((length, tag)) }
}

fn read_until(mut from: &UnixStream, mut to: &mut [u8], until: Instant) -> io::Result<()> {
    while !to.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        from.set_read_timeout(Some(left))?;
        match from.read(to) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => to = &mut to[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the helper and the worker receive: a message, and descriptors.
fn receive_files(from: &UnixStream) -> io::Result<(u8, Vec<u8>, Vec<fs::File>)> {
    let mut head = [0; 5];
    let mut space = nix::cmsg_space!([RawFd; CANDIDATES_MAX]);
    let mut files = Vec::new();
    {
        let mut parts = [IoSliceMut::new(&mut head)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
        let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: they are new, and nobody else's.
                files.extend(fds.into_iter().map(|fd| unsafe { fs::File::from(OwnedFd::from_raw_fd(fd)) }));
            }
        }
        if message.bytes != size_of::<[u8; 5]>() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (length, tag) = head_of(head)?;
    let mut text = vec![0; length];
    let mut from = from;
    from.read_exact(&mut text)?;
    Ok((tag, text, files))
}

/// End the process behind this, whatever happens in it.
fn end_with(work: impl FnOnce() -> io::Result<()>) -> ! {
    let ended = catch_unwind(AssertUnwindSafe(work));
    // SAFETY: the process ends at once, and nothing of the tool's own is run at its end.
    unsafe { libc::_exit(if matches!(ended, Ok(Ok(()))) { 0 } else { 1 }) }
}

/// The helper: start a worker whenever the tool asks for one, until the tool is gone.
fn help(tool: &UnixStream, parent: Pid) -> io::Result<()> {
    let socket = keep_alone(tool.as_raw_fd())?;
    become_nobody(parent)?;
    let mut worker: Option<Pid> = None;
    loop {
        let asked = receive_files(&socket);
        if let Some(old) = worker.take() {
            kill(old, Signal::SIGKILL)?;
            waitpid(old, None)?;
        }
        // The tool has ended.
        let Ok((_, _, files)) = asked else { return Ok(()) };
        let Some(file) = files.into_iter().next() else { return Ok(()) };
        let own = nix::unistd::getpid();
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(socket);
                end_with(|| work(&UnixStream::from(OwnedFd::from(file)), own))
            }
            ForkResult::Parent { child } => worker = Some(child),
        }
    }
}

/// Close all files but this one, which gets a number behind those of the standard ones; these lead nowhere.
fn keep_alone(fd: RawFd) -> io::Result<UnixStream> {
    const FIRST: RawFd = 3;
    let nowhere = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // Above all that may be open at that number.
    let high = nix::fcntl::fcntl(borrow(fd), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST + 1))?;
    // SAFETY: no destructor of what had these numbers runs any more: the process ends by _exit.
    unsafe {
        for standard in 0..FIRST {
            nix::errno::Errno::result(libc::dup2(nowhere.as_raw_fd(), standard))?;
        }
        nix::errno::Errno::result(libc::dup2(high, FIRST))?;
        std::mem::forget(nowhere);
        nix::errno::Errno::result(libc::syscall(libc::SYS_close_range, FIRST + 1, u32::MAX, 0))?;
        Ok(UnixStream::from(OwnedFd::from_raw_fd(FIRST)))
    }
}

fn borrow(fd: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: it is open as long as it is used.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

/// Give up all that the tool has, for good. Its end is that of this process too.
fn become_nobody(parent: Pid) -> io::Result<()> {
    nix::sys::prctl::set_name(c"kscope-names")?;
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGQUIT] {
        // SAFETY: no handler is set.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    // Where memory is short, this goes first.
    _ = fs::write("/proc/self/oom_score_adj", "1000");
    let error = |error: caps::errors::CapsError| io::Error::other(error.to_string());
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    if has(Capability::CAP_SETPCAP) {
        caps::clear(None, CapSet::Bounding).map_err(error)?;
    }
    if has(Capability::CAP_SETUID) && has(Capability::CAP_SETGID) {
        nix::unistd::setgroups(&[])?;
        let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        nix::unistd::setresgid(group, group, group)?;
        nix::unistd::setresuid(user, user, user)?;
    }
    for set in [CapSet::Ambient, CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set).map_err(error)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_dumpable(false)?;
    for resource in [Resource::RLIMIT_CORE, Resource::RLIMIT_FSIZE, Resource::RLIMIT_MEMLOCK] {
        setrlimit(resource, 0, 0)?;
    }
    end_with_parent(parent)
}

/// A change of user takes this away.
fn end_with_parent(parent: Pid) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// The worker: answer until nobody asks any more.
fn work(tool: &UnixStream, parent: Pid) -> io::Result<()> {
    end_with_parent(parent)?;
    let sizes = fs::read_to_string("/proc/self/statm")?;
    let pages =
        |n: usize| sizes.split_whitespace().nth(n).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    let page =
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.and_then(|size| u64::try_from(size).ok());
    let bytes = |n: usize| pages(n).saturating_mul(page.unwrap_or(4096));
    // All, and what is neither code nor a file.
    let (all, data) = (bytes(0), bytes(5));
    for (resource, limit) in [
        (Resource::RLIMIT_DATA, data.saturating_add(MEMORY)),
        (Resource::RLIMIT_AS, all.saturating_add(MEMORY + MAPPED)),
        (Resource::RLIMIT_CPU, CPU_TIME),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    sandbox::only_read()?;
    loop {
        let (tag, question, files) = receive_files(tool)?;
        let file = files.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
        match tag {
            tag::FILE => answer_file(tool, &file, parse(&question)?)?,
            tag::PERF_MAP => answer_map(tool, &file, parse(&question)?)?,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn answer_file(tool: &UnixStream, file: &fs::File, (with_debug, offsets): FileQuestion) -> io::Result<()> {
    let numbers = RefCell::new(HashMap::from([(file.as_raw_fd(), 0)]));
    let mut sent = 1;
    let broken = RefCell::new(None);
    let find = |of: &fs::File, wanted: &Wanted| {
        let number = numbers.borrow().get(&of.as_raw_fd()).copied().unwrap_or(0);
        let wanted: WantedFile = (number, wanted.build_id.clone(), wanted.name.clone());
        let found = send(tool, tag::WANTED, &wanted, &[]).and_then(|()| receive_files(tool));
        let files = found.map_or_else(
            |error| {
                broken.replace(Some(error));
                Vec::new()
            },
            |(_, _, files)| files,
        );
        for file in &files {
            numbers.borrow_mut().insert(file.as_raw_fd(), sent);
            sent += 1;
        }
        files
    };
    let extent = if with_debug { Extent::All } else { Extent::Symbols };
    let names = FileNames::read(file, extent, find);
    if let Some(error) = broken.take() {
        return Err(error);
    }
    match names {
        Ok(names) => offsets.into_iter().try_for_each(|offset| {
            let symbol = names.find(offset);
            let name: Name = (symbol.name, symbol.offset, symbol.inlined);
            send(tool, tag::NAME, &name, &[])
        }),
        Err(why) => send(tool, tag::FAILED, &why, &[]),
    }
}

fn answer_map(tool: &UnixStream, file: &fs::File, (complete, allowed, asked): MapQuestion) -> io::Result<()> {
    let found = lines::search(file, asked, complete, allowed)?;
    for (address, (name, start)) in &found.names {
        send(tool, tag::NAME, &(address, name, start), &[])?;
    }
    send(tool, tag::READ, &(found.read, found.all), &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf_names::tests::Program;

    const ID: &[u8] = b"0123456789abcdefghij";

    fn program() -> fs::File {
        Program::new().built_as(ID).symbols(".dynsym", &[("exported", 0x40, 0x20, 1)]).file()
    }

    fn name(namer: &mut Namer, file: &fs::File, find: impl Fn(&fs::File)) -> Result<String, String> {
        let offsets = [Program::OFFSET + 0x50];
        let mut found = namer.file(file, &offsets, |of, _| {
            find(of);
            Vec::new()
        });
        assert_eq!(found.len(), 1);
        found.remove(0).name
    }

    #[test]
    fn a_file_that_ends_its_reader_takes_no_other_names() {
        let mut namer = Namer::fork().unwrap();
        let good = Ok("exported".to_string());
        assert_eq!(name(&mut namer, &program(), |_| ()), good);
        // It is made shorter while it is read: whoever reads on is killed.
        let shorten = |of: &fs::File| of.set_len(0).unwrap();
        assert_eq!(name(&mut namer, &program(), shorten), Err(DIED.into()));
        assert_eq!(name(&mut namer, &program(), |_| ()), good);
    }

    #[test]
    fn a_file_that_takes_too_long_has_its_symbols_alone() {
        let mut namer = Namer::fork().unwrap();
        let wait = |_: &fs::File| std::thread::sleep(FILE_TIME + Duration::from_millis(100));
        assert_eq!(name(&mut namer, &program(), wait), Ok("exported".into()));
        assert!(namer.left < ALL_TIME - FILE_TIME);
        namer.left = Duration::ZERO;
        namer.since = Instant::now() + Duration::from_secs(60);
        assert_eq!(name(&mut namer, &program(), |_| ()), Err(NO_TIME.into()));
    }

    #[test]
    fn files_that_are_wanted_are_found() {
        let debug = Program::new().built_as(ID).symbols(".symtab", &[("hidden", 0, 0x20, 0)]).file();
        let mut namer = Namer::fork().unwrap();
        let offsets = [Program::OFFSET, Program::OFFSET + 0x40, Program::OFFSET + 0x90, u64::MAX];
        let found = namer.file(&program(), &offsets, |_, wanted| {
            assert_eq!(wanted.build_id, ID);
            vec![debug.try_clone().unwrap()]
        });
        let names: Vec<_> = found.iter().map(|symbol| symbol.name.as_deref().unwrap_or("")).collect();
        assert_eq!(names, ["hidden", "exported", "", ""]);
        let none = Namer::none().file(&program(), &offsets, |_, _| Vec::new());
        assert!(none.iter().all(|symbol| symbol.name == Err(NO_WORKER.into())));
    }

    #[test]
    fn names_are_bounded() {
        let mut namer = Namer::none();
        let long = "x".repeat(10_000);
        let symbol = namer.symbol((Ok(long.clone()), 0, vec![long; 1000])).unwrap();
        assert!(symbol.name.unwrap().len() < 1100 && symbol.inlined.len() == INLINED_MAX);
        namer.names = NAMES_MAX;
        assert!(namer.symbol((Ok("x".into()), 0, Vec::new())).is_err());
    }
}
