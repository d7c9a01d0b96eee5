// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Functions of libraries and of static programs, probed wherever processes have them: also in containers, and
//! in processes that start later with a library that nobody had before.
//!
//! Probes hold their file, and the mount by which it was found. So each probed file has a process that is known to map
//! it. When that has ended, another one is looked for, and without one the file is let go: until somebody maps it
//! again.
//!
//! The programs are named as bpf/uprobe.bpf.h says. Those at many places know a function by their cookie.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead as _;
use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use ::caps::CapSet;
use ::caps::Capability;
use libbpf_rs::Link;
use libbpf_rs::Object;
use libbpf_rs::UprobeMultiOpts;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::sys::stat::Mode;
use procfs::process::Process;

use crate::Error;
use crate::account;
use crate::command;
use crate::door;
use crate::door::Links;
use crate::door::Root;
use crate::elf::Elf;
use crate::follow::Follow;
use crate::links;
use crate::mappings;
use crate::mappings::FileId;
use crate::mappings::Mapping;
use crate::mappings::Mappings;
use crate::say;

/// The sections of programs at entries, and at returns, by links to one probe and to many.
const ENTRY: [&str; 2] = ["uprobe", "uprobe.multi"];
const RETURN: [&str; 2] = ["uretprobe", "uretprobe.multi"];
/// At most this many files are probed at a time, if there are descriptors for them. A user other than root has a quarter of it.
const FILES_MAX: usize = 512;
/// Descriptors that are for something else.
const DESCRIPTORS_KEPT: usize = 128;
/// At most this many of the processes that mapped a file last are remembered.
const OTHERS_MAX: usize = 8;
/// At most this many files that have none of the functions are remembered; beyond, some are looked at again.
const WITHOUT_MAX: usize = 1 << 16;
/// Files that wait to be probed, and processes that are looked at again.
const WAITING_MAX: usize = 256;
/// The tool's other work waits at most this long for probes.
const PROBING: Duration = Duration::from_millis(50);
/// So often is looked whether the processes known to map files still do, at this many files.
const CHECK: Duration = Duration::from_secs(5);
const CHECKED: usize = 16;
/// A file is held for so long without anybody who maps it, and all processes are looked at so often at most.
const LOOK: Duration = Duration::from_secs(1);
/// Of the time, looking at all processes takes at most one part in this many.
const LOOK_SHARE: u32 = 20;
/// The first and the longest pause before what failed is tried again.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Causes in the footer.
const LATE: &str = "not_probed_yet";
const NEVER: &str = "not_probed";

/// A function, and the number by which the programs know it.
pub type Function = (&'static str, u64);

/// Where to look for the functions.
#[derive(Clone, Debug)]
pub enum Place {
    /// In this file alone.
    File(PathBuf),
    /// In the libraries of which this is true of the name, and in programs that use none, of all processes.
    Libraries(fn(&[u8]) -> bool),
}

/// The probes of an object's functions.
pub struct Uprobes<'obj> {
    tool: &'static str,
    object: &'obj Object,
    place: Place,
    functions: &'static [Function],
    pids: Vec<u32>,
    mappings: Option<Mappings>,
    /// Tells that a file's user has ended.
    ends: Epoll,
    probed: HashMap<Key, Probed>,
    without: HashSet<(Key, Version)>,
    waiting: VecDeque<Found>,
    /// Processes of which something could not be probed.
    failed: BTreeSet<u32>,
    retrying: BTreeSet<u32>,
    retry: (Instant, Duration),
    said: HashSet<String>,
    /// Processes that do not show their files.
    unreadable: BTreeSet<u32>,
    check_next: Instant,
    check_order: VecDeque<Key>,
    look_next: Instant,
    must_look: bool,
    is_started: bool,
}

/// A file's device and inode, as stat(2) has them.
type Key = (u64, u64);
/// When it was changed, and its size: other code may be there afterwards.
type Version = (i64, i64, u64);

/// A file that is probed, which holds it.
struct Probed {
    links: Vec<Link>,
    /// As mappings have it.
    file: FileId,
    name: Vec<u8>,
    version: Version,
    /// The mount that is held.
    mount: u64,
    /// The user of the process for which it was probed.
    owner: u32,
    user: Option<User>,
    unused_since: Instant,
    /// Other processes that mapped it lately, by the same mount.
    others: VecDeque<u32>,
    /// A mapping of it by another mount.
    elsewhere: Option<Mapping>,
    /// It is for a command that has not mapped it yet, or was asked for.
    is_awaited: bool,
}

