// SPDX-License-Identifier: Apache-2.0 OR MIT
//! exitsnoop against the oracle: what ended is reported exactly, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use kscope_tests::bytes::{bytes_of, unhex};
use kscope_tests::scale::times;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Home, Run, Who, Workload};
use kscope_tests::{now, say_untested, wait_until};
use nix::errno::Errno;
use nix::unistd::getpid;
use serde_json::Value;

/// One end: what the workload saw of it, or what the tool reported.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    kind: String,
    pid: u64,
    tid: u64,
    ppid: u64,
    uid: u64,
    comm: Vec<u8>,
    exit_code: Option<u64>,
    signal: Option<u64>,
    core_dumped: bool,
}

impl End {
    fn process(action: &Value) -> Self {
        Self {
            kind: "process".into(),
            pid: action["pid"].as_u64().unwrap(),
            tid: action["pid"].as_u64().unwrap(),
            ppid: action["ppid"].as_u64().unwrap(),
            uid: action["uid"].as_u64().unwrap(),
            comm: unhex(action["comm_hex"].as_str().unwrap()),
            exit_code: action["exit_code"].as_u64(),
            signal: action["signal"].as_u64(),
            core_dumped: action["core_dumped"].as_bool().unwrap(),
        }
    }

    fn threads(action: &Value) -> Vec<Self> {
        let thread = |thread: &Value| Self {
            kind: "thread".into(),
            tid: thread["tid"].as_u64().unwrap(),
            comm: unhex(thread["comm_hex"].as_str().unwrap()),
            exit_code: thread["exit_code"].as_u64(),
            signal: thread["signal"].as_u64(),
            ..Self::process(action)
        };
        action["threads"].as_array().unwrap().iter().map(thread).collect()
    }

    fn reported(event: &Value) -> Self {
        assert_eq!(event["kernel_thread"], false, "{event}");
        let name = event["signal"].as_u64().map(signal_name);
        assert_eq!(event["signal_name"].as_str(), name.as_deref(), "{event}");
        Self {
            kind: event["kind"].as_str().unwrap().into(),
            pid: event["pid"].as_u64().unwrap(),
            tid: event["tid"].as_u64().unwrap(),
            ppid: event["ppid"].as_u64().unwrap(),
            uid: event["uid"].as_u64().unwrap(),
            comm: bytes_of(event, "comm"),
            exit_code: event["exit_code"].as_u64(),
            signal: event["signal"].as_u64(),
            core_dumped: event["core_dumped"].as_bool().unwrap(),
        }
    }
}

fn signal_name(signal: u64) -> String {
    match signal {
        6 => "SIGABRT".into(),
        9 => "SIGKILL".into(),
        15 => "SIGTERM".into(),
        34 => "SIGRTMIN".into(),
        37 => "SIGRTMIN+3".into(),
        other => panic!("no child dies of signal {other}"),
    }
}

fn home() -> Home {
    Home::new("exitsnoop", "exit")
}

/// Check that exactly these ends were reported, but for the workload's own, which is its last.
fn assert_exactly(finished: &Finished, workload: u32, expected: &[End]) {
    finished.check();
    let events = finished.events().filter(|event| event["pid"] != workload);
    let reported: Vec<End> = events.map(|event| End::reported(&event)).collect();
    assert_eq!(reported, expected, "{finished:#?}");
    assert_accounted(finished);
}

fn assert_accounted(finished: &Finished) {
    let footer = &finished.footer;
    let [generated, events, filtered, lost] =
        ["generated", "events", "filtered", "lost"].map(|key| finished.count(key));
    assert_eq!((generated, filtered, lost), (events, 0, 0), "{footer}");
    assert_eq!(finished.data().count() as u64, events, "{footer}");
}

const WAYS: [&str; 14] = [
    "code-0",
    "code-3",
    "code-255",
    "aged",
    "signal-15",
    "signal-9",
    "signal-34",
    "signal-37",
    "by-thread",
    "leader-first",
    "leader-first-all",
    "killed-threads",
    "together-4",
    "exec-by-thread",
];

