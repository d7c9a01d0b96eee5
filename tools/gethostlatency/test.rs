// SPDX-License-Identifier: Apache-2.0 OR MIT
//! gethostlatency against the oracle: what was looked up is reported exactly, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kscope_tests::bytes::{bytes_of, hex, unhex};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::mounted::Mounted;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Who, Workload};
use kscope_tests::{now, process, programs, say_untested, scale, wait_until};
use nix::mount::{MntFlags, umount2};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::Mode;
use nix::unistd::{getpid, mkfifo};
use serde_json::Value;
use tempfile::TempDir;

/// One look-up: what the workload did, or what the tool reported.
#[derive(Clone, Debug, PartialEq)]
struct Lookup {
    pid: u64,
    tid: u64,
    comm: Vec<u8>,
    function: String,
    host: Option<Vec<u8>>,
    failed: bool,
    error: Option<String>,
}

impl Lookup {
    fn expected(action: &Value) -> Self {
        let text = |key: &str| action[key].as_str().map(String::from);
        Self {
            pid: action["pid"].as_u64().unwrap(),
            tid: action["tid"].as_u64().unwrap(),
            comm: unhex(&text("comm_hex").unwrap()),
            function: text("function").unwrap(),
            host: text("host_hex").map(|host| unhex(&host)),
            failed: action["failed"].as_bool().unwrap(),
            error: text("error"),
        }
    }

    fn reported(event: &Value) -> Self {
        assert_eq!(event["host_unreadable"], false, "{event}");
        Self {
            pid: event["pid"].as_u64().unwrap(),
            tid: event["tid"].as_u64().unwrap(),
            comm: bytes_of(event, "comm"),
            function: event["function"].as_str().unwrap().into(),
            host: (!event["host"].is_null()).then(|| bytes_of(event, "host")),
            failed: event["failed"].as_bool().unwrap(),
            error: event["error"].as_str().map(String::from),
        }
    }
}

fn latency_ns(event: &Value) -> u64 {
    (event["latency_us"].as_f64().unwrap() * 1e3).round() as u64
}

/// Check that exactly these look-ups were reported, and took as long as the workload measured at both sides.
fn assert_exactly(finished: &Finished, actions: &[Value]) {
    finished.check();
    let reported: Vec<Lookup> = finished.events().map(|event| Lookup::reported(&event)).collect();
    let expected: Vec<Lookup> = actions.iter().map(Lookup::expected).collect();
    assert_eq!(reported, expected, "{finished:#?}");
    for (event, action) in finished.events().zip(actions) {
        let bound = |key: &str| action[key].as_u64().unwrap();
        let latency = latency_ns(&event);
        assert!(bound("inside_ns") <= latency && latency <= bound("outside_ns"), "{event} {action}");
        assert!(latency > 0, "{event}");
    }
    assert_accounted(finished);
}

fn assert_accounted(finished: &Finished) {
    let footer = &finished.footer;
    let [generated, events, filtered, lost] =
        ["generated", "events", "filtered", "lost"].map(|key| finished.count(key));
    assert_eq!((generated, filtered, lost), (events, 0, 0), "{footer}");
    assert_eq!(finished.data().count() as u64, events, "{footer}");
}

/// The tool, which looks at this process only.
fn of(workload: &Workload) -> Run {
    Run::new("gethostlatency").args(["-p", &workload.pid().to_string()])
}

/// The tool, which looks at these processes' own functions only.
fn own(workloads: &[Workload]) -> Run {
    let pids: Vec<String> = workloads.iter().map(|workload| workload.pid().to_string()).collect();
    Run::new("gethostlatency").args(["-l", programs::workload().to_str().unwrap(), "-p", &pids.join(",")])
}

fn lookup(ways: &[&str]) -> Workload {
    Workload::start(["lookup"].iter().chain(ways))
}

/// By links to many probes, where there are such, and by perf events.
fn each_way(mut test: impl FnMut(&dyn Fn(Run) -> Run)) {
    test(&|run| run);
    test(&|run| run.env("KSCOPE_WAY", "uprobe"));
    test(&|run| run.env("KSCOPE_WAY", "raw_tp"));
}

