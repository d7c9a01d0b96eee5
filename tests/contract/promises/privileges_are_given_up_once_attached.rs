// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Once attached, it has few privileges left, and a list of system calls.


use kscope_tests::{process, wait_until};

use crate::shared::{endless, kept};

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let tracer = endless(tool).json();
    println!("{tool}, as root, keeps {:?}", kept(tool, tracer.pid()));
    // SECCOMP_MODE_FILTER, once it has begun to wait for events.
    wait_until("a list of system calls", || {
        let has_list = |thread| process::status(thread).seccomp == Some(2);
        process::threads(tracer.pid()).into_iter().all(has_list).then_some(())
    });
    for thread in process::threads(tracer.pid()) {
        let status = process::status(thread);
        assert!(status.capprm & !process::status(tracer.pid()).capprm == 0, "{tool}: {status:?}");
        assert_eq!((status.capbnd, status.nonewprivs), (Some(0), Some(1)), "{tool}: {status:?}");
    }
    // What reads files of others for a tool is nobody's, and may do nothing.
    for child in process::children(tracer.pid()) {
        let status = process::status(child);
        assert_eq!((status.euid, status.suid, status.egid), (65534, 65534, 65534), "{tool}: {status:?}");
        assert_eq!((status.capprm, status.capeff, status.capbnd), (0, 0, Some(0)), "{tool}: {status:?}");
        assert_eq!(status.nonewprivs, Some(1), "{tool}: {status:?}");
        let open = std::fs::read_dir(format!("/proc/{child}/fd")).unwrap().count();
        assert_eq!(open, 4, "{tool}: nowhere three times, and the socket to the tool");
    }
    tracer.stop().check();
}