/// Run by the tool's own choice of hooks, and by the fallback.
fn each_way(mut test: impl FnMut(&dyn Fn(Run) -> Run)) {
    test(&|run| run);
    test(&|run| run.env("KSCOPE_WAY", "raw_tp"));
}

#[test]
fn every_end_of_a_process_is_reported_once_with_its_status() {
    each_way(|way| {
        let home = home();
        let workload = home.workload(&WAYS);
        let pid = workload.pid();
        let before = now();
        let tracer = way(home.run(&[])).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        let after = now();
        let expected: Vec<End> = actions.iter().map(End::process).collect();
        assert_eq!(expected.len(), WAYS.len());
        assert_exactly(&finished, pid, &expected);
        // The workload itself ends too, with 0.
        let own = finished.events_of(pid);
        assert_eq!(own.len(), 1, "{finished:#?}");
        assert_eq!((&own[0]["exit_code"], &own[0]["ppid"]), (&0.into(), &getpid().as_raw().into()));
        for (event, action) in finished.events().zip(&actions) {
            let time = event["time"].as_str().unwrap();
            assert!(*before <= *time && *time <= *after, "{before} {event} {after}");
            let age = (event["age_s"].as_f64().unwrap() * 1e9).round() as u64;
            let bound = |key: &str| action[key].as_u64().unwrap();
            assert!(bound("age_least_ns") <= age && age <= bound("age_most_ns"), "{event} {action}");
        }
    });
}

#[test]
fn every_end_of_a_thread_is_reported_once_with_its_status() {
    each_way(|way| {
        for args in [&["-T"][..], &["--threaded"]] {
            let home = home();
            let workload = home.workload(&WAYS);
            let pid = workload.pid();
            let tracer = way(home.run(args)).json();
            let actions = workload.finish();
            let finished = tracer.stop();
            finished.check();
            assert_accounted(&finished);
            // Threads that end at once do so in any order.
            let mut expected: Vec<End> = actions.iter().flat_map(End::threads).collect();
            let mut reported: Vec<End> = finished
                .events()
                .filter(|event| event["pid"] != pid)
                .map(|event| End::reported(&event))
                .collect();
            expected.sort();
            reported.sort();
            assert_eq!(reported, expected, "{finished:#?}");
        }
    });
}

#[test]
fn core_dumps_are_told() {
    each_way(|way| {
        let home = home();
        let workload = home.workload(&["core", "signal-6"]);
        let pid = workload.pid();
        let tracer = way(home.run(&[])).json();
        let actions = workload.finish();
        assert_exactly(&tracer.stop(), pid, &actions.iter().map(End::process).collect::<Vec<_>>());
        if actions.iter().all(|action| action["core_dumped"] == false) {
            say_untested(
                "exitsnoop, a core dump",
                "kernel.core_pattern or a limit lets nobody dump core here",
            );
        }
    });
}

#[test]
fn threads_that_end_together_are_one_end() {
    let home = home();
    let ways = vec!["together-8"; times(100)];
    each_way(|way| {
        let workload = home.workload(&ways);
        let pid = workload.pid();
        let tracer = way(home.run(&[])).json();
        let actions = workload.finish();
        assert_exactly(&tracer.stop(), pid, &actions.iter().map(End::process).collect::<Vec<_>>());
    });
}

#[test]
fn failures_alone_are_printed_with_x() {
    each_way(|way| {
        for args in [["-x"], ["--failed"]] {
            let home = home();
            let workload = home.workload(&WAYS);
            let pid = workload.pid();
            let tracer = way(home.run(&args)).json();
            let mut actions = workload.finish();
            actions.retain(|action| action["exit_code"] != 0);
            assert_eq!(actions.len(), WAYS.len() - 3);
            let finished = tracer.stop();
            assert_exactly(&finished, pid, &actions.iter().map(End::process).collect::<Vec<_>>());
            assert_eq!(finished.events_of(pid), Vec::<Value>::new());
        }
    });
}