const WAYS: [&str; 20] = [
    "numeric:127.0.0.1",
    "numeric:::1",
    "numeric:localhost",
    "getaddrinfo:localhost",
    "getaddrinfo:does-not-exist.invalid",
    "numeric:",
    "nothing",
    "gethostbyname:127.0.0.1",
    "gethostbyname:localhost",
    "gethostbyname:does-not-exist.invalid",
    "gethostbyname_r:does-not-exist.invalid",
    "gethostbyname2_r:localhost",
    "small:localhost",
    "thread:getaddrinfo:localhost",
    "getnameinfo:127.0.0.1",
    "getnameinfo:::1",
    "gethostbyaddr:127.0.0.1",
    "gethostbyaddr_r:127.0.0.1",
    "gethostbyaddr_r:::1",
    "res_query:does-not-exist.invalid",
];

#[test]
fn every_lookup_is_reported_once_with_its_result() {
    each_way(|way| {
        let workload = lookup(&WAYS);
        let before = now();
        let tracer = way(of(&workload)).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        let after = now();
        assert_eq!(actions.len(), WAYS.len());
        assert!(actions.iter().any(|action| action["failed"] == false));
        assert_exactly(&finished, &actions);
        for event in finished.events() {
            let time = event["time"].as_str().unwrap();
            assert!(*before <= *time && *time <= *after, "{before} {event} {after}");
        }
    });
}

#[test]
fn times_are_those_of_the_call() {
    each_way(|way| {
        let workload = [lookup(&["own:a2", "own:b3", "own:c20", "thread:own:d20", "own:e0"])];
        let tracer = way(own(&workload)).json();
        let actions = workload.map(Workload::finish).concat();
        assert_eq!(actions.len(), 5);
        assert_exactly(&tracer.stop(), &actions);
    });
}

#[test]
fn calls_within_each_other_are_each_reported() {
    each_way(|way| {
        let workload = [lookup(&["own:outer1010", "own:after2"])];
        let tracer = way(own(&workload)).json();
        let actions = workload.map(Workload::finish).concat();
        let finished = tracer.stop();
        finished.check();
        assert_accounted(&finished);
        let events: Vec<Value> = finished.events().collect();
        let hosts: Vec<&str> = events.iter().map(|event| event["host"].as_str().unwrap()).collect();
        assert_eq!(hosts, ["inner", "outer1010", "after2"], "{finished:#?}");
        // Both slept for as long, the outer one after the inner one.
        let (inside, outside) =
            (actions[0]["inside_ns"].as_u64().unwrap(), actions[0]["outside_ns"].as_u64().unwrap());
        let [inner, outer] = [latency_ns(&events[0]), latency_ns(&events[1])];
        assert!(inner + inside <= outer && outer <= outside, "{inner} {outer} {:?}", actions[0]);
    });
}

#[test]
fn calls_that_never_end_are_counted() {
    each_way(|way| {
        let workload = [lookup(&["own-end", "own:a2", "own-end", "thread:own:b2"])];
        let tracer = way(own(&workload)).json();
        let actions = workload.map(Workload::finish).concat();
        let finished = tracer.stop();
        assert_exactly(&finished, &actions);
        assert_eq!(finished.footer["dropped_by_cause"]["unfinished"], 2, "{}", finished.footer);
    });
}

#[test]
fn many_threads_are_told_apart() {
    each_way(|way| {
        let mut workloads: Vec<Workload> = (0..scale::times(20))
            .map(|n| {
                let ways: Vec<String> = (0..20).map(|k| format!("thread:own:h{n}x{}", k % 4)).collect();
                let ways: Vec<&str> = ways.iter().map(String::as_str).collect();
                lookup(&ways)
            })
            .collect();
        let tracer = way(own(&workloads)).json();
        workloads.iter_mut().for_each(Workload::go);
        let actions: Vec<Vec<Value>> = workloads.into_iter().map(Workload::finish).collect();
        let finished = tracer.stop();
        finished.check();
        assert_accounted(&finished);
        for actions in &actions {
            let events = finished.events_of(u32::try_from(actions[0]["pid"].as_u64().unwrap()).unwrap());
            let reported: Vec<Lookup> = events.iter().map(Lookup::reported).collect();
            let expected: Vec<Lookup> = actions.iter().map(Lookup::expected).collect();
            assert_eq!(reported, expected, "{}", finished.footer);
            for (event, action) in events.iter().zip(actions) {
                let bound = |key: &str| action[key].as_u64().unwrap();
                let latency = latency_ns(event);
                assert!(bound("inside_ns") <= latency && latency <= bound("outside_ns"), "{event} {action}");
            }
        }
        let sum: usize = actions.iter().map(Vec::len).sum();
        assert_eq!(finished.count("events"), sum as u64);
    });
}

