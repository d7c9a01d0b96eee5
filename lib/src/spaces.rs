// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the addresses of processes lie: in which files, noted and opened while the processes live, so that what
//! has ended, been deleted or been replaced by then still has its symbols at the end.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::fcntl::OpenHow;
use nix::fcntl::ResolveFlag;
use nix::sys::memfd::MFdFlags;

/// Why an address has no name.
pub(crate) type Why = &'static str;

const ENDED: Why = "the process had ended before its maps could be read";
const OUTSIDE: Why = "the process is outside of this pid namespace";
const EXECUTED: Why = "the process had executed another program before its maps could be read";
const DENIED: Why = "not allowed to read the process's maps: that takes CAP_SYS_PTRACE";
const UNMAPPED: Why = "not mapped: a caller without frame pointers?";
const DELETED: Why = "the file has been deleted, and opening it takes CAP_CHECKPOINT_RESTORE";
const REPLACED: Why = "another file stands at the path now";
const FILE_DENIED: Why = "not allowed to open the file";
const NOT_FOUND: Why = "the file was not found";
const TOO_MANY: Why = "too many files are open already";
const NO_PERF_MAP: Why = "made at run time, and the process has no perf map in /tmp";
const NOT_IN_PERF_MAP: Why = "made at run time, and not in the process's perf map";

/// So many address spaces are kept readable; more are read again when they are needed.
const SPACES_MAX: usize = 256;
/// What is not mapped may be by now, but to look costs much.
const REREAD: Duration = Duration::from_millis(50);
/// A file that somebody else wrote is read so far and no further.
const PERF_MAP_MAX: u64 = 64 << 20;
/// Of the descriptors that the kernel allows us, these are for other ends.
const SPARE_DESCRIPTORS: u64 = 64;
/// What memfd_create() makes is named so.
const MEMORY: &[u8] = b"/memfd:";
const DELETED_SUFFIX: &[u8] = b" (deleted)";

/// Where an address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// At an offset of a file; the number is that of [`Spaces::file`].
    File(u32, u64),
    /// In code that a process made itself; the number is that of [`Spaces::made`].
    Made(u32, u64),
    /// Nobody knows.
    Nowhere(Why),
}

/// A file that is mapped somewhere.
pub(crate) struct MappedFile {
    /// As the process knows it.
    pub path: Vec<u8>,
    /// Where to read it.
    pub readable: Result<PathBuf, Why>,
    _open: Option<OwnedFd>,
}

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

/// An address space, which is a process between two execve.
struct Space {
    pid: u32,
    stack_start: u64,
    mappings: Result<Vec<Mapping>, Why>,
    read: Instant,
    made: Option<u32>,
}

/// A perf map: the names that a process gave to code that it made, in /tmp/perf-PID.map.
struct PerfMap {
    pid: u32,
    file: Option<fs::File>,
    names: Option<BTreeMap<u64, (u64, String)>>,
}

/// All that is known about the addresses of processes.
#[derive(Default)]
pub(crate) struct Spaces {
    spaces: HashMap<u64, Space>,
    files: Vec<MappedFile>,
    by_inode: HashMap<(Vec<u8>, u64, Vec<u8>), u32>,
    perf_maps: Vec<PerfMap>,
    vdso: Option<u32>,
    descriptors: u64,
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

    /// Look at an address space for the first time. `stack_start` tells it from a later one of the same
    /// process; 0 if it is not known.
    pub fn note(&mut self, id: u64, pid: u32, stack_start: u64) {
        if self.spaces.len() >= SPACES_MAX {
            self.forget();
        }
        let mappings = self.read(pid, stack_start);
        let space = Space { pid, stack_start, mappings, read: Instant::now(), made: None };
        self.spaces.insert(id, space);
    }

    /// Where an address of an address space lies; the rest is for [`Spaces::note`], if that was not done.
    pub fn place(&mut self, id: u64, pid: u32, stack_start: u64, address: u64) -> Place {
        if !self.spaces.contains_key(&id) {
            self.note(id, pid, stack_start);
        }
        let found = self.find(id, address);
        let Some(space) = self.spaces.get(&id) else { return Place::Nowhere(UNMAPPED) };
        if found == Place::Nowhere(UNMAPPED) && space.read.elapsed() > REREAD {
            let (pid, stack_start) = (space.pid, space.stack_start);
            let again = self.read(pid, stack_start);
            if let Some(space) = self.spaces.get_mut(&id) {
                space.read = Instant::now();
                if let (Ok(old), Ok(mut new)) = (&space.mappings, again) {
                    // What is gone was there when an earlier stack was taken.
                    let covered = |m: &Mapping| new.iter().any(|n| n.start < m.end && m.start < n.end);
                    let gone: Vec<_> = old.iter().filter(|m| !covered(m)).copied().collect();
                    new.extend(gone);
                    new.sort_by_key(|mapping| mapping.start);
                    space.mappings = Ok(new);
                }
            }
            return self.find(id, address);
        }
        found
    }