/// A process that maps a file.
struct User {
    pid: u32,
    _pidfd: Option<OwnedFd>,
}

/// The file of a mapping.
struct Found {
    mapping: Mapping,
    /// It may stand for the path alone.
    file: OwnedFd,
    key: Key,
    version: Version,
    mount: u64,
    /// The process that mapped it has not ended.
    has_user: bool,
    /// The process ran before it was found.
    is_late: bool,
}

/// Why the file of a mapping is not found.
enum Missing {
    /// There is no such mapping any more.
    Unmapped,
    /// The kernel does not show it.
    Denied,
    /// A part of a sentence.
    Failed(String),
}

/// Why a file is not probed.
enum NotProbed {
    /// The kernel allows it to nobody with these capabilities.
    Refused,
    /// A part of a sentence.
    Failed(String),
}

impl NotProbed {
    fn of(function: &str, error: &libbpf_rs::Error) -> Self {
        let is_capable = has_cap(Capability::CAP_SYS_ADMIN);
        match error.kind() {
            libbpf_rs::ErrorKind::PermissionDenied if !is_capable => Self::Refused,
            _ => Self::Failed(format!("{function}: {error:#}")),
        }
    }

    /// As the end of the tool, which was asked for this file.
    fn of_file(self, path: &Path) -> Error {
        match self {
            Self::Refused => Error::Uprobes,
            Self::Failed(why) => Error::Usage(format!("{}: {why}", path.display())),
        }
    }
}