#[test]
fn a_container_that_starts_later_with_its_own_library_is_found() {
    let root = TempDir::new().unwrap();
    let until = root.path().join("until");
    let mut tracer = Run::new("gethostlatency").json();
    let mut workload = Workload::start_in(root.path(), ["lookup-loop", "--until", "/until"]);
    let pid = workload.pid();
    // The same path as in the host, and another file.
    let library = process::c_library(lookup(&[]).pid());
    let copy = root.path().join(library.strip_prefix("/").unwrap());
    assert_ne!(fs::metadata(&library).unwrap().ino(), fs::metadata(copy).unwrap().ino());
    workload.go();
    let is_first = |line: &Value| line["pid"] == pid;
    let first = tracer.wait_for(is_first);
    let number = |event: &Value| {
        let host = event["host"].as_str().unwrap().strip_prefix("loop-").unwrap().to_string();
        host.parse::<u64>().unwrap()
    };
    // From the first one that was seen on, none is missed.
    for _ in 0..20 {
        tracer.wait_for(is_first);
    }
    fs::write(until, "").unwrap();
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let count = actions[0]["count"].as_u64().unwrap();
    let numbers: Vec<u64> = finished.events_of(pid).iter().map(number).collect();
    assert!(numbers.iter().copied().eq(number(&first)..count), "{numbers:?} of {count}");
    assert!(finished.events_of(pid).iter().all(|event| event["error"] == "EAI_NONAME"), "{finished:#?}");
}

/// A program that needs no libraries, and calls its own getaddrinfo() once for the name `static`, which does nothing.
fn static_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    // Call with the address behind the code; exit(0). Then the function: return 0.
    #[cfg(target_arch = "x86_64")]
    let (machine, function, code) = (
        62u16,
        21,
        [
            &[0x48u8, 0x8d, 0x3d, 19, 0, 0, 0, 0xe8, 9, 0, 0, 0][..],
            &[0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05, 0x55, 0x31, 0xc0, 0x5d, 0xc3],
        ]
        .concat(),
    );
    #[cfg(target_arch = "aarch64")]
    let (machine, function, code) = (
        183u16,
        20,
        [0x1000_00e0u32, 0x9400_0004, 0x5280_0000, 0x5280_0ba8, 0xd400_0001, 0x5280_0000, 0xd65f_03c0]
            .map(u32::to_le_bytes)
            .concat(),
    );
    let code = [&code[..], b"static\0"].concat();
    let strings = b"\0getaddrinfo\0";
    let code_at = 64 + 56;
    let strings_at = code_at + code.len() as u64;
    let symbols_at = (strings_at + strings.len() as u64).next_multiple_of(8);
    let sections_at = symbols_at + 48;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2u16.to_le_bytes(), machine.to_le_bytes()].concat());
    file.extend(1u32.to_le_bytes());
    file.extend([BASE + code_at, 64, sections_at].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 1, 64, 3, 0].map(u16::to_le_bytes).concat());
    // One segment, readable and executable: all of the file.
    file.extend([1u32, 5].map(u32::to_le_bytes).concat());
    file.extend([0, BASE, BASE, sections_at, sections_at, 4096].map(u64::to_le_bytes).concat());
    file.extend(&code);
    file.extend(strings);
    file.resize(symbols_at as usize, 0);
    file.extend([0; 24]);
    file.extend([1u32.to_le_bytes(), [0x12, 0, 1, 0]].concat());
    file.extend([BASE + code_at + function, 5].map(u64::to_le_bytes).concat());
    let section = |kind: u32, place: (u64, u64), link: u32, entry: u64| {
        let numbers = [[0u32, kind].map(u32::to_le_bytes).concat(), vec![0; 16]].concat();
        let place = [place.0, place.1].map(u64::to_le_bytes).concat();
        let link = [[link, 1].map(u32::to_le_bytes).concat(), [8, entry].map(u64::to_le_bytes).concat()];
        [numbers, place, link.concat()].concat()
    };
    file.extend(section(0, (0, 0), 0, 0));
    file.extend(section(2, (symbols_at, 48), 2, 24));
    file.extend(section(3, (strings_at, strings.len() as u64), 0, 0));
    file
}

