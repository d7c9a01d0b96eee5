// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A command's exit status is that of the tool.

use std::fs;

use kscope_tests::programs::help;
use kscope_tests::{Run, Who};
use tempfile::TempDir;

use crate::shared::sh;

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    help(tool).contains("COMMAND")
}

pub fn check(tool: &str) {
    let dir = TempDir::new().unwrap();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 128 + 9), ("exit 255", 255)] {
        let ended = Run::new(tool).args(["--json"]).args(sh(script)).output();
        assert_eq!(ended.code(), code, "{script}: {ended:?}");
        assert!(ended.stdout().lines().last().unwrap().contains("\"footer\""), "{ended:?}");
    }
    let not_executable = dir.path().join("file");
    fs::write(&not_executable, "").unwrap();
    for (command, code) in [
        ("kscope-no-such-command", 127),
        ("/no/such/command", 127),
        (not_executable.to_str().unwrap(), 126),
    ] {
        let ended = Run::new(tool).args(["--", command]).output();
        assert!(ended.refusal(code).contains(command), "{ended:?}");
    }
    // What keeps the tool from tracing keeps the command from running.
    let marker = dir.path().join(tool);
    let script = format!("> {}", marker.display());
    let nobody = Who::new(Who::NOBODY, &[]);
    Run::new(tool).args(sh(&script)).by(&nobody).output().refusal(1);
    Run::new(tool).args(["--pid=x"]).args(sh(&script)).output().refusal(2);
    let ended = Run::new(tool).args(["--dry-run"]).args(sh(&script)).output();
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(!marker.exists(), "{tool} started a command that it does not trace");
}
