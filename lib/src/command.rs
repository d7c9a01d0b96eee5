// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `tool [options] -- command`: the command is started once the tool is attached, and followed by its programs
//! (bpf/follow.bpf.h); its end is the end of tracing, and its exit status that of the tool.

use std::ffi::OsString;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::AccessFlags;
use nix::unistd::Pid;
use nix::unistd::access;
use nix::unistd::getegid;
use nix::unistd::geteuid;
use nix::unistd::getgid;
use nix::unistd::getuid;

use crate::Error;
use crate::signals;

/// As shells have it.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
const SIGNALLED: i32 = 128;

/// What a process has at most one of.
static COMMAND: Mutex<State> = Mutex::new(State { words: Vec::new(), child: None });

struct State {
    words: Vec<OsString>,
    child: Option<Child>,
}

fn state() -> MutexGuard<'static, State> {
    COMMAND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether there is a command to be traced.
pub fn is_given() -> bool {
    !state().words.is_empty()
}

/// Take the command's words, and look whether there is such a program.
pub(crate) fn give(words: Vec<OsString>) -> Result<(), Error> {
    let Some(name) = words.first() else { return Ok(()) };
    find(name).map_err(|error| failed(name, &error))?;
    state().words = words;
    Ok(())
}

/// The file of the program that is to be traced.
pub(crate) fn program() -> Option<PathBuf> {
    find(state().words.first()?).ok()
}

/// What becomes readable when a process has ended.
///
/// # Errors
/// The kernel's.
pub(crate) fn pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the system call takes no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the system call just made the descriptor, which nobody else has; it fits into 32 bits.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The program's file, so that no search for it is a part of what is traced.
fn find(name: &OsString) -> io::Result<PathBuf> {
    let executable = |path: &Path| access(path, AccessFlags::X_OK).map_err(io::Error::from);
    if name.as_bytes().contains(&b'/') {
        return executable(Path::new(name)).map(|()| name.into());
    }
    let mut error = io::Error::from(Errno::ENOENT);
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into())) {
        let path = folder.join(name);
        match executable(&path) {
            Ok(()) if path.is_file() => return Ok(path),
            Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => error = refused,
            _ => (),
        }
    }
    Err(error)
}

fn failed(name: &OsString, error: &io::Error) -> Error {
    let is_missing = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) || name.is_empty();
    let status = if is_missing { NOT_FOUND } else { NOT_EXECUTABLE };
    Error::Command {
        name: name.to_string_lossy().into_owned(),
        error: Errno::from_raw(error.raw_os_error().unwrap_or(0)).desc(),
        status,
    }
}

/// A command that is forked, and waits to be let go.
pub(crate) struct Waiting {
    starter: JoinHandle<io::Result<Child>>,
    go: io::PipeWriter,
}

/// Fork the command, if there is one, with the privileges that this thread has now.
pub(crate) fn fork() -> Result<Option<Waiting>, Error> {
    let words = state().words.clone();
    let Some(name) = words.first() else { return Ok(None) };
    let system = |error| Error::System { what: "starting the command".into(), error };
    let (mut wait, go) = io::pipe().map_err(system)?;
    let (mut is_there, mut there) = io::pipe().map_err(system)?;
    let mut command = Command::new(find(name).map_err(|error| failed(name, &error))?);
    command.arg0(name).args(&words[1..]);
    // It is for whoever ran this, also where that gave this program another user.
    if geteuid() != getuid() || getegid() != getgid() {
        command.gid(getgid().as_raw()).uid(getuid().as_raw());
    }
    let own_end = go.as_raw_fd();
    let before_exec = move || {
        let mut byte = [0];
        // Its own copy would keep it from seeing that the tool has ended.
        // SAFETY: close(2) may be called in a child of a process with threads, and nobody uses this one here.
        _ = unsafe { libc::close(own_end) };
        there.write_all(&[1])?;
        if wait.read_exact(&mut byte).is_err() {
            // The tool has ended before.
            // SAFETY: _exit may be called there too.
            unsafe { libc::_exit(NOT_EXECUTABLE.into()) };
        }
        Ok(())
    };
    // SAFETY: the closure calls close(2), write(2), read(2) and _exit(2), and allocates nothing.
    unsafe { command.pre_exec(before_exec) };
    // spawn() returns when the program runs: somebody else must wait for that.
    // It has the privileges of this thread as they are now.
    let starter = thread::Builder::new().name("command".into()).spawn(move || command.spawn());
    let starter = starter.map_err(system)?;
    // Later, no process can be made. Where it failed, nothing comes, and the thread has the reason.
    match is_there.read_exact(&mut [0]) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(system(error)),
        _ => Ok(Some(Waiting { starter, go })),
    }
}

impl Waiting {
    /// Let it go: what becomes readable when it has ended.
    pub(crate) fn release(mut self) -> Result<OwnedFd, Error> {
        // It is there no more where it was killed meanwhile, which its status will tell.
        _ = self.go.write_all(&[1]);
        let name = state().words.first().cloned().unwrap_or_default();
        let child = self.starter.join().unwrap_or_else(|_| Err(io::Error::from(Errno::ECHILD)));
        let child = child.map_err(|error| failed(&name, &error))?;
        // Our own child, which nobody has waited for: the number is still its.
        let fd = pidfd(child.id()).map_err(Error::system("watching the command"))?;
        state().child = Some(child);
        Ok(fd)
    }
}

/// Wait for the command's end, where one was started, and give its exit status.
pub(crate) fn end() -> Option<ExitCode> {
    let Some(mut child) = state().child.take() else {
        // A signal came before it could run: that is no success.
        let signal = signals::received().filter(|_| is_given())?;
        return Some(exit_code(SIGNALLED + signal as i32));
    };
    if let Some(signal) = signals::to_pass_on() {
        // It may have ended by itself.
        _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
    }
    let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(0));
    let code = status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or_default());
    Some(exit_code(code))
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
