// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is lost is counted, by cause, and told.

use kscope_tests::programs::has_option;
use kscope_tests::Finished;

use crate::shared::{assert_accounted, overrun};

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    has_option(tool, "--buffer")
}

pub fn check(tool: &str) {
    let finished = Finished::from(overrun(tool, &[]));
    finished.check();
    assert!(finished.count("lost") > 0, "{tool}: {}", finished.footer);
    assert_accounted(&finished);
    let lost = format!("{} events lost", finished.count("lost"));
    assert!(finished.stderr.contains(&lost), "{tool}: not in stderr: {lost}: {}", finished.stderr);
}
