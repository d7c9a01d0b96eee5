// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tools cost, counted rather than timed, against what was recorded in the tool's costs.tsv: the instructions of each
//! program as the kernel has translated it, the bytes of the ring buffer that an event takes, and the system calls that
//! a tool makes for its events.
//!
//! With `KSCOPE_RECORD_COSTS=1` these tests record what they find.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use kscope_tests::block::Loop;
use kscope_tests::bpf::Kind;
use kscope_tests::programs::{has_option, tools};
use kscope_tests::{Run, Tracer, Workload, process, say_untested, wait_until};
use libbpf_rs::btf::{Btf, types::Func};
use libbpf_rs::query::{MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{MapHandle, MapType};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tempfile::TempDir;

/// Where a tool's costs are recorded. Each line: of which kind, what, how much.
fn file(tool: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools").join(tool).join("costs.tsv")
}

/// By how much a number may grow: as a part of it, and at least.
struct Growth(f64, f64);

/// Compilers differ a little.
const PROGRAM: Growth = Growth(0.05, 8.0);
/// Paths and names differ a little.
const EVENT: Growth = Growth(0.1, 4.0);
/// Some are made every so often, and on a busy machine more often for the same events; one for each event is 1000.
const CALLS: Growth = Growth(0.25, 50.0);

/// Check numbers of this kind by tool and what they are of.
fn check(kind: &str, found: &BTreeMap<(String, String), f64>, Growth(part, least): Growth) {
    if std::env::var_os("KSCOPE_RECORD_COSTS").is_some() {
        return record(kind, found);
    }
    let mut recorded = BTreeMap::new();
    for tool in found.keys().map(|(tool, _)| tool).collect::<BTreeSet<_>>() {
        for line in fs::read_to_string(file(tool)).unwrap_or_default().lines() {
            let [of, what, number] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{tool}: {line}")
            };
            if of == kind {
                recorded.insert((tool.to_string(), what.to_string()), number.parse::<f64>().unwrap());
            }
        }
    }
    let mut dearer = String::new();
    for (of, number) in found {
        let (tool, what) = of;
        match recorded.get(of) {
            Some(then) if *number > then + (then * part).max(least) => {
                writeln!(dearer, "{tool}: {what}: {number} {kind}, and {then} were recorded").unwrap();
            }
            Some(_) => {}
            // Other kernels take other programs of a tool.
            None if recorded.keys().any(|(name, _)| name == tool) => {
                say_untested(&format!("costs of {tool}"), &format!("nothing is recorded of {what}"));
            }
            None => writeln!(dearer, "{tool}: no {kind} are recorded").unwrap(),
        }
    }
    assert!(
        dearer.is_empty(),
        "{dearer}if that has to be: KSCOPE_RECORD_COSTS=1 cargo test --test behaviour costs"
    );
}

fn record(kind: &str, found: &BTreeMap<(String, String), f64>) {
    for tool in found.keys().map(|(tool, _)| tool).collect::<BTreeSet<_>>() {
        let before = fs::read_to_string(file(tool)).unwrap_or_default();
        let others = before.lines().filter(|line| line.split('\t').next() != Some(kind)).map(String::from);
        let own = found.iter().filter(|((name, _), _)| name == tool);
        let new = own.map(|((_, what), number)| format!("{kind}\t{what}\t{number:.0}"));
        let mut lines: Vec<String> = others.chain(new).collect();
        lines.sort();
        fs::write(file(tool), lines.join("\n") + "\n").unwrap();
    }
}

/// The programs that a process holds: the instructions of each by its function's name.
fn programs(pid: u32) -> BTreeMap<String, f64> {
    const BYTES: usize = 8;
    let held = process::bpf_objects(pid);
    let options = ProgInfoQueryOptions::default().include_xlated_prog_insns(true).include_func_info(true);
    let programs = ProgInfoIter::with_query_opts(options);
    let programs = programs.filter(|program| held.contains_key(&(Kind::Program, program.id)));
    let programs = programs.map(|program| {
        let btf = Btf::from_prog_id(program.id).unwrap();
        let function: Func<'_> = btf.type_by_id(program.func_info[0].type_id.into()).unwrap();
        let name = function.name().unwrap().to_str().unwrap().to_string();
        (name, (program.xlated_prog_insns.len() / BYTES) as f64)
    });
    programs.collect()
}

