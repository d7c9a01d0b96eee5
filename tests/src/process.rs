// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What /proc says about a process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use procfs::ProcError;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process, Status};

use crate::bpf::Kind;

fn process(pid: u32) -> Result<Process, ProcError> {
    Process::new(pid.cast_signed())
}

/// The state, as in `ps`; nothing if there is no such process.
pub fn state(pid: u32) -> Option<char> {
    process(pid).and_then(|process| process.stat()).ok().map(|stat| stat.state)
}

/// The content of /proc/PID/status.
///
/// # Panics
/// If there is no such process.
pub fn status(pid: u32) -> Status {
    process(pid).and_then(|process| process.status()).unwrap_or_else(|error| panic!("process {pid}: {error}"))
}

/// Its threads.
///
/// # Panics
/// If there is no such process.
pub fn threads(pid: u32) -> Vec<u32> {
    let tasks =
        process(pid).and_then(|process| process.tasks()).unwrap_or_else(|error| panic!("{pid}: {error}"));
    tasks.map(|task| task.unwrap_or_else(|error| panic!("{pid}: {error}")).tid.cast_unsigned()).collect()
}

/// The processes that it started, and that have not ended.
///
/// # Panics
/// If there is no such process.
pub fn children(pid: u32) -> Vec<u32> {
    let of = |tid: u32| fs::read_to_string(format!("/proc/{pid}/task/{tid}/children"));
    let lists = threads(pid).into_iter().map(|tid| of(tid).unwrap_or_else(|error| panic!("{pid}: {error}")));
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Copy a program or a library that is to be run. By a process of its own: one that another test forks meanwhile
/// would hold the copy open for writing, and so keep it from being run.
///
/// # Panics
/// If that fails.
pub fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status();
    let status = status.unwrap_or_else(|error| panic!("cp: {error}"));
    assert!(status.success(), "cp {} {}: {status}", from.display(), to.display());
}

/// The memory that it holds, in bytes, but for unchanged pages of the file that it runs.
///
/// # Panics
/// If there is no such process.
pub fn resident_without_program(pid: u32) -> u64 {
    let process = process(pid).unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let program = process.exe().unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let maps = process.smaps().unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let resident = |map: &MemoryMap| {
        let size = |name: &str| map.extension.map.get(name).copied().unwrap_or_default();
        let is_program = matches!(&map.pathname, MMapPath::Path(path) if *path == program);
        // Not what is dirty: so are all pages of a file that was written a moment ago.
        if is_program { size("Anonymous") } else { size("Rss") }
    };
    maps.iter().map(resident).sum()
}

/// Whether it has given up gaining privileges; false for a process that has gone.
pub fn no_new_privs(pid: u32) -> bool {
    process(pid).and_then(|process| process.status()).is_ok_and(|status| status.nonewprivs == Some(1))
}

/// The files of which a process has mapped code.
///
/// # Panics
/// If there is no such process.
pub fn executable_files(pid: u32) -> BTreeSet<PathBuf> {
    let maps = process(pid).and_then(|process| process.maps());
    let maps = maps.unwrap_or_else(|error| panic!("process {pid}: {error}"));
    let executable = maps.0.into_iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE));
    let path = |map: MemoryMap| if let MMapPath::Path(path) = map.pathname { Some(path) } else { None };
    executable.filter_map(path).collect()
}

/// The C library of a process, or its program where that is static.
///
/// # Panics
/// If there is no such process.
pub fn c_library(pid: u32) -> PathBuf {
    let files = executable_files(pid);
    let is_library = |file: &&PathBuf| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("libc.so") || name.starts_with("libc-2.")
    };
    match files.iter().find(is_library) {
        Some(library) => library.clone(),
        None => files.into_iter().next().unwrap_or_else(|| panic!("process {pid} has no code")),
    }
}

/// The BPF objects that a process has open, by kind and id, with what its fdinfo says of the memory that each
/// takes, in bytes.
///
/// # Panics
/// If there is no such process.
pub fn bpf_objects(pid: u32) -> BTreeMap<(Kind, u32), u64> {
    try_bpf_objects(pid).unwrap_or_else(|error| panic!("process {pid}: {error}"))
}

/// [`bpf_objects`] of a process that may end at any time.
///
/// # Errors
/// There is no such process.
pub fn try_bpf_objects(pid: u32) -> io::Result<BTreeMap<(Kind, u32), u64>> {
    let files = fs::read_dir(format!("/proc/{pid}/fdinfo"))?;
    // A descriptor may be closed while they are read.
    let texts = files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok());
    let mut objects = BTreeMap::new();
    for text in texts {
        let fields: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once(':')).map(|(key, v)| (key, v.trim())).collect();
        let number = |key: &str| fields.get(key).and_then(|value| value.parse::<u64>().ok());
        // A link's fdinfo names its program too.
        let kinds = [("link_id", Kind::Link), ("map_id", Kind::Map), ("prog_id", Kind::Program)];
        let found = kinds.into_iter().find_map(|(key, kind)| Some((kind, u32::try_from(number(key)?).ok()?)));
        if let Some(object) = found {
            objects.insert(object, number("memlock").unwrap_or_default());
        }
    }
    Ok(objects)
}
