// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ways of `exec`: makes the files and the memory that each needs.
//!
//! The program executed is this one with the argument "noop", and its environment is empty.

use std::fs::{self, File, Permissions};
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use libc::{AT_EMPTY_PATH, EACCES, ENOENT, ENOEXEC, SYS_execve, SYS_execveat};

use crate::call::Call;
#[cfg(target_arch = "x86_64")]
use crate::compat;
use crate::exec::{Exec, Start};
use crate::memory;

/// The length of a comm, without the NUL.
const COMM: usize = 15;
/// How long a script's first line may be.
const SHEBANG: usize = 255;

pub struct Planner {
    exe: PathBuf,
    dir: PathBuf,
    made: usize,
}

impl Planner {
    pub fn new(dir: &Path) -> Result<Self> {
        Ok(Self {
            exe: std::env::current_exe()?,
            dir: dir.canonicalize().with_context(|| dir.display().to_string())?,
            made: 0,
        })
    }

    /// The action of `way`, with everything that it needs made.
    pub fn plan(&mut self, way: &str) -> Result<Exec> {
        let plain = ["plain"].map(Vec::from).to_vec();
        match way {
            "execve" => self.execve(way, Start::Fork, plain),
            "vfork" => self.execve(way, Start::Vfork, plain),
            "thread" => self.execve(way, Start::Thread, plain),
            "posix-spawn" => self.execve(way, Start::Spawn, plain),
            "many-args" => {
                self.execve(way, Start::Fork, (0..2_000).map(|n| format!("arg-{n}").into()).collect())
            }
            "long-arg" => self.execve(way, Start::Fork, vec![vec![b'x'; 100_000]]),
            "huge" => self.execve(way, Start::Fork, (0..40).map(|n| vec![b'a' + n % 26; 10_000]).collect()),
            "empty-arg" => {
                let args =
                    ["", "a b", " ", "it's", "\"quoted\"", "back\\slash", "", "$HOME *", "tab\there", ""];
                self.execve(way, Start::Fork, args.map(Vec::from).to_vec())
            }
            "odd-bytes" => {
                let all: Vec<u8> = (1..=255).collect();
                let fooling = ["\u{202e}gpj.exe\u{202c}", "\u{2066}\u{2069}\u{feff}\u{1f600}"];
                let fooling = fooling.iter().map(|text| text.as_bytes());
                let args = all.chunks(16).chain(fooling).chain([all.as_slice()]);
                self.execve(way, Start::Fork, args.map(Vec::from).collect())
            }
            "unmapped-args" => self.unmapped_args(way),
            "execveat" => {
                let (dir, name) = (self.exe.parent(), self.exe.file_name());
                let dirfd = open(dir.context("the program has no directory")?)?;
                let name = name.context("the program has no name")?.as_bytes().to_vec();
                self.execveat(way, dirfd, name, 0)
            }
            "fexecve" => {
                let mut exec = self.execveat(way, open(&self.exe)?, Vec::new(), AT_EMPTY_PATH)?;
                exec.comm = None;
                Ok(exec)
            }
            "script" => self.script(way),
            "fail-enoent" => {
                let path = self.path(way);
                self.fail(way, path, ENOENT)
            }
            "fail-eacces" => {
                let path = self.file(way, "not executable\n", 0o644)?;
                self.fail(way, path, EACCES)
            }
            "fail-enoexec" => {
                // Text: for other bytes, the kernel would start modprobe.
                let path = self.file(way, "garbage\n", 0o755)?;
                self.fail(way, path, ENOEXEC)
            }
            #[cfg(target_arch = "x86_64")]
            "compat-execve" | "compat-execveat" | "fail-compat-enoent" => self.compat(way),
            _ => bail!("unknown way to execute: {way}"),
        }
    }

    /// The path of a file of this way's own.
    fn path(&mut self, way: &str) -> PathBuf {
        self.made += 1;
        self.dir.join(format!("exec-{way}-{}", self.made))
    }

    fn file(&mut self, way: &str, text: &str, mode: u32) -> Result<PathBuf> {
        let path = self.path(way);
        fs::write(&path, text)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        Ok(path)
    }

    /// The arguments that make this program end at once.
    fn noop(&self, rest: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        [vec![bytes(&self.exe), b"noop".to_vec()], rest].concat()
    }

    /// An execution of `path` by `call`, made by a forked child.
    fn exec(&self, way: &str, call: Call, args: Vec<Vec<u8>>, path: &Path) -> Exec {
        let mut comm = path.file_name().unwrap_or_default().as_bytes().to_vec();
        comm.truncate(COMM);
        Exec {
            way: way.into(),
            start: Start::Fork,
            call,
            args,
            filename: bytes(path),
            dirfd: None,
            errno: 0,
            comm: Some(comm),
        }
    }