/// A workload, which ends, passes the filter, and another one does not.
fn filtered(run: Run, wanted: Workload, bystander: Workload) {
    let (pid, other) = (wanted.pid(), bystander.pid());
    let tracer = run.json();
    let (kept, dropped) = (wanted.finish(), bystander.finish());
    let finished = tracer.stop();
    finished.check();
    assert!(!kept.is_empty() && !dropped.is_empty());
    let of = |parent: u32| finished.events().filter(|event| event["ppid"] == parent).count();
    assert_eq!((of(pid), finished.events_of(pid).len()), (kept.len(), 1), "{finished:#?}");
    assert_eq!((of(other), finished.events_of(other).len()), (0, 0), "{finished:#?}");
}

#[test]
fn filter_by_process_and_thread() {
    each_way(|way| {
        for (options, kind) in [
            (&["--pid"][..], "process"),
            (&["-p"], "process"),
            (&["-T", "-p"], "thread"),
            (&["--tid"], "thread"),
        ] {
            let home = home();
            let (wanted, other) = (home.workload(&["code-3"]), home.workload(&["code-3"]));
            let pid = wanted.pid();
            let tracer = way(Run::new("exitsnoop").args(options).args([pid.to_string()])).json();
            other.finish();
            wanted.finish();
            let finished = tracer.stop();
            finished.check();
            assert_accounted(&finished);
            let ends: Vec<Value> = finished.events().collect();
            assert_eq!(ends.len(), 1, "{finished:#?}");
            assert_eq!((&ends[0]["pid"], &ends[0]["tid"]), (&pid.into(), &pid.into()));
            assert_eq!((&ends[0]["kind"], &ends[0]["exit_code"]), (&kind.into(), &0.into()));
        }
    });
}

#[test]
fn filter_by_user_is_judged_on_who_ends() {
    let nobody = Who::new(Who::NOBODY, &[]);
    each_way(|way| {
        let home = home();
        let wanted = Workload::start_by(&nobody, home.args(&["code-0", "by-thread", "leader-first"]));
        filtered(way(Run::new("exitsnoop").args(["--uid", "65534"])), wanted, home.workload(&["code-0"]));
    });
}

#[test]
fn filter_by_cgroup() {
    each_way(|way| {
        let (home, sibling) = (home(), home());
        let ways = ["code-3", "together-4"];
        let (wanted, other) = (home.workload(&ways), sibling.workload(&ways));
        let path = home.cgroup.path().to_str().unwrap().to_string();
        filtered(way(Run::new("exitsnoop").args(["-c", &path])), wanted, other);
    });
}

#[test]
fn filter_by_comm_takes_the_name_of_the_process_or_of_the_thread() {
    each_way(|way| {
        let home = home();
        // The process is named otherwise than the thread that ends it.
        for (args, wanted) in [
            (&["--comm", "workload"][..], 3),
            (&["--comm", "other"], 0),
            (&["-T", "--comm", "other"], 2),
            (&["-T", "--comm", "ther"], 2),
        ] {
            let workload = home.workload(&["by-thread", "leader-first"]);
            let tracer = way(home.run(args)).json();
            workload.finish();
            let finished = tracer.stop();
            finished.check();
            assert_accounted(&finished);
            assert_eq!(finished.events().count(), wanted, "{args:?}: {finished:#?}");
        }
    });
}

#[test]
fn cgroups_are_named() {
    let home = home();
    let workload = home.workload(&["code-3"]);
    let (json, text) = (home.run(&[]).json(), home.run(&["--print-cgroup"]).text());
    workload.finish();
    let name = home.cgroup.name().into_os_string().into_encoded_bytes();
    assert!(json.stop().events().all(|event| bytes_of(&event, "cgroup") == name));
    let table = Table::of(&text.stop_text());
    assert!(table.column("CGROUP").iter().all(|shown| shown.as_bytes() == name), "{:?}", table.rows);
}

