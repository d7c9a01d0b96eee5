// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an exec of a file that is there found missing: a script's interpreter, or a program's loader.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use procfs::process::MountInfo;
use procfs::process::Process;

use crate::door;
use crate::door::Links;
use crate::door::Refused;
use crate::door::Root;

/// What the kernel reads of a file to tell what it is (BINPRM_BUF_SIZE of include/uapi/linux/binfmts.h).
const HEAD: usize = 256;
/// An interpreter may be a script itself, up to this many times (exec_binprm() of fs/exec.c).
const SCRIPTS: usize = 5;
/// Program headers that are read of one file.
const HEADERS_MAX: u16 = 512;
const PATH_MAX: usize = 4096;
const PT_INTERP: u32 = 3;
/// A file system that does not answer by then is let be, with all that is asked meanwhile.
const PATIENCE: Duration = Duration::from_millis(100);

/// A failed exec, as its caller saw the file system.
#[derive(Debug)]
pub struct Exec {
    /// Processes that may still have the caller's root: itself, and its parent. The tool may have it too.
    pub pids: [u32; 2],
    /// The mount that the root is in, and its path from the mount namespace's root: by these it is known again.
    pub mount: u32,
    /// See `mount`.
    pub root: Vec<u8>,
    /// The file's path from the root.
    pub file: Vec<u8>,
    /// The working directory's path from the root, if it is known.
    pub cwd: Option<Vec<u8>>,
}

type Answer = Option<Vec<u8>>;

/// Looks at the files of others in a thread of its own, which a file system may stop.
#[derive(Debug, Default)]
pub struct Finder {
    thread: Option<(Sender<Exec>, Receiver<Answer>)>,
    late: bool,
}

impl Finder {
    /// The name of the interpreter or loader that is missing; nothing if it is the file itself, or is not known.
    pub fn find(&mut self, exec: Exec) -> Option<Vec<u8>> {
        let (ask, answers) = self.thread.get_or_insert_with(|| {
            let (ask, asked) = mpsc::channel();
            let (answer, answers) = mpsc::channel();
            thread::spawn(move || asked.iter().try_for_each(|exec| answer.send(missing(&exec))));
            (ask, answers)
        });
        if self.late && answers.try_recv().is_err() {
            return None;
        }
        ask.send(exec).ok()?;
        let answer = answers.recv_timeout(PATIENCE);
        self.late = answer.is_err();
        answer.ok().flatten()
    }
}

fn missing(exec: &Exec) -> Option<Vec<u8>> {
    let of_process = |pid| known(Root::of_process(pid), exec);
    let root = exec.pids.into_iter().find_map(of_process).or_else(|| own_root(exec))?;
    // It is looked at before it is opened, so that nothing happens to it.
    let find = |path: &[u8]| root.find(Path::new(OsStr::from_bytes(path)), Links::Follow);
    let mut file = find(&exec.file).ok()?;
    for _ in 0..=SCRIPTS {
        let needed = needed_by(&door::reopen(file).ok()?).ok()??;
        let path = match (needed.first(), &exec.cwd) {
            (Some(b'/'), _) => needed.clone(),
            (Some(_), Some(cwd)) => [cwd.as_slice(), &needed].join(&b'/'),
            _ => return None,
        };
        file = match find(&path) {
            Err(Refused::NotFound) => return Some(needed),
            other => other.ok()?,
        };
    }
    None
}

/// A root directory, if it is the one that the exec's caller had.
fn known(root: Result<Root, Refused>, exec: &Exec) -> Option<Root> {
    root.ok().filter(|root| root.place().is_some_and(|place| place == (exec.mount, exec.root.clone())))
}

/// The tool's own, if it is the same: both processes may have ended by now. In a chroot it would not look like one.
fn own_root(exec: &Exec) -> Option<Root> {
    let mounts = Process::myself().and_then(|me| me.mountinfo()).ok()?;
    let is_whole = |mount: &MountInfo| {
        u32::try_from(mount.mnt_id) == Ok(exec.mount) && mount.mount_point == Path::new("/")
    };
    mounts.into_iter().any(|mount| is_whole(&mount)).then(|| known(Root::ours(), exec))?
}

/// The program that the kernel runs in order to run this file, if it is of a kind that has one.
fn needed_by(file: &File) -> io::Result<Option<Vec<u8>>> {
    let head = read(file, 0, HEAD)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        return Ok(interpreter(line).map(<[u8]>::to_vec));
    }
    if head.starts_with(b"\x7fELF") { loader(file, &head) } else { Ok(None) }
}