    fn find(&mut self, id: u64, address: u64) -> Place {
        let Some(space) = self.spaces.get_mut(&id) else { return Place::Nowhere(UNMAPPED) };
        let mappings = match &space.mappings {
            Ok(mappings) => mappings,
            Err(why) => return Place::Nowhere(why),
        };
        let at = mappings.partition_point(|mapping| mapping.end <= address);
        match mappings.get(at).filter(|mapping| mapping.start <= address) {
            None => Place::Nowhere(UNMAPPED),
            Some(Mapping { start, offset, backing: Backing::File(file), .. }) => {
                Place::File(*file, address - start + offset)
            }
            Some(_) => {
                let perf_maps = &mut self.perf_maps;
                let made = *space.made.get_or_insert_with(|| {
                    perf_maps.push(PerfMap { pid: space.pid, file: None, names: None });
                    (perf_maps.len() - 1) as u32
                });
                let map = &mut perf_maps[made as usize];
                map.file = map.file.take().or_else(|| open_perf_map(map.pid));
                Place::Made(made, address)
            }
        }
    }

    /// A file by its number.
    pub fn file(&self, number: u32) -> Option<&MappedFile> {
        self.files.get(number as usize)
    }

    /// The name and the beginning of code that a process made.
    pub fn made(&mut self, number: u32, address: u64) -> Result<(String, u64), Why> {
        let Some(map) = self.perf_maps.get_mut(number as usize) else { return Err(NO_PERF_MAP) };
        if map.names.is_none() {
            map.file = map.file.take().or_else(|| open_perf_map(map.pid));
            map.names = map.file.as_mut().map(|file| {
                // It may have been read before.
                _ = file.rewind();
                read_perf_map(file.take(PERF_MAP_MAX))
            });
        }
        let names = map.names.as_ref().ok_or(NO_PERF_MAP)?;
        match names.range(..=address).next_back() {
            Some((start, (end, name))) if address < *end => Ok((name.clone(), *start)),
            _ => Err(NOT_IN_PERF_MAP),
        }
    }

    /// Read perf maps anew when they are asked for again.
    pub fn forget_perf_maps(&mut self) {
        for map in &mut self.perf_maps {
            map.names = None;
        }
    }

    /// Drop address spaces of processes that have ended; all, if that are too few.
    fn forget(&mut self) {
        self.spaces.retain(|_, space| Path::new(&format!("/proc/{}", space.pid)).exists());
        if self.spaces.len() >= SPACES_MAX {
            self.spaces.clear();
        }
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
        match start_of_stack(pid) {
            Some(start) if stack_start != 0 && start != stack_start => Err(EXECUTED),
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
                let readable = self.file(file).is_some_and(|file| file.readable.is_ok());
                if readable { Backing::File(file) } else { Backing::None }
            }
            path if path.starts_with(b"/") => Backing::File(self.file_of(pid, line)),
            // 32-bit programs have another one.
            b"[vdso]" if line.start >> 32 != 0 => Backing::File(self.vdso()),
            _ => Backing::None,
        };
        Mapping { start: line.start, end: line.end, offset: line.offset, backing }
    }

    fn add(&mut self, file: MappedFile) -> u32 {
        self.files.push(file);
        (self.files.len() - 1) as u32
    }

    fn file_of(&mut self, pid: u32, line: &MapsLine<'_>) -> u32 {
        let key = (line.device.to_vec(), line.inode, line.path.to_vec());
        // One that could not be opened may be readable in another process.
        if let Some(number) = self.by_inode.get(&key)
            && self.files.get(*number as usize).is_some_and(|file| file.readable.is_ok())
        {
            return *number;
        }
        let open = if self.files.len() as u64 >= self.descriptors { Err(TOO_MANY) } else { open(pid, line) };
        let readable = open.as_ref().map(|fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
        let readable = readable.map_err(|why| *why);
        if let (Some(number), Err(_)) = (self.by_inode.get(&key), &readable) {
            return *number;
        }
        let path = line.path.strip_suffix(DELETED_SUFFIX).unwrap_or(line.path).to_vec();
        let number = self.add(MappedFile { path, readable, _open: open.ok() });
        self.by_inode.insert(key, number);
        number
    }

    /// The same one is mapped in each 64-bit process: ours is at hand.
    fn vdso(&mut self) -> u32 {
        if let Some(number) = self.vdso {
            return number;
        }
        let copy = copy_of_vdso();
        let readable = copy.as_ref().map(|fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
        let readable = readable.ok_or(NOT_FOUND);
        let number = self.add(MappedFile { path: b"[vdso]".into(), readable, _open: copy });
        self.vdso = Some(number);
        number
    }
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
fn open(pid: u32, line: &MapsLine<'_>) -> Result<OwnedFd, Why> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", line.start, line.end);
    // To open a device may do something.
    match fs::metadata(&link) {
        Ok(metadata) if metadata.is_file() => {
            let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
            if let Ok(file) = fs::OpenOptions::new().read(true).custom_flags(flags).open(&link) {
                if line.path.starts_with(MEMORY) && !is_elf(&file) {
                    return Err("no program");
                }
                return Ok(file.into());
            }
        }
        Ok(_) => return Err("no regular file is mapped there"),
        Err(_) => (),
    }
    if line.path.ends_with(DELETED_SUFFIX) {
        return Err(DELETED);
    }
    let file = open_in_root(pid, OsStr::from_bytes(line.path).as_ref())?;
    let same = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.ino() == line.inode);
    if same { Ok(file.into()) } else { Err(REPLACED) }
}

fn is_elf(file: &fs::File) -> bool {
    let mut magic = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut magic, 0).is_ok() && magic == *b"\x7fELF"
}

