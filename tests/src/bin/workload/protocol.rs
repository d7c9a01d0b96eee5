// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The conversation with the test: one JSON object per line out, `go` in.

use std::fmt::Write as _;
use std::io::{BufRead, Read, Write, stdin, stdout};

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::unistd::{getpid, gettid};
use serde_json::{Value, json};

use crate::cpu::process_cpu_time;

/// What a kernel without the facility asked for answers: no fault of the workload.
#[derive(Debug)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "this kernel refuses: {}", self.0)
    }
}

impl std::error::Error for Refused {}

/// Says `ready`, waits for `go`, acts, says `done` and what CPU time that took, and waits until stdin closes.
pub fn session(actions: impl FnOnce() -> Result<()>) -> Result<()> {
    emit(&json!({"ready": true, "pid": getpid().as_raw(), "tid": gettid().as_raw()}))?;
    let mut stdin = stdin().lock();
    if stdin.read_line(&mut String::new()).context("stdin")? == 0 {
        bail!("stdin closed before \"go\"");
    }
    let before = process_cpu_time()?;
    actions()?;
    let cpu = process_cpu_time()? - before;
    emit(&json!({"done": true, "cpu_ns": cpu.as_nanos() as u64}))?;
    stdin.read_to_end(&mut Vec::new()).context("stdin")?;
    Ok(())
}

/// Prints one line and flushes it.
pub fn emit(value: &Value) -> Result<()> {
    let mut stdout = stdout().lock();
    writeln!(stdout, "{value}").and_then(|()| stdout.flush()).context("stdout")
}

/// The calling thread's comm, in hexadecimal.
pub fn comm_hex() -> Result<String> {
    Ok(hex(prctl::get_name().context("PR_GET_NAME")?.to_bytes()))
}

pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub fn unhex(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!("{text:?} is not hexadecimal");
    }
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}
