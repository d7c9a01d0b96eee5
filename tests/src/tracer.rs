// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool at work.

use std::fmt;
use std::process::{Child, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bytes::lossy;
use crate::stream::{InVain, Stream};
use crate::{DEADLINE, Ended, Run, Schema, left_out, process, wait_until};

/// A running tool; dropping it kills it.
pub struct Tracer {
    tool: String,
    child: Child,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    /// How many lines were looked at by [`Tracer::wait_for`].
    seen: usize,
}

impl Tracer {
    /// Start the tool without waiting for anything.
    pub(crate) fn spawn(run: Run) -> Self {
        let Run { name: tool, mut command } = run;
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().map(Stream::new);
        let stderr = child.stderr.take().map(Stream::new);
        Self { tool, child, stdout, stderr, seen: 0 }
    }

    pub(crate) fn start(run: Run, json: bool) -> Self {
        assert!(!process::no_new_privs(std::process::id()), "the tests must run without no_new_privs");
        let mut tracer = Self::spawn(run);
        // The header is printed once attached; no_new_privs, which tables too have, is set right before.
        let began = if json {
            tracer.stream().line(0).is_some()
        } else {
            let pid = tracer.pid();
            wait_until(&format!("{} to begin to trace", tracer.tool), || {
                if process::no_new_privs(pid) { Some(true) } else { tracer.has_ended().then_some(false) }
            })
        };
        if !began {
            panic!("it did not begin to trace: {:?}", tracer.ended());
        }
        tracer
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    fn stream(&self) -> &Stream {
        self.stdout.as_ref().expect("stdout is piped")
    }

    /// Check that it has not ended.
    ///
    /// # Panics
    /// If it has: with all that it left.
    pub fn assert_running(&mut self) {
        if self.has_ended() {
            panic!("it ended by itself: {:?}", self.reap());
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Send it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("{}: {signal}: {error}", self.tool));
    }

    /// Stop it as job control does, and wait until it stands.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        let what = format!("{} to be stopped by SIGSTOP", self.tool);
        wait_until(&what, || (process::state(self.pid()) == Some('T')).then_some(()));
    }

    /// Let it run again, and wait until it does.
    ///
    /// # Panics
    /// If it does not.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
        let what = format!("{} to run after SIGCONT", self.tool);
        wait_until(&what, || (process::state(self.pid()) != Some('T')).then_some(()));
    }

    /// The next JSON line of which `wanted` is true, behind the one that the last call gave.
    ///
    /// # Panics
    /// If none comes; then as [`left_out::check`], if the kernel left something out.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = match self.stream().try_line(self.seen) {
                Ok(Some(line)) => line,
                Ok(None) => panic!("it ended before the line that was waited for: {:?}", self.reap()),
                Err(InVain) => {
                    self.signal(Signal::SIGINT);
                    let finished = Finished::from(self.reap());
                    // It says so at its end only.
                    left_out::check(&finished);
                    panic!("waited {DEADLINE:?} in vain for a line: {finished:?}");
                }
            };
            self.seen += 1;
            let value = parse(&self.tool, &line);
            if wanted(&value) {
                return value;
            }
        }
    }

    /// How many lines it has printed so far.
    pub fn lines(&self) -> usize {
        self.stream().lines()
    }

    /// What it has written to stderr so far.
    ///
    /// # Panics
    /// If stderr is not piped.
    pub fn stderr(&self) -> String {
        lossy(&self.stderr.as_ref().expect("stderr is piped").so_far())
    }

    /// End it with SIGINT.
    ///
    /// # Panics
    /// If its output is not a header, data and a footer in JSON.
    pub fn stop(self) -> Finished {
        self.signal(Signal::SIGINT);
        self.finished()
    }

    /// End it with SIGINT, where it prints no JSON.
    pub fn stop_text(self) -> Ended {
        self.signal(Signal::SIGINT);
        self.ended()
    }

    /// What it left in JSON, once it has ended by itself.
    ///
    /// # Panics
    /// If its output is not a header, data and a footer in JSON.
    pub fn finished(self) -> Finished {
        self.ended().into()
    }

    /// What it left, once it has ended by itself.
    ///
    /// # Panics
    /// If it does not end.
    pub fn ended(mut self) -> Ended {
        self.reap()
    }

    fn reap(&mut self) -> Ended {
        let stderr = self.stderr.take().expect("a tool ends once");
        Ended::wait(&self.tool, &mut self.child, self.stdout.take(), stderr)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Both fail where it has ended, as they may.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn parse(tool: &str, line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap_or_else(|error| panic!("{tool}: {error}: {}", lossy(line)))
}

/// Whether a line is about losses: in a string, the quotes would be escaped.
fn is_lost(line: &str) -> bool {
    line.contains(r#""type":"lost""#)
}

/// What a tool left in JSON.
pub struct Finished {
    /// The first line.
    pub header: Value,
    /// The last line.
    pub footer: Value,
    /// All that it wrote to stderr.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The tool's name.
    pub tool: String,
    stdout: String,
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        writeln!(f, "{} ended with {}", self.tool, self.status)?;
        writeln!(f, "stderr: {:?}", self.stderr)?;
        writeln!(f, "header: {}", self.header)?;
        self.data().take(SHOWN).try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "footer: {}", self.footer)
    }
}

