// SPDX-License-Identifier: Apache-2.0 OR MIT
//! gethostlatency against the oracle: what was looked up is reported exactly, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use kscope_tests::bytes::{bytes_of, hex, unhex};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Who, Workload};
use kscope_tests::{now, process, programs, scale, wait_until};
use nix::unistd::getpid;
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

const WAYS: [&str; 14] = [
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