/// Copies of that program, each another file.
fn static_programs(folder: &Path, count: u64) -> Vec<PathBuf> {
    let source = folder.join("source");
    fs::write(&source, static_program()).unwrap();
    let copy = |n: u64| {
        let copy = folder.join(format!("static{n}"));
        process::copy_program(&source, &copy);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy
    };
    (0..count).map(copy).collect()
}

/// Run a command below the tool.
fn command(args: &[&str]) -> Finished {
    Run::new("gethostlatency").args(["--json", "--"]).args(args).output().into()
}

#[test]
fn a_static_command_is_seen_from_its_first_instruction() {
    let folder = TempDir::new().unwrap();
    for program in static_programs(folder.path(), 5) {
        let finished = command(&[program.to_str().unwrap()]);
        finished.check();
        let hosts: Vec<Value> = finished.events().map(|event| event["host"].clone()).collect();
        assert_eq!(hosts, ["static"], "{finished:#?}");
        assert!(finished.footer["dropped_by_cause"]["not_probed_yet"].is_null(), "{}", finished.footer);
    }
}

#[test]
fn what_ran_before_it_was_probed_is_counted() {
    let folder = TempDir::new().unwrap();
    let programs = static_programs(folder.path(), 10);
    let script: Vec<&str> = programs.iter().map(|program| program.to_str().unwrap()).collect();
    let finished = command(&["sh", "-c", &script.join("; ")]);
    finished.check();
    let late = finished.footer["dropped_by_cause"]["not_probed_yet"].as_u64().unwrap_or_default();
    assert!(finished.events().count() as u64 + late >= 10, "{finished:#?}");
    assert!(late <= 10, "{finished:#?}");
}

/// The descriptors of a process, without those that watch who uses a file: whether a file's user has just ended, and
/// another one is not known yet, differs from one moment to the next.
fn descriptors(pid: u32) -> usize {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let leads_to = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    leads_to.filter(|to| !to.to_string_lossy().contains("pidfd")).count()
}

#[test]
fn containers_that_have_ended_are_not_held() {
    each_way(|way| {
        let mut tracer = way(Run::new("gethostlatency")).json();
        let mut most = usize::MAX;
        for _ in 0..6 {
            let mounted = Mounted::tmpfs();
            let root = &mounted.path();
            let until = root.join("until");
            let mut workload = Workload::start_chrooted(root, ["lookup-loop", "--until", "/until"]);
            let pid = workload.pid();
            workload.go();
            tracer.wait_for(|line| line["pid"] == pid);
            // One container's, and those of all that was there before.
            most = most.min(descriptors(tracer.pid()));
            fs::write(until, "").unwrap();
            workload.finish();
            wait_until("the file system to be let go", || umount2(root, MntFlags::empty()).ok());
        }
        wait_until("the descriptors to be given back", || (descriptors(tracer.pid()) <= most).then_some(()));
        tracer.stop().check();
    });
}

#[test]
fn a_library_that_is_used_by_a_child_stays_probed() {
    let root = TempDir::new().unwrap();
    let until = root.path().join("until");
    let mut tracer = Run::new("gethostlatency").json();
    // Who maps the library ends; the child, which did not map it, goes on.
    let args = ["lookup-loop", "--until", "/until", "--fork", "true"];
    let mut workload = Workload::start_in(root.path(), args);
    workload.go();
    let number =
        |event: &Value| -> Option<u64> { event["host"].as_str()?.strip_prefix("loop-")?.parse().ok() };
    let first = tracer.wait_for(|line| number(line).is_some());
    // By then, users of files were looked for more than once.
    tracer.wait_for(|line| number(line).is_some_and(|n| n >= 3000));
    fs::write(until, "").unwrap();
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let count = actions[0]["count"].as_u64().unwrap();
    let child = u32::try_from(first["pid"].as_u64().unwrap()).unwrap();
    let numbers: Vec<u64> = finished.events_of(child).iter().filter_map(number).collect();
    assert!(numbers.iter().copied().eq(number(&first).unwrap()..count), "{numbers:?} of {count}");
}

