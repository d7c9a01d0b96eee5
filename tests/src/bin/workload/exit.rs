// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `exit`: lets children end in known ways, one per action. `exit-child`: such a child.
//!
//! A child says which threads it has, each with the way in which it ends, and waits for a byte before it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{getpid, gettid, getuid};
use serde_json::{Value, json};

use crate::args::Args;
use crate::protocol::{emit, hex, session};

/// How long an aged child lives at least.
const AGE: Duration = Duration::from_millis(50);

pub fn run(mut args: Args) -> Result<()> {
    let dir: PathBuf = args.required("--dir")?;
    let ways = args.words()?;
    let exe = std::env::current_exe()?;
    session(|| {
        for way in &ways {
            let mut command = Command::new(&exe);
            command.args(["exit-child", way]).current_dir(&dir).env_clear();
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            act(way, command)?;
        }
        Ok(())
    })
}

/// Starts a child, lets it end, and reports how it did.
fn act(way: &str, mut command: Command) -> Result<()> {
    let before = Instant::now();
    let mut child = command.spawn().context("spawn")?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (mut stdin, stdout) = (stdin.context("stdin")?, stdout.context("stdout")?);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let threads: Value = serde_json::from_str(&line).with_context(|| format!("{way}: {line:?}"))?;
    let there = Instant::now();
    if way == "aged" {
        std::thread::sleep(AGE);
    }
    let least = there.elapsed().as_nanos() as u64;
    stdin.write_all(b"g")?;
    let status = child.wait().context("wait")?;
    emit(&json!({
        "way": way,
        "pid": child.id(),
        "ppid": getpid().as_raw(),
        "uid": getuid().as_raw(),
        "comm_hex": hex(b"workload"),
        "exit_code": status.code(),
        "signal": status.signal(),
        "core_dumped": status.core_dumped(),
        "threads": threads,
        "age_least_ns": least,
        "age_most_ns": before.elapsed().as_nanos() as u64,
    }))
}

/// How a thread ends: with this status, or by this signal.
fn thread(tid: i32, comm: &str, code: Option<i32>, signal: Option<i32>) -> Value {
    json!({"tid": tid, "comm_hex": hex(comm.as_bytes()), "exit_code": code, "signal": signal})
}

pub fn child(args: Args) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let words = args.words()?;
    let [way] = words.as_slice() else { bail!("exit-child takes one way") };
    let (name, number) = way.rsplit_once('-').unwrap_or((way, ""));
    let number = number.parse::<i32>().unwrap_or(0);
    let main = |code, signal| thread(gettid().as_raw(), "workload", code, signal);
    match (name, way.as_str()) {
        ("code", _) => {
            ready(&[main(Some(number), None)])?;
            exit_group(number)
        }
        (_, "aged") => {
            ready(&[main(Some(4), None)])?;
            exit_group(4)
        }
        ("signal", _) => {
            setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
            ready(&[main(None, Some(number))])?;
            die_of(number)
        }
        (_, "core") => {
            let (_, most) = getrlimit(Resource::RLIMIT_CORE)?;
            setrlimit(Resource::RLIMIT_CORE, most, most)?;
            ready(&[main(None, Some(libc::SIGABRT))])?;
            die_of(libc::SIGABRT)
        }
        // A thread ends all, with its own status.
        (_, "by-thread") => {
            let other = Other::start("other", || exit_group(7))?;
            ready(&[main(Some(7), None), thread(other.tid, "other", Some(7), None)])?;
            other.go();
            sleep()
        }
        // The first thread ends first, and the other one the process.
        (_, "leader-first" | "leader-first-all") => {
            let all = way == "leader-first-all";
            let leader = gettid();
            let other = Other::start("other", move || {
                wait_for_zombie(leader.as_raw());
                if all { exit_group(6) } else { exit_thread(9) }
            })?;
            let code = if all { 6 } else { 9 };
            ready(&[main(Some(5), None), thread(other.tid, "other", Some(code), None)])?;
            other.go();
            exit_thread(5)
        }
        // All threads die of one signal.
        (_, "killed-threads") => {
            let others: Vec<Other> =
                (0..3).map(|_| Other::start("other", || sleep())).collect::<Result<_>>()?;
            let dead = |tid, comm| thread(tid, comm, None, Some(libc::SIGKILL));
            let threads: Vec<Value> = [dead(gettid().as_raw(), "workload")]
                .into_iter()
                .chain(others.iter().map(|other| dead(other.tid, "other")))
                .collect();
            ready(&threads)?;
            others.iter().for_each(Other::go);
            die_of(libc::SIGKILL)
        }
        // All threads end at once, each by itself.
        ("together", _) => {
            let barrier = Arc::new(Barrier::new(number as usize));
            let others: Vec<Other> = (1..number)
                .map(|_| {
                    let barrier = Arc::clone(&barrier);
                    Other::start("other", move || {
                        barrier.wait();
                        exit_thread(0)
                    })
                })
                .collect::<Result<_>>()?;
            let ended = |tid, comm| thread(tid, comm, Some(0), None);
            let threads: Vec<Value> = [ended(gettid().as_raw(), "workload")]
                .into_iter()
                .chain(others.iter().map(|other| ended(other.tid, "other")))
                .collect();
            ready(&threads)?;
            others.iter().for_each(Other::go);
            barrier.wait();
            exit_thread(0)
        }
        // Another thread executes this program, which ends the first thread and takes its number.
        (_, "exec-by-thread") => {
            let exe = std::env::current_exe()?;
            let other = Other::start("other", move || {
                let error = Command::new(&exe).arg("noop").exec();
                panic!("{error}")
            })?;
            ready(&[main(Some(0), None), main(Some(0), None)])?;
            other.go();
            sleep()
        }
        _ => bail!("unknown way to end: {way}"),
    }
}

/// Says which threads there are, and waits.
fn ready(threads: &[Value]) -> Result<()> {
    emit(&json!(threads))?;
    std::io::stdin().read_exact(&mut [0]).context("stdin")
}

/// A thread that waits before it acts.
struct Other {
    tid: i32,
    go: mpsc::Sender<()>,
}

impl Other {
    fn start(name: &str, act: impl FnOnce() + Send + 'static) -> Result<Self> {
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            _ = tell.send(gettid().as_raw());
            if wait.recv().is_ok() {
                act();
            }
        })?;
        Ok(Self { tid: told.recv()?, go })
    }

    fn go(&self) {
        _ = self.go.send(());
    }
}

fn exit_group(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

fn exit_thread(code: i32) -> ! {
    // SAFETY: the thread ends; what it leaves is never used again.
    unsafe { libc::syscall(libc::SYS_exit, code) };
    unreachable!("a thread that has ended")
}

fn die_of(signal: i32) -> ! {
    // SAFETY: the default action runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    // SAFETY: takes numbers alone. By the thread itself, so that it is the one that takes the signal.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), signal) };
    sleep()
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}

fn wait_for_zombie(tid: i32) {
    let path = format!("/proc/self/task/{tid}/stat");
    while !std::fs::read_to_string(&path).is_ok_and(|stat| stat.contains(") Z ")) {
        std::thread::yield_now();
    }
}
