// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the addresses of processes lie: in which files, noted and opened while the processes live. Who asks for the
//! symbols at the end has them read when the last process that maps a file ends, and the file closed: what has ended,
//! been deleted or been replaced has its symbols, and nobody is held up.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use nix::sys::memfd::MFdFlags;

use crate::door;
use crate::door::Links;
use crate::door::Refused;
use crate::door::Root;
use crate::perf_map;
use crate::perf_map::PerfMap;
use crate::symbol::Why;

const ENDED: Why = "the process had ended before its maps could be read";
const OUTSIDE: Why = "the process is outside of this pid namespace";
const EXECUTED: Why = "the process had executed another program before its maps could be read";
const DENIED: Why = "not allowed to read the process's maps: that takes CAP_SYS_PTRACE";
const CHANGED: Why = "the process's mappings had changed before they could be read";
pub(crate) const CLOSED: Why = "the last process that had the file mapped ended before its symbols were read";
const UNMAPPED: Why = "not mapped: a caller without frame pointers?";
const DELETED: Why = "the file has been deleted, and opening it takes CAP_CHECKPOINT_RESTORE";
const REPLACED: Why = "another file stands at the path now";
const NOT_FOUND: Why = "the file was not found";
const TOO_MANY: Why = "too many files are open already";
/// So many address spaces are kept readable; more are read again when they are needed.
const SPACES_MAX: usize = 256;
/// What is not mapped may be by now, but to look costs much.
const REREAD: Duration = Duration::from_millis(50);
/// Of the descriptors that the kernel allows us, these are for other ends.
const SPARE_DESCRIPTORS: u64 = 64;
/// What memfd_create() makes is named so.
const MEMORY: &[u8] = b"/memfd:";
const DELETED_SUFFIX: &[u8] = b" (deleted)";

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// At an offset of a file; the number is that of [`Spaces::file`].
    File(u32, u64),
    /// In code that a process made itself; the number is that of [`Spaces::perf_map`].
    Made(u32, u64),
    /// Nobody knows.
    Nowhere(Why),
}

/// A file that is mapped somewhere.
pub(crate) struct MappedFile {
    /// As the process knows it.
    pub path: Vec<u8>,
    /// To read it.
    pub open: Result<fs::File, Why>,
    /// The last process that was seen to have it mapped.
    pub pid: u32,
    /// How many of the address spaces that are watched have it mapped.
    users: u32,
    /// What tells it from another one that has its inode later.
    stamp: Option<Stamp>,
    /// Whether it holds a mount that may be in somebody's way.
    on_other_mount: bool,
}

/// Device, inode, size, and the time of the last change.
type Stamp = (u64, u64, u64, i64, i64);

/// What the programs know of a process's address space (`struct stack_slot`).
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The generation.
    pub id: u64,
    /// The process, of which there is one for each slot at a time.
    pub pid: u32,
    /// Where its first stack begins.
    pub stack_start: u64,
    /// The addresses at which something was mapped since its first generation, and that behind them.
    pub changed: (u64, u64),
    /// Whether later generations can't be told apart.
    pub is_last: bool,
}

/// Looks a process's slot up.
pub type Slots = Box<dyn Fn(u32) -> Option<Slot> + Send>;

/// Executable memory of a process.
#[derive(Clone, Copy)]
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    backing: Backing,
}

#[derive(Clone, Copy)]
enum Backing {
    File(u32),
    /// No file: code that the process made.
    None,
}

/// A generation of an address space, which is a process between two execve.
struct Space {
    pid: u32,
    stack_start: u64,
    mappings: Result<Vec<Mapping>, Why>,
    /// Addresses that may have meant something else when its stacks were taken.
    changed: (u64, u64),
    read: Instant,
    /// The number of the perf map, which all generations of a program in a process have together.
    made: u32,
    /// The file of the program.
    program: Option<u32>,
    /// Whether its files are held.
    is_live: bool,
    /// Readable once the process has ended.
    pidfd: Option<OwnedFd>,
}

