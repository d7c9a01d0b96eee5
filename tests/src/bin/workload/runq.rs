// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `runq`: threads that have to wait for one CPU, and what the kernel itself has counted of their waits.
//!
//! `ping` and `pong` send a byte to and fro, N times, while `spin` never stops running, all on the same CPU; they
//! are so nice that they wait for it each time. At the end all three sleep, until the workload ends: a thread that
//! sleeps has waited as often as it was switched out.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork};
use serde_json::json;

use crate::args::Args;
use crate::protocol::{emit, session};

pub fn run(mut args: Args) -> Result<()> {
    let cpu: usize = args.required("--cpu")?;
    let count: usize = args.required("--count")?;
    let namespace: Option<String> = args.optional("--namespace")?;
    args.finish()?;
    if namespace.is_some() {
        enter_pid_namespace()?;
    }
    let mut cpus = CpuSet::new();
    cpus.set(cpu).context("--cpu")?;
    // Closed when the workload ends: until then, whoever reads it sleeps.
    let (end, the_end) = pipe()?;
    session(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut to_pong, mut from_ping, mut to_ping, mut from_pong) = two_pipes()?;
        let begun = Instant::now();
        let threads = [
            Thread::start("ping", cpus, end.try_clone()?, move || {
                be_nice()?;
                for _ in 0..count {
                    to_pong.write_all(b"!")?;
                    from_pong.read_exact(&mut [0])?;
                }
                Ok(())
            })?,
            Thread::start("pong", cpus, end.try_clone()?, move || {
                be_nice()?;
                for _ in 0..count {
                    from_ping.read_exact(&mut [0])?;
                    to_ping.write_all(b"!")?;
                }
                Ok(())
            })?,
            Thread::start("spin", cpus, end.try_clone()?, {
                let stop = Arc::clone(&stop);
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    Ok(())
                }
            })?,
        ];
        let done = threads[..2].iter().try_for_each(Thread::wait);
        stop.store(true, Ordering::Relaxed);
        done?;
        threads[2].wait()?;
        threads.iter().try_for_each(Thread::sleeps)?;
        threads.iter().try_for_each(|thread| thread.report(begun.elapsed()))
    })?;
    drop(the_end);
    Ok(())
}

/// The rest is done by a child, the first process of a new PID namespace.
fn enter_pid_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWPID).context("unshare")?;
    // SAFETY: there is no other thread yet.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(()),
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, status) => std::process::exit(status),
            other => bail!("the child ended with {other:?}"),
        },
    }
}

/// This thread alone: Linux has a priority for each.
fn be_nice() -> Result<()> {
    // SAFETY: it takes no pointers.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }).context("setpriority")?;
    Ok(())
}

fn two_pipes() -> Result<(PipeWriter, PipeReader, PipeWriter, PipeReader)> {
    let (from_ping, to_pong) = pipe()?;
    let (from_pong, to_ping) = pipe()?;
    Ok((to_pong, from_ping, to_ping, from_pong))
}

/// As /proc numbers it, whatever the namespace.
fn own_tid() -> Result<u32> {
    let path = fs::read_link("/proc/thread-self")?;
    let name = path.file_name().and_then(|name| name.to_str()).context("/proc/thread-self")?;
    Ok(name.parse()?)
}

struct Thread {
    name: &'static str,
    tid: u32,
    done: Receiver<Result<Duration>>,
    cpu_time: std::cell::Cell<Duration>,
}

impl Thread {
    fn start(
        name: &'static str,
        cpus: CpuSet,
        mut end: PipeReader,
        work: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (say_tid, tid) = channel();
        let (say_done, done): (Sender<Result<Duration>>, _) = channel();
        let body = move || -> Result<Duration> {
            sched_setaffinity(Pid::from_raw(0), &cpus)?;
            work()?;
            Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
        };
        thread::Builder::new().name(name.into()).spawn(move || {
            // Who listens has not gone before the end.
            _ = say_tid.send(own_tid());
            _ = say_done.send(body());
            _ = end.read(&mut [0]);
        })?;
        Ok(Self { name, tid: tid.recv()??, done, cpu_time: Default::default() })
    }

    fn wait(&self) -> Result<()> {
        self.cpu_time.set(self.done.recv()?.with_context(|| self.name)?);
        Ok(())
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/self/task/{}/{file}", self.tid);
        fs::read_to_string(&path).context(path)
    }

    /// Wait until it has left the CPU to sleep: only then does this file have the number of a system call.
    fn sleeps(&self) -> Result<()> {
        let start = Instant::now();
        while !self.read("syscall").is_ok_and(|text| text.starts_with(|c: char| c.is_ascii_digit())) {
            ensure!(start.elapsed() < Duration::from_secs(60), "{} does not go to sleep", self.name);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn report(&self, elapsed: Duration) -> Result<()> {
        let status = self.read("status")?;
        let number = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            Ok(line.ok_or_else(|| anyhow!("no {key} in {status}"))?.trim().parse()?)
        };
        let waits = number("voluntary_ctxt_switches")? + number("nonvoluntary_ctxt_switches")?;
        // Absent where the kernel does not gather it.
        let delay = self.read("schedstat").ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        emit(&json!({
            "name": self.name,
            "tid": self.tid,
            "waits": waits,
            "run_delay_ns": delay,
            "cpu_ns": self.cpu_time.get().as_nanos() as u64,
            "elapsed_ns": elapsed.as_nanos() as u64,
        }))
    }
}
