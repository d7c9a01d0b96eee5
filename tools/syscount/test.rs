// SPDX-License-Identifier: Apache-2.0 OR MIT
//! syscount against the oracle: how often the workload made which system call, and how long that took it.
#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use kscope_tests::cgroup::Cgroup;
use kscope_tests::scale::more_than_a_hash_of_tasks;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Tracer, Workload, metrics, process, programs, say_untested, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

fn syscount(args: &[&str]) -> Run {
    Run::new("syscount").args(args)
}

/// The name of a system call, or its number if it has none, and of which callers, or io_uring.
type Call = (Option<String>, String);

fn call(name: &str, abi: &str) -> Call {
    (Some(name.into()), abi.into())
}

/// Of one row, or as the workload says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Count {
    count: u64,
    errors: Option<u64>,
    total_us: Option<f64>,
}

/// What the tool counted, over all its intervals, each row checked against itself.
fn counts(finished: &Finished) -> BTreeMap<Call, Count> {
    finished.check();
    assert_eq!(finished.count("lost"), 0, "{finished:?}");
    let mut counts = BTreeMap::<_, Count>::new();
    for row in finished.events() {
        let name =
            row["syscall"].as_str().map(String::from).or(row["number"].as_i64().map(|n| n.to_string()));
        let caller = row["abi"].as_str().or(row["via"].as_str()).unwrap().to_string();
        assert_eq!(row["via"] == "io_uring", row["abi"].is_null(), "{row}");
        let count = row["count"].as_u64().unwrap();
        assert!(count > 0 && row["errors"].as_u64().is_none_or(|errors| errors <= count), "{row}");
        let total_us = row["total_us"].as_f64();
        let mean_us = row["mean_us"].as_f64();
        assert_eq!(
            total_us.map(|total| (total / count as f64 * 1e6).round()),
            mean_us.map(|m| (m * 1e6).round())
        );
        let sum = counts.entry((name, caller)).or_default();
        sum.count += count;
        sum.errors = row["errors"].as_u64().map(|errors| errors + sum.errors.unwrap_or(0));
        sum.total_us = total_us.map(|total| total + sum.total_us.unwrap_or(0.0));
    }
    counts
}

/// What a workload says that it did.
struct Did {
    count: u64,
    errors: u64,
    /// The bounds of the time that it took.
    time_us: Option<(f64, f64)>,
}

fn did(actions: &[Value]) -> BTreeMap<Call, Did> {
    let did = |row: &Value| {
        let us = |key: &str| row[key].as_u64().map(|ns| ns as f64 / 1e3);
        let did = Did {
            count: row["count"].as_u64().unwrap(),
            errors: row["errors"].as_u64().unwrap(),
            time_us: us("least_ns").zip(us("most_ns")),
        };
        (call(row["syscall"].as_str().unwrap(), row["abi"].as_str().unwrap()), did)
    };
    let all: BTreeMap<_, _> = actions.iter().map(did).collect();
    assert_eq!(all.len(), actions.len());
    all
}

static CALLS: RwLock<()> = RwLock::new(());

/// A workload in a cgroup of its own, as it starts others that end. It goes first: a cgroup must be empty to go.
struct Calls {
    workload: Workload,
    cgroup: Cgroup,
    _others: Box<dyn Any>,
}