impl Space {
    fn files(&self) -> BTreeSet<u32> {
        let file = |mapping: &Mapping| match mapping.backing {
            Backing::File(file) => Some(file),
            Backing::None => None,
        };
        self.mappings.iter().flatten().filter_map(file).collect()
    }
}

/// All that is known about the addresses of processes.
#[derive(Default)]
pub(crate) struct Spaces {
    spaces: HashMap<u64, Space>,
    /// Those to which a space belongs, or a name that is known.
    files: HashMap<u32, MappedFile>,
    by_inode: HashMap<(Vec<u8>, u64, Vec<u8>), u32>,
    perf_maps: HashMap<u32, PerfMap>,
    numbers: u32,
    vdso: Option<u32>,
    descriptors: u64,
    slots: Option<Slots>,
    /// Generations that have been replaced, and processes that had ended when they were looked at.
    over: Vec<u64>,
    own_root: Option<u64>,
}

impl Spaces {
    /// Allow as many descriptors as we may have.
    pub fn new() -> Self {
        use nix::sys::resource::Resource;
        let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((256, 256));
        let raised = nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        let descriptors = if raised.is_ok() { hard } else { soft };
        Self { descriptors: descriptors.saturating_sub(SPARE_DESCRIPTORS), ..Self::default() }
    }

    /// Have generations of address spaces told apart, and the files of those that have ended given back.
    pub fn watch(&mut self, slots: Slots) {
        self.slots = Some(slots);
        self.own_root = fs::metadata("/").ok().map(|root| root.dev());
    }

    /// Look at an address space for the first time. `stack_start` tells it from a later one of the same
    /// process; 0 if it is not known.
    pub fn note(&mut self, id: u64, pid: u32, stack_start: u64) {
        let pidfd = self.slots.as_ref().and_then(|_| pidfd_open(pid));
        let mappings = self.read(pid, stack_start);
        let changed = self.changed(id, pid, stack_start);
        let replaced = self.spaces.iter().filter(|(_, space)| space.pid == pid && space.is_live);
        self.over.extend(replaced.map(|(id, _)| *id));
        if pidfd.is_none() {
            self.over.push(id);
        }
        let is_same = |space: &&Space| space.is_live && (space.pid, space.stack_start) == (pid, stack_start);
        let made = self.spaces.values().find(is_same).map(|space| space.made);
        let made = made.unwrap_or_else(|| next(&mut self.numbers));
        let read = Instant::now();
        let space =
            Space { pid, stack_start, mappings, changed, read, made, program: None, is_live: true, pidfd };
        self.hold(&space.files());
        self.spaces.insert(id, space);
        if let Some((code, _)) = code_and_stack(pid)
            && let Place::File(file, _) = self.find(id, code)
            && let Some(space) = self.spaces.get_mut(&id)
        {
            space.program = Some(file);
        }
    }

    /// The path of an address space's program.
    pub fn program(&self, id: u64) -> Option<Arc<str>> {
        let file = self.files.get(&self.spaces.get(&id)?.program?)?;
        Some(String::from_utf8_lossy(&file.path).into())
    }

    fn hold(&mut self, files: &BTreeSet<u32>) {
        for file in files {
            if let Some(file) = self.files.get_mut(file) {
                file.users += 1;
            }
        }
    }

    /// Addresses of which the maps, which were just read, may not tell what this generation had there.
    fn changed(&self, id: u64, pid: u32, stack_start: u64) -> (u64, u64) {
        let Some(slots) = &self.slots else { return (0, 0) };
        match slots(pid) {
            // Another process has taken it: it is not known that anything changed.
            Some(slot) if slot.pid != pid => (0, 0),
            Some(slot) if slot.stack_start != stack_start => (0, u64::MAX),
            Some(slot) if slot.id == id && !slot.is_last => (0, 0),
            Some(slot) => slot.changed,
            None => (0, u64::MAX),
        }
    }

    /// Whether another one has no room.
    pub fn is_full(&self) -> bool {
        self.spaces.len() >= SPACES_MAX
    }

