// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CAP_BPF and CAP_PERFMON are enough, and what the tool says besides.

use crate::shared::{a_few_events, endless, kept, who_is_enough};

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let (who, capabilities) = who_is_enough(tool);
    let tracer = endless(tool).by(&who).json();
    a_few_events();
    println!("{tool}, as nobody, works with {capabilities:?}, and keeps {:?}", kept(tool, tracer.pid()));
    tracer.stop().check();
}
