// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The oracle program at work (tests/src/bin/workload).

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot};
use serde_json::Value;

use crate::bytes::lossy;
use crate::run::exit_status;
use crate::stream::Stream;
use crate::{Who, process, programs, wait_until};

/// The exit status that says: this kernel does not offer what was asked for.
const REFUSED: i32 = 77;

/// A workload that is ready to act; dropping it kills it.
pub struct Workload {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    gone: bool,
}

/// What this kernel does not offer.
#[derive(Debug)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Workload {
    /// Start it; it has everything that it needs, and waits for [`Workload::go`].
    ///
    /// # Panics
    /// If it fails, or this kernel does not offer what it needs.
    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::try_start(args).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// [`Workload::start`] of a copy of the program.
    ///
    /// # Panics
    /// If it fails, or this kernel does not offer what it needs.
    pub fn start_program<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self::of(command).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// [`Workload::start`], for what a kernel may do without.
    ///
    /// # Errors
    /// This kernel does not offer what was asked for.
    ///
    /// # Panics
    /// If it fails.
    pub fn try_start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Self, Refused> {
        let mut command = Command::new(programs::workload());
        command.args(args);
        Self::of(command)
    }

    /// [`Workload::start`] by somebody else.
    ///
    /// # Panics
    /// If it fails, or this kernel does not offer what it needs.
    pub fn start_by<S: AsRef<OsStr>>(who: &Who, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(programs::workload());
        command.args(args);
        who.run(&mut command);
        Self::of(command).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// [`Workload::start`] in a container: with this folder for its root, in a mount namespace of its own, with its
    /// own copy of the program and of the libraries.
    ///
    /// # Panics
    /// If it fails.
    pub fn start_in<S: AsRef<OsStr>>(root: &Path, args: impl IntoIterator<Item = S>) -> Self {
        Self::start_below(root, true, args)
    }

    /// [`Workload::start_in`], but in our own mount namespace.
    ///
    /// # Panics
    /// If it fails.
    pub fn start_chrooted<S: AsRef<OsStr>>(root: &Path, args: impl IntoIterator<Item = S>) -> Self {
        Self::start_below(root, false, args)
    }

    fn start_below<S: AsRef<OsStr>>(
        root: &Path,
        has_namespace: bool,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let running = Self::start(["comm", "78"]);
        for file in process::executable_files(running.pid()) {
            let name = file.file_name().unwrap_or_default();
            // The loader is asked for by a path that may be a link.
            let loader = name.as_bytes().starts_with(b"ld").then(|| root.join("lib64").join(name));
            for copy in
                [Some(root.join(file.strip_prefix("/").unwrap_or(&file))), loader].into_iter().flatten()
            {
                let folder = copy.parent().unwrap_or(root);
                fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
                process::copy_program(&file, &copy);
            }
        }
        let program = programs::workload().canonicalize().unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new(&program);
        command.args(args);
        let root = CString::new(root.as_os_str().as_bytes()).unwrap_or_default();
        let enter = move || {
            if has_namespace {
                unshare(CloneFlags::CLONE_NEWNS)?;
                let none: Option<&CStr> = None;
                mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            }
            chroot(root.as_c_str())?;
            chdir(c"/")?;
            Ok(())
        };
        // SAFETY: the closure makes system calls, and nothing else.
        unsafe { command.pre_exec(enter) };
        Self::of(command).unwrap_or_else(|refused| panic!("{refused}"))
    }

    fn of(mut command: Command) -> Result<Self, Refused> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut workload = Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(Stream::new),
            stderr: child.stderr.take().map(Stream::new),
            name,
            child,
            gone: false,
        };
        if let Some(line) = workload.stdout.as_ref().and_then(|stdout| stdout.line(0)) {
            let ready: Value = serde_json::from_slice(&line).unwrap_or_default();
            assert_eq!(ready["ready"], true, "{}: {}", workload.name, lossy(&line));
            return Ok(workload);
        }
        let status = exit_status(&workload.name, &mut workload.child);
        let stderr = lossy(&workload.stderr.take().map(Stream::finish).unwrap_or_default());
        assert_eq!(status.code(), Some(REFUSED), "{}: {status}: {stderr}", workload.name);
        Err(Refused(stderr.trim().into()))
    }

    /// Its process, which is also its main thread.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Let it act.
    ///
    /// # Panics
    /// If it has ended.
    pub fn go(&mut self) {
        let stdin = self.stdin.as_mut().expect("a workload that runs");
        stdin.write_all(b"go\n").unwrap_or_else(|error| panic!("{}: {error}", self.name));
        self.gone = true;
    }

    /// Wait until it has done everything and has ended: its actions. Lets it act, if that was not done.
    ///
    /// # Panics
    /// If it fails.
    pub fn finish(mut self) -> Vec<Value> {
        let actions = self.actions();
        drop(self.stdin.take());
        let status = exit_status(&self.name, &mut self.child);
        assert!(status.success(), "{}: {status}", self.name);
        actions
    }

    /// Wait until it has done everything, and sleeps: its actions. It stays until it is dropped. Lets it act, if that
    /// was not done.
    ///
    /// # Panics
    /// If it fails.
    pub fn act(&mut self) -> Vec<Value> {
        let actions = self.actions();
        // Only of a thread that has left its CPU to sleep does this file have the number of a system call.
        let path = format!("/proc/{}/syscall", self.pid());
        let sleeps = |text: String| text.starts_with(|c: char| c.is_ascii_digit());
        wait_until("the workload to sleep", || {
            std::fs::read_to_string(&path).is_ok_and(sleeps).then_some(())
        });
        actions
    }

    fn actions(&mut self) -> Vec<Value> {
        if !self.gone {
            self.go();
        }
        let stdout = self.stdout.as_ref().expect("a workload that runs");
        let mut actions = Vec::new();
        for n in 1.. {
            let Some(line) = stdout.line(n) else {
                let stderr = lossy(&self.stderr.take().map(Stream::finish).unwrap_or_default());
                panic!("{} ended before it was done: {stderr}", self.name);
            };
            let value: Value = serde_json::from_slice(&line)
                .unwrap_or_else(|error| panic!("{}: {error}: {}", self.name, lossy(&line)));
            if value["done"] == true {
                break;
            }
            actions.push(value);
        }
        actions
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Both fail where it has ended, as they may.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
