// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Functions of libraries and of static programs, probed wherever processes have them: also in containers, and
//! in processes that start later with a library that nobody had before.
//!
//! The programs are named `<function>__uprobe` and `<function>_return__uretprobe`, and with `_multi` behind that
//! (bpf/uprobe.bpf.h): one of the two ways is loaded.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use ::caps::CapSet;
use ::caps::Capability;
use blazesym::inspect::Inspector;
use blazesym::inspect::source::Elf;
use blazesym::inspect::source::Source;
use libbpf_rs::Link;
use libbpf_rs::Object;
use libbpf_rs::UprobeMultiOpts;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use procfs::process::MMPermissions;
use procfs::process::MMapPath;
use procfs::process::Process;

use crate::Error;
use crate::mappings::FileId;
use crate::mappings::Mapping;
use crate::mappings::Mappings;
use crate::say;
use crate::session::Follow;

/// The sections of programs at entries, and at returns, by links to one probe and to many.
const ENTRY: [&str; 2] = ["uprobe", "uprobe.multi"];
const RETURN: [&str; 2] = ["uretprobe", "uretprobe.multi"];
/// So many files are remembered as looked at; beyond, some are looked at again.
const SEEN_MAX: usize = 1 << 16;

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
    pids: Vec<u32>,
    mappings: Option<Mappings>,
    seen: HashSet<FileId>,
    probed: HashSet<(u64, u64)>,
    found: Vec<(Mapping, File)>,
    /// Processes that do not show their files.
    unreadable: BTreeSet<u32>,
}

