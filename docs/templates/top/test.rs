// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname against the oracle: each thread that ends is counted once, for its process.
#![allow(clippy::unwrap_used)]

use kscope_tests::{Run, Workload};

#[test]
fn each_end_is_counted() {
    let workload = Workload::start(["comm", "77"]);
    let pid: u64 = workload.pid().parse().unwrap();
    let tracer = Run::new("toolname").args(["--pid", &workload.pid()]).json();
    workload.finish();
    let finished = tracer.finished();
    finished.check();
    let ends: u64 = finished.data().map(|row| row["ends"].as_u64().unwrap()).sum();
    assert_eq!(ends, 1, "{finished:?}");
    assert!(finished.data().all(|row| row["pid"] == pid), "{finished:?}");
}