#[test]
fn no_program_grows() {
    let mut found = BTreeMap::new();
    for tool in tools() {
        let tracer = Run::new(tool).args(["--duration=1h"]).json();
        let programs = programs(tracer.pid());
        assert!(!programs.is_empty(), "{tool}");
        found.extend(programs.into_iter().map(|(name, count)| ((tool.clone(), name), count)));
        tracer.stop().check();
    }
    check("instructions", &found, PROGRAM);
}

/// The position up to which programs have written into a ring buffer, and the one up to which it was read.
struct Ring(NonNull<u64>, NonNull<u64>);

impl Ring {
    /// Of a tool's.
    fn of(tracer: &Tracer) -> Self {
        let held = process::bpf_objects(tracer.pid());
        let mut maps = MapInfoIter::default().filter(|map| held.contains_key(&(Kind::Map, map.id)));
        let id = maps.find(|map| map.ty == MapType::RingBuf).unwrap().id;
        let map = MapHandle::from_map_id(id).unwrap();
        let [read, written] = [0, Self::page().get() as i64].map(|offset| {
            // SAFETY: nothing else is there, and nobody writes it by this mapping.
            unsafe {
                mmap(None, Self::page(), ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map.as_fd(), offset)
            }
            .unwrap()
            .cast()
        });
        Self(written, read)
    }

    fn page() -> NonZeroUsize {
        let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap();
        NonZeroUsize::new(size as usize).unwrap()
    }

    fn written(&self) -> u64 {
        // SAFETY: the page is mapped.
        unsafe { self.0.read_volatile() }
    }

    fn is_empty(&self) -> bool {
        // SAFETY: the page is mapped.
        self.written() == unsafe { self.1.read_volatile() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for page in [self.0, self.1] {
            // SAFETY: it was mapped so, and is used no more.
            unsafe { munmap(page.cast(), Self::page().get()) }.unwrap();
        }
    }
}

/// So many events of every kind, or a few more.
const EVENTS: &str = "1000";

fn events() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    Workload::start(["open-loop", "--dir", path, "--count", EVENTS]).finish();
    Workload::start(["exec-loop", "--count", EVENTS, "--args", "4"]).finish();
    Workload::start(["tcp-loop", "--count", EVENTS]).finish();
    let device = Loop::new(1 << 20);
    let path_of_disk = device.disk().device();
    let io = ["io", "--path", &path_of_disk, "--count", EVENTS, "--bs", "4096", "--mode", "read"];
    Workload::start(io).finish();
    Workload::start(["files", "--dir", path, "--count", EVENTS, "pread"]).finish();
    Workload::start(["capability", "--count", EVENTS, "chroot"]).finish();
}

/// Nothing of it depends on how fast anything is: the tool stands still while the events come, and then reads them all.
#[test]
fn events_cost_no_more_bytes_and_system_calls() {
    let (mut bytes, mut calls) = (BTreeMap::new(), BTreeMap::new());
    for tool in tools().iter().filter(|tool| has_option(tool, "--buffer")) {
        let least = has_option(tool, "--min").then_some("--min=0");
        // There before, as a tool that stands still finds no new programs.
        let lookups = Workload::start(["lookup"].into_iter().chain(["numeric:host"; 1000]));
        let library = process::c_library(lookups.pid());
        // What it costs to look for libraries in each new program is no cost of events.
        let one_library = has_option(tool, "--libc").then(|| [Path::new("--libc"), &library]);
        let tracer = Run::new(tool).args(["--duration=1h", "--buffer=16M"]).args(least);
        let tracer = tracer.args(one_library.into_iter().flatten()).json();
        let ring = Ring::of(&tracer);
        tracer.pause();
        lookups.finish();
        events();
        let counter = Run::new("syscount").args(["-p", &tracer.pid().to_string()]).json();
        tracer.resume();
        wait_until("the ring buffer to be empty", || ring.is_empty().then_some(()));
        let counted = counter.stop();
        let written = ring.written();
        drop(ring);
        let finished = tracer.stop();
        finished.check();
        let generated = finished.count("generated");
        assert!(generated >= EVENTS.parse().unwrap(), "{tool}: {}", finished.footer);
        assert_eq!(finished.count("lost"), 0, "{tool}: {}", finished.footer);
        let of = |what: &str| (tool.clone(), what.to_string());
        bytes.insert(of("an event"), written as f64 / generated as f64);
        let all: u64 = counted.events().map(|row| row["count"].as_u64().unwrap()).sum();
        calls.insert(of("1000 events"), all as f64 * 1000.0 / generated as f64);
    }
    check("bytes", &bytes, EVENT);
    check("system calls", &calls, CALLS);
}
