// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What holds for every tool. Each test goes through all that `kscope list` names.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use caps::{CapSet, Capability};
use kscope_tests::block::Loop;
use kscope_tests::bytes::{assert_harmless, hex};
use kscope_tests::programs::{has_option, help, tools};
use kscope_tests::scale::times;
use kscope_tests::{DEADLINE, Ended, Finished, Run, Schema, Tracer, Who, Workload};
use kscope_tests::{bpf, cgroup, metrics, now, process, wait_until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::gethostname;
use serde_json::Value;
use tempfile::TempDir;

/// The facts about libbpf-tools' flags: tool, positional arguments, flags.
const FLAGS: &str = include_str!("../data/flags.tsv");

/// Every tool, named on stderr, which the test framework shows if the test fails.
fn each_tool() -> impl Iterator<Item = &'static str> {
    tools().iter().map(|tool| {
        eprintln!("tool {tool}");
        tool.as_str()
    })
}

/// A tool that traces until it is told to stop: some end by themselves after a while.
fn endless(tool: &str) -> Run {
    // One that prints what takes long prints all.
    let least = has_option(tool, "--min").then_some("--min=0");
    Run::new(tool).args(["--duration=1h"]).args(least)
}

/// A workload of so many writes to a disk of its own, each with a flush.
fn disk_io(count: &str, more: &[&str]) -> (Workload, Loop) {
    let device = Loop::new(1 << 20);
    let path = device.disk().device();
    let args = ["io", "--path", &path, "--count", count, "--bs", "4096", "--mode", "flush"];
    (Workload::start(args.iter().chain(more)), device)
}

