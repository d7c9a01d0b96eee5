// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname against the oracle: each thread that ends is counted once, for its process.
#![allow(clippy::unwrap_used)]

use kscope_tests::{Run, Workload};

#[test]
fn each_end_is_counted() {
    let workload = Workload::start(["comm", "77"]);
    let pid = u64::from(workload.pid());
    let tracer = Run::new("toolname").args(["--pid", &workload.pid().to_string()]).json();
    workload.finish();
    let finished = tracer.finished();
    finished.check();
    let ends: u64 = finished.events().map(|row| row["ends"].as_u64().unwrap()).sum();
    assert_eq!(ends, 1, "{finished:?}");
    assert!(finished.events().all(|row| row["pid"] == pid), "{finished:?}");
}
