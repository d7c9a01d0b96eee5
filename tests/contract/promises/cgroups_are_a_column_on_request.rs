// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cgroup is a column on request.

use kscope_tests::programs::has_option;
use kscope_tests::{Workload, cgroup};

use crate::shared::{a_few_events_in, endless};

pub const TOGETHER: bool = false;

pub fn applies(tool: &str) -> bool {
    has_option(tool, "--print-cgroup")
}

pub fn check(tool: &str) {
    let group = cgroup::Cgroup::new("kscope-column");
    // A library that nobody has mapped before would be found only after a moment.
    let _running = Workload::start(["lookup"]);
    for option in ["--print-cgroup", "--show-cgroup"] {
        let tracer = endless(tool).args([option]).text();
        a_few_events_in(&group);
        let ended = tracer.stop_text();
        let mut lines = ended.stdout().lines();
        assert!(lines.next().unwrap().contains(" CGROUP "), "{ended:?}");
        assert!(lines.any(|line| line.contains(" /kscope-column ")), "{ended:?}");
    }
}