impl From<io::Error> for NotProbed {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl<'obj> Uprobes<'obj> {
    /// Look for the functions in all processes, or in these. Of two functions at one place, the first one is probed.
    ///
    /// # Errors
    /// Those of watching for new processes.
    pub fn new(
        tool: &'static str,
        object: &'obj Object,
        functions: &'static [Function],
        place: Place,
        pids: &[u32],
    ) -> Result<Self, Error> {
        // Before the first look, so that nothing comes between the two.
        let mappings = if matches!(place, Place::File(_)) { None } else { Some(Mappings::watch()?) };
        // A library takes descriptors.
        if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
            _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        }
        let now = Instant::now();
        let mut probes = Self {
            tool,
            object,
            place,
            functions,
            pids: pids.to_vec(),
            mappings,
            ends: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("epoll"))?,
            probed: HashMap::new(),
            without: HashSet::new(),
            waiting: VecDeque::new(),
            failed: BTreeSet::new(),
            retrying: BTreeSet::new(),
            retry: (now, RETRY),
            said: HashSet::new(),
            unreadable: BTreeSet::new(),
            check_next: now + CHECK,
            check_order: VecDeque::new(),
            look_next: now,
            must_look: false,
            is_started: false,
        };
        if probes.mappings.is_some() {
            probes.look_at_all();
        }
        Ok(probes)
    }

    /// What can't be seen, in sentences for the user.
    pub fn notes(&self) -> Option<String> {
        let processes = match self.unreadable.len() {
            0 => return None,
            1 => "one process does".to_string(),
            n => format!("{n} processes do"),
        };
        let remedy = if has_cap(Capability::CAP_SYS_PTRACE) { "" } else { " (CAP_SYS_PTRACE shows them)" };
        Some(format!(
            "{processes} not show what libraries there are: calls in those that nobody else uses can't be seen{remedy}"
        ))
    }

    /// Attach the programs to all that is there now, and to what a command will have.
    ///
    /// # Errors
    /// Of a file that was named: it can't be read, has none of the functions, or the kernel refuses.
    pub fn attach(&mut self) -> Result<(), Error> {
        if let Place::File(path) = &self.place {
            let path = path.clone();
            let usage = |why: &str| Error::Usage(format!("{}: {why}", path.display()));
            let found = open_named(&path).and_then(|file| Found::ahead(file, &path));
            let found = found.map_err(|error| usage(&error.to_string()))?;
            let is_probed = self.probe(&found).map_err(|error| error.of_file(&path))?;
            if !is_probed {
                let functions: Vec<&str> = self.functions.iter().map(|(name, _)| *name).collect();
                return Err(usage(&format!("defines none of {}", functions.join(", "))));
            }
            return Ok(());
        }
        if let Some(path) = command::program() {
            self.await_program(&path);
        }
        self.probe_waiting(None)?;
        self.is_started = true;
        Ok(())
    }

    /// What to keep, to attach to what comes later and to see it.
    pub fn capabilities(&self) -> Vec<Capability> {
        // One file is probed by now, and nothing is looked for.
        if self.mappings.is_none() {
            return Vec::new();
        }
        let mut keep = vec![
            Capability::CAP_BPF,
            Capability::CAP_PERFMON,
            Capability::CAP_SYS_PTRACE,
            Capability::CAP_DAC_READ_SEARCH,
            Capability::CAP_CHECKPOINT_RESTORE,
        ];
        // Some kernels ask for more by way of perf events: 6.18 does.
        keep.extend(self.is_by_perf().then_some(Capability::CAP_SYS_ADMIN));
        keep
    }

    fn is_by_perf(&self) -> bool {
        self.object.progs().any(|p| p.autoload() && p.section() == ENTRY[0])
    }

    /// A command's program, if it is static; else the C library that it will have, if that can be told.
    fn await_program(&mut self, path: &Path) {
        let mut path = path.to_path_buf();
        // Scripts name what runs them, which may be a script too; the kernel follows few.
        for _ in 0..5 {
            let Ok(real) = path.canonicalize() else { return };
            let Ok(file) = Root::ours().and_then(|root| root.open(&real, Links::Follow)) else { return };
            if let Some(next) = script(&file) {
                path = next;
                continue;
            }
            let Ok(Some(elf)) = Elf::read(&file) else { return };
            match elf.interpreter() {
                Ok(None) => self.waiting.extend(Found::ahead(file, &real).ok()),
                Ok(Some(loader)) => {
                    let Ok(loader) = Path::new(OsStr::from_bytes(&loader)).canonicalize() else { return };
                    // musl's loader is its C library, and glibc's lies beside it.
                    for library in [loader.with_file_name("libc.so.6"), loader] {
                        let is_it = self.is_library(library.as_os_str().as_bytes());
                        let file = Root::ours().and_then(|root| root.open(&library, Links::Follow));
                        if let (true, Ok(file)) = (is_it, file)
                            && let Ok(found) = Found::ahead(file, &library)
                            && self.waiting.iter().all(|other| other.key != found.key)
                        {
                            self.waiting.push_back(found);
                        }
                    }
                }
                Err(_) => (),
            }
            return;
        }
    }

    fn look_at_all(&mut self) {
        let began = Instant::now();
        self.unreadable.clear();
        self.must_look = false;
        if self.pids.is_empty() {
            let own = std::process::id();
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if let Some(pid) = pid.filter(|pid| *pid != own) {
                    self.look_at(pid);
                }
            }
        } else {
            self.pids.clone().into_iter().for_each(|pid| _ = self.look_at(pid));
        }
        self.look_next = Instant::now() + LOOK.max(began.elapsed().saturating_mul(LOOK_SHARE));
    }

    /// Find what a process has mapped: the libraries, or the program itself where it has none. Whether any of it is still
    /// there.
    fn look_at(&mut self, pid: u32) -> bool {
        let mut mappings = Vec::new();
        let (mut is_static, is_library) = (true, self.library_test());
        let each = mappings::each_of(pid, |mapping: Mapping| {
            let is_library = is_library(&mapping.path);
            is_static &= !is_library && !is_loader(&mapping.path);
            let is_new = mappings.last().is_none_or(|(last, _): &(Mapping, bool)| last.path != mapping.path);
            if is_new && (is_library || !is_shared_object(&mapping.path)) && mappings.len() < WAITING_MAX {
                mappings.push((mapping, is_library));
            }
        });
        match each {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => _ = self.unreadable.insert(pid),
            // It has ended.
            Err(_) => return false,
            Ok(()) => (),
        }
        mappings.retain(|(_, is_library)| *is_library || is_static);
        let mut any = false;
        for (mapping, _) in mappings {
            match locate(&mapping) {
                Err(Missing::Unmapped) => (),
                result => {
                    any = true;
                    self.take_located(mapping, result);
                }
            }
        }
        any
    }

    fn library_test(&self) -> impl Fn(&[u8]) -> bool + use<> {
        let wanted = if let Place::Libraries(wanted) = self.place { Some(wanted) } else { None };
        move |path| wanted.is_some_and(|wanted| wanted(file_name(path)))
    }

    fn is_library(&self, path: &[u8]) -> bool {
        self.library_test()(path)
    }

    /// Find the file of a mapping that the kernel told of.
    fn take(&mut self, mapping: Mapping) {
        let result = match locate(&mapping) {
            // It may have another range by now, or the process another program. Else it has ended, or is on its way to
            // that: then it maps nothing any more, but counts as living for a moment.
            Err(Missing::Unmapped) if self.look_at(mapping.pid) => return,
            Err(Missing::Unmapped) => match Found::without_process(&mapping) {
                Some(found) => Ok(found),
                None => {
                    let same = |probed: &Probed| is_same(probed.file, mapping.file);
                    if !self.probed.values().any(same) {
                        account::count_dropped(LATE);
                    }
                    return;
                }
            },
            result => result,
        };
        self.take_located(mapping, result);
    }

    fn take_located(&mut self, mapping: Mapping, result: Result<Found, Missing>) {
        match result {
            Ok(found) => self.meet(found),
            Err(Missing::Unmapped) => (),
            Err(Missing::Denied) => _ = self.unreadable.insert(mapping.pid),
            Err(Missing::Failed(why)) => self.fail(&mapping, &why),
        }
    }

    /// A process maps this file.
    fn meet(&mut self, mut found: Found) {
        let pid = found.mapping.pid;
        if let Some(probed) = self.probed.get_mut(&found.key) {
            if probed.version == found.version {
                if probed.meet(&found) {
                    probed.user = Some(User::watched(pid, &self.ends));
                }
                return;
            }
            // Written over: the probes are at places in what was there before.
            links::detach(&mut probed.links);
            self.probed.remove(&found.key);
        }
        if self.without.contains(&(found.key, found.version)) {
            return;
        }
        if let Some(other) = self.waiting.iter().find(|other| other.key == found.key) {
            if self.is_started && other.mapping.pid != pid {
                account::count_dropped(LATE);
            }
            return;
        }
        // At the start, nothing else is to be done.
        let most = if self.is_started { WAITING_MAX } else { 16 * WAITING_MAX };
        if self.waiting.len() >= most {
            self.fail(&found.mapping, "too many wait to be probed");
            return;
        }
        found.is_late = self.is_started;
        self.waiting.push_back(found);
    }

    /// Probe what was found, up to this time. Where nothing at all may be probed, that is an error at first.
    fn probe_waiting(&mut self, until: Option<Instant>) -> Result<(), Error> {
        while let Some(found) = self.waiting.pop_front() {
            match self.probe(&found) {
                Ok(is_probed) if is_probed && found.is_late => account::count_dropped(LATE),
                Ok(_) => (),
                Err(NotProbed::Refused) if !self.is_started => return Err(Error::Uprobes),
                Err(NotProbed::Refused) => self.fail(&found.mapping, &Error::Uprobes.to_string()),
                Err(NotProbed::Failed(why)) => self.fail(&found.mapping, &why),
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
        }
        Ok(())
    }

    /// Something of a process is not probed: say and count it, and try again later.
    fn fail(&mut self, mapping: &Mapping, why: &str) {
        let pid = mapping.pid;
        let is_new = !self.retrying.contains(&pid) && !self.failed.contains(&pid);
        if is_new {
            account::count_dropped(NEVER);
        }
        if self.failed.len() < WAITING_MAX {
            self.failed.insert(pid);
        }
        let path = String::from_utf8_lossy(&mapping.path);
        let text = format!("calls in {path} of process {pid} are not seen: {why}");
        // Each reason once: a process that is met again may have another one by then.
        if self.said.len() < WAITING_MAX && self.said.insert(why.into()) {
            say(&format!("{}: {text}; this is tried again, and counted", self.tool));
        }
    }

    /// Attach every program to its functions in a file; false, where that has none of them.
    fn probe(&mut self, found: &Found) -> Result<bool, NotProbed> {
        let file = match door::reopen(&found.file) {
            Ok(file) => file,
            Err(door::Refused::NotRegular | door::Refused::Pseudo) => return Ok(false),
            Err(refused) => return Err(NotProbed::Failed(refused.reason().into())),
        };
        let owner = owner(found.mapping.pid);
        self.has_room(owner)?;
        let places = self.places(&file, &found.mapping.path)?;
        if places.is_empty() {
            if self.without.len() >= WITHOUT_MAX {
                self.without.clear();
            }
            self.without.insert((found.key, found.version));
            return Ok(false);
        }
        let links = self.attach_at(&file, &places)?;
        let user = found.has_user.then(|| User::watched(found.mapping.pid, &self.ends));
        let probed = Probed {
            links,
            file: found.mapping.file,
            name: file_name(&found.mapping.path).to_vec(),
            version: found.version,
            mount: found.mount,
            owner,
            user,
            unused_since: Instant::now(),
            others: VecDeque::new(),
            elsewhere: None,
            is_awaited: !self.is_started && found.mapping.pid == 0,
        };
        self.probed.insert(found.key, probed);
        if !self.check_order.contains(&found.key) {
            self.check_order.push_back(found.key);
        }
        Ok(true)
    }

    /// Where in a file which functions are: each place once.
    fn places(&self, file: &File, path: &[u8]) -> io::Result<Vec<(usize, Function)>> {
        let Some(elf) = Elf::read(file)? else { return Ok(Vec::new()) };
        let is_named = matches!(self.place, Place::File(_)) || self.is_library(path);
        if !is_named && elf.interpreter()?.is_some() {
            return Ok(Vec::new());
        }
        // glibc has some under such names too, and had them under no others.
        let aliases: Vec<String> = self.functions.iter().map(|(name, _)| format!("__{name}")).collect();
        let plain = self.functions.iter().map(|(name, _)| *name);
        let names: Vec<&str> = plain.chain(aliases.iter().map(String::as_str)).collect();
        let found = elf.functions(&names)?;
        let mut places: Vec<(usize, Function)> = Vec::new();
        for (function, offsets) in self.functions.iter().cycle().zip(found) {
            for offset in offsets.into_iter().filter_map(|offset| usize::try_from(offset).ok()) {
                if places.iter().all(|(other, _)| *other != offset) {
                    places.push((offset, *function));
                }
            }
        }
        Ok(places)
    }

    /// Whether one more file may be probed for this user.
    fn has_room(&self, owner: u32) -> Result<(), NotProbed> {
        let links = if self.is_by_perf() { 2 * self.functions.len() } else { 2 };
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(DESCRIPTORS_KEPT);
        // One more watches the user.
        let most = FILES_MAX.min(limit / (links + 1));
        let own = self.probed.values().filter(|probed| probed.owner == owner).count();
        if self.probed.len() >= most {
            return Err(NotProbed::Failed(format!(
                "{most} files are probed already, and there is no room for more"
            )));
        }
        if owner != 0 && own >= most.div_ceil(4) {
            return Err(NotProbed::Failed(format!(
                "{own} files of user {owner} are probed already, and no more are"
            )));
        }
        Ok(())
    }

    fn attach_at(&self, file: &File, places: &[(usize, Function)]) -> Result<Vec<Link>, NotProbed> {
        // By the descriptor, as the path may lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut links = Vec::new();
        // No return may come before its entry.
        for (sections, retprobe) in [(ENTRY, false), (RETURN, true)] {
            for program in self.object.progs_mut().filter(|program| program.autoload()) {
                if program.section() == sections[1] {
                    let offsets = places.iter().map(|(offset, _)| *offset).collect();
                    let cookies = places.iter().map(|(_, (_, cookie))| *cookie).collect();
                    let opts = UprobeMultiOpts { offsets, cookies, retprobe, ..Default::default() };
                    let link = program.attach_uprobe_multi_with_opts(-1, &path, "", opts);
                    links.push(link.map_err(|error| NotProbed::of("the functions", &error))?);
                } else if program.section() == sections[0] {
                    let name = program.name().to_string_lossy().into_owned();
                    let function =
                        name.split_once(&format!("__{}_", sections[0])).map(|(_, function)| function);
                    for (offset, (name, _)) in places.iter().filter(|(_, (name, _))| Some(*name) == function)
                    {
                        let link = program.attach_uprobe(retprobe, -1, &path, *offset);
                        links.push(link.map_err(|error| NotProbed::of(name, &error))?);
                    }
                }
            }
        }
        Ok(links)
    }

    /// Forget what has ended, or is another program by now, as the user of files.
    fn end_user(&mut self, pid: u32) {
        let now = Instant::now();
        for probed in self.probed.values_mut() {
            probed.others.retain(|other| *other != pid);
            if probed.user.as_ref().is_some_and(|user| user.pid == pid) {
                (probed.user, probed.unused_since) = (None, now);
            }
        }
    }

    fn end_users(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        // Each is gone from there once it is forgotten.
        while let Ok(n @ 1..) = self.ends.wait(&mut events, EpollTimeout::ZERO) {
            for event in events.iter().take(n) {
                self.end_user(u32::try_from(event.data()).unwrap_or_default());
            }
        }
    }

    /// Whether a process still maps a file, by the mount by which it is held.
    fn still_maps(&self, pid: u32, key: Key) -> bool {
        let Some(probed) = self.probed.get(&key) else { return false };
        let mut found = false;
        _ = mappings::each_of(pid, |mapping| {
            let may_be = mapping.file.inode == key.1 || file_name(&mapping.path) == probed.name;
            found =
                found || may_be && locate(&mapping).is_ok_and(|it| it.key == key && it.mount == probed.mount);
        });
        found
    }

    /// Look whether a process still maps the files of which it is the user.
    fn check_user(&mut self, pid: u32) {
        let is_user = |probed: &Probed| probed.user.as_ref().is_some_and(|user| user.pid == pid);
        let keys = self.probed.iter().filter(|(_, probed)| is_user(probed)).map(|(key, _)| *key);
        for key in keys.collect::<Vec<Key>>() {
            self.check_file(key);
        }
    }

    /// Look whether the user of a file still maps it.
    fn check_file(&mut self, key: Key) {
        let user = self.probed.get(&key).and_then(|probed| Some(probed.user.as_ref()?.pid));
        if let Some(pid) = user
            && !self.still_maps(pid, key)
            && let Some(probed) = self.probed.get_mut(&key)
        {
            (probed.user, probed.unused_since) = (None, Instant::now());
        }
    }

    /// Look whether some of the files' users still map them.
    fn check(&mut self) {
        self.check_next = Instant::now() + CHECK;
        for _ in 0..CHECKED.min(self.check_order.len()) {
            let Some(key) = self.check_order.pop_front() else { break };
            if self.probed.contains_key(&key) {
                self.check_order.push_back(key);
                self.check_file(key);
            }
        }
    }

    /// Look for new users of the files whose user has gone. Let those go that have none.
    fn care_for_unused(&mut self) {
        let is_unused = |probed: &Probed| {
            probed.user.is_none() && !probed.is_awaited && probed.unused_since.elapsed() >= LOOK
        };
        let unused = |all: &HashMap<Key, Probed>| {
            let unused = all.iter().filter(|(_, probed)| is_unused(probed));
            unused.map(|(key, _)| *key).collect::<Vec<Key>>()
        };
        for key in unused(&self.probed) {
            let others = self.probed.get(&key).map(|probed| probed.others.clone()).unwrap_or_default();
            let other = others.into_iter().rev().find(|pid| self.still_maps(*pid, key));
            if let (Some(pid), Some(probed)) = (other, self.probed.get_mut(&key)) {
                probed.user = Some(User::watched(pid, &self.ends));
            }
        }
        if !self.must_look && unused(&self.probed).is_empty() || Instant::now() < self.look_next {
            return;
        }
        let unused = unused(&self.probed);
        self.look_at_all();
        let mut links = Vec::new();
        for key in unused {
            if self.probed.get(&key).is_some_and(|probed| probed.user.is_none())
                && let Some(old) = self.probed.remove(&key)
            {
                links.extend(old.links);
                // First the new ones, so that nothing comes between.
                if let Some(mapping) = old.elsewhere
                    && let Ok(found) = locate(&mapping)
                    && found.key == key
                    && self.probe(&found).is_err()
                {
                    self.fail(&mapping, "it could not be probed by another mount");
                }
            }
        }
        if !links.is_empty() {
            // The kernel waits for each; meanwhile the tool goes on.
            let detach = move || links::detach(&mut links);
            _ = std::thread::Builder::new().name("detach".into()).spawn(detach);
        }
    }

    /// Try again what failed.
    fn retry(&mut self) {
        let (next, pause) = self.retry;
        if self.failed.is_empty() {
            self.retry = (Instant::now() + RETRY, RETRY);
        } else if Instant::now() >= next {
            self.retry = (Instant::now() + pause, pause.saturating_mul(2).min(RETRY_MAX));
            self.retrying = std::mem::take(&mut self.failed);
            self.retrying.clone().into_iter().for_each(|pid| _ = self.look_at(pid));
        }
    }
}