/// Takes the output apart.
///
/// # Panics
/// If it is not a header, data and a footer in JSON.
impl From<Ended> for Finished {
    fn from(ended: Ended) -> Self {
        let mut lines = ended.stdout().lines();
        let of_type = |line: Option<&str>, kind: &str| {
            let value = line.map(|line| parse(&ended.tool, line.as_bytes())).unwrap_or_default();
            assert_eq!(value["type"], kind, "the {kind} is not where it belongs: {ended:?}");
            value
        };
        let header = of_type(lines.next(), "header");
        let footer = of_type(lines.next_back(), "footer");
        assert_eq!(header["notes"], Value::from(ended.notes.clone()), "{ended:?}");
        let Ended { tool, bytes, stderr, status, .. } = ended;
        let stdout = String::from_utf8(bytes).unwrap_or_else(|error| panic!("{tool}: stdout: {error}"));
        Self { header, footer, stderr, status, tool, stdout }
    }
}

impl Finished {
    /// All lines, header and footer too.
    pub fn text(&self) -> &str {
        &self.stdout
    }

    /// The lines between header and footer, but for those about losses.
    pub fn data(&self) -> impl Iterator<Item = &str> {
        self.between().filter(|line| !is_lost(line))
    }

    /// How many events the lines about losses tell of.
    ///
    /// # Panics
    /// If such a line is not JSON.
    pub fn told_lost(&self) -> u64 {
        let lost = self.between().filter(|line| is_lost(line));
        lost.map(|line| parse(&self.tool, line.as_bytes())["lost"].as_u64().expect("a number")).sum()
    }

    fn between(&self) -> impl Iterator<Item = &str> {
        let mut lines = self.stdout.lines();
        lines.next();
        lines.next_back();
        lines
    }

    /// [`Finished::data`], parsed line by line.
    ///
    /// # Panics
    /// If a line is not JSON.
    pub fn events(&self) -> impl Iterator<Item = Value> {
        self.data().map(|line| parse(&self.tool, line.as_bytes()))
    }

    /// The lines about this process.
    ///
    /// # Panics
    /// If a line is not JSON.
    pub fn events_of(&self, pid: u32) -> Vec<Value> {
        self.events().filter(|event| event["pid"] == pid).collect()
    }

    /// A number of the footer.
    ///
    /// # Panics
    /// If the footer has no such number.
    pub fn count(&self, key: &str) -> u64 {
        self.footer[key].as_u64().unwrap_or_else(|| panic!("{}: {key}: {}", self.tool, self.footer))
    }

    /// Check every line against the tool's own schema, and that it ended well.
    ///
    /// # Panics
    /// If a line is not valid, or the exit status not 0.
    pub fn check(&self) {
        self.check_end();
        let schema = Schema::of(&self.tool);
        self.stdout.lines().for_each(|line| schema.check(line));
    }

    /// Check that it ended well.
    ///
    /// # Panics
    /// If the exit status is not 0.
    pub fn check_end(&self) {
        assert!(self.status.success(), "{}: {}: {}", self.tool, self.status, self.stderr);
    }
}
