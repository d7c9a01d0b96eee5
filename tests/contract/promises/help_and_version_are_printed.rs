// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Help, version and schema need no privilege.

use kscope_tests::programs::help;
use kscope_tests::{Run, Schema, Who};

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let long = help(tool);
    assert!(long.contains("Usage:"), "{tool}: {long}");
    for flag in ["--help", "-h", "-?"] {
        let ended = Run::new(tool).args([flag]).output();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{tool} {flag}: {ended:?}");
        assert!(ended.stdout().contains("Usage:"), "{tool} {flag}: {ended:?}");
        let wide: Vec<_> = ended.stdout().lines().filter(|line| line.chars().count() > 100).collect();
        assert!(wide.is_empty(), "{tool} {flag}: {wide:#?}");
    }
    for flag in ["--version", "-V"] {
        let ended = Run::new(tool).args([flag]).output();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{tool} {flag}: {ended:?}");
        assert!(ended.stdout().starts_with(&format!("{tool} ")), "{tool} {flag}: {ended:?}");
    }
    // Nobody needs a privilege to read that.
    for flag in ["--help", "--version", "--json-schema"] {
        let ended = Run::new(tool).args([flag]).by(&Who::new(Who::NOBODY, &[])).output();
        assert_eq!(ended.code(), 0, "{tool} {flag}: {ended:?}");
    }
    Schema::of(tool);
}
