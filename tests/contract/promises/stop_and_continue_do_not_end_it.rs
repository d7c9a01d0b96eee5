// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool that is stopped goes on when it is continued.

use crate::shared::{a_few_events, endless};

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let mut tracer = endless(tool).json();
    for _ in 0..3 {
        tracer.pause();
        tracer.resume();
    }
    a_few_events();
    tracer.assert_running();
    tracer.stop().check();
}
