// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bytes from outside move no cursor and forge no line.

use std::fs;

use kscope_tests::bytes::{assert_harmless, hex};
use kscope_tests::Workload;
use tempfile::TempDir;

use crate::shared::{disk_io, endless};

/// Names that would clear a screen, forge a line, or turn text around, if they were printed raw.
const HOSTILE_COMMS: [&[u8]; 3] =
    [b"\x1b[2J\n\r\x07\x9b31m", b"\xe2\x80\xae\xe2\x81\xa6\xef\xbb\xbf\xff", b"\n  0 forged \\x1"];

fn hostile_events() {
    let dir = TempDir::new().unwrap();
    let hostile = dir.path().join("\u{1b}[2J\n\u{202e}dir");
    fs::create_dir(&hostile).unwrap();
    let path = hostile.to_str().unwrap();
    Workload::start(["open", "--dir", path, "odd-bytes", "openat-relative"]).finish();
    Workload::start(["exec", "--dir", path, "odd-bytes", "script", "fail-enoent"]).finish();
    Workload::start(["lookup", "numeric:\u{1b}[2J\n\u{202e}host"]).finish();
    Workload::start(["files", "--dir", path, "create", "pread", "deleted"]).finish();
    for comm in HOSTILE_COMMS {
        Workload::start(["comm", &hex(comm)]).finish();
        Workload::start(["tcp-loop", "--count", "1", "--comm", &hex(comm)]).finish();
        let (io, _device) = disk_io("3", &["--comm", &hex(comm)]);
        io.finish();
    }
}

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let tracer = endless(tool).text();
    hostile_events();
    let ended = tracer.stop_text();
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_harmless(&format!("{tool}: stdout"), &ended.bytes);
    assert_harmless(&format!("{tool}: stderr"), ended.stderr.as_bytes());

    let tracer = endless(tool).json();
    hostile_events();
    let finished = tracer.stop();
    finished.check();
    assert_harmless(&format!("{tool}: stdout"), finished.text().as_bytes());
    assert_harmless(&format!("{tool}: stderr"), finished.stderr.as_bytes());
}
