// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A signal to the tool ends its command.

use std::fs;

use kscope_tests::programs::help;
use kscope_tests::{Run, wait_until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::shared::sh;

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    help(tool).contains("COMMAND")
}

pub fn check(tool: &str) {
    let dir = TempDir::new().unwrap();
    let started = dir.path().join("started");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let script = format!(": > {}; exec sleep 1000", started.display());
        let tracer = Run::new(tool).args(sh(&script)).text();
        wait_until("the command to run", || fs::remove_file(&started).ok());
        tracer.signal(signal);
        assert_eq!(tracer.ended().code(), 128 + signal as i32, "{tool} {signal}");
    }
    // --duration ends the tracing, and not the command.
    let ended = Run::new(tool).args(["--duration=10ms"]).args(sh("sleep 0.2; exit 5")).output();
    assert_eq!(ended.code(), 5, "{ended:?}");
}