impl<'obj> Uprobes<'obj> {
    /// Look for the functions in all processes, or in these.
    ///
    /// # Errors
    /// Those of watching for new processes.
    pub fn new(tool: &'static str, object: &'obj Object, place: Place, pids: &[u32]) -> Result<Self, Error> {
        // Before the first look, so that nothing comes between the two.
        let mappings = if matches!(place, Place::File(_)) { None } else { Some(Mappings::watch()?) };
        // A library takes a descriptor for each probe.
        if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
            _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
        }
        let mut probes = Self {
            tool,
            object,
            place,
            pids: pids.to_vec(),
            mappings,
            seen: HashSet::new(),
            probed: HashSet::new(),
            found: Vec::new(),
            unreadable: BTreeSet::new(),
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
        let capable = ::caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_PTRACE).unwrap_or(false);
        let remedy = if capable { "" } else { " (CAP_SYS_PTRACE shows them)" };
        Some(format!(
            "{processes} not show what libraries there are: calls in those that nobody else uses can't be seen{remedy}"
        ))
    }

    /// Attach the programs to all that is there now.
    ///
    /// # Errors
    /// Of a file that was named: it can't be read, has none of the functions, or the kernel refuses.
    pub fn attach(&mut self) -> Result<Vec<Link>, Error> {
        if let Place::File(path) = &self.place {
            let path = path.clone();
            let file = File::open(&path).map_err(|e| Error::Usage(format!("{}: {e}", path.display())))?;
            let links = self.probe(&file).map_err(|error| error.of_file(&path))?;
            if links.is_empty() {
                let functions = self.functions().join(", ");
                return Err(Error::Usage(format!("{} defines none of {functions}", path.display())));
            }
            return Ok(links);
        }
        self.probe_found(true)
    }

    /// What to keep, to attach to what comes later and to see it.
    pub fn capabilities(&self) -> Vec<Capability> {
        let mut keep = vec![
            Capability::CAP_BPF,
            Capability::CAP_PERFMON,
            Capability::CAP_SYS_PTRACE,
            Capability::CAP_DAC_READ_SEARCH,
            Capability::CAP_CHECKPOINT_RESTORE,
        ];
        // Some kernels ask for more by way of perf events: 6.18 does.
        let by_perf = self.object.progs().any(|p| p.autoload() && p.section() == ENTRY[0]);
        keep.extend((by_perf && self.mappings.is_some()).then_some(Capability::CAP_SYS_ADMIN));
        keep
    }

    /// The functions, each by the program at its entry.
    fn functions(&self) -> Vec<String> {
        let entries = self.object.progs().filter(|p| p.autoload() && ENTRY.iter().any(|s| p.section() == *s));
        entries.filter_map(|p| Some(p.name().to_str()?.split_once("__")?.0.to_string())).collect()
    }

    fn look_at_all(&mut self) {
        self.unreadable.clear();
        if !self.pids.is_empty() {
            self.pids.clone().into_iter().for_each(|pid| self.look_at(pid));
            return;
        }
        let own = std::process::id();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|pid| *pid != own) {
                self.look_at(pid);
            }
        }
    }

    /// Find what a process has mapped: the libraries, or the program itself where it has none.
    fn look_at(&mut self, pid: u32) {
        let maps = match Process::new(pid.cast_signed()).and_then(|process| process.maps()) {
            Ok(maps) => maps,
            Err(procfs::ProcError::PermissionDenied(_)) => {
                self.unreadable.insert(pid);
                return;
            }
            // It has ended.
            Err(_) => return,
        };
        let executable = maps.0.into_iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE));
        let mappings: Vec<Mapping> = executable
            .filter_map(|map| {
                let MMapPath::Path(path) = map.pathname else { return None };
                let device = (u32::try_from(map.dev.0).ok()?, u32::try_from(map.dev.1).ok()?);
                let file = FileId { device, inode: map.inode, generation: 0 };
                Some(Mapping { pid, address: map.address, file, path: path.as_os_str().as_bytes().to_vec() })
            })
            .collect();
        let is_static = !mappings.iter().any(|m| self.is_library(&m.path) || is_loader(&m.path));
        for mapping in mappings {
            if self.is_library(&mapping.path) || is_static && !is_shared_object(&mapping.path) {
                self.take(mapping);
            }
        }
    }

    fn is_library(&self, path: &[u8]) -> bool {
        matches!(self.place, Place::Libraries(is_wanted) if is_wanted(file_name(path)))
    }

    fn is_new(&mut self, file: FileId) -> bool {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(file)
    }

    /// Open a mapping's file, to be probed.
    fn take(&mut self, mapping: Mapping) {
        if !self.is_new(mapping.file) {
            return;
        }
        match open(&mapping) {
            Ok(file) => self.found.push((mapping, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(_) => _ = self.unreadable.insert(mapping.pid),
        }
    }

    /// Probe what was found. Where nothing at all may be probed, that is an error at first.
    fn probe_found(&mut self, first: bool) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        for (mapping, file) in std::mem::take(&mut self.found) {
            match self.probe(&file) {
                Ok(new) => links.extend(new),
                Err(NotProbed::Refused) if first => return Err(Error::Uprobes),
                Err(NotProbed::Refused) => self.say_not_probed(&mapping, &Error::Uprobes.to_string()),
                Err(NotProbed::Failed(why)) => self.say_not_probed(&mapping, &why),
            }
        }
        Ok(links)
    }

    fn say_not_probed(&self, mapping: &Mapping, why: &str) {
        let path = String::from_utf8_lossy(&mapping.path);
        say(&format!("{}: calls in {path} of process {} are not seen: {why}", self.tool, mapping.pid));
    }

    /// Attach every program to its function in a file. No links, where that has none of them or is probed already.
    fn probe(&mut self, file: &File) -> Result<Vec<Link>, NotProbed> {
        let meta = file.metadata().map_err(|e| NotProbed::Failed(e.to_string()))?;
        let id = (meta.dev(), meta.ino());
        if self.probed.contains(&id) || !is_elf64(file) {
            return Ok(Vec::new());
        }
        // By the descriptor, as the path may lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let functions = self.functions();
        let names: Vec<&str> = functions.iter().map(String::as_str).collect();
        let mut elf = Elf::new(&path);
        elf.debug_syms = false;
        let inspector = Inspector::new();
        let found = inspector.lookup(&Source::Elf(elf), &names);
        let found = found.map_err(|e| NotProbed::Failed(e.to_string()))?;
        let mut links = Vec::new();
        // No return may come before its entry.
        for (sections, suffix) in [(ENTRY, ""), (RETURN, "_return")] {
            for (function, symbols) in functions.iter().zip(&found) {
                // One function may have several versions, and several names of one version the same code.
                let offsets: BTreeSet<usize> =
                    symbols.iter().filter_map(|symbol| Some(symbol.file_offset? as usize)).collect();
                let prefix = format!("{function}{suffix}__");
                let programs = self.object.progs_mut().filter(|p| {
                    p.autoload()
                        && p.name().as_bytes().starts_with(prefix.as_bytes())
                        && sections.iter().any(|section| p.section() == *section)
                });
                for program in programs.filter(|_| !offsets.is_empty()) {
                    let retprobe = sections == RETURN;
                    let new = if program.section() == sections[0] {
                        let each = offsets.iter().map(|at| program.attach_uprobe(retprobe, -1, &path, *at));
                        each.collect::<Result<Vec<_>, _>>()
                    } else {
                        let offsets = offsets.iter().copied().collect();
                        let opts = UprobeMultiOpts { offsets, retprobe, ..Default::default() };
                        program.attach_uprobe_multi_with_opts(-1, &path, "", opts).map(|link| vec![link])
                    };
                    links.extend(new.map_err(|error| NotProbed::of(function, &error))?);
                }
            }
        }
        // The probes hold the inode. The number of one that has none may come again, of another file.
        if !links.is_empty() {
            self.probed.insert(id);
        }
        Ok(links)
    }
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
        match error.kind() {
            libbpf_rs::ErrorKind::PermissionDenied => Self::Refused,
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

impl Follow for Uprobes<'_> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.mappings.iter().flat_map(Mappings::fds).collect()
    }

    fn follow(&mut self) -> Result<Vec<Link>, Error> {
        let Some(mappings) = &mut self.mappings else { return Ok(Vec::new()) };
        let news = mappings.read();
        let mut programs = Vec::new();
        for mapping in news.mappings {
            let wanted = self.pids.is_empty() || self.pids.contains(&mapping.pid);
            if !wanted || mapping.pid == std::process::id() {
                continue;
            }
            if self.is_library(&mapping.path) {
                self.take(mapping);
            } else if !is_shared_object(&mapping.path) && self.is_new(mapping.file) {
                programs.push(mapping);
            }
        }
        // A program without libraries, which by now would be there.
        for program in programs {
            self.seen.remove(&program.file);
            self.look_at(program.pid);
            self.is_new(program.file);
        }
        if news.lost {
            self.look_at_all();
        }
        self.probe_found(false)
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

/// Programs of 32 bits keep their arguments elsewhere.
fn is_elf64(mut file: &File) -> bool {
    let mut start = [0; 5];
    file.read_exact(&mut start).is_ok() && start == *b"\x7fELF\x02"
}

/// The file of a mapping: by the mapping itself, or by its path in the process's file system or in ours.
fn open(mapping: &Mapping) -> io::Result<File> {
    let Mapping { pid, address: (start, end), .. } = mapping;
    if let Ok(file) = File::open(format!("/proc/{pid}/map_files/{start:x}-{end:x}")) {
        return Ok(file);
    }
    let path = Path::new(OsStr::from_bytes(&mapping.path));
    let mut inside = PathBuf::from(format!("/proc/{pid}/root"));
    inside.extend(path.components().skip(1));
    let is_it = |file: &File| file.metadata().is_ok_and(|meta| meta.ino() == mapping.file.inode);
    let found = [inside.as_path(), path].into_iter().find_map(|path| File::open(path).ok().filter(is_it));
    // Who is gone does not count as one who does not show its files.
    let is_there = Path::new(&format!("/proc/{pid}")).exists();
    found.ok_or(if is_there { io::ErrorKind::PermissionDenied } else { io::ErrorKind::NotFound }.into())
}

/// Whether a file's name is that of a C library: glibc's, musl's, uClibc's or bionic's.
pub fn is_libc(name: &[u8]) -> bool {
    let starts = |start: &[u8]| name.starts_with(start);
    starts(b"libc.so")
        || starts(b"libc.musl-")
        || starts(b"ld-musl-")
        || starts(b"libuClibc-")
        || starts(b"libc-2.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_known_by_name() {
        for name in ["libc.so.6", "libc-2.31.so", "ld-musl-x86_64.so.1", "libc.musl-x86_64.so.1", "libc.so"] {
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