/// Open a path as the process sees it; links in it lead nowhere else.
fn open_in_root(pid: u32, path: &Path) -> Result<fs::File, Why> {
    let why = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => FILE_DENIED,
        _ => NOT_FOUND,
    };
    let root = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/{pid}/root"))
        .map_err(why)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = nix::fcntl::openat2(root, path, how).map_err(|error| why(error.into()))?;
    Ok(file.into())
}

/// Where a process's first thread's stack begins, which each execve makes anew: a field of /proc/PID/stat, behind
/// the name, which may hold anything.
fn start_of_stack(pid: u32) -> Option<u64> {
    const FIELD: usize = 28;
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(stat.get(name_end + 2..)?).ok()?;
    // The first field behind the name is number 3.
    rest.split(' ').nth(FIELD - 3)?.parse().ok().filter(|start| *start != 0)
}

/// The process's number in its own namespace is in the file's name; only root or the process's user can have
/// written it.
fn open_perf_map(pid: u32) -> Option<fs::File> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
    let inner = str::from_utf8(line).ok()?.split_whitespace().last()?;
    let file = open_in_root(pid, Path::new(&format!("/tmp/perf-{inner}.map"))).ok()?;
    let (owner, process) = (file.metadata().ok()?, fs::metadata(format!("/proc/{pid}")).ok()?);
    let trusted = owner.uid() == process.uid() || owner.uid() == 0;
    let writable_by_others = owner.permissions().mode() & 0o002 != 0;
    (owner.is_file() && trusted && !writable_by_others).then_some(file)
}

/// Lines of start and size in hexadecimal, and a name. Later ones replace what they cover.
fn read_perf_map(file: impl io::Read) -> BTreeMap<u64, (u64, String)> {
    let mut names = BTreeMap::new();
    let mut text = Vec::new();
    if let Err(error) = io::BufReader::new(file).read_to_end(&mut text) {
        crate::say(&format!("a perf map: {error}"));
    }
    for line in text.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let mut words = line.splitn(3, ' ');
        let hex = |word: Option<&str>| u64::from_str_radix(word?.trim_start_matches("0x"), 16).ok();
        let (Some(start), Some(size), Some(name)) = (hex(words.next()), hex(words.next()), words.next())
        else {
            continue;
        };
        let end = start.saturating_add(size);
        let covered: Vec<u64> = names
            .range(..end)
            .rev()
            .take_while(|(_, (other_end, _)): &(_, &(u64, String))| *other_end > start)
            .map(|(other, _)| *other)
            .collect();
        covered.iter().for_each(|other| _ = names.remove(other));
        names.insert(start, (end, name.trim_end().to_string()));
    }
    names
}

/// The kernel's library in our own memory, as a file.
fn copy_of_vdso() -> Option<OwnedFd> {
    let maps = fs::read("/proc/self/maps").ok()?;
    let mut lines = maps.split(|byte| *byte == b'\n').filter_map(MapsLine::parse);
    let line = lines.find(|line| line.path == b"[vdso]")?;
    let mut bytes = vec![0; usize::try_from(line.end - line.start).ok()?];
    let memory = fs::File::open("/proc/self/mem").ok()?;
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, line.start).ok()?;
    let copy = nix::sys::memfd::memfd_create(c"vdso", MFdFlags::MFD_CLOEXEC).ok()?;
    let mut copy = fs::File::from(copy);
    copy.write_all(&bytes).ok()?;
    Some(copy.into())
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
    fn perf_maps_keep_what_came_last() {
        let names =
            read_perf_map(&b"1000 100 old\n0x2000 10 two words\nnonsense\n1080 100 new\n3000 zz bad\n"[..]);
        let all: Vec<_> = names.iter().map(|(start, (end, name))| (*start, *end, name.as_str())).collect();
        assert_eq!(all, [(0x1080, 0x1180, "new"), (0x2000, 0x2010, "two words")]);
    }

    #[test]
    fn own_code_has_a_place() {
        let mut spaces = Spaces::new();
        spaces.note(1, std::process::id(), start_of_stack(std::process::id()).unwrap());
        let address = own_code_has_a_place as fn() as usize as u64;
        let Place::File(file, _) = spaces.place(1, std::process::id(), 0, address) else { panic!() };
        let path = spaces.file(file).unwrap().readable.clone().unwrap();
        assert_eq!(fs::metadata(path).unwrap().ino(), fs::metadata("/proc/self/exe").unwrap().ino());
        assert_eq!(spaces.place(1, std::process::id(), 0, 1), Place::Nowhere(UNMAPPED));
        spaces.note(2, std::process::id(), 1);
        assert_eq!(spaces.place(2, std::process::id(), 0, address), Place::Nowhere(EXECUTED));
    }
}