impl Probed {
    /// A process maps it. Whether that is its user from now on.
    fn meet(&mut self, found: &Found) -> bool {
        if !found.has_user {
            return false;
        }
        if std::mem::take(&mut self.is_awaited) {
            self.unused_since = Instant::now();
        }
        let pid = found.mapping.pid;
        if found.mount != self.mount {
            self.elsewhere = Some(found.mapping.clone());
            return false;
        }
        match &self.user {
            None => return true,
            Some(user) if user.pid == pid || self.others.contains(&pid) => (),
            Some(_) => {
                self.others.push_back(pid);
                if self.others.len() > OTHERS_MAX {
                    self.others.pop_front();
                }
            }
        }
        false
    }
}

impl User {
    /// Whose end `ends` will tell, if there are descriptors for that; else it is looked at now and then.
    fn watched(pid: u32, ends: &Epoll) -> Self {
        let pidfd = command::pidfd(pid).ok();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, pid.into());
        let pidfd = pidfd.filter(|pidfd| ends.add(pidfd, event).is_ok());
        Self { pid, _pidfd: pidfd }
    }
}

impl Found {
    fn of(mapping: Mapping, file: OwnedFd) -> io::Result<Self> {
        let meta = nix::sys::stat::fstat(&file)?;
        let version = (meta.st_ctime, meta.st_ctime_nsec, meta.st_size.unsigned_abs());
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        Ok(Self {
            mapping,
            file,
            key: (meta.st_dev, meta.st_ino),
            version,
            mount: mount.unwrap_or_default(),
            has_user: true,
            is_late: false,
        })
    }

