// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `exec-loop`: executes this program many times, at full speed or at a `--rate`: `noop seq-<n> arg-0 arg-1 ...`, n from 0;
//! by its own path, or by `--path`.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use libc::SYS_execve;
use serde_json::json;

use crate::args::Args;
use crate::call::Call;
use crate::exec::{Launcher, Start};
use crate::memory;
use crate::pace::Pace;
use crate::protocol::{emit, session};

pub fn run(mut args: Args) -> Result<()> {
    let count: usize = args.required("--count")?;
    let pace = Pace::of(&mut args)?;
    let more: usize = args.optional("--args")?.unwrap_or(0);
    let named: Option<PathBuf> = args.optional("--path")?;
    args.finish()?;

    let path = named.map_or_else(std::env::current_exe, Ok)?;
    let path = memory::text(path.as_os_str().as_bytes())?;
    let mut argv = vec![path, memory::text(b"noop")?, 0];
    for n in 0..more {
        argv.push(memory::text(format!("arg-{n}").as_bytes())?);
    }
    argv.push(0);
    let envp = memory::vector(&[]);
    let launcher = Launcher::new()?;
    session(|| {
        let start = Instant::now();
        for n in 0..count {
            pace.wait(start, n);
            let sequence = format!("seq-{n}\0");
            argv[2] = sequence.as_ptr().expose_provenance();
            let call = Call::native(SYS_execve, [path, argv.as_ptr().expose_provenance(), envp]);
            let (_, ret) = launcher.run(Start::Vfork, call)?;
            ensure!(ret == 0, "execve number {n} gave {ret}");
        }
        emit(&json!({"count": count, "elapsed_ns": start.elapsed().as_nanos() as u64}))
    })
}
