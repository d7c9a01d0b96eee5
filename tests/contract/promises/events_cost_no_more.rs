// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An event takes no more bytes of the ring buffer, and no more system calls, than are recorded.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::ptr::NonNull;

use kscope_tests::block::Loop;
use kscope_tests::bpf::Kind;
use kscope_tests::costs::{CALLS, EVENT, check as check_costs};
use kscope_tests::programs::{self, has_option};
use kscope_tests::{Run, Tracer, Workload, process, wait_until};
use libbpf_rs::query::MapInfoIter;
use libbpf_rs::{MapHandle, MapType};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tempfile::TempDir;

/// System calls are counted one tool at a time.
pub const TOGETHER: bool = false;

pub fn applies(tool: &str) -> bool {
    // syscount counts, which the program of one tool alone has not.
    has_option(tool, "--buffer") && programs::alone().is_none()
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
    // By a path that is as long everywhere.
    Workload::start(["exec-loop", "--count", EVENTS, "--args", "4", "--path", "/proc/self/exe"]).finish();
    Workload::start(["tcp-loop", "--count", EVENTS]).finish();
    let device = Loop::new(1 << 20);
    let path_of_disk = device.disk().device();
    let io = ["io", "--path", &path_of_disk, "--count", EVENTS, "--bs", "4096", "--mode", "read"];
    Workload::start(io).finish();
    Workload::start(["files", "--dir", path, "--count", EVENTS, "pread"]).finish();
    Workload::start(["capability", "--count", EVENTS, "chroot"]).finish();
}

/// Nothing of it depends on how fast anything is: the tool stands still while the events come, and then reads them all.
pub fn check(tool: &str) {
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
    check_costs(tool, "bytes", &BTreeMap::from([("an event".into(), written as f64 / generated as f64)]), EVENT);
    let all: u64 = counted.events().map(|row| row["count"].as_u64().unwrap()).sum();
    let calls = all as f64 * 1000.0 / generated as f64;
    check_costs(tool, "system calls", &BTreeMap::from([("1000 events".into(), calls)]), CALLS);
}