    /// Of a file that nobody is known to map yet.
    fn ahead(file: File, path: &Path) -> io::Result<Self> {
        let file_id = FileId { device: (0, 0), inode: 0, generation: 0 };
        let path = path.as_os_str().as_bytes().to_vec();
        let mapping = Mapping { pid: 0, address: (0, 0), file: file_id, path };
        Ok(Self { has_user: false, ..Self::of(mapping, file.into())? })
    }

    /// Of a mapping whose process has ended, if the path leads there for us too.
    fn without_process(mapping: &Mapping) -> Option<Self> {
        let found = by_path(&Root::ours().ok()?, mapping).ok()?;
        Some(Self { has_user: false, ..found })
    }
}

/// The file of a mapping: by the mapping itself, or by its path in the process's file system.
fn locate(mapping: &Mapping) -> Result<Found, Missing> {
    let Mapping { pid, address: (start, end), .. } = mapping;
    let link = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    match nix::fcntl::open(link.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(file) => Found::of(mapping.clone(), file).map_err(|error| Missing::Failed(error.to_string())),
        Err(Errno::ENOENT | Errno::ESRCH) => Err(Missing::Unmapped),
        Err(Errno::EPERM | Errno::EACCES) => {
            let root = Root::of_process(*pid).map_err(|refused| match refused {
                door::Refused::NotFound => Missing::Unmapped,
                _ => Missing::Denied,
            })?;
            by_path(&root, mapping)
        }
        Err(error) => Err(Missing::Failed(error.desc().into())),
    }
}

