// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is missing of privileges is named.

use caps::Capability;
use kscope_tests::{Run, Who};

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let none: [Who; 2] = [Who::new(Who::NOBODY, &[]), Who::new(0, &[])];
    for who in &none {
        for args in [&["--json"][..], &[]] {
            let ended = Run::new(tool).args(args).by(who).output();
            let sentence = ended.refusal(1);
            for name in ["CAP_BPF", "CAP_PERFMON"] {
                assert!(sentence.contains(name), "{tool} as {who:?}: {sentence}");
            }
        }
    }
    for (has, lacks) in
        [(Capability::CAP_BPF, "CAP_PERFMON missing"), (Capability::CAP_PERFMON, "CAP_BPF missing")]
    {
        let ended = Run::new(tool).by(&Who::new(Who::NOBODY, &[has])).output();
        let sentence = ended.refusal(1);
        assert!(sentence.contains(lacks), "{tool} with {has} only: {sentence}");
    }
}
