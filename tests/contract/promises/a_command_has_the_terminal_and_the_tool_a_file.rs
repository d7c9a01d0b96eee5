// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A command has stdin and stdout, and the tool a file.

use std::fs;

use kscope_tests::programs::help;
use kscope_tests::{Run, Schema};
use tempfile::TempDir;

use crate::shared::sh;

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    help(tool).contains("COMMAND")
}

pub fn check(tool: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join(tool);
    let output = ["--json", "--output", file.to_str().unwrap()];
    let ended = Run::new(tool).args(output).args(sh("cat; echo out; echo err >&2")).output();
    assert_eq!((ended.stdout(), ended.code()), ("out\n", 0), "{ended:?}");
    assert!(ended.stderr.lines().any(|line| line == "err"), "{ended:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    let schema = Schema::of(tool);
    text.lines().for_each(|line| schema.check(line));
    // What is there already is left alone.
    let ended = Run::new(tool).args(output).args(sh("echo out")).output();
    assert!(ended.refusal(1).contains(file.to_str().unwrap()), "{ended:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}