fn by_path(root: &Root, mapping: &Mapping) -> Result<Found, Missing> {
    let path = Path::new(OsStr::from_bytes(&mapping.path));
    let file = root.open(path, Links::Follow).map_err(|refused| match refused {
        door::Refused::Failed(error) => Missing::Failed(error.desc().into()),
        _ => Missing::Denied,
    })?;
    let (major, minor) = mapping.file.device;
    if !door::is_mapped_as(&file, format!("{major:02x}:{minor:02x}").as_bytes(), mapping.file.inode) {
        return Err(Missing::Denied);
    }
    Found::of(mapping.clone(), file.into()).map_err(|error| Missing::Failed(error.to_string()))
}

/// A file that the user named: also by a link of /proc.
fn open_named(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// What runs a script.
fn script(file: &File) -> Option<PathBuf> {
    let mut line = Vec::new();
    let start = io::Read::take(file, 256);
    io::BufReader::new(start).read_until(b'\n', &mut line).ok()?;
    let words = line.strip_prefix(b"#!")?.trim_ascii();
    let word = words.split(u8::is_ascii_whitespace).next()?;
    Some(OsStr::from_bytes(word).into())
}

/// The effective user of a process. Whose files it has says less: it may hide that.
fn owner(pid: u32) -> u32 {
    let status = Process::new(pid.cast_signed()).and_then(|process| process.status());
    status.map_or(0, |status| status.euid)
}

fn is_same(a: FileId, b: FileId) -> bool {
    (a.device, a.inode) == (b.device, b.inode)
}

fn has_cap(capability: Capability) -> bool {
    ::caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

impl Follow for Uprobes<'_> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let ends = self.mappings.is_some().then(|| self.ends.0.as_fd());
        self.mappings.iter().flat_map(Mappings::fds).chain(ends).collect()
    }

    fn follow(&mut self) -> Result<Vec<Link>, Error> {
        let Some(mappings) = &mut self.mappings else { return Ok(Vec::new()) };
        let news = mappings.read();
        self.end_users();
        // A dynamic program comes with its loader.
        let is_library = self.library_test();
        let brings = |mapping: &&Mapping| is_library(&mapping.path) || is_loader(&mapping.path);
        let dynamic: HashSet<u32> = news.mappings.iter().filter(brings).map(|mapping| mapping.pid).collect();
        let own = std::process::id();
        for mapping in news.mappings {
            let wanted = self.pids.is_empty() || self.pids.contains(&mapping.pid);
            if !wanted || mapping.pid == own || mapping.pid == 0 {
                continue;
            }
            if is_library(&mapping.path) {
                self.take(mapping);
            } else if !is_shared_object(&mapping.path) {
                // Perhaps by exec.
                self.check_user(mapping.pid);
                if !dynamic.contains(&mapping.pid) {
                    self.take(mapping);
                }
            }
        }
        self.must_look |= news.lost;
        self.retry();
        if Instant::now() >= self.check_next {
            self.check();
        }
        self.care_for_unused();
        self.probe_waiting(Some(Instant::now() + PROBING))?;
        Ok(Vec::new())
    }

    fn end(&mut self) {
        let mut links: Vec<Link> = self.probed.drain().flat_map(|(_, probed)| probed.links).collect();
        links::detach(&mut links);
    }
}

