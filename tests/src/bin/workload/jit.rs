// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `jit`: burns CPU time in code that it made at run time, named in a perf map.

use std::fs;
use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use serde_json::json;

use crate::args::Args;
use crate::cpu::cpu_time;
use crate::protocol::{Refused, emit, session};

/// A function that counts its argument down to 0.
#[cfg(target_arch = "x86_64")]
const CODE: [u8; 7] = [0x48, 0xff, 0xcf, 0x75, 0xfb, 0xc3, 0x90];
/// `subs x0, x0, #1; b.ne .-4; ret`
#[cfg(target_arch = "aarch64")]
const CODE: [u8; 12] = [0, 4, 0, 0xf1, 0xe1, 0xff, 0xff, 0x54, 0xc0, 3, 0x5f, 0xd6];

const PAGE: NonZeroUsize = NonZeroUsize::new(65536).unwrap();
const STEPS: u64 = 1_000_000;

/// `--cpu-seconds` of it; with `--name`, the code is in the map under that name, until the end. With `--named-last`, the
/// map is written at the end, and stays.
pub fn run(mut args: Args) -> Result<()> {
    let seconds: f64 = args.required("--cpu-seconds")?;
    let name: Option<String> = args.optional("--name")?;
    let named_last: Option<String> = args.optional("--named-last")?;
    args.finish()?;
    let seconds = Duration::try_from_secs_f64(seconds).context("--cpu-seconds")?;

    let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: new memory, of which nothing else knows.
    let code = unsafe { mmap_anonymous(None, PAGE, write, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: the memory is longer than the code, and nobody runs it yet.
    unsafe { code.cast::<[u8; CODE.len()]>().write(CODE) };
    // SAFETY: the memory is ours.
    unsafe { mprotect(code, PAGE.get(), ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) }
        .map_err(|error| Refused(format!("executable memory: {error}")))?;
    // SAFETY: the code is a function of this type; on arm64 the change of protection made it visible.
    let count_down: extern "C" fn(u64) = unsafe { std::mem::transmute(code.as_ptr()) };

    let map = format!("/tmp/perf-{}.map", std::process::id());
    let line = |name: &str| format!("{:x} {:x} {name}\n", code.as_ptr() as usize, CODE.len());
    if let Some(name) = &name {
        fs::write(&map, line(name))?;
    }
    session(|| {
        let end = cpu_time()? + seconds;
        let mut calls = 0;
        while cpu_time()? < end {
            count_down(STEPS);
            calls += 1;
        }
        emit(&json!({"calls": calls, "map": name.is_some().then_some(map.clone())}))
    })?;
    if name.is_some() {
        fs::remove_file(&map)?;
    }
    if let Some(name) = &named_last {
        fs::write(&map, [line("an older name"), line(name)].concat())?;
    }
    Ok(())
}
