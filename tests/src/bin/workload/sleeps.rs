// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `sleeps`: threads that sleep for known times in a known function, and measure what it took by the clock and of
//! the CPU.

use std::arch::asm;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::gettid;
use serde_json::json;

use crate::args::Args;
use crate::cpu::cpu_time;
use crate::protocol::{emit, session};

/// What a thread did.
struct Slept {
    tid: i32,
    /// How long each sleep took by the clock.
    each: Vec<Duration>,
    cpu: Duration,
    /// The times by the clock for which it did not leave the CPU once.
    on_cpu: Duration,
    /// How often it left the CPU in its sleeps, of its own will and else.
    left: (i64, i64),
}

/// Starts each of `--threads` anew, one after another, to sleep for each time of `--us`.
pub fn run(mut args: Args) -> Result<()> {
    let threads: usize = args.required("--threads")?;
    let times: String = args.required("--us")?;
    args.finish()?;
    let times = times.split(',').map(|us| Ok(Duration::from_micros(us.parse()?)));
    let times: Vec<Duration> = times.collect::<Result<_>>()?;
    session(|| {
        for n in 0..threads {
            let times = times.clone();
            let start = Instant::now();
            let thread =
                thread::Builder::new().name(format!("sleeper-{n}")).spawn(move || sleep_all(&times))?;
            let slept = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            // From before it began until after it has ended, which it has not yet when it can be joined.
            let task = format!("/proc/self/task/{}", slept.tid);
            while fs::exists(&task)? {
                thread::yield_now();
            }
            let around = start.elapsed();
            emit(&json!({
                "tid": slept.tid,
                "around_ns": around.as_nanos() as u64,
                "cpu_ns": slept.cpu.as_nanos() as u64,
                "on_cpu_ns": slept.on_cpu.as_nanos() as u64,
                "voluntary": slept.left.0,
                "involuntary": slept.left.1,
                "each_ns": slept.each.iter().map(|time| time.as_nanos() as u64).collect::<Vec<_>>(),
            }))?;
        }
        Ok(())
    })
}

/// How long it computes after each sleep.
const COMPUTE: Duration = Duration::from_millis(1);

fn sleep_all(times: &[Duration]) -> Result<Slept> {
    let before = cpu_time()?;
    let mut each = Vec::with_capacity(times.len());
    let (mut on_cpu, mut left) = (Duration::ZERO, (0, 0));
    for time in times {
        let before = switches()?;
        let start = Instant::now();
        let error = sleep_in_a_known_place(time.as_secs(), time.subsec_nanos().into());
        ensure!(error == 0, "nanosleep: {error}");
        each.push(start.elapsed());

        let after = switches()?;
        left = (left.0 + after.0 - before.0, left.1 + after.1 - before.1);
        let (start, end) = (Instant::now(), cpu_time()? + COMPUTE);
        while cpu_time()? < end {}
        let computed = start.elapsed();
        if switches()? == after {
            on_cpu += computed;
        }
    }
    Ok(Slept { tid: gettid().as_raw(), each, cpu: cpu_time()? - before, on_cpu, left })
}

/// How often this thread has left the CPU, of its own will and else.
fn switches() -> Result<(i64, i64)> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok((usage.voluntary_context_switches(), usage.involuntary_context_switches()))
}

/// The system call itself, so that no library stands between it and this function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn sleep_in_a_known_place(seconds: u64, nanoseconds: u64) -> i64 {
    let time = [seconds, nanoseconds];
    let result: i64;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: nanosleep reads the time, and writes nothing where it is given no second one.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_nanosleep => result, in("rdi") time.as_ptr(), in("rsi") 0,
            out("rcx") _, out("r11") _);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!("svc 0", in("x8") libc::SYS_nanosleep, inlateout("x0") time.as_ptr() => result, in("x1") 0);
    }
    result
}
