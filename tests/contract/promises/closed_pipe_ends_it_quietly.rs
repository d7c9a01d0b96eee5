// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A reader that goes away ends it, without a word.

use std::io::Read as _;
use std::os::fd::AsFd as _;

use kscope_tests::bytes::hex;
use kscope_tests::programs::has_option;
use kscope_tests::{DEADLINE, Ended, Workload};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::shared::{Busy, endless};

/// Run the tool into a pipe, read its first line if it is JSON, close the pipe, and see it end by itself.
fn close_pipe(tool: &str, args: &[String], json: bool) -> Ended {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let run = endless(tool).args(args).args(json.then_some("--json")).stdout(writer);
    // The copy of the writer that Run holds is gone when this returns.
    let tracer = run.text();
    let mut byte = [0];
    while json && byte != [b'\n'] {
        let timeout = PollTimeout::try_from(DEADLINE).unwrap();
        let readable = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
        assert_eq!(readable, 1, "{tool} prints no header");
        assert_eq!(reader.read(&mut byte).unwrap(), 1, "{tool} ended before its header");
    }
    drop(reader);
    tracer.ended()
}

pub const TOGETHER: bool = false;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let idle = Workload::start(["comm", &hex(b"idle")]);
    let no_events =
        if has_option(tool, "--pid") { vec![format!("--pid={}", idle.pid())] } else { vec![] };
    for json in [true, false] {
        let known = if json {
            endless(tool).json().stop().stderr
        } else {
            endless(tool).text().stop_text().stderr
        };
        let check = |ended: Ended| {
            assert_eq!(ended.code(), 0, "json {json}: {ended:?}");
            // What is missing is told in any case.
            let is_told =
                |line: &str| line.contains("events lost") || line.contains("measurements dropped");
            let is_known = |line: &str| known.lines().any(|l| l == line) || is_told(line);
            let unknown: Vec<_> = ended.stderr.lines().filter(|line| !is_known(line)).collect();
            assert!(unknown.is_empty(), "json {json}: {unknown:?}: {ended:?}");
        };
        check(close_pipe(tool, &no_events, json));
        let busy = Busy::new();
        check(close_pipe(tool, &[], json));
        drop(busy);
    }
}
