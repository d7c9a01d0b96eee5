// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `calls`: exact numbers of system calls that this program and those that it starts do not make otherwise, of each
//! kind of caller, some of which fail with a known error.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr::null;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libc::c_long;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, gettid};
use serde_json::json;

use crate::args::Args;
use crate::call::Call;
use crate::protocol::{emit, session};

/// Signals sent to itself, each of which comes back from its handler by a call of its own.
const SIGNALS: u64 = 25;
const SLEEPS: u64 = 10;
const SLEEP: Duration = Duration::from_millis(2);
#[cfg(target_arch = "x86_64")]
const X32: c_long = 0x4000_0000;

extern "C" fn handler(_: libc::c_int) {}

pub fn run(args: Args) -> Result<()> {
    args.finish()?;
    let missing = CString::new("/nonexistent/kscope-calls")?;
    let exe = CString::new(std::env::current_exe()?.as_os_str().as_bytes())?;
    let noop = CString::new("noop")?;
    #[cfg(target_arch = "x86_64")]
    let missing_32 = {
        crate::compat::require()?;
        crate::compat::text(missing.as_bytes())?
    };
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    session(|| {
        let path = missing.as_ptr() as usize;
        let bad = (-1_isize) as usize;
        many("getppid", "64-bit", 1000, Call::native(libc::SYS_getppid, []))?;
        many(
            "unlinkat",
            "64-bit",
            200,
            Call::native(libc::SYS_unlinkat, [libc::AT_FDCWD as usize, path, 0]),
        )?;
        many("fchdir", "64-bit", 300, Call::native(libc::SYS_fchdir, [bad]))?;
        // Numbers that no kernel knows: one below and one above what the tool keeps a slot for.
        many("499", "64-bit", 11, Call::native(499, []))?;
        many("1500", "64-bit", 13, Call::native(1500, []))?;
        #[cfg(target_arch = "x86_64")]
        {
            many("getppid", "32-bit", 50, Call::compat(64, []))?;
            many("rmdir", "32-bit", 30, Call::compat(40, [missing_32]))?;
            many("1600", "32-bit", 7, Call::compat(1600, []))?;
            many("39", "x32", 5, Call::native(X32 | libc::SYS_getpid, []))?;
        }
        for _ in 0..SIGNALS {
            let (pid, tid) = (getpid().as_raw() as usize, gettid().as_raw() as usize);
            let call = Call::native(libc::SYS_tgkill, [pid, tid, libc::SIGUSR1 as usize]);
            // SAFETY: it takes no pointers, and the signal has a handler.
            ensure!(unsafe { call.make() } == 0, "tgkill");
        }
        say("tgkill", "64-bit", SIGNALS, 0)?;
        say("rt_sigreturn", "64-bit", SIGNALS, 0)?;
        sleeps()?;

        let exits = children(&exe, &noop, &missing)?;
        say("exit_group", "64-bit", exits, 0)
    })
}

fn say(syscall: &str, abi: &str, count: u64, errors: u64) -> Result<()> {
    emit(&json!({"syscall": syscall, "abi": abi, "count": count, "errors": errors}))
}

fn many(name: &str, abi: &str, count: u64, call: Call) -> Result<()> {
    let mut errors = 0;
    for _ in 0..count {
        // SAFETY: the arguments are numbers, or point to strings that stay.
        errors += u64::from(unsafe { call.make() } < 0);
    }
    say(name, abi, count, errors)
}

/// Sleeps of which each takes at least so long.
fn sleeps() -> Result<()> {
    let time = libc::timespec { tv_sec: 0, tv_nsec: SLEEP.as_nanos() as i64 };
    let start = Instant::now();
    for _ in 0..SLEEPS {
        let args = [libc::CLOCK_MONOTONIC as usize, 0, (&raw const time) as usize, 0];
        // SAFETY: the time stays until the call returns.
        ensure!(unsafe { Call::native(libc::SYS_clock_nanosleep, args).make() } == 0, "clock_nanosleep");
    }
    emit(&json!({
        "syscall": "clock_nanosleep", "abi": "64-bit", "count": SLEEPS, "errors": 0,
        "least_ns": (SLEEPS * SLEEP.as_nanos() as u64), "most_ns": start.elapsed().as_nanos() as u64,
    }))
}

/// Children made in every way, most of which end at once: how many calls of exit_group they make.
fn children(exe: &CString, noop: &CString, missing: &CString) -> Result<u64> {
    let mut exits = 0;
    let start = |nr: c_long, args: [usize; 5], child: &dyn Fn()| -> Result<()> {
        // SAFETY: a child of its own memory, which makes system calls and nothing else.
        let pid = unsafe { libc::syscall(nr, args[0], args[1], args[2], args[3], args[4]) };
        if pid == 0 {
            child();
            // SAFETY: it does not return.
            unsafe { libc::syscall(libc::SYS_exit_group, 1) };
        }
        let pid = Pid::from_raw(Errno::result(pid)? as i32);
        ensure!(waitpid(pid, None)? == WaitStatus::Exited(pid, 0), "a child failed");
        Ok(())
    };
    // SAFETY: they do not return.
    let exit_group = || _ = unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    // SAFETY: as above.
    let exit = || _ = unsafe { libc::syscall(libc::SYS_exit, 0) };
    let clone3 = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    let clone3 = [clone3.as_ptr() as usize, size_of_val(&clone3), 0, 0, 0];
    let clone = [libc::SIGCHLD as usize, 0, 0, 0, 0];
    let (args, none) = ([exe.as_ptr(), noop.as_ptr(), null()], [null::<libc::c_char>()]);
    let (argv, envp) = (args.as_ptr() as usize, none.as_ptr() as usize);
    let execve = |path: &CString| Call::native(libc::SYS_execve, [path.as_ptr() as usize, argv, envp]);
    let cwd = libc::AT_FDCWD as usize;
    let execveat = Call::native(libc::SYS_execveat, [cwd, exe.as_ptr() as usize, argv, envp, 0]);

    for _ in 0..2 {
        start(libc::SYS_clone3, clone3, &exit_group)?;
        exits += 1;
    }
    say("clone3", "64-bit", 2, 0)?;
    // A clone of each of these, and one for each execution.
    for _ in 0..3 {
        start(libc::SYS_clone, clone, &exit)?;
    }
    say("exit", "64-bit", 3, 0)?;
    // SAFETY: the strings and vectors stay.
    start(libc::SYS_clone, clone, &|| _ = unsafe { execve(exe).make() })?;
    for _ in 0..2 {
        // SAFETY: as above.
        start(libc::SYS_clone, clone, &|| _ = unsafe { execveat.make() })?;
    }
    exits += 3;
    say("clone", "64-bit", 6, 0)?;
    say("execveat", "64-bit", 2, 0)?;
    for _ in 0..4 {
        // SAFETY: as above.
        let error = unsafe { execve(missing).make() };
        ensure!(error == -libc::ENOENT, "execve gave {error}");
    }
    say("execve", "64-bit", 5, 4)?;
    #[cfg(target_arch = "x86_64")]
    {
        start(libc::SYS_fork, [0; 5], &exit_group)?;
        say("fork", "64-bit", 1, 0)?;
        exits += 1;
    }
    Ok(exits)
}
