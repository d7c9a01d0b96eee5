// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A name that several cgroups have is refused, with their paths.

use kscope_tests::programs::has_option;
use kscope_tests::{Run, cgroup};

pub const TOGETHER: bool = false;

pub fn applies(tool: &str) -> bool {
    has_option(tool, "--container") && has_option(tool, "--tid")
}

pub fn check(tool: &str) {
    let ids = ["11c0ffee".repeat(8), "11c0".repeat(16)];
    let slice = cgroup::Cgroup::new("kscope-several.slice");
    let units = ["a.slice", "b.slice"].map(|name| slice.child(name));
    let _two: Vec<_> = units.iter().map(|unit| unit.child("kscope-twice.service")).collect();
    let _containers: Vec<_> = ids.iter().map(|id| slice.child(id)).collect();
    let refused = |words: [&str; 2]| {
        let ended = Run::new(tool).args(words).args(["--dry-run"]).output();
        ended.refusal(2).to_string()
    };
    let sentence = refused(["--cgroup", "kscope-twice.service"]);
    for unit in &units {
        assert!(
            sentence.contains(&format!("{}/kscope-twice.service", unit.path().display())),
            "{sentence}"
        );
    }
    assert!(refused(["--container", "11c0"]).contains(&ids[0]));
    let ended = Run::new(tool).args(["--container", "11c0f", "--dry-run"]).output();
    assert_eq!(ended.code(), 0, "{ended:?}");
}