    fn execve(&self, way: &str, start: Start, rest: Vec<Vec<u8>>) -> Result<Exec> {
        let args = self.noop(rest);
        let call = execve_call(&self.exe, &args)?;
        let exec = self.exec(way, call, args, &self.exe);
        Ok(Exec { start, ..exec })
    }

    fn execveat(&self, way: &str, dirfd: RawFd, name: Vec<u8>, flags: i32) -> Result<Exec> {
        let args = self.noop(vec![b"plain".to_vec()]);
        let (path, argv) = (memory::text(&name)?, memory::vector(&texts(&args)?));
        let call =
            Call::native(SYS_execveat, [dirfd as usize, path, argv, memory::vector(&[]), flags as usize]);
        let exec = self.exec(way, call, args, &self.exe);
        Ok(Exec { filename: name, dirfd: Some(dirfd), ..exec })
    }

    /// Path and arguments that the kernel is the first to read.
    fn unmapped_args(&mut self, way: &str) -> Result<Exec> {
        let file = self.path(way);
        let args = self.noop((0..10).map(|n| format!("unmapped-{n}").into()).collect());
        let strings = [vec![bytes(&self.exe)], args.clone()].concat();
        let at = memory::unfaulted(&file, &strings)?;
        let call = Call::native(SYS_execve, [at[0], memory::vector(&at[1..]), memory::vector(&[])]);
        Ok(self.exec(way, call, args, &self.exe))
    }

    /// A script whose interpreter is this program.
    fn script(&mut self, way: &str) -> Result<Exec> {
        let line = format!("#!{} noop\n", self.exe.to_str().context("the program's path is not UTF-8")?);
        ensure!(line.len() <= SHEBANG, "the program's path is too long for a script: {line}");
        let path = self.file("script-whose-name-is-longer-than-a-comm", &line, 0o755)?;
        let rest = [b"one".to_vec(), b"two three".to_vec()];
        let call = execve_call(&path, &[&[b"replaced".to_vec()], rest.as_slice()].concat())?;
        // The kernel replaces the first argument by the interpreter, its argument and the script's path.
        let args = self.noop([&[bytes(&path)], rest.as_slice()].concat());
        Ok(self.exec(way, call, args, &path))
    }

    fn fail(&self, way: &str, path: PathBuf, errno: i32) -> Result<Exec> {
        let args = vec![bytes(&path), b"one".to_vec(), b"two".to_vec()];
        let call = execve_call(&path, &args)?;
        let exec = self.exec(way, call, args, &path);
        Ok(Exec { errno, ..exec })
    }

    /// The system calls of 32-bit programs.
    #[cfg(target_arch = "x86_64")]
    fn compat(&mut self, way: &str) -> Result<Exec> {
        compat::require()?;
        let args = self.noop(vec![b"compat".to_vec()]);
        let strings: Vec<usize> = args.iter().map(|arg| compat::text(arg)).collect::<Result<_>>()?;
        let (argv, envp) = (compat::vector(&strings)?, compat::vector(&[])?);
        let (path, errno) = match way {
            "fail-compat-enoent" => (self.path(way), ENOENT),
            _ => (self.exe.clone(), 0),
        };
        if way != "compat-execveat" {
            let call = Call::compat(compat::nr::EXECVE, [compat::text(&bytes(&path))?, argv, envp]);
            let exec = self.exec(way, call, args, &path);
            return Ok(Exec { errno, ..exec });
        }
        let dirfd = open(path.parent().context("the program has no directory")?)?;
        let name = path.file_name().context("the program has no name")?.as_bytes();
        let call = Call::compat(compat::nr::EXECVEAT, [dirfd as usize, compat::text(name)?, argv, envp, 0]);
        let exec = self.exec(way, call, args, &path);
        Ok(Exec { filename: name.to_vec(), dirfd: Some(dirfd), ..exec })
    }
}

fn execve_call(path: &Path, args: &[Vec<u8>]) -> Result<Call> {
    let (path, argv) = (memory::text(&bytes(path))?, memory::vector(&texts(args)?));
    Ok(Call::native(SYS_execve, [path, argv, memory::vector(&[])]))
}

fn texts(strings: &[Vec<u8>]) -> Result<Vec<usize>> {
    strings.iter().map(|string| memory::text(string)).collect()
}

/// A descriptor that stays open until the process ends, and which an execve closes.
fn open(path: &Path) -> Result<RawFd> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Ok(file.into_raw_fd())
}

fn bytes(path: &Path) -> Vec<u8> {
    path.to_path_buf().into_os_string().into_vec()
}
