// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname against the oracle: what ended is reported, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use kscope_tests::{Run, Workload};

#[test]
fn a_process_that_ends_is_reported_once() {
    let tracer = Run::new("toolname").json();
    let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
    child.wait().unwrap();
    let finished = tracer.stop();
    finished.check();
    let of_child = finished.events_of(child.id());
    assert_eq!(of_child.len(), 1, "{finished:?}");
    assert_eq!(of_child[0]["status"], 3 << 8);
}

#[test]
fn only_what_is_asked_for_is_reported() {
    let wanted = Workload::start(["comm", "77"]);
    let pid = u64::from(wanted.pid());
    let tracer = Run::new("toolname").args(["--pid", &wanted.pid().to_string()]).json();
    Command::new("true").status().unwrap();
    wanted.finish();
    let finished = tracer.finished();
    finished.check();
    assert!(finished.events().all(|event| event["pid"] == pid), "{finished:?}");
    assert_eq!(finished.events().count(), 1, "{finished:?}");
}
