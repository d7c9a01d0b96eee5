// SPDX-License-Identifier: Apache-2.0 OR MIT
//! With --strict, a loss is exit status 3.

use kscope_tests::programs::has_option;
use kscope_tests::Finished;

use crate::shared::{assert_accounted, endless, overrun};

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    has_option(tool, "--buffer")
}

pub fn check(tool: &str) {
    let ended = overrun(tool, &["--strict"]);
    assert_eq!(ended.code(), 3, "{ended:?}");
    let finished = Finished::from(ended);
    assert!(finished.count("lost") > 0, "{tool}: {}", finished.footer);
    assert_accounted(&finished);
    // Without a loss, it changes nothing.
    endless(tool).args(["--strict"]).json().stop().check();
}
