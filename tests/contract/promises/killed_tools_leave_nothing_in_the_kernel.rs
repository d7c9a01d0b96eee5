// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool that is killed leaves nothing in the kernel.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kscope_tests::scale::times;
use kscope_tests::{bpf, process, wait_until};

use crate::shared::endless;

/// What of these objects no process holds: /proc of every process is looked through.
fn held_by_nobody(objects: BTreeMap<(bpf::Kind, u32), String>) -> BTreeMap<(bpf::Kind, u32), String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let held: BTreeSet<_> = pids
        .filter(|pid| Path::new(&format!("/proc/{pid}/fdinfo")).exists())
        .filter_map(|pid| process::try_bpf_objects(pid).ok())
        .flat_map(BTreeMap::into_keys)
        .collect();
    objects.into_iter().filter(|(object, _)| !held.contains(object)).collect()
}

pub const TOGETHER: bool = false;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let starts = times(50);
    let before = bpf::objects();
    let mut own = BTreeMap::new();
    for _ in 0..starts {
        let tracer = endless(tool).json();
        let objects = bpf::objects();
        let open = process::bpf_objects(tracer.pid());
        own.extend(open.into_keys().filter_map(|object| Some((object, objects.get(&object)?.clone()))));
        // Dropped, it is killed by SIGKILL.
    }
    for kind in [bpf::Kind::Program, bpf::Kind::Map, bpf::Kind::Link] {
        let count = own.keys().filter(|object| object.0 == kind).count();
        // Before 5.15 there are no links to perf events and tracepoints' files.
        let no_link = count == 0 && kind == bpf::Kind::Link && !bpf::has_perf_links();
        assert!(count >= starts || no_link, "{tool} opened {count} of {kind:?} in {starts} starts");
    }
    let names: BTreeSet<&String> = own.values().collect();
    let mut left = BTreeMap::new();
    wait_until(&format!("the kernel to free what {tool} had loaded"), || {
        let new = bpf::objects().into_iter().filter(|(object, name)| {
            own.contains_key(object) || !before.contains_key(object) && names.contains(name)
        });
        left = held_by_nobody(new.collect());
        let gone = left.is_empty() && bpf::objects().keys().all(|object| !own.contains_key(object));
        gone.then_some(())
    });
}
