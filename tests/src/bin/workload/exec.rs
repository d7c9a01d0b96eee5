// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `exec`: executes this program in every way there is, one child per action.

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getuid};
use serde_json::json;

use crate::args::Args;
use crate::call::Call;
use crate::exec_plan::Planner;
use crate::memory;
use crate::protocol::{comm_hex, emit, hex, session};

/// What a child exits with when its execve fails.
const EXEC_FAILED: i32 = 127;
const STACK: usize = 64 << 10;

/// Who makes the system call.
#[derive(Clone, Copy)]
pub enum Start {
    Fork,
    /// A child that shares its parent's memory.
    Vfork,
    /// A second thread of a forked child.
    Thread,
    /// The C library's posix_spawn.
    Spawn,
}

/// An action, ready to be done.
pub struct Exec {
    pub way: String,
    pub start: Start,
    pub call: Call,
    /// The arguments as the new image sees them.
    pub args: Vec<Vec<u8>>,
    pub filename: Vec<u8>,
    pub dirfd: Option<RawFd>,
    /// The error it must fail with, or 0.
    pub errno: i32,
    /// The new image's comm, or `None` where it depends on the kernel.
    pub comm: Option<Vec<u8>>,
}

pub fn run(mut args: Args) -> Result<()> {
    let dir: PathBuf = args.required("--dir")?;
    let mut planner = Planner::new(&dir)?;
    let execs: Vec<Exec> = args.words()?.iter().map(|way| planner.plan(way)).collect::<Result<_>>()?;
    let launcher = Launcher::new()?;
    session(|| execs.iter().try_for_each(|exec| exec.act(&launcher)))
}

impl Exec {
    /// Executes, waits for the child and reports.
    fn act(&self, launcher: &Launcher) -> Result<()> {
        let (pid, ret) = launcher.run(self.start, self.call)?;
        ensure!(ret == -self.errno, "{} gave {ret}, not -{}", self.way, self.errno);
        let comm = match &self.comm {
            _ if ret != 0 => Some(comm_hex()?),
            comm => comm.as_deref().map(hex),
        };
        emit(&json!({
            "way": self.way,
            "pid": pid.as_raw(),
            "ppid": getpid().as_raw(),
            "args_hex": self.args.iter().map(|arg| hex(arg)).collect::<Vec<_>>(),
            "filename_hex": hex(&self.filename),
            "dirfd": self.dirfd,
            "ret": ret,
            "comm_hex": comm,
            "uid": getuid().as_raw(),
        }))
    }
}

/// Starts children that make one execve.
pub struct Launcher {
    /// Where the child leaves the errno of its execve.
    result: &'static AtomicI32,
    /// The end of a stack, for a child or thread that shares its creator's memory.
    stack_end: usize,
}

/// What a child needs to know.
struct Job {
    call: Call,
    result: &'static AtomicI32,
}

impl Launcher {
    pub fn new() -> Result<Self> {
        Ok(Self { result: memory::shared()?, stack_end: (memory::words(&[0_u8; STACK]) + STACK) & !0xf })
    }

    /// Starts a child, waits for its end, and gives its pid and 0, or minus the errno of its execve.
    pub fn run(&self, start: Start, call: Call) -> Result<(Pid, i32)> {
        let job = Job { call, result: self.result };
        job.result.store(0, Ordering::Relaxed);
        let pid = match start {
            Start::Fork => forked(|| job.run())?,
            Start::Thread => forked(|| self.run_in_thread(&job))?,
            Start::Vfork => self.clone(&job, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD)?,
            Start::Spawn => spawn(call)?,
        };
        let ret = match waitpid(pid, None).context("waitpid")? {
            WaitStatus::Exited(_, 0) => 0,
            WaitStatus::Exited(_, EXEC_FAILED) => job.result.load(Ordering::Relaxed),
            status => bail!("the child ended with {status:?}"),
        };
        Ok((pid, ret))
    }

    /// Runs the job on the spare stack, in whatever `flags` create.
    fn clone(&self, job: &Job, flags: c_int) -> Result<Pid> {
        extern "C" fn entry(job: *mut c_void) -> c_int {
            // SAFETY: whoever created this child or thread stays in the function that holds the job.
            unsafe { &*job.cast::<Job>() }.run()
        }
        let stack = std::ptr::with_exposed_provenance_mut(self.stack_end);
        // SAFETY: the stack is large enough and nobody else's until the child has left it; the child makes
        // only async-signal-safe calls.
        let pid = unsafe { libc::clone(entry, stack, flags, (&raw const *job).cast_mut().cast()) };
        Ok(Pid::from_raw(Errno::result(pid).context("clone")?))
    }

    /// Runs the job in a second thread of the calling process, which must be a forked child.
    fn run_in_thread(&self, job: &Job) -> ! {
        let flags =
            libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        if self.clone(job, flags).is_err() {
            // SAFETY: does not return.
            unsafe { libc::_exit(1) }
        }
        loop {
            // SAFETY: takes no arguments; the other thread ends this one.
            unsafe { libc::pause() };
        }
    }
}

impl Job {
    /// Executes; where that fails, leaves the errno to the parent.
    fn run(&self) -> ! {
        // SAFETY: the plan made valid arguments, of memory that is never freed.
        let ret = unsafe { self.call.make() };
        self.result.store(ret, Ordering::Relaxed);
        // SAFETY: does not return.
        unsafe { libc::_exit(EXEC_FAILED) }
    }
}

fn forked(child: impl FnOnce()) -> Result<Pid> {
    // SAFETY: the child makes only async-signal-safe calls.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            child();
            // SAFETY: does not return.
            unsafe { libc::_exit(1) }
        }
    }
}

/// posix_spawn with the arguments of a native execve.
fn spawn(call: Call) -> Result<Pid> {
    let [path, argv, envp, ..] = call.args;
    let mut pid = 0;
    // SAFETY: the plan made valid arguments, of memory that is never freed.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            std::ptr::with_exposed_provenance(path),
            std::ptr::null(),
            std::ptr::null(),
            std::ptr::with_exposed_provenance(argv),
            std::ptr::with_exposed_provenance(envp),
        )
    };
    ensure!(error == 0, "posix_spawn: {}", Errno::from_raw(error));
    Ok(Pid::from_raw(pid))
}