    /// What tells that processes have ended.
    pub fn pidfds(&self) -> Vec<(u64, BorrowedFd<'_>)> {
        self.spaces.iter().filter_map(|(id, space)| Some((*id, space.pidfd.as_ref()?.as_fd()))).collect()
    }

    /// This one's process has ended.
    pub fn has_ended(&mut self, id: u64) {
        if let Some(space) = self.spaces.get_mut(&id) {
            space.pidfd = None;
            self.over.push(id);
        }
    }

    /// Those of which no stacks are to come, but for what is on its way.
    pub fn take_over(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.over)
    }

    /// All that are watched.
    pub fn live(&self) -> Vec<u64> {
        self.spaces.iter().filter(|(_, space)| space.is_live).map(|(id, _)| *id).collect()
    }

    /// Stop watching these: the files that no other one has mapped, and the numbers of code that was made. Both
    /// are to be closed once their symbols were read.
    pub fn end(&mut self, ids: &[u64]) -> (Vec<u32>, Vec<u32>) {
        let (mut files, mut made) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(space) = self.spaces.get_mut(id).filter(|space| space.is_live) else { continue };
            space.is_live = false;
            space.pidfd = None;
            made.push(space.made);
            for number in space.files() {
                let Some(file) = self.files.get_mut(&number) else { continue };
                file.users = file.users.saturating_sub(1);
            }
        }
        // Also those of maps that proved to be another program's. The kernel's library is a copy of our own.
        let is_unused = |(number, file): &(&u32, &MappedFile)| {
            file.users == 0 && file.open.is_ok() && Some(**number) != self.vdso
        };
        files.extend(self.files.iter().filter(is_unused).map(|(number, _)| *number));
        // A generation that is over may have code without a name yet: many perf maps are written at the end.
        made.retain(|made| !self.spaces.values().any(|space| space.is_live && space.made == *made));
        (files, made)
    }

    /// Let go of a file.
    pub fn close(&mut self, file: u32) {
        if let Some(file) = self.files.get_mut(&file).filter(|file| file.open.is_ok()) {
            file.open = Err(CLOSED);
        }
    }

    /// Let go of a perf map.
    pub fn close_made(&mut self, made: u32) {
        self.perf_maps.remove(&made);
    }

    /// Forget the address spaces that are not watched, and files of which no name is known.
    pub fn forget(&mut self, is_named: impl Fn(u32) -> bool) {
        self.spaces.retain(|_, space| space.is_live);
        let mut kept: BTreeSet<u32> = self.spaces.values().flat_map(Space::files).collect();
        kept.extend(self.vdso);
        self.files.retain(|number, _| kept.contains(number) || is_named(*number));
        let files = &self.files;
        self.by_inode.retain(|_, number| files.contains_key(number));
    }

    /// Whether this file's names should not wait for the end of its last process: it is on another mount than the
    /// root's.
    pub fn is_urgent(&self, file: u32) -> bool {
        self.slots.is_some()
            && self.files.get(&file).is_some_and(|file| file.on_other_mount && file.open.is_ok())
    }

    /// Where an address of an address space lies; the rest is for [`Spaces::note`], if that was not done.
    pub fn place(&mut self, id: u64, pid: u32, stack_start: u64, address: u64) -> Place {
        if !self.spaces.contains_key(&id) {
            self.note(id, pid, stack_start);
        }
        let found = self.find(id, address);
        let Some(space) = self.spaces.get(&id) else { return Place::Nowhere(UNMAPPED) };
        if found == Place::Nowhere(UNMAPPED) && space.is_live && space.read.elapsed() > REREAD {
            let (pid, stack_start) = (space.pid, space.stack_start);
            let again = self.read(pid, stack_start);
            let is_same = self.changed(id, pid, stack_start) == (0, 0);
            let Some(space) = self.spaces.get_mut(&id) else { return found };
            space.read = Instant::now();
            if let (true, Ok(old), Ok(mut new)) = (is_same, &space.mappings, again) {
                // What is gone was there when an earlier stack was taken.
                let covered = |m: &Mapping| new.iter().any(|n| n.start < m.end && m.start < n.end);
                let gone: Vec<_> = old.iter().filter(|m| !covered(m)).copied().collect();
                new.extend(gone);
                new.sort_by_key(|mapping| mapping.start);
                let old = space.files();
                space.mappings = Ok(new);
                let added = space.files().difference(&old).copied().collect();
                self.hold(&added);
            }
            return self.find(id, address);
        }
        found
    }

    fn find(&mut self, id: u64, address: u64) -> Place {
        let Some(space) = self.spaces.get(&id) else { return Place::Nowhere(UNMAPPED) };
        let mappings = match &space.mappings {
            Ok(mappings) => mappings,
            Err(why) => return Place::Nowhere(why),
        };
        let at = mappings.partition_point(|mapping| mapping.end <= address);
        match mappings.get(at).filter(|mapping| mapping.start <= address) {
            _ if (space.changed.0..space.changed.1).contains(&address) => Place::Nowhere(CHANGED),
            None => Place::Nowhere(UNMAPPED),
            Some(Mapping { start, offset, backing: Backing::File(file), .. }) => {
                Place::File(*file, address - start + offset)
            }
            Some(_) if !space.is_live && !self.perf_maps.contains_key(&space.made) => {
                Place::Nowhere(perf_map::CLOSED)
            }
            Some(_) => {
                self.perf_maps.entry(space.made).or_insert_with(|| PerfMap::of(space.pid)).look();
                Place::Made(space.made, address)
            }
        }
    }

    /// A file by its number.
    pub fn file(&self, number: u32) -> Option<&MappedFile> {
        self.files.get(&number)
    }

    /// The perf map of a process by its number; none, if it was closed.
    pub fn perf_map(&mut self, number: u32) -> Option<&mut PerfMap> {
        self.perf_maps.get_mut(&number)
    }

    fn read(&mut self, pid: u32, stack_start: u64) -> Result<Vec<Mapping>, Why> {
        if pid == 0 {
            return Err(OUTSIDE);
        }
        let text = fs::read(format!("/proc/{pid}/maps")).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => DENIED,
            _ => ENDED,
        })?;
        // That of a process that is about to end is empty.
        if text.is_empty() {
            return Err(ENDED);
        }
        let lines = text.split(|byte| *byte == b'\n').filter_map(MapsLine::parse);
        let mappings =
            lines.filter(|line| line.executable).map(|line| self.mapping(pid, &line)).collect::<Vec<_>>();
        // After the maps, so that they are those of the same program.
        match code_and_stack(pid) {
            Some((_, start)) if stack_start != 0 && start != stack_start => Err(EXECUTED),
            _ => Ok(mappings),
        }
    }

    fn mapping(&mut self, pid: u32, line: &MapsLine<'_>) -> Mapping {
        let no_file = [&b"//anon"[..], b"/anon_hugepage", b"/dev/zero", b"/SYSV"];
        let backing = match line.path {
            path if no_file.iter().any(|prefix| path.starts_with(prefix)) => Backing::None,
            // A program, or memory that a process shares with itself to make code.
            path if path.starts_with(MEMORY) => {
                let file = self.file_of(pid, line);
                let readable = self.file(file).is_some_and(|file| file.open.is_ok());
                if readable { Backing::File(file) } else { Backing::None }
            }
            path if path.starts_with(b"/") => Backing::File(self.file_of(pid, line)),
            // 32-bit programs have another one.
            b"[vdso]" if line.start >> 32 != 0 => Backing::File(self.vdso()),
            _ => Backing::None,
        };
        Mapping { start: line.start, end: line.end, offset: line.offset, backing }
    }

    fn add(&mut self, path: Vec<u8>, open: Result<fs::File, Why>, pid: u32) -> u32 {
        let number = next(&mut self.numbers);
        let stamp = open.as_ref().ok().and_then(stamp);
        let on_other_mount = stamp.map(|stamp| stamp.0) != self.own_root;
        self.files.insert(number, MappedFile { path, open, pid, users: 0, stamp, on_other_mount });
        number
    }

    fn file_of(&mut self, pid: u32, line: &MapsLine<'_>) -> u32 {
        let key = (line.device.to_vec(), line.inode, line.path.to_vec());
        let known = self.by_inode.get(&key).copied();
        if let Some(number) = known
            && let Some(file) = self.files.get_mut(&number).filter(|file| file.open.is_ok())
        {
            file.pid = pid;
            return number;
        }
        let files = self.files.values().filter(|file| file.open.is_ok()).count();
        let descriptors = self.spaces.len() + self.perf_maps.len() + files;
        // One that could not be opened may be readable in another process.
        let open = if descriptors as u64 >= self.descriptors { Err(TOO_MANY) } else { open(pid, line) };
        if let Some(number) = known
            && let Some(file) = self.files.get_mut(&number)
        {
            let is_it = match &open {
                Ok(open) => file.stamp.is_some() && stamp(open) == file.stamp,
                Err(_) => file.stamp.is_none(),
            };
            if is_it {
                (file.open, file.pid) = (open, pid);
                return number;
            }
        }
        let path = line.path.strip_suffix(DELETED_SUFFIX).unwrap_or(line.path).to_vec();
        let number = self.add(path, open, pid);
        self.by_inode.insert(key, number);
        number
    }

    /// The same one is mapped in each 64-bit process: ours is at hand.
    fn vdso(&mut self) -> u32 {
        if let Some(number) = self.vdso {
            return number;
        }
        let number = self.add(b"[vdso]".into(), copy_of_vdso().ok_or(NOT_FOUND), 0);
        self.vdso = Some(number);
        number
    }
}

