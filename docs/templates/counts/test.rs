// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname against the oracle: each process that ends is counted once, by its name.
#![allow(clippy::unwrap_used)]

use kscope_tests::{Run, Workload};

#[test]
fn each_end_is_counted() {
    let workload = Workload::start(["comm", "77"]);
    let tracer = Run::new("toolname").args(["--pid", &workload.pid().to_string()]).json();
    workload.finish();
    let finished = tracer.finished();
    finished.check();
    let counts: Vec<_> = finished.events().map(|row| (row["comm"].clone(), row["count"].clone())).collect();
    assert_eq!(counts, [("w".into(), 1.into())], "{finished:?}");
}
