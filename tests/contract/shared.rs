// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What promises share: a tool that runs on, and events of every kind.

use std::collections::BTreeSet;
use std::fs;

use caps::{CapSet, Capability};
use kscope_tests::block::Loop;
use kscope_tests::programs::has_option;
use kscope_tests::{Ended, Finished, Run, Who, Workload, cgroup, process};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A tool that traces until it is told to stop: some end by themselves after a while.
pub fn endless(tool: &str) -> Run {
    // One that prints what takes long prints all.
    let least = has_option(tool, "--min").then_some("--min=0");
    Run::new(tool).args(["--duration=1h"]).args(least)
}

/// A workload of so many writes to a disk of its own, each with a flush.
pub fn disk_io(count: &str, more: &[&str]) -> (Workload, Loop) {
    let device = Loop::new(1 << 20);
    let path = device.disk().device();
    let args = ["io", "--path", &path, "--count", count, "--bs", "4096", "--mode", "flush"];
    (Workload::start(args.iter().chain(more)), device)
}

/// A few events of every kind, done.
pub fn a_few_events() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    Workload::start(["open", "--dir", path, "openat", "open-enoent", "thread"]).finish();
    Workload::start(["exec", "--dir", path, "execve", "fail-enoent"]).finish();
    Workload::start(["lookup", "numeric:127.0.0.1", "numeric:fails"]).finish();
    Workload::start(["tcp-loop", "--count", "3"]).finish();
    let (io, _device) = disk_io("3", &[]);
    io.finish();
    Workload::start(["files", "--dir", path, "open", "pread", "pwrite", "fsync"]).finish();
    Workload::start(["capability", "chroot", "sethostname"]).finish();
}

/// Many opens, executions, which open too, and I/Os, without end; dropping it ends them.
pub struct Busy {
    workloads: Vec<Workload>,
    _dir: TempDir,
    _device: Loop,
}

impl Busy {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_str().unwrap();
        let opens = Workload::start(["open-loop", "--dir", path, "--count", "100000"]);
        let execs = Workload::start(["exec-loop", "--count", "9999999", "--args", "8"]);
        let (ios, device) = disk_io("9999999", &[]);
        let mut busy = Self { workloads: vec![opens, execs, ios], _dir: dir, _device: device };
        busy.workloads.iter_mut().for_each(Workload::go);
        busy
    }
}

/// What was generated is what was printed, filtered out or reported lost.
pub fn assert_accounted(finished: &Finished) {
    let lines = finished.data().count() as u64;
    let [generated, events, filtered, lost] =
        ["generated", "events", "filtered", "lost"].map(|key| finished.count(key));
    let footer = &finished.footer;
    assert_eq!(events, lines, "{}: {footer}", finished.tool);
    assert_eq!(generated, events + filtered + lost, "{}: {footer}", finished.tool);
    let causes = footer["lost_by_cause"].as_object().unwrap().values();
    assert_eq!(lost, causes.map(|n| n.as_u64().unwrap()).sum::<u64>(), "{}: {footer}", finished.tool);
    assert_eq!(lost, finished.told_lost(), "{}: {footer}", finished.tool);
}

pub fn disk() -> String {
    let mut disks: Vec<_> =
        fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().file_name()).collect();
    disks.sort();
    disks.first().expect("a disk in /sys/block: the test needs one").to_str().unwrap().to_string()
}

/// A run with a tiny buffer, of which the tool read nothing while events went on.
pub fn overrun(tool: &str, args: &[&str]) -> Ended {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    // There before, as a tool that stands still finds no new programs.
    let lookups = Workload::start(["lookup"].into_iter().chain(["numeric:host"; 100]));
    let tracer = endless(tool).args(["--buffer", "4096"]).args(args).json();
    tracer.pause();
    lookups.finish();
    Workload::start(["open-loop", "--dir", path, "--count", "5000"]).finish();
    Workload::start(["exec-loop", "--count", "60", "--args", "8"]).finish();
    Workload::start(["tcp-loop", "--count", "100"]).finish();
    let (io, _device) = disk_io("200", &[]);
    io.finish();
    Workload::start(["files", "--dir", path, "--count", "200", "pread", "pwrite"]).finish();
    Workload::start(["capability", "--count", "200", "chroot"]).finish();
    tracer.resume();
    tracer.signal(Signal::SIGINT);
    tracer.ended()
}

