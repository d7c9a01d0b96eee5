// SPDX-License-Identifier: Apache-2.0 OR MIT
//! kscope doctor says that it works here.

use kscope_tests::{Run, programs};
use serde_json::Value;

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    // The program of one tool alone has no doctor.
    programs::alone().is_none()
}

pub fn check(tool: &str) {
    let ended = Run::kscope(["doctor", "--json", tool]).output();
    let verdicts: Vec<Value> =
        ended.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(verdicts.len(), 1, "{ended:?}");
    assert_eq!((verdicts[0]["tool"].as_str(), verdicts[0]["works"].as_bool()), (Some(tool), Some(true)), "{ended:?}");
    assert_eq!(ended.code(), 0, "{ended:?}");

    let table = Run::kscope(["doctor", tool]).output();
    assert_eq!(table.code(), 0, "{table:?}");
    assert!(table.stdout().lines().any(|line| line.starts_with(tool)), "{tool}: {table:?}");
}