/// The interpreter's name, by the rules of load_script() of fs/binfmt_script.c: a carriage return is a part of it.
fn interpreter(line: &[u8]) -> Option<&[u8]> {
    let start = line.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    let line = line.get(start..)?;
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\n' | 0)).unwrap_or(line.len());
    line.get(..end).filter(|name| !name.is_empty())
}

/// The name in an ELF file's PT_INTERP, by the System V ABI; nothing for files of the other byte order.
fn loader(file: &File, head: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let is_64 = match head.get(4) {
        Some(1) => false,
        Some(2) => true,
        _ => return Ok(None),
    };
    let word = |bytes: &[u8], at: usize| number(bytes, at, if is_64 { 8 } else { 4 });
    let half = |at| number(head, at, 2).and_then(|n| u16::try_from(n).ok());
    let (offset, size, count) =
        if is_64 { (word(head, 32), half(54), half(56)) } else { (word(head, 28), half(42), half(44)) };
    let (Some(offset), Some(size), Some(count)) = (offset, size, count) else { return Ok(None) };
    if usize::from(size) != if is_64 { 56 } else { 32 } {
        return Ok(None);
    }
    let headers = read(file, offset, usize::from(size) * usize::from(count.min(HEADERS_MAX)))?;
    let found = headers
        .chunks_exact(size.into())
        .find(|header| number(header, 0, 4) == Some(PT_INTERP.into()))
        .and_then(|header| {
            if is_64 { word(header, 8).zip(word(header, 32)) } else { word(header, 4).zip(word(header, 16)) }
        });
    let Some((offset, len)) = found else { return Ok(None) };
    let Some(len) = usize::try_from(len).ok().filter(|len| *len <= PATH_MAX) else { return Ok(None) };
    let name = read(file, offset, len)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(name.to_vec()).filter(|name| !name.is_empty()))
}

/// A number of this many bytes, in this machine's order.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(len)?)?;
    let mut number = [0; 8];
    if cfg!(target_endian = "little") {
        number.get_mut(..len)?.copy_from_slice(bytes);
    } else {
        number.get_mut(8 - len..)?.copy_from_slice(bytes);
    }
    Some(u64::from_ne_bytes(number))
}

/// Up to `len` bytes, or as many as there are.
fn read(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // No file goes on beyond that.
        let at = offset.checked_add(filled as u64).filter(|at| i64::try_from(*at).is_ok());
        let Some(at) = at else { break };
        match file.read_at(rest, at)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn first_lines_name_interpreters() {
        for (line, name) in [
            (&b"/bin/sh\necho"[..], Some(&b"/bin/sh"[..])),
            (b" \t/bin/sh -e\n", Some(b"/bin/sh")),
            (b"/bin/bash\r\necho\r\n", Some(b"/bin/bash\r")),
            (b"/bin/sh", Some(b"/bin/sh")),
            (b"relative\n", Some(b"relative")),
            (b"\n/bin/sh\n", None),
            (b"  ", None),
            (b"", None),
        ] {
            assert_eq!(interpreter(line), name);
        }
    }

    fn needed(bytes: &[u8]) -> Option<Vec<u8>> {
        let dir = std::env::temp_dir().join(format!("kscope-missing-{:?}", thread::current().id()));
        fs::write(&dir, bytes).unwrap();
        let found = needed_by(&File::open(&dir).unwrap());
        fs::remove_file(&dir).unwrap();
        found.unwrap()
    }

    #[test]
    fn programs_name_loaders() {
        let mut elf = vec![0u8; 300];
        elf[..5].copy_from_slice(b"\x7fELF\x02");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[120] = 3; // the second header's type
        elf[128] = 200;
        elf[152] = 11;
        elf[200..211].copy_from_slice(b"/lib/ld.so\0");
        assert_eq!(needed(&elf).as_deref(), Some(&b"/lib/ld.so"[..]));
        // Cut anywhere, or with any byte changed, it is no more than unknown.
        for len in 0..elf.len() {
            needed(&elf[..len]);
        }
        for at in 0..200 {
            let mut changed = elf.clone();
            changed[at] = 0xff;
            needed(&changed);
        }
        assert_eq!(needed(b"plain text"), None);
        assert_eq!(needed(b""), None);
    }
}
