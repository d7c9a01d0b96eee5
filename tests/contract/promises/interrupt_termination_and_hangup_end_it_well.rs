// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SIGINT, SIGTERM and SIGHUP print the summary, and end it with 0.

use nix::sys::signal::Signal;

use crate::shared::endless;

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let tracer = endless(tool).hangup(false).json();
        tracer.signal(signal);
        tracer.finished().check();

        let tracer = endless(tool).hangup(false).text();
        tracer.signal(signal);
        let ended = tracer.ended();
        assert_eq!(ended.code(), 0, "{signal}: {ended:?}");
    }
}