/// Nobody with CAP_BPF and CAP_PERFMON, and with what the tool says that this kernel asks for beyond them.
pub fn who_is_enough(tool: &str) -> (Who, Vec<Capability>) {
    let mut capabilities = vec![Capability::CAP_BPF, Capability::CAP_PERFMON];
    loop {
        let who = Who::new(Who::NOBODY, &capabilities);
        let ended = Run::new(tool).args(["--json", "--dry-run"]).by(&who).output();
        if ended.code() == 0 {
            return (who, capabilities);
        }
        // One that needs more says what; it may find out one by one.
        let (sentence, before) = (ended.refusal(1), capabilities.len());
        let more = caps::all().into_iter().filter(|more| has_word(sentence, &more.to_string()));
        capabilities.extend(more.filter(|more| !capabilities.contains(more)).collect::<Vec<_>>());
        assert!(
            capabilities.len() > before,
            "with {before} capabilities {tool} asks for no other: {sentence}"
        );
    }
}

pub fn has_word(sentence: &str, word: &str) -> bool {
    sentence.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|found| found == word)
}

/// The capabilities of a tool that traces, which must be few.
pub fn kept(tool: &str, pid: u32) -> BTreeSet<String> {
    /// What a tool may need later: to read its maps before 5.19, tracefs, other processes' maps, kallsyms.
    const LATER: [Capability; 6] = [
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_DAC_READ_SEARCH,
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_SYSLOG,
        Capability::CAP_CHECKPOINT_RESTORE,
    ];
    let status = process::status(pid);
    assert_eq!(status.nonewprivs, Some(1), "{tool} has not set no_new_privs");
    assert_eq!((status.capinh, status.capamb), (0, Some(0)), "{tool} can pass capabilities on");
    let kept = caps::read(Some(pid.cast_signed()), CapSet::Permitted).unwrap();
    assert_eq!(kept, caps::read(Some(pid.cast_signed()), CapSet::Effective).unwrap(), "{tool}");
    // Probes of functions that are one perf event each (before 6.6) ask for more, each anew.
    let header: Value = {
        let ended = Run::new(tool).args(["--json", "--dry-run"]).output();
        serde_json::from_str(ended.stdout().lines().next().unwrap()).unwrap()
    };
    let ways = header["hooks"].as_object().unwrap().values();
    let by_perf = ways.flat_map(|way| way.as_str().unwrap().split(['/', '+'])).any(|word| word == "uprobe");
    let is_due = |capability: &Capability| {
        LATER.contains(capability) || by_perf && *capability == Capability::CAP_SYS_ADMIN
    };
    assert!(kept.iter().all(is_due), "{tool} keeps {kept:?}");
    kept.iter().map(ToString::to_string).collect()
}

/// What a few processes do, all of them in a cgroup from their beginning on.
pub fn a_few_events_in(cgroup: &cgroup::Cgroup) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    let (io, _device) = disk_io("3", &[]);
    let workloads = [
        Workload::start(["open", "--dir", path, "openat", "open-enoent", "thread"]),
        Workload::start(["exec", "--dir", path, "execve", "fail-enoent"]),
        Workload::start(["lookup", "numeric:127.0.0.1"]),
        Workload::start(["tcp-loop", "--count", "2"]),
        Workload::start(["files", "--dir", path, "pread", "pwrite"]),
        Workload::start(["capability", "chroot", "sethostname"]),
        io,
    ];
    workloads.iter().for_each(|workload| cgroup.add(workload.pid()));
    workloads.into_iter().for_each(|workload| _ = workload.finish());
}

/// A shell's script behind `--`.
pub fn sh(script: &str) -> [&str; 4] {
    ["--", "/bin/sh", "-c", script]
}
