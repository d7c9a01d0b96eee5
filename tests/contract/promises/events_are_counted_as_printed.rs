// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was generated is what was printed, filtered out or lost.

use kscope_tests::programs::has_option;

use crate::shared::{a_few_events, assert_accounted, endless};

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    has_option(tool, "--buffer")
}

pub fn check(tool: &str) {
    let tracer = endless(tool).json();
    a_few_events();
    assert_accounted(&tracer.stop());
}