/// A few events of every kind, done.
fn a_few_events() {
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
struct Busy {
    workloads: Vec<Workload>,
    _dir: TempDir,
    _device: Loop,
}

impl Busy {
    fn new() -> Self {
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

#[test]
fn json_is_valid_with_header_first_and_footer_last() {
    for tool in each_tool() {
        let before = now();
        let tracer = endless(tool).json();
        let begun = now();
        a_few_events();
        let finished = tracer.stop();
        let after = now();
        finished.check();

        let of_type = |kind: &str| finished.text().lines().filter(|line| kind_of(line) == kind).count();
        assert_eq!(of_type("header"), 1, "{tool}: {finished:?}");
        assert_eq!(of_type("footer"), 1, "{tool}: {finished:?}");

        let header = &finished.header;
        let version = Run::new(tool).args(["--version"]).output();
        assert_eq!(version.stdout().trim_end(), format!("{tool} {}", header["version"].as_str().unwrap()));
        assert_eq!(header["tool"], tool);
        assert_eq!(header["schema"], 1);
        assert_eq!(header["host"], gethostname().unwrap().to_str().unwrap());
        assert_eq!(header["kernel"], fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
        let time = |object: &Value| object["time"].as_str().unwrap().to_string();
        assert!(before <= time(header) && time(header) <= begun, "{tool}: {before} {header} {begun}");
        assert!(begun <= time(&finished.footer) && time(&finished.footer) <= after, "{tool}: {finished:?}");
        let hooks = header["hooks"].as_object().unwrap();
        assert!(!hooks.is_empty() && hooks.values().all(|way| way.as_str() != Some("")), "{tool}: {header}");
        assert!(header["notes"].is_array(), "{tool}: {header}");
    }
}

fn kind_of(line: &str) -> String {
    let value: Value = serde_json::from_str(line).unwrap();
    value["type"].as_str().unwrap_or_default().to_string()
}

#[test]
fn events_are_counted_as_printed() {
    for tool in each_tool().filter(|tool| has_option(tool, "--buffer")) {
        let tracer = endless(tool).json();
        a_few_events();
        assert_accounted(&tracer.stop());
    }
}

/// What was generated is what was printed, filtered out or reported lost.
fn assert_accounted(finished: &Finished) {
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

/// One flag of libbpf-tools.
struct Flag {
    short: Option<char>,
    long: Option<String>,
    value: Option<String>,
}

impl Flag {
    /// From `-p/--pid=PID`, `--max-args=MAX_ARGS` or `-x/--failed`.
    fn parse(text: &str) -> Self {
        let (names, value) = match text.split_once('=') {
            Some((names, value)) => (names, Some(value.to_string())),
            None => (text, None),
        };
        let names: Vec<&str> = names.split('/').collect();
        Self {
            short: names.iter().find(|name| !name.starts_with("--")).and_then(|name| name.chars().nth(1)),
            long: names.iter().find(|name| name.starts_with("--")).map(ToString::to_string),
            value,
        }
    }

    /// The ways to write it. A long name that `taken` has is that of another flag too, and means that one.
    fn forms(&self, taken: &BTreeSet<String>, pinned: &bpf::PinnedMap) -> Vec<Vec<String>> {
        let short = self.short.map(|short| format!("-{short}"));
        let long = self.long.clone().filter(|long| self.value.is_some() || !taken.contains(long));
        let Some(value) = self.value.as_deref().map(|name| fitting_value(name, pinned)) else {
            return [short, long].into_iter().flatten().map(|name| vec![name]).collect();
        };
        let joined = short.iter().map(|name| format!("{name}{value}"));
        let joined = joined.chain(long.iter().map(|name| format!("{name}={value}")));
        let mut forms: Vec<_> = joined.map(|word| vec![word]).collect();
        forms.extend([short, long].into_iter().flatten().map(|name| vec![name, value.clone()]));
        forms
    }
}

/// A value that a tool can take on this machine, for one that a help text calls by this name.
fn fitting_value(name: &str, pinned: &bpf::PinnedMap) -> String {
    match name {
        "PID" | "TID" => std::process::id().to_string(),
        "UID" => "0".into(),
        "NAME" | "COMM" | "COMMAND" | "LINE" => "x".into(),
        "DURATION" | "SECONDS" | "INTERVAL" | "TIME" => "1".into(),
        "MIN" | "MIN-BLOCK-TIME" | "ROWS" | "TOP" | "CPU" | "MAX_ARGS" => "1".into(),
        "MAX-BLOCK-TIME" | "PERF-MAX-STACK-DEPTH" | "FREQUENCY" | "SAMPLE_PERIOD" => "100".into(),
        "STATE" => "2".into(),
        "STACK-STORAGE-SIZE" => "1024".into(),
        "PORT" | "PORTS" | "LPORT" | "RPORT" | "DPORT" | "LOCALPORT" | "REMOTEPORT" => "80".into(),
        "ERRNO" => "ENOENT".into(),
        "SORT" => "all".into(),
        "DISK" => disk(),
        "LIBC" => {
            let workload = Workload::start(["lookup"]);
            process::c_library(workload.pid()).to_str().unwrap().into()
        }
        "PATH" => pinned.path().to_str().unwrap().into(),
        "Filesystem" => "tmpfs".into(),
        "off" => "off".into(),
        path if path.starts_with("/sys/fs/cgroup") => cgroup::root().to_str().unwrap().into(),
        _ => panic!("flags.tsv has a value named {name}: say in the test what fits"),
    }
}

fn disk() -> String {
    let mut disks: Vec<_> =
        fs::read_dir("/sys/block").unwrap().map(|disk| disk.unwrap().file_name()).collect();
    disks.sort();
    disks.first().expect("a disk in /sys/block: the test needs one").to_str().unwrap().to_string()
}

#[test]
fn flags_of_libbpf_tools_are_accepted() {
    let tools: BTreeSet<&str> = each_tool().collect();
    let mut tried = 0;
    // As --cgroupmap and --mntnsmap take it.
    let pinned = bpf::PinnedMap::new("flags");
    for line in FLAGS.lines().skip(1) {
        let [tool, positional, flags] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if !tools.contains(tool) {
            continue;
        }
        let positional = match positional {
            "" => vec![],
            "FUNCTION" => vec!["vfs_read"],
            "[interval [count]]" => vec!["1", "1"],
            other => panic!("flags.tsv has the positional argument {other}: say in the test what fits"),
        };
        let flags: Vec<Flag> = flags.split_whitespace().map(Flag::parse).collect();
        let with_value = flags.iter().filter(|flag| flag.value.is_some());
        let taken = with_value.filter_map(|flag| flag.long.clone()).collect();
        let forms = flags.iter().flat_map(|flag| flag.forms(&taken, &pinned)).chain([vec![]]);
        for form in forms {
            let ended = Run::new(tool).args(&form).args(&positional).args(["--dry-run"]).output();
            assert_eq!(ended.code(), 0, "{tool} {form:?}: {ended:?}");
            tried += 1;
        }
    }
    assert!(tried > 0 || std::env::var_os("KSCOPE_TOOLS").is_some(), "no tool is in flags.tsv");
}

/// Names that would clear a screen, forge a line, or turn text around, if they were printed raw.
const HOSTILE_COMMS: [&[u8]; 3] =
    [b"\x1b[2J\n\r\x07\x9b31m", b"\xe2\x80\xae\xe2\x81\xa6\xef\xbb\xbf\xff", b"\n  0 forged \\x1"];

fn hostile_events() {
    let dir = TempDir::new().unwrap();
    let hostile = dir.path().join("\u{1b}[2J\n\u{202e}dir");
    fs::create_dir(&hostile).unwrap();
    let path = hostile.to_str().unwrap();
    Workload::start(["open", "--dir", path, "odd-bytes", "openat-relative"]).finish();
    Workload::start(["exec", "--dir", path, "odd-bytes", "script", "fail-enoent"]).finish();
    Workload::start(["lookup", "numeric:\u{1b}[2J\n\u{202e}host"]).finish();
    Workload::start(["files", "--dir", path, "create", "pread", "deleted"]).finish();
    for comm in HOSTILE_COMMS {
        Workload::start(["comm", &hex(comm)]).finish();
        Workload::start(["tcp-loop", "--count", "1", "--comm", &hex(comm)]).finish();
        let (io, _device) = disk_io("3", &["--comm", &hex(comm)]);
        io.finish();
    }
}

#[test]
fn hostile_bytes_reach_no_terminal() {
    for tool in each_tool() {
        let tracer = endless(tool).text();
        hostile_events();
        let ended = tracer.stop_text();
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert_harmless(&format!("{tool}: stdout"), &ended.bytes);
        assert_harmless(&format!("{tool}: stderr"), ended.stderr.as_bytes());

        let tracer = endless(tool).json();
        hostile_events();
        let finished = tracer.stop();
        finished.check();
        assert_harmless(&format!("{tool}: stdout"), finished.text().as_bytes());
        assert_harmless(&format!("{tool}: stderr"), finished.stderr.as_bytes());
    }
}

/// A run with a tiny buffer, of which the tool read nothing while events went on.
fn overrun(tool: &str, args: &[&str]) -> Ended {
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

#[test]
fn losses_are_reported_exactly() {
    for tool in each_tool().filter(|tool| has_option(tool, "--buffer")) {
        let finished = Finished::from(overrun(tool, &[]));
        finished.check();
        assert!(finished.count("lost") > 0, "{tool}: {}", finished.footer);
        assert_accounted(&finished);
        let lost = format!("{} events lost", finished.count("lost"));
        assert!(finished.stderr.contains(&lost), "{tool}: not in stderr: {lost}: {}", finished.stderr);
    }
}

#[test]
fn losses_with_strict_are_a_failure() {
    for tool in each_tool().filter(|tool| has_option(tool, "--buffer")) {
        let ended = overrun(tool, &["--strict"]);
        assert_eq!(ended.code(), 3, "{ended:?}");
        let finished = Finished::from(ended);
        assert!(finished.count("lost") > 0, "{tool}: {}", finished.footer);
        assert_accounted(&finished);
        // Without a loss, it changes nothing.
        endless(tool).args(["--strict"]).json().stop().check();
    }
}

#[test]
fn interrupt_termination_and_hangup_end_it_well() {
    for tool in each_tool() {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let tracer = endless(tool).hangup(false).json();
            tracer.signal(signal);
            tracer.finished().check();

            let tracer = endless(tool).hangup(false).text();
            tracer.signal(signal);
            let ended = tracer.ended();
            assert_eq!(ended.code(), 0, "{signal}: {ended:?}");
        }
    }
}

#[test]
fn stop_and_continue_do_not_end_it() {
    for tool in each_tool() {
        let mut tracer = endless(tool).json();
        for _ in 0..3 {
            tracer.pause();
            tracer.resume();
        }
        a_few_events();
        tracer.assert_running();
        tracer.stop().check();
    }
}

/// Run the tool into a pipe, read its first line if it is JSON, close the pipe, and see it end by itself.
fn close_pipe(tool: &str, args: &[String], json: bool) -> Ended {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let run = endless(tool).args(args).args(json.then_some("--json")).stdout(writer);
    // The copy of the writer that Run holds is gone when this returns.
    let tracer = run.text();
    let mut byte = [0];
    while json && byte != [b'\n'] {
        let timeout = PollTimeout::try_from(DEADLINE).unwrap();
        let readable = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout).unwrap();
        assert_eq!(readable, 1, "{tool} prints no header");
        assert_eq!(reader.read(&mut byte).unwrap(), 1, "{tool} ended before its header");
    }
    drop(reader);
    tracer.ended()
}

#[test]
fn closed_pipe_ends_it_quietly() {
    for tool in each_tool() {
        let idle = Workload::start(["comm", &hex(b"idle")]);
        let no_events =
            if has_option(tool, "--pid") { vec![format!("--pid={}", idle.pid())] } else { vec![] };
        for json in [true, false] {
            let known = if json {
                endless(tool).json().stop().stderr
            } else {
                endless(tool).text().stop_text().stderr
            };
            let check = |ended: Ended| {
                assert_eq!(ended.code(), 0, "json {json}: {ended:?}");
                // What is missing is told in any case.
                let is_told =
                    |line: &str| line.contains("events lost") || line.contains("measurements dropped");
                let is_known = |line: &str| known.lines().any(|l| l == line) || is_told(line);
                let unknown: Vec<_> = ended.stderr.lines().filter(|line| !is_known(line)).collect();
                assert!(unknown.is_empty(), "json {json}: {unknown:?}: {ended:?}");
            };
            check(close_pipe(tool, &no_events, json));
            let busy = Busy::new();
            check(close_pipe(tool, &[], json));
            drop(busy);
        }
    }
}

#[test]
fn full_disk_is_a_failure() {
    for tool in each_tool() {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = Run::new(tool).args(["--json"]).stdout(full).output();
        let sentence = ended.refusal(1);
        assert!(sentence.contains("No space left on device"), "{tool}: {sentence}");
    }
}

#[test]
fn missing_capabilities_are_named() {
    let none: [Who; 2] = [Who::new(Who::NOBODY, &[]), Who::new(0, &[])];
    for tool in each_tool() {
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
}

/// Nobody with CAP_BPF and CAP_PERFMON, and with what the tool says that this kernel asks for beyond them.
fn who_is_enough(tool: &str) -> (Who, Vec<Capability>) {
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

#[test]
fn two_capabilities_are_enough() {
    for tool in each_tool() {
        let (who, capabilities) = who_is_enough(tool);
        let tracer = endless(tool).by(&who).json();
        a_few_events();
        println!("{tool}, as nobody, works with {capabilities:?}, and keeps {:?}", kept(tool, tracer.pid()));
        tracer.stop().check();
    }
}

fn has_word(sentence: &str, word: &str) -> bool {
    sentence.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|found| found == word)
}

/// The capabilities of a tool that traces, which must be few.
fn kept(tool: &str, pid: u32) -> BTreeSet<String> {
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

#[test]
fn privileges_are_given_up_once_attached() {
    for tool in each_tool() {
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
}

#[test]
fn nonsense_is_refused() {
    let thirty_three = (1..=33).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    // Each applies to the tools that have the option it begins with.
    let nonsense: Vec<Vec<OsString>> = [
        &["--no-such-option"][..],
        &["--no-such-option=1"],
        &["-~"],
        &["abc"],
        &["1", "1", "1", "abc"],
        &[""],
        &["\u{1b}]0;title\u{7}"],
        &["--\u{1b}[2J\n"],
        &["--\u{202e}x"],
        &["--json=yes"],
        &["--strict", "--no-such-option"],
        &["--pid"],
        &["--pid", "x"],
        &["--pid", "-1"],
        &["--pid=-1"],
        &["--pid", "0"],
        &["--pid", "4294967296"],
        &["--pid", "1,"],
        &["--pid="],
        &["--pid", "\u{1b}[2J"],
        &["--pid", &thirty_three],
        &["--tid", "x"],
        &["--tid="],
        &["--tid", &thirty_three],
        &["--uid", "no-such-user"],
        &["--uid", "no\nsuch\u{1b}[2Juser"],
        &["--uid", "-1"],
        &["--uid", "4294967296"],
        &["--uid="],
        &["--uid", &thirty_three],
        &["--comm="],
        &["--comm", "sixteen bytes of"],
        &["--cgroup="],
        &["--cgroup", "/no/such/cgroup"],
        &["--cgroup", "/"],
        &["--cgroup", "/proc"],
        &["--cgroup", "\u{1b}[2J\n"],
        &["--cgroup", "no-such-unit.service"],
        &["--cgroup", "18446744073709551615"],
        &["--container="],
        &["--container", "abc"],
        &["--container", "no such container"],
        &["--container", "fedcba98fedcba98"],
        &["--container", "FEDC"],
        &["--container", "\u{1b}[2J\n"],
        &["--duration", "0"],
        &["--duration", "abc"],
        &["--duration", "-1"],
        &["--duration", "nan"],
        &["--duration", "1d"],
        &["--duration", "99999999999"],
        &["--duration="],
        &["--buffer", "0"],
        &["--buffer", "9G"],
        &["--buffer", "-1"],
        &["--buffer", "M"],
        &["--buffer", "1\u{e9}"],
        &["--buffer="],
        &["--timestamps=never"],
        &["--timestamps="],
    ]
    .into_iter()
    .map(|words| words.iter().map(OsString::from).collect())
    .chain([
        vec![OsString::from_vec(b"\xff\xfe".to_vec())],
        vec!["--comm".into(), OsString::from_vec(b"\xff".to_vec())],
        vec!["--cgroup".into(), OsString::from_vec(b"\xff\x1b".to_vec())],
    ])
    .collect();
    for tool in each_tool() {
        let accepted: Vec<_> = nonsense
            .iter()
            .filter(|words| {
                let option = words[0].to_str().unwrap_or_default().split('=').next().unwrap();
                const OPTIONS: [&str; 8] = [
                    "--pid",
                    "--tid",
                    "--uid",
                    "--comm",
                    "--cgroup",
                    "--container",
                    "--duration",
                    "--buffer",
                ];
                !OPTIONS.contains(&option) || has_option(tool, option)
            })
            .filter_map(|words| {
                // --dry-run, so that one that is accepted comes to an end.
                let ended = Run::new(tool).args(words).args(["--dry-run"]).output();
                if ended.code() != 2 {
                    return Some(format!("{words:?}: {ended:?}"));
                }
                let sentence = ended.refusal(2);
                assert_harmless(&format!("{tool} {words:?}: stderr"), sentence.as_bytes());
                let is_sentence = sentence.len() > tool.len() + 2 && !sentence.contains("Usage:");
                assert!(is_sentence, "{tool} {words:?} is not answered by a sentence: {sentence}");
                None
            })
            .collect();
        assert!(accepted.is_empty(), "{tool} did not refuse: {accepted:#?}");
    }
}

#[test]
fn nonsense_to_kscope_is_refused() {
    for words in [&["no-such-tool"][..], &["--no-such-option"], &["list", "abc"], &["\u{1b}[2J\n"], &[""]] {
        let ended = Run::kscope(words).output();
        let sentence = ended.refusal(2);
        assert_harmless(&format!("kscope {words:?}: stderr"), sentence.as_bytes());
    }
}

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

#[test]
fn killed_tools_leave_nothing_in_the_kernel() {
    let starts = times(50);
    for tool in each_tool() {
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
}

#[test]
fn memory_is_small() {
    const MIB: u64 = 1 << 20;
    /// A few pages for what the kernel keeps beside the data.
    const MAPS: u64 = 10 * MIB + (16 << 10);
    /// Without the program's own file, of which all tools share the pages and the kernel drops what it needs. The
    /// data of a mapped ring buffer counts twice: that is how often it is mapped.
    const PROCESS: u64 = 15 * MIB;
    let check = |tool: &str, tracer: &mut Tracer, when: &str| {
        tracer.assert_running();
        let pid = tracer.pid();
        let maps = process::bpf_objects(pid).into_iter().filter(|((kind, _), _)| *kind == bpf::Kind::Map);
        let maps: u64 = maps.map(|(_, bytes)| bytes).sum();
        assert!(maps > 0 && maps <= MAPS, "{tool}, {when}: {maps} bytes of maps");
        // While it reads the symbols of a process that has ended, their file's pages count too.
        let process = wait_until(&format!("{tool}, {when}, to be small"), || {
            Some(process::resident_without_program(pid)).filter(|bytes| *bytes <= PROCESS)
        });
        assert!(process > 0, "{tool}, {when}");
        println!("{tool}, {when}: maps {maps}, process {process} bytes");
    };
    for tool in each_tool() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().to_str().unwrap();
        let mut tracer = endless(tool).json();
        check(tool, &mut tracer, "attached");
        Workload::start(["open-loop", "--dir", path, "--count", "20000"]).finish();
        Workload::start(["exec-loop", "--count", "100", "--args", "8"]).finish();
        let (io, _device) = disk_io("200", &[]);
        io.finish();
        check(tool, &mut tracer, "after a workload");
        tracer.stop().check();
    }
}

#[test]
fn help_and_version_are_printed() {
    for tool in each_tool() {
        let long = help(tool);
        assert!(long.contains("Usage:"), "{tool}: {long}");
        for flag in ["--help", "-h", "-?"] {
            let ended = Run::new(tool).args([flag]).output();
            assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{tool} {flag}: {ended:?}");
            assert!(ended.stdout().contains("Usage:"), "{tool} {flag}: {ended:?}");
            let wide: Vec<_> = ended.stdout().lines().filter(|line| line.chars().count() > 100).collect();
            assert!(wide.is_empty(), "{tool} {flag}: {wide:#?}");
        }
        for flag in ["--version", "-V"] {
            let ended = Run::new(tool).args([flag]).output();
            assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{tool} {flag}: {ended:?}");
            assert!(ended.stdout().starts_with(&format!("{tool} ")), "{tool} {flag}: {ended:?}");
        }
        // Nobody needs a privilege to read that.
        for flag in ["--help", "--version", "--json-schema"] {
            let ended = Run::new(tool).args([flag]).by(&Who::new(Who::NOBODY, &[])).output();
            assert_eq!(ended.code(), 0, "{tool} {flag}: {ended:?}");
        }
        Schema::of(tool);
    }
}

#[test]
fn doctor_says_that_every_tool_works() {
    let ended = Run::kscope(["doctor", "--json"]).args(tools()).output();
    let verdicts: Vec<Value> =
        ended.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = verdicts.iter().map(|verdict| verdict["tool"].as_str().unwrap()).collect();
    assert_eq!(names, tools());
    for verdict in &verdicts {
        assert_eq!(verdict["works"], true, "{verdict}");
    }
    assert_eq!(ended.code(), 0, "{ended:?}");

    let table = Run::kscope(["doctor"]).args(tools()).output();
    assert_eq!(table.code(), 0, "{table:?}");
    for tool in tools() {
        assert!(table.stdout().lines().any(|line| line.starts_with(tool)), "{tool}: {table:?}");
    }
}

#[test]
fn summaries_are_exported_as_metrics() {
    for tool in each_tool().filter(|tool| has_option(tool, "--metrics-listen")) {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("a.prom");
        let export = ["--metrics-listen=127.0.0.1:0", "--textfile", file.to_str().unwrap()];
        let mut tracer = endless(tool).args(export).json();
        let address = metrics::address(&tracer);
        a_few_events();
        let read = |headers: &str| metrics::parse(&metrics::get(&address, headers).1);
        let build = |samples: &metrics::Samples| {
            metrics::of(samples, "kscope_build_info").into_keys().next().unwrap_or_default()
        };
        let own = format!("kscope_{tool}_");
        // One that counts by interval knows of them when that has ended.
        let classic = wait_until("the tool's own metrics", || {
            Some(read("")).filter(|samples| samples.keys().any(|name| name.starts_with(&own)))
        });
        let open = read(metrics::OPEN_METRICS);
        for samples in [&open, &classic] {
            assert!(build(samples).contains(&format!("tool=\"{tool}\"")), "{tool}: {samples:?}");
            assert!(samples.keys().any(|name| name.starts_with(&own)), "{tool}: {samples:?}");
            assert!(samples.keys().all(|name| !name.contains("pid=")), "{tool}: {samples:?}");
        }
        tracer.assert_running();
        let finished = tracer.stop();
        finished.check();
        let last = metrics::parse(&fs::read_to_string(&file).unwrap());
        assert_eq!(build(&last), build(&classic), "{tool}");
        let lost =
            [open, classic, last].map(|samples| metrics::sum(&samples, "kscope_events_lost_total") as u64);
        assert!(
            lost.is_sorted() && lost[2] == finished.count("lost"),
            "{tool}: {lost:?} {}",
            finished.footer
        );

        // Without an end of its own, nothing but a signal ends it.
        let tracer = Run::new(tool).args(["--metrics-listen=127.0.0.1:0"]).text();
        metrics::get(&metrics::address(&tracer), "");
        assert_eq!(tracer.stop_text().code(), 0, "{tool}");
    }
}

/// The processes that a tool printed something about, how often.
fn events_by_pid(finished: &Finished) -> BTreeMap<u64, usize> {
    let mut pids = BTreeMap::new();
    for pid in finished.events().filter_map(|event| event["pid"].as_u64()) {
        *pids.entry(pid).or_default() += 1;
    }
    pids
}

/// What a few processes do, all of them in a cgroup from their beginning on.
fn a_few_events_in(cgroup: &cgroup::Cgroup) {
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

#[test]
fn cgroups_are_found_by_every_name() {
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
    for tool in each_tool().filter(|tool| has_option(tool, "--container")) {
        if !has_option(tool, "--tid") {
            // Of the block layer, which asks for a controller that the host may have elsewhere.
            let ended = Run::new(tool).args(["--container", "00dec0", "--dry-run"]).output();
            assert!(ended.code() == 0 || ended.refusal(2).contains("00dec0"), "{ended:?}");
            continue;
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
}

#[test]
fn ambiguous_cgroups_are_refused() {
    let ids = ["11c0ffee".repeat(8), "11c0".repeat(16)];
    let slice = cgroup::Cgroup::new("kscope-several.slice");
    let units = ["a.slice", "b.slice"].map(|name| slice.child(name));
    let _two: Vec<_> = units.iter().map(|unit| unit.child("kscope-twice.service")).collect();
    let _containers: Vec<_> = ids.iter().map(|id| slice.child(id)).collect();
    for tool in each_tool().filter(|tool| has_option(tool, "--container") && has_option(tool, "--tid")) {
        let refused = |words: [&str; 2]| {
            let ended = Run::new(tool).args(words).args(["--dry-run"]).output();
            ended.refusal(2).to_string()
        };
        let sentence = refused(["--cgroup", "kscope-twice.service"]);
        for unit in &units {
            assert!(
                sentence.contains(&format!("{}/kscope-twice.service", unit.path().display())),
                "{sentence}"
            );
        }
        assert!(refused(["--container", "11c0"]).contains(&ids[0]));
        let ended = Run::new(tool).args(["--container", "11c0f", "--dry-run"]).output();
        assert_eq!(ended.code(), 0, "{ended:?}");
    }
}

#[test]
fn cgroups_are_a_column_on_request() {
    let group = cgroup::Cgroup::new("kscope-column");
    // A library that nobody has mapped before would be found only after a moment.
    let _running = Workload::start(["lookup"]);
    for tool in each_tool().filter(|tool| has_option(tool, "--print-cgroup")) {
        for option in ["--print-cgroup", "--show-cgroup"] {
            let tracer = endless(tool).args([option]).text();
            a_few_events_in(&group);
            let ended = tracer.stop_text();
            let mut lines = ended.stdout().lines();
            assert!(lines.next().unwrap().contains(" CGROUP "), "{ended:?}");
            assert!(lines.any(|line| line.contains(" /kscope-column ")), "{ended:?}");
        }
    }
}

/// Tools that trace a command.
fn each_tool_with_command() -> impl Iterator<Item = &'static str> {
    each_tool().filter(|tool| help(tool).contains("COMMAND"))
}

/// A shell's script behind `--`.
fn sh(script: &str) -> [&str; 4] {
    ["--", "/bin/sh", "-c", script]
}

#[test]
fn a_command_gives_its_exit_status() {
    let dir = TempDir::new().unwrap();
    for tool in each_tool_with_command() {
        for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 128 + 9), ("exit 255", 255)] {
            let ended = Run::new(tool).args(["--json"]).args(sh(script)).output();
            assert_eq!(ended.code(), code, "{script}: {ended:?}");
            assert!(ended.stdout().lines().last().unwrap().contains("\"footer\""), "{ended:?}");
        }
        let not_executable = dir.path().join("file");
        fs::write(&not_executable, "").unwrap();
        for (command, code) in [
            ("kscope-no-such-command", 127),
            ("/no/such/command", 127),
            (not_executable.to_str().unwrap(), 126),
        ] {
            let ended = Run::new(tool).args(["--", command]).output();
            assert!(ended.refusal(code).contains(command), "{ended:?}");
        }
        // What keeps the tool from tracing keeps the command from running.
        let marker = dir.path().join(tool);
        let script = format!("> {}", marker.display());
        let nobody = Who::new(Who::NOBODY, &[]);
        Run::new(tool).args(sh(&script)).by(&nobody).output().refusal(1);
        Run::new(tool).args(["--pid=x"]).args(sh(&script)).output().refusal(2);
        let ended = Run::new(tool).args(["--dry-run"]).args(sh(&script)).output();
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert!(!marker.exists(), "{tool} started a command that it does not trace");
    }
}

#[test]
fn a_command_has_the_terminal_and_the_tool_a_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    for tool in each_tool_with_command() {
        let file = dir.path().join(tool);
        let output = ["--json", "--output", file.to_str().unwrap()];
        let ended = Run::new(tool).args(output).args(sh("cat; echo out; echo err >&2")).output();
        assert_eq!((ended.stdout(), ended.code()), ("out\n", 0), "{ended:?}");
        assert!(ended.stderr.lines().any(|line| line == "err"), "{ended:?}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let text = fs::read_to_string(&file).unwrap();
        let schema = Schema::of(tool);
        text.lines().for_each(|line| schema.check(line));
        // What is there already is left alone.
        let ended = Run::new(tool).args(output).args(sh("echo out")).output();
        assert!(ended.refusal(1).contains(file.to_str().unwrap()), "{ended:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn a_command_runs_as_whoever_ran_the_tool() {
    let script = "grep -E '^(Uid|Gid|Cap|NoNewPrivs|SigBlk)' /proc/self/status";
    for tool in each_tool_with_command() {
        let (enough, _) = who_is_enough(tool);
        for who in [None, Some(&enough)] {
            let by = |run: Run| if let Some(who) = who { run.by(who) } else { run };
            let traced = by(Run::new(tool).args(sh(script))).output();
            let alone = by(Run::program("/bin/sh").args(["-c", script])).output();
            // The tool's own lines are around it.
            assert!(traced.stdout().contains(alone.stdout()), "{tool} by {who:?}: {alone:?} {traced:?}");
        }
    }
}

#[test]
fn a_command_and_what_it_starts_are_traced_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let marker = dir.path().join("marker");
    fs::write(&marker, "").unwrap();
    // Children, one whose parent ends before it, and a program that takes the place of the first.
    let script = format!(
        "/bin/cat {0}; (/bin/cat {0}; (/bin/cat {0}; /bin/sleep 0.05; /bin/cat {0}) & ); /bin/sleep 0.3; exec /bin/cat {0}",
        marker.display()
    );
    let busy = Busy::new();
    for tool in each_tool_with_command().filter(|tool| has_option(tool, "--buffer")) {
        let file = dir.path().join(tool);
        let output = ["--json", "--output", file.to_str().unwrap()];
        let ended = Run::new(tool).args(output).args(sh(&script)).output();
        assert_eq!(ended.code(), 0, "{ended:?}");
        let text = fs::read_to_string(&file).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events = &events[1..events.len() - 1];
        let comm = |event: &Value| event["comm"].as_str().unwrap_or("cat").to_string();
        for event in events {
            // "command" is the process before it has become the shell.
            assert!(["command", "sh", "cat", "sleep"].contains(&comm(event).as_str()), "{tool}: {event}");
        }
        let path = marker.to_str().unwrap();
        let of_marker = |event: &&Value| event["path"] == path || event["args"][1] == path;
        if ["opensnoop", "execsnoop"].contains(&tool) {
            let cats = events.iter().filter(of_marker).filter(|event| comm(event) == "cat").count();
            assert_eq!(cats, 5, "{tool}: {events:#?}");
        }
    }
    drop(busy);
}

#[test]
fn a_signal_ends_the_command_too() {
    let dir = TempDir::new().unwrap();
    let started = dir.path().join("started");
    for tool in each_tool_with_command() {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let script = format!(": > {}; exec sleep 1000", started.display());
            let tracer = Run::new(tool).args(sh(&script)).text();
            wait_until("the command to run", || fs::remove_file(&started).ok());
            tracer.signal(signal);
            assert_eq!(tracer.ended().code(), 128 + signal as i32, "{tool} {signal}");
        }
        // --duration ends the tracing, and not the command.
        let ended = Run::new(tool).args(["--duration=10ms"]).args(sh("sleep 0.2; exit 5")).output();
        assert_eq!(ended.code(), 5, "{ended:?}");
    }
}

#[test]
fn pids_are_those_of_the_own_namespace() {
    if std::process::Command::new("unshare").arg("--help").output().is_err() {
        return kscope_tests::say_untested("pid namespaces", "there is no unshare");
    }
    let dir = TempDir::new().unwrap();
    let kscope = kscope_tests::programs::kscope();
    for tool in each_tool().filter(|tool| ["opensnoop", "execsnoop"].contains(tool)) {
        let file = dir.path().join(tool);
        // The shell is process 1 there, and has another number outside.
        let script = format!(
            "{kscope} {tool} --json --output {file} --pid 999,1 & k=$!
             until [ -s {file} ]; do kill -0 $k || exit 1; done
             cat {marker} >/dev/null; : < {marker}
             kill -INT $k; wait $k; exec /bin/true {marker}",
            kscope = kscope.display(),
            file = file.display(),
            marker = dir.path().display(),
        );
        let unshare = ["--pid", "--fork", "--mount-proc", "sh", "-c", &script];
        let ended = Run::program("unshare").args(unshare).output();
        assert_eq!(ended.code(), 0, "{ended:?}");
        let text = fs::read_to_string(&file).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events = &events[1..events.len() - 1];
        assert!(events.iter().all(|event| event["pid"] == 1), "{tool}: {text}");
        if tool == "opensnoop" {
            let marker = events.iter().filter(|event| event["path"] == dir.path().to_str().unwrap());
            assert_eq!(marker.count(), 1, "{text}");
        }
        fs::remove_file(&file).unwrap();

        // A command is followed there too, and its number is its own.
        let script = format!(
            "{} {tool} --json --output {} -- sh -c 'echo $$; exec cat /dev/null'; : < /dev/null",
            kscope.display(),
            file.display()
        );
        let unshare = ["--pid", "--fork", "--mount-proc", "sh", "-c", &script];
        let ended = Run::program("unshare").args(unshare).output();
        let pid: u64 = ended.stdout().trim().parse().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let events = &events[1..events.len() - 1];
        assert!(!events.is_empty() && events.iter().all(|event| event["pid"] == pid), "{pid}: {text}");
        assert!(pid < 100, "{pid}");
    }
}