fn next(numbers: &mut u32) -> u32 {
    *numbers = numbers.wrapping_add(1);
    *numbers
}

fn stamp(file: &fs::File) -> Option<Stamp> {
    let stat = nix::sys::stat::fstat(file).ok()?;
    Some((stat.st_dev, stat.st_ino, stat.st_size.cast_unsigned(), stat.st_ctime, stat.st_ctime_nsec))
}

/// Becomes readable when the process ends; nothing, if it has.
fn pidfd_open(pid: u32) -> Option<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = nix::errno::Errno::result(fd).ok()? as i32;
    // SAFETY: the kernel just made it for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A line of /proc/PID/maps.
struct MapsLine<'a> {
    start: u64,
    end: u64,
    executable: bool,
    offset: u64,
    device: &'a [u8],
    inode: u64,
    path: &'a [u8],
}

impl<'a> MapsLine<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let hex = |word: &[u8]| u64::from_str_radix(str::from_utf8(word).ok()?, 16).ok();
        let range = words.next()?;
        let dash = range.iter().position(|byte| *byte == b'-')?;
        let executable = words.next()?.get(2) == Some(&b'x');
        let offset = hex(words.next()?)?;
        let device = words.next()?;
        let inode = str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let path = words.next().unwrap_or_default().trim_ascii_start();
        let (start, end) = (hex(&range[..dash])?, hex(&range[dash + 1..])?);
        Some(Self { start, end, executable, offset, device, inode, path })
    }
}

