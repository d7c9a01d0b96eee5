// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname against the oracle: what ended is reported, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use kscope_tests::{Run, Workload};

#[test]
fn a_process_that_ends_is_reported_once() {
    let tracer = Run::new("toolname").json();
    let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
    let pid = u64::from(child.id());
    child.wait().unwrap();
    let finished = tracer.stop();
    finished.check();
    let status: Vec<_> = finished.events().filter(|event| event["pid"] == pid).map(|event| &event["status"]).collect();
    assert_eq!(status, [3 << 8]);
}

#[test]
fn only_what_is_asked_for_is_reported() {
    let wanted = Workload::start(["comm", "77"]);
    let pid: u64 = wanted.pid().parse().unwrap();
    let tracer = Run::new("toolname").args(["--pid", &wanted.pid()]).json();
    Command::new("true").status().unwrap();
    wanted.finish();
    let finished = tracer.finished();
    finished.check();
    assert!(finished.events().all(|event| event["pid"] == pid), "{finished:?}");
    assert_eq!(finished.events().count(), 1, "{finished:?}");
}
