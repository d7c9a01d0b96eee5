// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Of a command, all that it starts is traced, and nothing else.

use std::fs;

use kscope_tests::programs::{has_option, help};
use kscope_tests::Run;
use serde_json::Value;
use tempfile::TempDir;

use crate::shared::{Busy, sh};

pub const TOGETHER: bool = false;

pub fn applies(tool: &str) -> bool {
    help(tool).contains("COMMAND") && has_option(tool, "--buffer")
}

pub fn check(tool: &str) {
    let dir = TempDir::new().unwrap();
    let marker = dir.path().join("marker");
    fs::write(&marker, "").unwrap();
    // Children, one whose parent ends before it, and a program that takes the place of the first.
    let script = format!(
        "/bin/cat {0}; (/bin/cat {0}; (/bin/cat {0}; /bin/sleep 0.05; /bin/cat {0}) & ); /bin/sleep 0.3; exec /bin/cat {0}",
        marker.display()
    );
    let busy = Busy::new();
    let file = dir.path().join(tool);
    let output = ["--json", "--output", file.to_str().unwrap()];
    let ended = Run::new(tool).args(output).args(sh(&script)).output();
    assert_eq!(ended.code(), 0, "{ended:?}");
    let text = fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events = &events[1..events.len() - 1];
    let comm = |event: &Value| event["comm"].as_str().unwrap_or("cat").to_string();
    for event in events {
        // "command" is the process before it has become the shell.
        assert!(["command", "sh", "cat", "sleep"].contains(&comm(event).as_str()), "{tool}: {event}");
    }
    let path = marker.to_str().unwrap();
    let of_marker = |event: &&Value| event["path"] == path || event["args"][1] == path;
    if ["opensnoop", "execsnoop"].contains(&tool) {
        let cats = events.iter().filter(of_marker).filter(|event| comm(event) == "cat").count();
        assert_eq!(cats, 5, "{tool}: {events:#?}");
    }
    drop(busy);
}
