// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A command has the user and the privileges of who ran the tool.

use kscope_tests::programs::help;
use kscope_tests::Run;

use crate::shared::{sh, who_is_enough};

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    help(tool).contains("COMMAND")
}

pub fn check(tool: &str) {
    let script = "grep -E '^(Uid|Gid|Cap|NoNewPrivs|SigBlk)' /proc/self/status";
    let (enough, _) = who_is_enough(tool);
    for who in [None, Some(&enough)] {
        let by = |run: Run| if let Some(who) = who { run.by(who) } else { run };
        let traced = by(Run::new(tool).args(sh(script))).output();
        let alone = by(Run::program("/bin/sh").args(["-c", script])).output();
        // The tool's own lines are around it.
        assert!(traced.stdout().contains(alone.stdout()), "{tool} by {who:?}: {alone:?} {traced:?}");
    }
}