/// Open a mapped file: through the mapping itself, which is right also if it was deleted, replaced or mounted
/// somewhere else; where that is not allowed, by its path in the process's root, if it is the same file.
fn open(pid: u32, line: &MapsLine<'_>) -> Result<fs::File, Why> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end);
    match door::open_magic_link(&link) {
        Ok(file) if line.path.starts_with(MEMORY) && !is_elf(&file) => return Err("no program"),
        Ok(file) => return Ok(file),
        Err(refused @ (Refused::NotRegular | Refused::Pseudo)) => return Err(refused.reason()),
        Err(_) => (),
    }
    if line.path.ends_with(DELETED_SUFFIX) {
        return Err(DELETED);
    }
    let path = Path::new(OsStr::from_bytes(line.path));
    let file = Root::of_process(pid).and_then(|root| root.open(path, Links::Follow));
    let file = file.map_err(Refused::reason)?;
    if door::is_mapped_as(&file, line.device, line.inode) { Ok(file) } else { Err(REPLACED) }
}

fn is_elf(file: &fs::File) -> bool {
    let mut magic = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut magic, 0).is_ok() && magic == *b"\x7fELF"
}

/// Where a process's program begins, and where its first thread's stack does, which each execve makes anew: fields of
/// /proc/PID/stat, behind the name, which may hold anything. Nothing, where they are not shown.
fn code_and_stack(pid: u32) -> Option<(u64, u64)> {
    const CODE: usize = 26;
    const STACK: usize = 28;
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(stat.get(name_end + 2..)?).ok()?;
    // The first field behind the name is number 3.
    let field = |n: usize| rest.split(' ').nth(n - 3)?.parse().ok();
    Some((field(CODE)?, field(STACK).filter(|start| *start != 0)?))
}

