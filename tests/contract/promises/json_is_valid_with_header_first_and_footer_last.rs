// SPDX-License-Identifier: Apache-2.0 OR MIT
//! JSON is valid: a header first, a footer last, and between them what the schema says.

use std::fs;

use kscope_tests::{Run, now};
use nix::unistd::gethostname;
use serde_json::Value;

use crate::shared::{a_few_events, endless};

fn kind_of(line: &str) -> String {
    let value: Value = serde_json::from_str(line).unwrap();
    value["type"].as_str().unwrap_or_default().to_string()
}

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let before = now();
    let tracer = endless(tool).json();
    let begun = now();
    a_few_events();
    let finished = tracer.stop();
    let after = now();
    finished.check();

    let of_type = |kind: &str| finished.text().lines().filter(|line| kind_of(line) == kind).count();
    assert_eq!(of_type("header"), 1, "{tool}: {finished:?}");
    assert_eq!(of_type("footer"), 1, "{tool}: {finished:?}");

    let header = &finished.header;
    let version = Run::new(tool).args(["--version"]).output();
    assert_eq!(version.stdout().trim_end(), format!("{tool} {}", header["version"].as_str().unwrap()));
    assert_eq!(header["tool"], tool);
    assert_eq!(header["schema"], 1);
    assert_eq!(header["host"], gethostname().unwrap().to_str().unwrap());
    assert_eq!(header["kernel"], fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    let time = |object: &Value| object["time"].as_str().unwrap().to_string();
    assert!(before <= time(header) && time(header) <= begun, "{tool}: {before} {header} {begun}");
    assert!(begun <= time(&finished.footer) && time(&finished.footer) <= after, "{tool}: {finished:?}");
    let hooks = header["hooks"].as_object().unwrap();
    assert!(!hooks.is_empty() && hooks.values().all(|way| way.as_str() != Some("")), "{tool}: {header}");
    assert!(header["notes"].is_array(), "{tool}: {header}");
}
