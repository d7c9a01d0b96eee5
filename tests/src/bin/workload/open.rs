// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `open`: opens files in every way there is, one system call per action.

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use nix::unistd::{close, getpid, gettid};
use serde_json::json;

use crate::args::Args;
use crate::call::Call;
use crate::open_plan::Planner;
use crate::protocol::{comm_hex, emit, hex, session};
use crate::uring::{Ring, Sqe};

/// Who makes an action's system call.
#[derive(Clone, Copy)]
pub enum How {
    Call(Call),
    /// As [`How::Call`], in a thread whose comm is "other-thread".
    Thread(Call),
    Uring(&'static Ring, Sqe),
}

/// An action, ready to be done.
pub struct Open {
    pub way: String,
    pub how: How,
    pub path: Vec<u8>,
    pub full_path: Vec<u8>,
    pub flags: i32,
    pub mode: u32,
    /// The error it must fail with, or 0.
    pub errno: i32,
}

/// What came of an action.
struct Opened {
    tid: i32,
    comm_hex: String,
    ret: i32,
}

pub fn run(mut args: Args) -> Result<()> {
    let dir: PathBuf = args.required("--dir")?;
    let mut planner = Planner::new(&dir)?;
    let mut opens = Vec::new();
    for way in args.words()? {
        opens.extend(planner.plan(&way)?);
    }
    session(|| opens.iter().try_for_each(Open::act))
}

impl Open {
    /// Opens, closes and reports.
    pub fn act(&self) -> Result<()> {
        let opened = match self.how {
            How::Call(call) => made(call)?,
            How::Thread(call) => std::thread::Builder::new()
                .name("other-thread".into())
                .spawn(move || made(call))?
                .join()
                .map_err(|_| anyhow!("the other thread panicked"))??,
            // SAFETY: the plan made a valid request, of memory that is never freed.
            How::Uring(ring, sqe) => here(unsafe { ring.run(sqe) }?)?,
        };
        if opened.ret >= 0 {
            close(opened.ret)?;
        }
        ensure!(
            opened.ret.min(0) == -self.errno,
            "{}: {} gave {}, not -{}",
            self.way,
            self.path.escape_ascii(),
            opened.ret,
            self.errno
        );
        emit(&json!({
            "way": self.way,
            "pid": getpid().as_raw(),
            "tid": opened.tid,
            "comm_hex": opened.comm_hex,
            "path_hex": hex(&self.path),
            "full_path_hex": hex(&self.full_path),
            "flags": self.flags,
            "mode": self.mode,
            "ret": opened.ret,
            "uring": matches!(self.how, How::Uring(..)),
            "compat": matches!(self.how, How::Call(Call { compat: true, .. })),
        }))
    }
}

fn made(call: Call) -> Result<Opened> {
    // SAFETY: the plan made valid arguments, of memory that is never freed.
    here(unsafe { call.make() })
}

fn here(ret: i32) -> Result<Opened> {
    Ok(Opened { tid: gettid().as_raw(), comm_hex: comm_hex()?, ret })
}