impl Calls {
    fn new(name: &str) -> Self {
        Self::beside(name, Box::new(CALLS.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// While no other test's workload makes such calls.
    fn alone(name: &str) -> Self {
        Self::beside(name, Box::new(CALLS.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn beside(name: &str, others: Box<dyn Any>) -> Self {
        let (workload, cgroup) = (Workload::start(["calls"]), Cgroup::new(format!("syscount-{name}")));
        cgroup.add(workload.pid());
        Self { workload, cgroup, _others: others }
    }

    fn path(&self) -> &str {
        self.cgroup.path().to_str().unwrap()
    }

    fn pid(&self) -> String {
        self.workload.pid().to_string()
    }

    fn act(&mut self) -> BTreeMap<Call, Did> {
        did(&self.workload.act())
    }
}

fn with_env(run: Run, env: &[(&str, &str)]) -> Run {
    env.iter().fold(run, |run, (name, value)| run.env(name, value))
}

const WAYS: [&[(&str, &str)]; 4] = [
    &[],
    &[("KSCOPE_TASKS", "hash")],
    &[("KSCOPE_WAY", "raw_tp")],
    &[("KSCOPE_WAY", "raw_tp"), ("KSCOPE_TASKS", "hash")],
];

/// Whether this kernel lets the tool see these calls.
fn has_note(finished: &Finished, part: &str) -> bool {
    finished.header["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains(part))
}

/// Calls and failures that the tool can see on this kernel where it does not measure, as it names them.
fn visible(finished: &Finished, did: &BTreeMap<Call, Did>) -> BTreeMap<Call, (u64, u64)> {
    let (no_exit, no_exec) = (has_note(finished, "exit_group"), has_note(finished, "execveat"));
    let mut seen: BTreeMap<_, _> =
        did.iter().map(|(call, did)| (call.clone(), (did.count, did.errors))).collect();
    // At its end it has no number.
    let sigreturn = seen.remove(&call("rt_sigreturn", "64-bit")).unwrap();
    seen.insert((None, "64-bit".into()), sigreturn);
    if no_exit {
        seen.retain(|(name, _), _| !name.as_deref().unwrap_or_default().starts_with("exit"));
    }
    if no_exec {
        let (execve, execveat) = (call("execve", "64-bit"), call("execveat", "64-bit"));
        let ((count, errors), (count_at, 0)) = (seen[&execve], seen[&execveat]) else { panic!("{seen:?}") };
        seen.remove(&execveat);
        seen.insert(execve, (errors, errors));
        seen.insert(call("execve or execveat", "64-bit"), (count - errors + count_at, 0));
    }
    seen
}

#[test]
fn every_call_is_counted_once() {
    for (n, env) in WAYS.iter().enumerate() {
        let mut calls = Calls::new(&format!("count-{n}"));
        let tracer = with_env(syscount(&["-c", calls.path()]), env).json();
        let expected = calls.act();
        let finished = tracer.stop();
        let counts = counts(&finished);
        for (call, (count, errors)) in visible(&finished, &expected) {
            let did = Count { count, errors: Some(errors), total_us: None };
            assert_eq!(counts.get(&call), Some(&did), "{call:?}: {counts:#?}");
        }
        for name in ["execveat", "exit", "exit_group"] {
            let call = call(name, "64-bit");
            let seen = visible(&finished, &expected).contains_key(&call);
            assert_eq!(counts.contains_key(&call), seen, "{name}: {counts:#?}");
        }
        assert_eq!(finished.footer["dropped_by_cause"], serde_json::json!({}), "{}", finished.footer);
        if let Some((_, way)) = env.iter().find(|(name, _)| *name == "KSCOPE_WAY") {
            let hooks = finished.header["hooks"].as_object().unwrap();
            assert!(hooks.values().all(|taken| taken.as_str().unwrap().starts_with(way)), "{hooks:?}");
        }
    }
}

#[test]
fn every_call_is_measured() {
    for (n, env) in WAYS.iter().enumerate() {
        let mut calls = Calls::new(&format!("latency-{n}"));
        let tracer = with_env(syscount(&["-L", "-c", calls.path()]), env).json();
        let expected = calls.act();
        let finished = tracer.stop();
        let counts = counts(&finished);
        for (call, did) in &expected {
            if call.0.as_deref().unwrap().starts_with("exit") {
                // They do not end.
                assert_eq!(counts.get(call), None, "{counts:#?}");
                continue;
            }
            let found = counts.get(call).unwrap_or_else(|| panic!("no {call:?} in {counts:#?}"));
            assert_eq!((found.count, found.errors), (did.count, Some(did.errors)), "{call:?}");
            let total = found.total_us.unwrap();
            if let Some((least, most)) = did.time_us {
                assert!((least..=most).contains(&total), "{least} <= {total} <= {most}");
            }
            assert!(total > 0.0, "{call:?} {found:?}");
        }
        // The read with which it waited for the test had begun before; so it is with a beginning that a kernel which
        // preempts programs left out.
        let dropped = finished.footer["dropped_by_cause"]["unknown_start"].as_u64().unwrap();
        let left_out = finished.footer["recursion_misses"].as_object().unwrap().len();
        assert!(dropped == 1 || dropped > 1 && left_out > 0, "{}", finished.footer);
    }
}

#[test]
fn without_filters_nothing_is_missing() {
    let mut calls = Calls::alone("all");
    let tracer = syscount(&[]).json();
    let expected = calls.act();
    let finished = tracer.stop();
    let counts = counts(&finished);
    for (call, (count, _)) in visible(&finished, &expected) {
        let name = call.0.as_deref().unwrap_or_default();
        let nobody_else = name.parse::<u32>().is_ok() || (call.1 == "32-bit" && name == "rmdir");
        let found = counts.get(&call).map_or(0, |found| found.count);
        assert!(found >= count && !(nobody_else && found > count), "{call:?}: {counts:#?}");
    }
}

#[test]
fn failures_are_counted_alone() {
    let mut calls = Calls::new("failures");
    let run = |args: &[&str]| syscount(args).args(["-c", calls.path()]).json();
    let tracers =
        [run(&["-x"]), run(&["-e", "ENOENT"]), run(&["-e9"]), run(&["-x", "-L", "--errno", "enosys"])];
    let expected = calls.act();
    let [all, enoent, ebadf, enosys] = tracers.map(|tracer: Tracer| counts(&tracer.stop()));
    for (call, did) in &expected {
        assert_eq!(all.get(call).map_or(0, |count| count.count), did.errors, "{call:?}: {all:#?}");
        assert!(all.values().all(|count| count.errors.is_none()), "{all:#?}");
    }
    let of = |counts: &BTreeMap<Call, Count>, name: &str, abi: &str| counts[&call(name, abi)].count;
    assert_eq!(of(&enoent, "unlinkat", "64-bit"), 200);
    assert_eq!(of(&enoent, "execve", "64-bit"), 4);
    assert!(!enoent.contains_key(&call("fchdir", "64-bit")));
    assert_eq!(ebadf.keys().collect::<Vec<_>>(), [&call("fchdir", "64-bit")]);
    assert_eq!(of(&ebadf, "fchdir", "64-bit"), 300);
    let of_enosys: u64 = enosys.values().map(|count| count.count).sum();
    let not_there = expected.iter().filter(|(call, _)| call.0.as_deref().unwrap().parse::<u32>().is_ok());
    assert_eq!(of_enosys, not_there.map(|(_, did)| did.errors).sum::<u64>(), "{enosys:#?}");
}

#[test]
fn processes_add_up() {
    let mut calls = Calls::new("processes");
    let pid = calls.pid();
    let run = |args: &[&str]| syscount(args).args(["-c", calls.path()]).json();
    let (processes, by_call, one) = (run(&["-P"]), run(&[]), run(&["--process", "-L", "--pid", &pid]));
    calls.act();
    let by_call: u64 = counts(&by_call.stop()).values().map(|count| count.count).sum();
    let processes = processes.stop();
    processes.check();
    let rows: Vec<Value> = processes.events().collect();
    assert_eq!(rows.iter().map(|row| row["count"].as_u64().unwrap()).sum::<u64>(), by_call, "{processes:?}");
    let own: Vec<&Value> = rows.iter().filter(|row| row["pid"] == calls.workload.pid()).collect();
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!((&own[0]["comm"], &own[0]["via"]), (&"workload".into(), &"syscall".into()));
    assert!(rows.iter().all(|row| row["syscall"].is_null() && row["number"].is_null()), "{rows:?}");
    // Itself, three that executed something, and six that did nothing but end.
    assert_eq!(rows.len(), if has_note(&processes, "exit_group") { 4 } else { 10 }, "{rows:#?}");
    let one = one.stop();
    let rows: Vec<Value> = one.events().collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["pid"], calls.workload.pid());
    assert!(rows[0]["total_us"].as_f64().unwrap() > 0.0, "{rows:?}");
}

#[test]
fn only_the_greatest_are_shown() {
    let mut calls = Calls::new("top");
    let run = |args: &[&str]| syscount(args).args(["-c", calls.path()]);
    let (top, table, all) = (run(&["-T", "2"]).json(), run(&[]).text(), run(&[]).json());
    calls.act();
    let top: Vec<Value> = top.stop().events().collect();
    let all: Vec<Value> = all.stop().events().collect();
    let names = |rows: &[Value]| rows.iter().map(|row| row["syscall"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&top), names(&all)[..2], "{all:?}");
    let counts: Vec<u64> = all.iter().map(|row| row["count"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted_by(|a, b| a >= b) && counts.len() > 20, "{counts:?}");
    let ended = table.stop_text();
    let mut lines = ended.stdout().lines();
    assert_eq!(lines.next().unwrap().split_whitespace().collect::<Vec<_>>(), ["SYSCALL", "COUNT", "ERRORS"]);
    // Names may hold blanks.
    let shown = lines.map(|line| line.split_whitespace().rev().nth(1).unwrap().parse().unwrap());
    assert_eq!(shown.collect::<Vec<u64>>(), counts[..10]);
}

#[test]
fn tables_have_what_was_asked_for() {
    let mut calls = Calls::new("tables");
    let forms: [(&[&str], &[&str]); 5] = [
        (&["-L"], &["SYSCALL", "COUNT", "ERRORS", "TOTAL(us)", "MEAN(us)"]),
        (&["-L", "-m", "-x"], &["SYSCALL", "COUNT", "TOTAL(ms)", "MEAN(ms)"]),
        (&["-x", "-T1"], &["SYSCALL", "COUNT"]),
        (&["-P"], &["PID", "COMM", "VIA", "COUNT", "ERRORS"]),
        (
            &["-P", "-L", "--milliseconds"],
            &["PID", "COMM", "VIA", "COUNT", "ERRORS", "TOTAL(ms)", "MEAN(ms)"],
        ),
    ];
    let tracers = forms.map(|(args, _)| syscount(args).args(["-c", calls.path()]).text());
    calls.act();
    for ((args, titles), tracer) in forms.into_iter().zip(tracers) {
        let ended = tracer.stop_text();
        assert_eq!(ended.code(), 0, "{ended:?}");
        let table = Table::parse(ended.stdout().lines());
        assert_eq!(table.titles, titles, "{args:?}");
        assert!(!table.rows.is_empty() && table.rows.len() <= 10, "{args:?}: {ended:?}");
    }
    let ended = syscount(&["-p", &std::process::id().to_string(), "--tid", "1", "0.01", "1"]).output();
    assert!(ended.stdout().starts_with("no system calls\n"), "{ended:?}");
}

#[test]
fn names_tell_callers_apart() {
    let mut calls = Calls::new("names");
    let tracer = syscount(&["-T", "1000", "-c", calls.path()]).text();
    calls.act();
    let ended = tracer.stop_text();
    // The names hold blanks: up to the first number that stands alone.
    let line = |name: &str, count: &str| {
        let found = ended.stdout().lines().any(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with("  ") && rest.split_whitespace().next() == Some(count))
        });
        assert!(found, "no {name} {count}: {ended:?}");
    };
    line("getppid", "1000");
    line("[499]", "11");
    line("[1500]", "13");
    line("[no number]", "25");
    #[cfg(target_arch = "x86_64")]
    {
        line("getppid (32-bit)", "50");
        line("rmdir (32-bit)", "30");
        line("[1600] (32-bit)", "7");
        line("[39] (x32)", "5");
    }
}

#[test]
fn io_uring_is_counted_apart() {
    for (latency, env) in [(false, WAYS[0]), (true, WAYS[0]), (true, WAYS[2])] {
        let dir = TempDir::new().unwrap();
        let ways = ["uring-openat", "uring-openat-enoent", "uring-openat2", "uring-openat-async", "openat"];
        let workload =
            Workload::try_start(["open", "--dir", dir.path().to_str().unwrap()].into_iter().chain(ways));
        let workload = match workload {
            Ok(workload) => workload,
            Err(refused) => return say_untested("syscount, io_uring", &refused.to_string()),
        };
        let pid = workload.pid().to_string();
        let args: &[&str] = if latency { &["-L", "-p", &pid] } else { &["-p", &pid] };
        let tracer = with_env(syscount(args), env).json();
        let process = with_env(syscount(&["-P", "-p", &pid]), env).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        let process = process.stop();
        if has_note(&finished, "io_uring") {
            return say_untested("syscount, io_uring", "its operations can't be counted on this kernel");
        }
        let counts = counts(&finished);
        let uring: Vec<_> = counts.iter().filter(|(call, _)| call.1 == "io_uring").collect();
        let by_uring = actions.iter().filter(|action| action["uring"] == true).count() as u64;
        assert_eq!(by_uring, 4);
        assert_eq!(uring.len(), 2, "{counts:#?}");
        let (openat, openat2) = (&counts[&call("openat", "io_uring")], &counts[&call("openat2", "io_uring")]);
        assert_eq!((openat.count, openat.errors, openat2.count, openat2.errors), (3, Some(1), 1, Some(0)));
        assert_eq!(openat.total_us.is_some_and(|total| total > 0.0), latency);
        let rows: Vec<Value> = process.events().filter(|row| row["via"] == "io_uring").collect();
        assert_eq!(rows.len(), 1, "{process:?}");
        assert_eq!((&rows[0]["pid"], &rows[0]["count"]), (&pid.parse::<u32>().unwrap().into(), &4.into()));
        assert_eq!(rows[0]["comm"], "workload");
    }
}

#[test]
fn intervals_add_up() {
    let mut calls = Calls::new("intervals");
    let mut tracer = syscount(&["-i", "0.02", "-c", calls.path()]).json();
    let expected = calls.act();
    tracer.wait_for(|row| row["syscall"] == "fork" || row["syscall"] == "clone3");
    let counts = counts(&tracer.stop());
    for name in ["getppid", "unlinkat", "fchdir", "499", "1500", "clone3"] {
        let call = call(name, "64-bit");
        assert_eq!(counts[&call].count, expected[&call].count, "{counts:#?}");
    }
    for args in [&["-i", "0.01"][..], &["--interval=10ms"], &["0.01"]] {
        let mut tracer = syscount(args).json();
        let first = tracer.wait_for(|_| true);
        assert_eq!(first["type"], "header");
        let first = tracer.wait_for(|row| row["type"] == "row");
        tracer.wait_for(|row| row["type"] == "row" && row["time"] != first["time"]);
        tracer.stop().check();
    }
    for args in [&["0.01", "3"][..], &["-i", "1h", "-d", "50ms"], &["--duration=0.05"]] {
        syscount(args).json().finished().check();
    }
    assert!(syscount(&["1", "-i", "1"]).output().refusal(2).contains("--interval"));
}

#[test]
fn metrics_are_the_same_counts() {
    let mut calls = Calls::new("metrics");
    let tracer = syscount(&["-L", "-c", calls.path(), "--metrics-listen=127.0.0.1:0"]).json();
    let address = metrics::address(&tracer);
    metrics::get(&address, "");
    let expected = calls.act();
    let name =
        |metric: &str, call: &str| format!("kscope_syscount_{metric}{{via=\"syscall\",call=\"{call}\"}}");
    let last = name("calls_total", "clone");
    let samples = wait_until("all calls to be exported", || {
        let samples = metrics::parse(&metrics::get(&address, "").1);
        samples.contains_key(&last).then_some(samples)
    });
    for call in ["getppid", "unlinkat", "fchdir", "tgkill"] {
        let did = &expected[&self::call(call, "64-bit")];
        assert_eq!(samples[&name("calls_total", call)], did.count as f64, "{call}");
        assert_eq!(samples[&name("failed_calls_total", call)], did.errors as f64, "{call}");
    }
    let (least, most) = expected[&call("clock_nanosleep", "64-bit")].time_us.unwrap();
    let slept = samples[&name("time_seconds_total", "clock_nanosleep")] * 1e6;
    assert!((least..=most).contains(&slept), "{least} <= {slept} <= {most}");
    tracer.stop().check();
}

#[test]
fn names_are_listed() {
    for flag in ["-l", "--list"] {
        let ended = syscount(&[flag]).output();
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{ended:?}");
        let names: Vec<&str> = ended.stdout().lines().collect();
        assert!(names.contains(&"openat") && names.contains(&"exit_group") && names.len() > 250, "{names:?}");
    }
}

#[test]
fn processes_without_room_are_counted_as_lost() {
    let mut calls = Calls::new("lost");
    let run = |args: &[&str]| syscount(args).args(["-c", calls.path()]).json();
    let (few, all) = (run(&["-P", "--entries", "2", "--strict"]), run(&["-P"]));
    calls.act();
    few.signal(Signal::SIGINT);
    let ended = few.ended();
    assert_eq!(ended.code(), 3, "{ended:?}");
    let few = Finished::from(ended);
    let sum = |finished: &Finished| finished.events().map(|row| row["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(few.events().count(), 2, "{few:?}");
    assert_eq!(few.footer["lost_by_cause"]["map_full"], few.count("lost"));
    assert_eq!(sum(&few) + few.count("lost"), sum(&all.stop()));
}

#[test]
fn the_hash_forgets_tasks_that_have_ended() {
    let count = more_than_a_hash_of_tasks();
    let workload = Workload::start(["forks", "--count", &count.to_string()]);
    let tracer = syscount(&["-L", "--comm", "workload"]).env("KSCOPE_TASKS", "hash").json();
    workload.finish();
    let counts = counts(&tracer.stop());
    assert!(counts[&call("wait4", "64-bit")].count >= count, "{counts:#?}");
}

#[test]
fn processes_that_have_ended_make_room() {
    const ROUNDS: usize = 10;
    const FORKS: usize = 300;
    let args = ["-P", "--entries", "1000", "--comm", "workload", "--metrics-listen=127.0.0.1:0", "0.1"];
    let mut tracer = syscount(&args).json();
    let address = metrics::address(&tracer);
    let mut parents = Vec::new();
    let mut shown = |tracer: &mut Tracer, workload: Workload| {
        let pid = workload.pid();
        workload.finish();
        // Once its interval has ended.
        tracer.wait_for(|row| row["pid"] == pid);
        parents.push(u64::from(pid));
    };
    for _ in 0..ROUNDS {
        shown(&mut tracer, Workload::start(["forks", "--count", &FORKS.to_string()]));
    }
    let dir = TempDir::new().unwrap();
    let late = dir.path().join("late-workload");
    process::copy_program(&programs::workload(), &late);
    shown(&mut tracer, Workload::start_program(&late, ["forks", "--count", "1"]));
    wait_until("the name of a late process", || {
        metrics::get(&address, "").1.contains("late-workload").then_some(())
    });
    let finished = tracer.stop();
    finished.check();
    assert_eq!(finished.count("lost"), 0, "{finished:?}");
    let mut calls: BTreeMap<u64, u64> = BTreeMap::new();
    for row in finished.events() {
        *calls.entry(row["pid"].as_u64().unwrap()).or_default() += row["count"].as_u64().unwrap();
    }
    calls.retain(|pid, _| !parents.contains(pid));
    assert_eq!(calls.len(), ROUNDS * FORKS + 1);
    // Each child makes the same calls.
    let each = *calls.values().next().unwrap();
    assert!(each > 0 && calls.values().all(|count| *count == each), "{calls:?}");
}
