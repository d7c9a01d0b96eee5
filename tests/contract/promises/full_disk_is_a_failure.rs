// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where there is no room for the header, it fails at once.

use std::fs;

use kscope_tests::Run;

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = Run::new(tool).args(["--json"]).stdout(full).output();
    let sentence = ended.refusal(1);
    assert!(sentence.contains("No space left on device"), "{tool}: {sentence}");
}
