// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `comm`: takes a name of any bytes and opens /dev/null under it.

use std::ffi::CString;

use anyhow::{Context, Result, bail};
use libc::{O_CLOEXEC, O_RDONLY, SYS_openat};
use nix::sys::prctl;

use crate::args::Args;
use crate::call::Call;
use crate::memory;
use crate::open::{How, Open};
use crate::open_plan::CWD;
use crate::protocol::{session, unhex};

pub fn run(args: Args) -> Result<()> {
    let words = args.words()?;
    let [name] = words.as_slice() else {
        bail!("comm takes one argument, the name in hexadecimal");
    };
    let name = CString::new(unhex(name)?)?;
    let path = b"/dev/null".to_vec();
    let flags = O_RDONLY | O_CLOEXEC;
    let call = Call::native(SYS_openat, [CWD, memory::text(&path)?, flags as usize, 0]);
    let open = Open {
        way: "comm".into(),
        how: How::Call(call),
        full_path: path.clone(),
        path,
        flags,
        mode: 0,
        errno: 0,
    };
    session(|| {
        prctl::set_name(&name).context("PR_SET_NAME")?;
        open.act()
    })
}
