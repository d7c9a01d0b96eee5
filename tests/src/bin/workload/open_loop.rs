// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `open-loop`: opens at full speed or at a `--rate` (so many a second), nearly all of them of files that do not exist.
//!
//! Number n of N, from 0, opens `DIR/nnnnnnn` (seven digits), which fails with ENOENT; every 1000th, number 0
//! included, opens `DIR/fnnnnnnn`, which exists.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use libc::{ENOENT, O_CLOEXEC, O_RDONLY, SYS_openat};
use nix::unistd::close;
use serde_json::json;

use crate::args::Args;
use crate::call::Call;
use crate::open_plan::CWD;
use crate::pace::Pace;
use crate::protocol::{emit, session};

const DIGITS: usize = 7;
const EVERY: usize = 1000;

pub fn run(mut args: Args) -> Result<()> {
    let dir: PathBuf = args.required::<PathBuf>("--dir")?.canonicalize()?;
    let count: usize = args.required("--count")?;
    let pace = Pace::of(&mut args)?;
    args.finish()?;
    ensure!(count < 10_usize.pow(DIGITS as u32), "--count must have at most {DIGITS} digits");
    for n in (0..count).step_by(EVERY) {
        fs::write(dir.join(format!("f{n:0DIGITS$}")), "")?;
    }
    let mut missing = Numbered::new(dir.join(""));
    let mut present = Numbered::new(dir.join("f"));
    session(|| {
        let (mut ok, mut failed) = (0, 0);
        let start = Instant::now();
        for n in 0..count {
            pace.wait(start, n);
            let exists = n.is_multiple_of(EVERY);
            let path = if exists { &mut present } else { &mut missing };
            let call = Call::native(SYS_openat, [CWD, path.at(n), (O_RDONLY | O_CLOEXEC) as usize, 0]);
            // SAFETY: the path lasts longer than the call.
            match unsafe { call.make() } {
                fd if exists && fd >= 0 => {
                    close(fd)?;
                    ok += 1;
                }
                error => {
                    ensure!(!exists && error == -ENOENT, "open number {n} gave {error}");
                    failed += 1;
                }
            }
        }
        emit(&json!({
            "count": count,
            "ok": ok,
            "failed": failed,
            "elapsed_ns": start.elapsed().as_nanos() as u64,
        }))
    })
}

/// A path that ends in a number.
struct Numbered(Vec<u8>);

impl Numbered {
    fn new(prefix: PathBuf) -> Self {
        let mut path = prefix.into_os_string().into_vec();
        path.extend([0; DIGITS + 1]);
        Self(path)
    }

    /// The address of the path with number `n`, NUL-terminated.
    fn at(&mut self, mut n: usize) -> usize {
        let end = self.0.len() - 1;
        for digit in self.0[end - DIGITS..end].iter_mut().rev() {
            *digit = b'0' + (n % 10) as u8;
            n /= 10;
        }
        self.0.as_ptr().expose_provenance()
    }
}