/// Whether programs of this section are attached here, and not by their section's name.
pub(crate) fn is_section(section: &OsStr) -> bool {
    ENTRY.iter().chain(&RETURN).any(|known| section == *known)
}

fn file_name(path: &[u8]) -> &[u8] {
    // The kernel's mark of a file that has no name any more.
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn is_shared_object(path: &[u8]) -> bool {
    file_name(path).windows(3).any(|part| part == b".so")
}

/// The program that the kernel starts to load a dynamic program's libraries.
fn is_loader(path: &[u8]) -> bool {
    file_name(path).starts_with(b"ld") && is_shared_object(path)
}

/// Whether a file's name is that of a C library: glibc's, musl's, uClibc's or bionic's.
pub fn is_libc(name: &[u8]) -> bool {
    let starts = |start: &[u8]| name.starts_with(start);
    starts(b"libc.so")
        || starts(b"libc.musl-")
        || starts(b"ld-musl-")
        || starts(b"libuClibc-")
        || starts(b"libc-2.")
        // Before 2.34, glibc had a part there.
        || starts(b"libresolv.so")
        || starts(b"libresolv-2.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_name() {
        for name in [
            "libc.so.6",
            "libc-2.31.so",
            "ld-musl-x86_64.so.1",
            "libc.musl-x86_64.so.1",
            "libc.so",
            "libresolv.so.2",
        ] {
            assert!(is_libc(name.as_bytes()), "{name}");
        }
        for name in ["libcrypt.so.1", "libc++.so.1", "libcap.so.2", "libc-client.so.2007e"] {
            assert!(!is_libc(name.as_bytes()), "{name}");
        }
        assert!(is_loader(b"/lib64/ld-linux-x86-64.so.2") && is_loader(b"/lib/ld-2.31.so (deleted)"));
        assert!(!is_loader(b"/usr/bin/ld") && !is_loader(b"/usr/lib/libldap.so.2"));
        assert_eq!(file_name(b"/usr/lib/libc.so.6 (deleted)"), b"libc.so.6");
    }
}
