// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `call-loop` and `switch-loop`: many of one cheap thing, to measure what it costs to watch it.

use std::io::{Read as _, Write as _, pipe};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, getppid};

use crate::args::Args;
use crate::protocol::session;

/// N times getppid.
pub fn calls(mut args: Args) -> Result<()> {
    let count: u64 = args.required("--count")?;
    args.finish()?;
    session(|| {
        for _ in 0..count {
            getppid();
        }
        Ok(())
    })
}

/// N times from one thread to another on the same CPU, each of which waits for the other's byte.
pub fn switches(mut args: Args) -> Result<()> {
    let count: u64 = args.required("--count")?;
    let cpu: usize = args.required("--cpu")?;
    args.finish()?;
    let mut cpus = CpuSet::new();
    cpus.set(cpu).context("--cpu")?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("sched_setaffinity")?;
    session(|| {
        let ((mut ping_in, mut ping), (mut pong_in, mut pong)) = (pipe()?, pipe()?);
        let rounds = count / 2;
        let other = thread::spawn(move || -> Result<()> {
            let mut byte = [0];
            for _ in 0..rounds {
                ping_in.read_exact(&mut byte)?;
                pong.write_all(&byte)?;
            }
            Ok(())
        });
        let mut byte = [0];
        for _ in 0..rounds {
            ping.write_all(&byte)?;
            pong_in.read_exact(&mut byte)?;
        }
        other.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}