/// The kernel's library in our own memory, as a file.
fn copy_of_vdso() -> Option<fs::File> {
    let maps = fs::read("/proc/self/maps").ok()?;
    let mut lines = maps.split(|byte| *byte == b'\n').filter_map(MapsLine::parse);
    let line = lines.find(|line| line.path == b"[vdso]")?;
    let mut bytes = vec![0; usize::try_from(line.end - line.start).ok()?];
    let memory = fs::File::open("/proc/self/mem").ok()?;
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, line.start).ok()?;
    let copy = nix::sys::memfd::memfd_create(c"vdso", MFdFlags::MFD_CLOEXEC).ok()?;
    let mut copy = fs::File::from(copy);
    copy.write_all(&bytes).ok()?;
    Some(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_maps() {
        let text =
            b"7f0000001000-7f0000002000 r-xp 00000200 08:01 1234                       /a b\\012c (deleted)";
        let line = MapsLine::parse(text).unwrap();
        assert_eq!((line.start, line.end, line.offset), (0x7f00_0000_1000, 0x7f00_0000_2000, 0x200));
        assert!(line.executable);
        assert_eq!((line.device, line.inode), (&b"08:01"[..], 1234));
        assert_eq!(line.path, b"/a b\\012c (deleted)");
        assert!(
            MapsLine::parse(b"1000-2000 rw-p 00000000 00:00 0 ").is_some_and(|line| line.path.is_empty())
        );
        for bad in [&b""[..], b"x", b"1000 r-xp 0 0:0 0 ", b"g-h r-xp 0 0:0 0 "] {
            assert!(MapsLine::parse(bad).is_none());
        }
    }

    #[test]
    fn own_code_has_a_place() {
        let mut spaces = Spaces::new();
        spaces.note(1, std::process::id(), code_and_stack(std::process::id()).unwrap().1);
        let address = own_code_has_a_place as fn() as usize as u64;
        let Place::File(file, _) = spaces.place(1, std::process::id(), 0, address) else { panic!() };
        let found = spaces.file(file).unwrap().open.as_ref().unwrap().metadata().unwrap();
        assert_eq!(found.ino(), fs::metadata("/proc/self/exe").unwrap().ino());
        assert_eq!(spaces.place(1, std::process::id(), 0, 1), Place::Nowhere(UNMAPPED));
        spaces.note(2, std::process::id(), 1);
        assert_eq!(spaces.place(2, std::process::id(), 0, address), Place::Nowhere(EXECUTED));
    }

    #[test]
    fn a_perf_map_is_closed_with_the_last_generation() {
        let mut spaces = Spaces::new();
        let pid = std::process::id();
        let start = code_and_stack(pid).unwrap().1;
        spaces.note(1, pid, start);
        spaces.note(2, pid, start);
        spaces.note(3, pid, start + 1);
        let made = spaces.spaces[&2].made;
        assert!(spaces.end(&[1]).1.is_empty());
        assert_eq!(spaces.end(&[2]).1, [made]);
        assert_ne!(spaces.end(&[3]).1, [made]);
    }
}
