// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool's command line, and what is left when it has ended.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{SigHandler, Signal, signal};

use crate::bytes::lossy;
use crate::stream::Stream;
use crate::{Tracer, Who, process, programs, wait_until};

/// A tool to be run.
pub struct Run {
    pub(crate) name: String,
    pub(crate) command: Command,
}

impl Run {
    /// `kscope <tool>`, or the program of the tool alone.
    pub fn new(tool: &str) -> Self {
        match programs::alone().filter(|path| path.ends_with(tool)) {
            Some(path) => Self { name: tool.into(), ..Self::program(path) },
            None => Self { name: tool.into(), ..Self::kscope([tool]) },
        }
    }

    /// Another program, which is run as the tools are.
    pub fn program(path: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(&path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { name: path.as_ref().to_string_lossy().into_owned(), command }
    }

    /// `kscope` with these arguments.
    pub fn kscope<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(programs::kscope());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { name: "kscope".into(), command }
    }

    /// Add arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Set a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Let somebody else run it.
    pub fn by(mut self, who: &Who) -> Self {
        who.run(&mut self.command);
        self
    }

    /// Start it with SIGHUP ignored, as nohup does, or not.
    pub fn hangup(mut self, is_ignored: bool) -> Self {
        let handler = if is_ignored { SigHandler::SigIgn } else { SigHandler::SigDfl };
        // SAFETY: the closure makes one system call, which sets no handler of ours.
        unsafe { self.command.pre_exec(move || Ok(signal(Signal::SIGHUP, handler).map(drop)?)) };
        self
    }

    /// Send its output somewhere else.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.command.stdout(to);
        self
    }

    /// Start it with `--json`; it is tracing when this returns.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn json(self) -> Tracer {
        Tracer::start(self.args(["--json"]), true)
    }

    /// Start it without `--json`; it is tracing when this returns.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn text(self) -> Tracer {
        Tracer::start(self, false)
    }

    /// Run it to its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn output(self) -> Ended {
        Tracer::spawn(self).ended()
    }
}

/// What a program left.
pub struct Ended {
    /// The tool's name.
    pub tool: String,
    /// All that it wrote to stdout.
    pub bytes: Vec<u8>,
    /// All that it wrote to stderr, made UTF-8, but for its notes and what it says of the end of processes.
    pub stderr: String,
    /// What it can't see on this kernel, as it says on stderr before all else.
    pub notes: Vec<String>,
    /// How it ended.
    pub status: ExitStatus,
}

impl Ended {
    pub(crate) fn wait(tool: &str, child: &mut Child, stdout: Option<Stream>, stderr: Stream) -> Self {
        let status = exit_status(tool, child);
        let bytes = stdout.map(Stream::finish).unwrap_or_default();
        let (mut text, mut notes) = (String::new(), Vec::new());
        for line in lossy(&stderr.finish()).split_inclusive('\n') {
            match line.strip_prefix(tool).and_then(|line| line.strip_prefix(": note: ")) {
                Some(note) => notes.push(note.trim_end().to_string()),
                None if is_end_of_process(tool, line) => (),
                None => text.push_str(line),
            }
        }
        Self { tool: tool.into(), bytes, stderr: text, notes, status }
    }

    /// What it wrote to stdout.
    ///
    /// # Panics
    /// If that is not UTF-8.
    pub fn stdout(&self) -> &str {
        str::from_utf8(&self.bytes).unwrap_or_else(|error| panic!("{}: stdout: {error}", self.tool))
    }

    /// The exit status, or -1 for a death by signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Check that it failed as it should: this exit status, one sentence on stderr, nothing on stdout. Gives the
    /// sentence.
    ///
    /// # Panics
    /// If not.
    pub fn refusal(&self, code: i32) -> &str {
        assert_eq!(self.code(), code, "{self:?}");
        assert!(self.bytes.is_empty(), "a failure prints nothing on stdout: {self:?}");
        let sentence = self.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!sentence.is_empty(), "stderr has no line: {self:?}");
        assert!(!sentence.chars().any(char::is_control), "stderr is not one harmless line: {self:?}");
        sentence
    }
}

/// Whether the tool says that a process has ended that it was asked about, as it may for any `--pid` or `--tid`.
fn is_end_of_process(tool: &str, line: &str) -> bool {
    let rest = line.strip_prefix(tool).and_then(|line| line.strip_prefix(": ")).unwrap_or_default();
    let rest = rest.strip_prefix("process ").or_else(|| rest.strip_prefix("thread ")).unwrap_or_default();
    rest.trim_end().strip_suffix(" has ended").is_some_and(|number| number.parse::<u32>().is_ok())
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 2000;
        let start = &self.bytes[..self.bytes.len().min(SHOWN)];
        writeln!(f, "{} ended with {}", self.tool, self.status)?;
        writeln!(f, "stdout ({} bytes): {}", self.bytes.len(), lossy(start))?;
        write!(f, "stderr: {:?}", self.stderr)
    }
}

/// Wait for a child's end.
pub(crate) fn exit_status(name: &str, child: &mut Child) -> ExitStatus {
    let state = process::state(child.id());
    wait_until(&format!("the end of {name} (its state was {state:?})"), || {
        child.try_wait().unwrap_or_else(|error| panic!("{name}: wait: {error}"))
    })
}
