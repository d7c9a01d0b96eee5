// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `syscalls` and `burn`: CPU time that is spent 70:30 in known functions, of the kernel and of this program.
//!
//! Both alternate between the two in turns of about 7 and 3 ms, whose length varies so that no sampling rate
//! beats with it.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::json;

use crate::args::Args;
use crate::protocol::{emit, session};

/// Sizes of which one call takes little of a turn, and much more than the clock that is read after it.
const RANDOM_BYTES: usize = 32 << 10;
const ZERO_BYTES: usize = 1 << 20;
/// Steps of a chain that take about a millisecond.
const STEPS_PER_UNIT: u64 = 800_000;

/// Burns kernel CPU in getrandom (the cipher) and in read of /dev/zero (`read_zero`).
pub fn syscalls(args: Args) -> Result<()> {
    let until = pin(args)?;
    let mut zero = File::open("/dev/zero")?;
    let mut random = vec![0_u8; RANDOM_BYTES];
    let mut zeros = vec![0_u8; ZERO_BYTES];
    let mut units = Units::default();
    session(|| {
        let (mut a, mut b) = (Calls::default(), Calls::default());
        let start = Instant::now();
        let before = getrusage(UsageWho::RUSAGE_SELF)?;
        while !until.over(start)? {
            let unit = Duration::from_micros(units.next());
            a.spend(unit * 7, || {
                // SAFETY: the buffer is that long.
                let got = unsafe { libc::syscall(libc::SYS_getrandom, random.as_mut_ptr(), random.len(), 0) };
                ensure!(Errno::result(got)? as usize == random.len(), "getrandom gave {got}");
                Ok(())
            })?;
            b.spend(unit * 3, || zero.read_exact(&mut zeros).context("/dev/zero"))?;
        }
        let after = getrusage(UsageWho::RUSAGE_SELF)?;
        let between = |time: fn(&Usage) -> TimeVal| {
            let time = time(&after) - time(&before);
            1000 * (1_000_000 * time.tv_sec() + time.tv_usec())
        };
        emit(&json!({
            "a": "getrandom",
            "a_ns": a.total_ns(),
            "b": "read",
            "b_ns": b.total_ns(),
            "user_ns": between(Usage::user_time),
            "sys_ns": between(Usage::system_time),
        }))
    })
}

/// How long each call took, in nanoseconds of CPU time.
#[derive(Default)]
struct Calls(Vec<u64>);

impl Calls {
    /// Call `work` until that has used so much CPU.
    fn spend(&mut self, time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<()> {
        let start = cpu_time()?;
        let mut last = start;
        while last - start < time {
            work()?;
            let now = cpu_time()?;
            self.0.push((now - last).as_nanos() as u64);
            last = now;
        }
        Ok(())
    }

    /// What the calls took by themselves: a machine in QEMU also counts the time for which it was stopped, and stops
    /// for a tenth of a second within one of them.
    fn total_ns(&mut self) -> u64 {
        self.0.sort_unstable();
        self.0.get(self.0.len() / 2).map_or(0, |median| median * self.0.len() as u64)
    }
}

/// The calling thread's, since it began.
pub fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// What this process has used, and children of it that have ended.
pub fn process_cpu_time() -> Result<Duration> {
    let own: Duration = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into();
    let children = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let of = |time: TimeVal| Duration::from_micros((1_000_000 * time.tv_sec() + time.tv_usec()) as u64);
    Ok(own + of(children.user_time()) + of(children.system_time()))
}

/// Burns user CPU in `burn_seventy` and `burn_thirty`, exactly 70:30 by the number of steps.
pub fn burn(args: Args) -> Result<()> {
    let until = pin(args)?;
    let mut units = Units::default();
    session(|| {
        let (mut seventy, mut thirty) = (0, 0);
        let start = Instant::now();
        while !until.over(start)? {
            let steps = STEPS_PER_UNIT * units.next() / 1000;
            black_box(burn_seventy(7 * steps));
            black_box(burn_thirty(3 * steps));
            seventy += 7 * steps;
            thirty += 3 * steps;
        }
        emit(&json!({"seventy_iterations": seventy, "thirty_iterations": thirty}))
    })
}

/// A chain in which each step waits for the last one, so that it takes the same time wherever the linker puts
/// it. It calls nothing, also in a debug build; only the debug information knows it as a function.
#[inline(always)]
fn chain(steps: u64, factor: u64) -> u64 {
    let mut state = steps | 1;
    // In instructions of its own: through memory, as without optimisation, a step's time depends on where code lies.
    #[cfg(target_arch = "x86_64")]
    if steps > 0 {
        // SAFETY: it changes registers alone.
        unsafe {
            std::arch::asm!(
                ".p2align 5",
                "2:",
                "mov {shifted}, {state}",
                "shr {shifted}, 29",
                "xor {state}, {shifted}",
                "imul {state}, {factor}",
                "dec {left}",
                "jnz 2b",
                state = inout(reg) state,
                left = inout(reg) steps => _,
                shifted = out(reg) _,
                factor = in(reg) factor,
                options(nomem, nostack),
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    for _ in 0..steps {
        state = (state ^ (state >> 29)).wrapping_mul(factor);
    }
    state
}

// The factors differ, or LLVM would make one function of the two.

#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn burn_seventy(steps: u64) -> u64 {
    chain(steps, 0x9e37_79b9_7f4a_7c15_u64)
}

#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn burn_thirty(steps: u64) -> u64 {
    chain(steps, 0xbf58_476d_1ce4_e5b9_u64)
}

/// How long it burns: `--seconds` by the clock, or `--cpu-seconds` of its own.
enum Until {
    Clock(Duration),
    Cpu(Duration),
}

impl Until {
    fn over(&self, start: Instant) -> Result<bool> {
        Ok(match self {
            Self::Clock(time) => start.elapsed() >= *time,
            Self::Cpu(time) => cpu_time()? >= *time,
        })
    }
}

/// Moves this process to the CPU asked for: how long it shall burn.
fn pin(mut args: Args) -> Result<Until> {
    let clock: Option<f64> = args.optional("--seconds")?;
    let own: Option<f64> = args.optional("--cpu-seconds")?;
    let cpu: usize = args.required("--cpu")?;
    args.finish()?;
    let mut cpus = CpuSet::new();
    cpus.set(cpu).context("--cpu")?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("CPU {cpu}"))?;
    let time = Duration::try_from_secs_f64(clock.or(own).context("--seconds or --cpu-seconds")?)?;
    Ok(if clock.is_some() { Until::Clock(time) } else { Until::Cpu(cpu_time()? + time) })
}

/// Lengths of one unit (a tenth of a turn of both), in microseconds: 1000 on average, in no regular order.
#[derive(Default)]
struct Units(u32);

impl Units {
    fn next(&mut self) -> u64 {
        // The generator of Numerical Recipes.
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        500 + u64::from(self.0 >> 16) * 1000 / (1 << 16)
    }
}