#[test]
fn table_shows_the_same() {
    let home = home();
    let ways = ["code-0", "code-3", "signal-9", "signal-37", "leader-first-all"];
    for (args, titles) in [
        (&[][..], "PCOMM PID PPID TID AGE(s) EXIT_CODE"),
        (&["-t"], "TIME PCOMM PID PPID TID AGE(s) EXIT_CODE"),
        (&["--timestamp", "-U"], "TIME UID PCOMM PID PPID TID AGE(s) EXIT_CODE"),
    ] {
        let workload = home.workload(&ways);
        let tracer = home.run(args).text();
        let actions = workload.finish();
        let table = Table::of(&tracer.stop_text());
        assert_eq!(table.titles.join(" "), titles);
        // The last row is the workload's own.
        let shown = table.column("EXIT_CODE");
        assert_eq!(shown, ["0", "code 3", "signal 9 (SIGKILL)", "signal 37 (SIGRTMIN+3)", "code 6", "0"]);
        let ids = |key: &str| actions.iter().map(|action| action[key].to_string()).collect::<Vec<_>>();
        assert_eq!(table.column("PID")[..ways.len()], ids("pid"));
        assert_eq!(table.column("TID")[..ways.len()], ids("pid"));
        assert_eq!(table.column("PPID")[..ways.len()], ids("ppid"));
        assert!(table.column("PCOMM").iter().all(|comm| *comm == "workload"), "{:?}", table.rows);
    }
    let ended = Run::new("exitsnoop").args(["--dry-run"]).output();
    let header = ended.stdout().lines().next().unwrap();
    assert!(header.starts_with("PCOMM") && header.len() < 80, "{header}");
}

#[test]
fn the_effective_user_is_shown_beside_the_real_one() {
    each_way(|way| {
        let mut child = {
            let mut command = Command::new("sleep");
            let change = || {
                // SAFETY: a system call without addresses.
                let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, Who::NOBODY, -1) };
                Errno::result(result).map(drop).map_err(Into::into)
            };
            // SAFETY: the closure makes one system call.
            unsafe { command.arg("1000").pre_exec(change) };
            command.spawn().unwrap()
        };
        let args = ["-U", "-p", &child.id().to_string()];
        let (json, text) = (Run::new("exitsnoop").args(&args[1..]), Run::new("exitsnoop").args(args));
        let (json, text) = (way(json).json(), way(text).text());
        child.kill().unwrap();
        child.wait().unwrap();
        let finished = json.stop();
        let ids: Vec<_> = finished.events().map(|end| (end["uid"].clone(), end["euid"].clone())).collect();
        assert_eq!(ids, [(Value::from(0), Value::from(Who::NOBODY))], "{finished:#?}");
        assert_eq!(Table::of(&text.stop_text()).column("UID"), ["0/65534"]);
    });
}

#[test]
fn ends_of_kernel_threads_have_no_status() {
    // Whoever watches the pressure on a resource has a kernel thread do so, until the file is closed.
    let pressure = fs::OpenOptions::new().read(true).write(true).open("/proc/pressure/cpu");
    let watch = pressure.and_then(|mut file| file.write_all(b"some 500000 1000000\0").map(|()| file));
    let watch = match watch {
        Ok(file) => file,
        Err(error) => return say_untested("exitsnoop, a kernel thread", &format!("/proc/pressure: {error}")),
    };
    let mut tracer = Run::new("exitsnoop").args(["--comm", "psimon"]).json();
    drop(watch);
    let is_kernel = |line: &Value| line["kernel_thread"] == true;
    let event = tracer.wait_for(is_kernel);
    assert!(event["exit_code"].is_null() && event["signal"].is_null() && event["core_dumped"] == false);
    tracer.stop().check();
}

#[test]
fn events_come_while_it_runs() {
    let home = home();
    let mut workload = home.workload(&["code-3"]);
    let (mut json, text) = (home.run(&[]).json(), home.run(&[]).text());
    workload.go();
    let event = json.wait_for(|line| line["type"] == "event");
    assert_eq!(event["ppid"], workload.pid());
    wait_until("the row in the table", || (text.lines() == 2).then_some(()));
    json.stop();
    text.stop_text();
}