/// Map a file to execute it, and unmap it again if that is asked for.
fn map(path: &Path, is_kept: bool) {
    let file = fs::File::open(path).unwrap();
    let length = std::num::NonZeroUsize::new(4096).unwrap();
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    // SAFETY: a new mapping, which nobody reads.
    let base = unsafe { mmap(None, length, access, MapFlags::MAP_PRIVATE, file, 0) }.unwrap();
    if !is_kept {
        // SAFETY: it is ours.
        unsafe { munmap(base, length.get()) }.unwrap();
    }
}

#[test]
fn a_pipe_in_a_librarys_place_is_not_opened() {
    let folder = TempDir::new().unwrap();
    // It is there from the start, so that it is probed then, also where it is a static program.
    let workload = lookup(&["numeric:127.0.0.1"; 50]);
    let tracer = Run::new("gethostlatency").json();
    for n in 0..50 {
        let library = folder.path().join(format!("{n}/libc.so.6"));
        let pipe = library.with_file_name("pipe");
        fs::create_dir(library.parent().unwrap()).unwrap();
        fs::write(&library, static_program()).unwrap();
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        map(&library, n % 2 == 0);
        fs::rename(&pipe, &library).unwrap();
    }
    let pid = workload.pid();
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let reported: Vec<Lookup> = finished.events_of(pid).iter().map(Lookup::reported).collect();
    assert_eq!(reported, actions.iter().map(Lookup::expected).collect::<Vec<_>>());
}

#[test]
fn many_libraries_of_a_neighbour_take_a_part_of_the_room() {
    let folder = TempDir::new().unwrap();
    let nobody = Who::new(Who::NOBODY, &[]);
    if scale::times(100) < 100 {
        return say_untested("many libraries", "an emulated machine takes minutes to probe them");
    }
    let mut tracer = Run::new("gethostlatency").json();
    let before = descriptors(tracer.pid());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let source = folder.path().join("source");
    fs::write(&source, static_program()).unwrap();
    let args = [source.to_str().unwrap(), folder.path().to_str().unwrap(), "400"];
    let mut many = Workload::start_by(&nobody, ["map-many"].iter().chain(&args));
    many.go();
    wait_until("it to be said", || tracer.stderr().contains("probed already").then_some(()));
    assert!(descriptors(tracer.pid()) < before + 600, "{}", descriptors(tracer.pid()));
    // Others are seen as ever.
    let root = TempDir::new().unwrap();
    let until = root.path().join("until");
    let mut workload = Workload::start_in(root.path(), ["lookup-loop", "--until", "/until"]);
    let pid = workload.pid();
    workload.go();
    tracer.wait_for(|line| line["pid"] == pid);
    fs::write(until, "").unwrap();
    workload.finish();
    drop(many);
    let finished = tracer.stop();
    finished.check();
    assert!(finished.footer["dropped_by_cause"]["not_probed"].as_u64().unwrap() >= 1, "{}", finished.footer);
}

#[test]
fn failures_alone_are_printed_with_x() {
    each_way(|way| {
        for option in ["-x", "--failed"] {
            let workload = lookup(&WAYS);
            let tracer = way(of(&workload).args([option])).json();
            let mut actions = workload.finish();
            actions.retain(|action| action["failed"] == true);
            assert!(!actions.is_empty());
            assert_exactly(&tracer.stop(), &actions);
        }
    });
}

#[test]
fn filters_are_applied_to_the_caller() {
    let nobody = Who::new(Who::NOBODY, &[]);
    let cgroup = Cgroup::new(format!("kscope-gethostlatency-{}", getpid()));
    each_way(|way| {
        let ways = ["numeric:wanted", "thread:numeric:wanted"];
        let wanted = Workload::start_by(&nobody, ["lookup"].iter().chain(&ways));
        let other = lookup(&["numeric:other", "thread:numeric:other"]);
        cgroup.add(wanted.pid());
        let path = cgroup.path().to_str().unwrap();
        let pid = wanted.pid().to_string();
        let all = format!("{},{pid}", other.pid());
        let runs = [
            (vec!["--uid", "65534", "-p", &all], 2),
            (vec!["--cgroup", path], 2),
            (vec!["-p", &pid, "--comm", "resolver"], 1),
            (vec!["--tid", &pid], 1),
            (vec!["-p", &all], 4),
        ];
        let tracers: Vec<_> =
            runs.iter().map(|(args, _)| way(Run::new("gethostlatency").args(args)).json()).collect();
        other.finish();
        wanted.finish();
        for (tracer, (args, count)) in tracers.into_iter().zip(&runs) {
            let finished = tracer.stop();
            finished.check();
            assert_accounted(&finished);
            let hosts: Vec<String> =
                finished.events().map(|event| event["host"].as_str().unwrap().into()).collect();
            let wanted = hosts.iter().filter(|host| *host == "wanted").count();
            assert_eq!((hosts.len(), wanted), (*count, (*count).min(2)), "{args:?}: {finished:#?}");
        }
    });
}

