// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Numbers of processes are those of the PID namespace of the tool.

use std::fs;

use kscope_tests::Run;
use serde_json::Value;
use tempfile::TempDir;


pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    ["opensnoop", "execsnoop"].contains(&tool)
}

pub fn check(tool: &str) {
    if std::process::Command::new("unshare").arg("--help").output().is_err() {
        return kscope_tests::say_untested("pid namespaces", "there is no unshare");
    }
    let dir = TempDir::new().unwrap();
    let command = kscope_tests::programs::command(tool);
    let file = dir.path().join(tool);
    // The shell is process 1 there, and has another number outside.
    let script = format!(
        "{command} --json --output {file} --pid 999,1 & k=$!
         until [ -s {file} ]; do kill -0 $k || exit 1; done
         cat {marker} >/dev/null; : < {marker}
         kill -INT $k; wait $k; exec /bin/true {marker}",
        file = file.display(),
        marker = dir.path().display(),
    );
    let unshare = ["--pid", "--fork", "--mount-proc", "sh", "-c", &script];
    let ended = Run::program("unshare").args(unshare).output();
    assert_eq!(ended.code(), 0, "{ended:?}");
    let text = fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events = &events[1..events.len() - 1];
    assert!(events.iter().all(|event| event["pid"] == 1), "{tool}: {text}");
    if tool == "opensnoop" {
        let marker = events.iter().filter(|event| event["path"] == dir.path().to_str().unwrap());
        assert_eq!(marker.count(), 1, "{text}");
    }
    fs::remove_file(&file).unwrap();

    // A command is followed there too, and its number is its own.
    let script = format!(
        "{command} --json --output {} -- sh -c 'echo $$; exec cat /dev/null'; : < /dev/null",
        file.display()
    );
    let unshare = ["--pid", "--fork", "--mount-proc", "sh", "-c", &script];
    let ended = Run::program("unshare").args(unshare).output();
    let pid: u64 = ended.stdout().trim().parse().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events = &events[1..events.len() - 1];
    assert!(!events.is_empty() && events.iter().all(|event| event["pid"] == pid), "{pid}: {text}");
    assert!(pid < 100, "{pid}");
}
