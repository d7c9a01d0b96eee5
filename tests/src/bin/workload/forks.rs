// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `forks`: children that end at once, one after the other.

use anyhow::{Result, ensure};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use serde_json::json;

use crate::args::Args;
use crate::protocol::{emit, session};

pub fn run(mut args: Args) -> Result<()> {
    let count: usize = args.required("--count")?;
    args.finish()?;
    session(|| {
        for _ in 0..count {
            // SAFETY: there is no other thread.
            match unsafe { fork() }? {
                // SAFETY: it does not return.
                ForkResult::Child => unsafe { libc::_exit(0) },
                ForkResult::Parent { child } => {
                    ensure!(waitpid(child, None)? == WaitStatus::Exited(child, 0), "a child failed");
                }
            }
        }
        emit(&json!({"count": count}))
    })
}
