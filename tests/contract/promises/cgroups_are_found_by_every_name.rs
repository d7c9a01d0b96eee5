// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A cgroup is found by its path, id, unit, and container.

use std::collections::BTreeMap;
use std::fs;

use kscope_tests::programs::has_option;
use kscope_tests::{Finished, Run, Tracer, Workload, cgroup};

use crate::shared::{a_few_events, a_few_events_in, endless};

/// The processes that a tool printed something about, how often.
fn events_by_pid(finished: &Finished) -> BTreeMap<u64, usize> {
    let mut pids = BTreeMap::new();
    for pid in finished.events().filter_map(|event| event["pid"].as_u64()) {
        *pids.entry(pid).or_default() += 1;
    }
    pids
}

pub const TOGETHER: bool = false;

pub fn applies(tool: &str) -> bool {
    has_option(tool, "--container")
}

pub fn check(tool: &str) {
    use std::os::unix::fs::MetadataExt as _;
    let id = "00dec0de".repeat(8);
    let slice = cgroup::Cgroup::new("kscope-test.slice");
    let unit = slice.child("kscope-test@a.service");
    let container = unit.child(format!("docker-{id}.scope"));
    // The monitor of a container, and what is in a container, are no other containers.
    let _monitor = slice.child(format!("libpod-conmon-{id}.scope"));
    let _inside = container.child(format!("libpod-payload-{id}"));
    let inode = fs::metadata(container.path()).unwrap().ino().to_string();
    let below = container.name();
    let names = [
        ["--cgroup", container.path().to_str().unwrap()],
        ["--cgroup", &below.to_str().unwrap()[1..]],
        ["--cgroup", &inode],
        ["--cgroup", "kscope-test@a.service"],
        ["--cgroup", "kscope-test@a"],
        ["--container", &id],
        ["--container", &id[..6]],
        ["--container", &format!("docker://{id}")],
    ];
    if !has_option(tool, "--tid") {
        // Of the block layer, which asks for a controller that the host may have elsewhere.
        let ended = Run::new(tool).args(["--container", "00dec0", "--dry-run"]).output();
        assert!(ended.code() == 0 || ended.refusal(2).contains("00dec0"), "{ended:?}");
        return;
    }
    // A library that nobody has mapped before would be found only after a moment.
    let _running = Workload::start(["lookup"]);
    let tracers: Vec<Tracer> = names.iter().map(|words| endless(tool).args(words).json()).collect();
    a_few_events_in(&container);
    a_few_events();
    let events: Vec<_> = tracers.into_iter().map(|tracer| events_by_pid(&tracer.stop())).collect();
    for (words, events_of_name) in names.iter().zip(&events) {
        // What summaries print of a process depends on where an interval ends.
        if has_option(tool, "--buffer") {
            assert_eq!(events_of_name, &events[0], "{tool} {words:?}");
        }
        // No two see the same where each samples by itself.
        if !has_option(tool, "--frequency") {
            assert!(events_of_name.keys().eq(events[0].keys()), "{tool} {words:?}: {events:?}");
        }
    }
    assert!(!["opensnoop", "execsnoop"].contains(&tool) || !events[0].is_empty(), "{tool}: {events:?}");
}