#[test]
fn hosts_of_any_bytes_and_lengths_are_shown() {
    let long = format!("numeric:{}", "x".repeat(300));
    let fits = format!("numeric:{}", "y".repeat(254));
    let workload = lookup(&["numeric:a\\b c\u{1b}[2J", "numeric:\u{202e}\u{e9}", &long, &fits]);
    let tracer = of(&workload).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let events: Vec<Value> = finished.events().collect();
    assert_eq!(events.len(), actions.len());
    for (event, action) in events.iter().zip(&actions) {
        let host = unhex(action["host_hex"].as_str().unwrap());
        let cut = host.len() > 254;
        assert_eq!(event["host_cut"], cut, "{event}");
        assert_eq!(hex(&bytes_of(event, "host")), hex(&host[..host.len().min(255)]), "{event}");
    }
}

#[test]
fn table_shows_the_same() {
    let ways = ["numeric:127.0.0.1", "numeric:localhost", "nothing", "gethostbyname:127.0.0.1"];
    for (args, titles) in [
        (&[][..], "TIME PID COMM LAT(ms) RESULT HOST"),
        (&["-U"], "TIME UID PID COMM LAT(ms) RESULT HOST"),
        (&["--timestamps=elapsed"], "TIME PID COMM LAT(ms) RESULT HOST"),
    ] {
        let workload = lookup(&ways);
        let pid = workload.pid().to_string();
        let tracer = of(&workload).args(args).text();
        let actions = workload.finish();
        let table = Table::of(&tracer.stop_text());
        assert_eq!(table.titles.join(" "), titles);
        assert_eq!(table.column("HOST"), ["127.0.0.1", "localhost", "-", "127.0.0.1"]);
        assert_eq!(table.column("RESULT"), ["ok", "EAI_NONAME", "ok", "ok"]);
        assert!(table.column("PID").iter().all(|shown| *shown == pid), "{:?}", table.rows);
        for (shown, action) in table.column("LAT(ms)").iter().zip(&actions) {
            let most = Duration::from_nanos(action["outside_ns"].as_u64().unwrap()).as_secs_f64() * 1e3;
            // A number of three decimals is rounded.
            assert!(shown.parse::<f64>().unwrap() <= most + 0.0005, "{shown} {most}");
        }
    }
    let ended = Run::new("gethostlatency").args(["--dry-run"]).output();
    let header = ended.stdout().lines().next().unwrap();
    assert!(header.starts_with("TIME") && header.len() < 80, "{header}");
}

#[test]
fn a_library_is_named_by_l() {
    let workload = lookup(&["numeric:127.0.0.1"]);
    let library = process::c_library(workload.pid());
    for option in ["-l", "--libc"] {
        let workload = lookup(&["numeric:127.0.0.1"]);
        let pid = workload.pid();
        let tracer = Run::new("gethostlatency").args([option, library.to_str().unwrap()]).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        let reported: Vec<Lookup> = finished.events_of(pid).iter().map(Lookup::reported).collect();
        assert_eq!(reported, actions.iter().map(Lookup::expected).collect::<Vec<_>>());
    }
    drop(workload);
    let empty = TempDir::new().unwrap();
    let file = empty.path().join("no-library");
    fs::write(&file, "text").unwrap();
    for path in [file.to_str().unwrap(), "/no/such/file", empty.path().to_str().unwrap()] {
        let ended = Run::new("gethostlatency").args(["-l", path, "--dry-run"]).output();
        assert!(ended.refusal(2).contains(path), "{ended:?}");
    }
}

#[test]
fn events_come_while_it_runs() {
    let mut workload = lookup(&["numeric:127.0.0.1"]);
    let (mut json, text) = (of(&workload).json(), of(&workload).text());
    workload.go();
    let event = json.wait_for(|line| line["type"] == "event");
    assert_eq!(event["host"], "127.0.0.1");
    wait_until("the row in the table", || (text.lines() == 2).then_some(()));
    json.stop();
    text.stop_text();
}
