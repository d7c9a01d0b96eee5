// SPDX-License-Identifier: Apache-2.0 OR MIT
//! runqlat against the oracle: how often and how long the kernel itself says that each thread has waited.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kscope_tests::bytes::hex;
use kscope_tests::cgroup::Cgroup;
use kscope_tests::scale::{is_slow, more_than_a_hash_of_tasks, times};
use kscope_tests::{Finished, Run, Tracer, Who, Workload, metrics, say_untested, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The kernel takes its times a little before those of its tracepoints, at either end of a wait.
const TOLERANCE: f64 = 1.25;
/// How far hooks and the kernel's clock readings may lie apart, for each wait.
const HOOKS_US: f64 = 20.0;

fn runqlat(args: &[&str]) -> Run {
    Run::new("runqlat").args(args)
}

/// Of one thread, by the workload.
#[derive(Debug)]
struct Thread {
    name: String,
    tid: u64,
    waits: u64,
    run_delay_us: Option<f64>,
    /// All time in which it did not run.
    most_us: f64,
}

/// The workload, ready to wait for the last processor.
fn runq(count: usize) -> Workload {
    Workload::start(["runq", "--cpu", &last_cpu(), "--count", &times(count).to_string()])
}

/// The first processor has most of the host's own work.
fn last_cpu() -> String {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    online.trim().rsplit([',', '-']).next().unwrap().into()
}

/// Other tests' workloads would make this one's threads wait for very long.
fn alone() -> MutexGuard<'static, ()> {
    static CPU: Mutex<()> = Mutex::new(());
    CPU.lock().unwrap_or_else(PoisonError::into_inner)
}

fn act(workload: &mut Workload) -> Vec<Thread> {
    let thread = |row: &Value| {
        let number = |key: &str| row[key].as_u64().unwrap();
        Thread {
            name: row["name"].as_str().unwrap().into(),
            tid: number("tid"),
            waits: number("waits"),
            run_delay_us: row["run_delay_ns"].as_u64().map(|ns| ns as f64 / 1e3),
            most_us: (number("elapsed_ns") - number("cpu_ns")) as f64 / 1e3,
        }
    };
    let threads: Vec<_> = workload.act().iter().map(thread).collect();
    let names: Vec<_> = threads.iter().map(|thread| thread.name.as_str()).collect();
    assert_eq!(names, ["ping", "pong", "spin"]);
    threads
}

/// What the tool said of one key, over all its intervals.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sum {
    comm: Option<String>,
    count: u64,
    total_us: f64,
}

/// All histograms, summed up by a key of theirs, each checked against itself.
fn sums(finished: &Finished, key: &str) -> BTreeMap<Option<u64>, Sum> {
    finished.check();
    assert_eq!(finished.count("lost"), 0, "{finished:?}");
    let mut sums = BTreeMap::<_, Sum>::new();
    for row in finished.events() {
        let count = row["count"].as_u64().unwrap();
        let total_us = row["total_us"].as_f64().unwrap();
        let buckets = row["buckets"].as_array().unwrap();
        let sum = |of: &str| {
            let of = |b: &Value| b[of].as_u64().unwrap() * b["count"].as_u64().unwrap();
            buckets.iter().map(of).sum::<u64>() as f64
        };
        assert_eq!(count, buckets.iter().map(|b| b["count"].as_u64().unwrap()).sum::<u64>(), "{row}");
        assert!(sum("from_us") <= total_us && total_us <= sum("to_us"), "{row}");
        let sum = sums.entry(row[key].as_u64()).or_default();
        sum.comm = row["comm"].as_str().map(String::from);
        sum.count += count;
        sum.total_us += total_us;
    }
    sums
}

/// What a wait is longer or shorter by chance: the machine below may take the processor away between a hook and the
/// kernel's own look at its clock.
const TRIES: usize = 4;

/// Check what the tool said of a thread with what the kernel counted; a sentence, if the times are apart.
fn compare(finished: &Finished, sum: Option<&Sum>, thread: &Thread) -> Result<(), String> {
    let sum = sum.unwrap_or_else(|| panic!("nothing about {thread:?}"));
    // What the kernel did not let the tool see, it says.
    let dropped = finished.footer["dropped_by_cause"].as_object().unwrap().values();
    let dropped: u64 = dropped.map(|n| n.as_u64().unwrap()).sum();
    let seen = sum.count..=sum.count + dropped;
    assert!(seen.contains(&thread.waits), "{sum:?} of {thread:?}: {}", finished.footer);
    // QEMU's processors stand still in turns, each with a clock of its own.
    assert!(is_slow() || sum.total_us <= thread.most_us, "{sum:?} of {thread:?}");
    match thread.run_delay_us {
        Some(delay) => {
            // The kernel's own waits begin a little before the hooks and end a little after them, or the other way
            // round: that counts where a wait is short.
            let apart = HOOKS_US * thread.waits as f64;
            let most = if is_slow() { f64::INFINITY } else { delay * TOLERANCE + apart };
            // A wait that was dropped has no time; QEMU's clock goes on where nothing does.
            let least = if is_slow() || dropped > 0 { 0.0 } else { delay / TOLERANCE - apart };
            if !(least..most).contains(&sum.total_us) {
                return Err(format!("{} us, not {delay} us: {sum:?} of {thread:?}", sum.total_us));
            }
        }
        None => say_untested("runqlat against schedstat", "this kernel has no such file"),
    }
    Ok(())
}

fn pid_of(workload: &Workload) -> String {
    workload.pid().to_string()
}

#[test]
fn each_thread_s_waits_are_those_the_kernel_counts() {
    let _cpu = alone();
    let ways: [&[(&str, &str)]; 3] = [&[], &[("KSCOPE_TASKS", "hash")], &[("KSCOPE_WAY", "raw_tp")]];
    for env in ways {
        let apart = (0..TRIES).map_while(|_| waits_of_each_thread(env).err());
        let apart: Vec<String> = apart.collect();
        assert!(apart.len() < TRIES, "{apart:#?}");
    }
}

/// Let it run once in this way; a sentence, if the times are apart.
fn waits_of_each_thread(env: &[(&str, &str)]) -> Result<(), String> {
    let mut workload = runq(20);
    let run = env.iter().fold(runqlat(&["-L", "-p", &pid_of(&workload)]), |run, (k, v)| run.env(k, v));
    let tracer = run.json();
    let threads = act(&mut workload);
    let finished = tracer.stop();
    let sums = sums(&finished, "tid");
    let compared: Vec<_> =
        threads.iter().map(|thread| compare(&finished, sums.get(&Some(thread.tid)), thread)).collect();
    // A name is that of the last wait: the third may have waited only before it had its name.
    for thread in &threads[..2] {
        assert_eq!(sums[&Some(thread.tid)].comm.as_ref(), Some(&thread.name));
    }
    // The main thread, and no other.
    assert_eq!(sums.len(), 4, "{sums:?}");
    assert_eq!(sums[&Some(workload.pid().into())].comm.as_deref(), Some("workload"));
    let asked = env.iter().find_map(|(k, v)| (*k == "KSCOPE_WAY").then(|| (*v).to_string()));
    let way = asked.or_else(|| std::env::var("KSCOPE_WAY").ok()).unwrap_or("tp_btf".into());
    let hooks = finished.header["hooks"].as_object().unwrap();
    assert_eq!(hooks.len(), 3, "{hooks:?}");
    assert!(hooks.values().all(|taken| taken.as_str().unwrap().starts_with(&way)), "{hooks:?}");
    compared.into_iter().collect()
}

#[test]
fn keys_part_the_same_waits() {
    let _cpu = alone();
    let mut workload = runq(20);
    let pid = pid_of(&workload);
    let ns = fs::metadata(format!("/proc/{pid}/ns/pid")).unwrap().ino();
    let run = |args: &[&str]| runqlat(args).args(["-p", &pid]).json();
    let (all, processes, threads, both, namespaces) =
        (run(&[]), run(&["-P"]), run(&["--tids"]), run(&["-P", "-L"]), run(&["--pidnss"]));
    act(&mut workload);
    let all = sums(&all.stop(), "pid");
    let total = all[&None].count;
    assert!(total > times(20) as u64, "{all:?}");
    let processes = sums(&processes.stop(), "pid");
    assert_eq!(processes.keys().collect::<Vec<_>>(), [&Some(workload.pid().into())]);
    let process = &processes[&Some(workload.pid().into())];
    // By the process's name, not by that of the thread that waited.
    assert_eq!((process.count, process.comm.as_deref()), (total, Some("workload")));
    let threads = sums(&threads.stop(), "tid");
    assert_eq!(threads.len(), 4, "{threads:?}");
    assert_eq!(threads.values().map(|sum| sum.count).sum::<u64>(), total);
    let both = both.stop();
    assert_eq!(sums(&both, "tid").keys().collect::<Vec<_>>(), threads.keys().collect::<Vec<_>>());
    assert!(both.events().all(|row| row["pid"] == workload.pid()), "{both:?}");
    let namespaces = sums(&namespaces.stop(), "pidns");
    assert_eq!(namespaces.len(), 1, "{namespaces:?}");
    assert_eq!(namespaces[&Some(ns)].count, total);
}

#[test]
fn namespaces_are_those_of_the_waiting() {
    let _cpu = alone();
    let mut inside = Workload::start([
        "runq",
        "--cpu",
        &last_cpu(),
        "--count",
        &times(20).to_string(),
        "--namespace",
        "pid",
    ]);
    let mut outside = runq(20);
    let parent = inside.pid();
    let child: u32 =
        fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap().trim().parse().unwrap();
    let ns = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/pid")).unwrap().ino();
    let (ns_inside, ns_outside) = (ns(child), ns(outside.pid()));
    assert_ne!(ns_inside, ns_outside);
    let tracer = runqlat(&["--pidnss", "-P", "-p", &format!("{child},{}", outside.pid())]).json();
    inside.go();
    outside.go();
    act(&mut inside);
    act(&mut outside);
    let mut seen: Vec<_> =
        tracer.stop().events().map(|row| (row["pid"].as_u64(), row["pidns"].as_u64())).collect();
    seen.sort();
    let mut expected =
        vec![(Some(child.into()), Some(ns_inside)), (Some(outside.pid().into()), Some(ns_outside))];
    expected.sort();
    assert_eq!(seen, expected);
}

/// Two workloads that fight for one CPU, so that each is switched from and woken up beside the other: the tool,
/// asked for one, has all of its waits, and none of the other's.
fn only_one(run: Run, mut wanted: Workload, mut other: Workload) {
    let tracer = run.args(["-L", "-P"]).json();
    wanted.go();
    other.go();
    let threads = act(&mut wanted);
    act(&mut other);
    let finished = tracer.stop();
    let sums = sums(&finished, "tid");
    threads.iter().for_each(|thread| compare(&finished, sums.get(&Some(thread.tid)), thread).unwrap());
    assert!(finished.events().all(|row| row["pid"] == wanted.pid()), "{finished:?}");
}

#[test]
fn filters_are_for_the_task_that_waits() {
    let _cpu = alone();
    let wanted = runq(20);
    only_one(runqlat(&["-p", &pid_of(&wanted)]), wanted, runq(20));

    let nobody = Who::new(Who::NOBODY, &[]);
    let by_nobody = Workload::start_by(&nobody, ["runq", "--cpu", &last_cpu(), "--count", "20"]);
    only_one(runqlat(&["--uid=nobody"]), by_nobody, runq(20));

    for way in ["tp_btf", "raw_tp"] {
        let (above, beside) =
            (Cgroup::new(format!("runqlat-{way}")), Cgroup::new(format!("runqlat-no-{way}")));
        let below = above.child("below");
        let (wanted, other) = (runq(20), runq(20));
        below.add(wanted.pid());
        beside.add(other.pid());
        let run = runqlat(&["-c", above.path().to_str().unwrap()]).env("KSCOPE_WAY", way);
        only_one(run, wanted, other);
    }
}

#[test]
fn threads_are_filtered_by_number_and_name() {
    let _cpu = alone();
    let mut workload = runq(20);
    let main = pid_of(&workload);
    let by_tid = runqlat(&["-L", "--tid", &main]).json();
    let by_comm = runqlat(&["-L", "-p", &main, "--comm", "pon"]).json();
    let threads = act(&mut workload);
    assert_eq!(sums(&by_tid.stop(), "tid").into_keys().collect::<Vec<_>>(), [Some(workload.pid().into())]);
    let by_comm = sums(&by_comm.stop(), "tid");
    let pong = &threads[1];
    assert_eq!(by_comm.keys().collect::<Vec<_>>(), [&Some(pong.tid)]);
    // Its first waits were before it had its name.
    assert!(by_comm[&Some(pong.tid)].count <= pong.waits, "{by_comm:?} {pong:?}");
}

#[test]
fn intervals_add_up() {
    let _cpu = alone();
    let (mut first, mut second) = (runq(20), runq(20));
    let pids = format!("{},{}", first.pid(), second.pid());
    let mut tracer = runqlat(&["-L", "-p", &pids, "0.05"]).json();
    let mut threads = act(&mut first);
    let spin = threads[2].tid;
    tracer.wait_for(|row| row["tid"] == spin);
    threads.extend(act(&mut second));
    let finished = tracer.stop();
    let sums = sums(&finished, "tid");
    threads.iter().for_each(|thread| compare(&finished, sums.get(&Some(thread.tid)), thread).unwrap());
    assert!(finished.events().all(|row| row["count"] != 0), "{finished:?}");

    let finished = runqlat(&["0.05", "3"]).json().finished();
    finished.check();
    assert_eq!(finished.data().count(), 3, "{finished:?}");
}

#[test]
fn tables_say_whose_waits_they_are() {
    let _cpu = alone();
    let mut workload = runq(20);
    let pid = pid_of(&workload);
    let run = |args: &[&str]| runqlat(args).args(["-p", &pid]).text();
    let tracers = [run(&[]), run(&["-P", "-m"]), run(&["-L"]), run(&["--pidnss", "-T"])];
    let threads = act(&mut workload);
    let texts = tracers.map(|tracer: Tracer| {
        let ended = tracer.stop_text();
        assert_eq!(ended.code(), 0, "{ended:?}");
        ended.stdout().to_string()
    });
    let [all, processes, by_thread, namespaces] = &texts;
    assert!(all.starts_with("     usecs  "), "{all}");
    assert!(processes.starts_with(&format!("pid = {pid} workload\n     msecs  ")), "{processes}");
    for thread in &threads {
        let title = format!("tid = {} ", thread.tid);
        let (_, text) = by_thread.split_once(&title).unwrap_or_else(|| panic!("no {title} in {by_thread}"));
        let name = text.lines().next().unwrap();
        assert!(name == thread.name || thread.name == "spin", "{by_thread}");
        let line = text.lines().find(|line| line.starts_with("count ")).unwrap();
        assert!(line.starts_with(&format!("count {}, ", thread.waits)), "{line}: {thread:?}");
    }
    let ns = fs::metadata(format!("/proc/{pid}/ns/pid")).unwrap().ino();
    let (time, rest) = namespaces.split_once('\n').unwrap();
    assert!(time.len() == 8 && time.split(':').count() == 3, "{namespaces}");
    assert!(rest.starts_with(&format!("pidns = {ns}\n")), "{namespaces}");
    let nothing = runqlat(&["-P", "--comm", "no-such-name", "0.01", "1"]).output();
    assert_eq!(nothing.stdout(), "no waits for a CPU\n");
}

#[test]
fn metrics_are_by_name() {
    const COUNT: &str = "kscope_runqlat_wait_seconds_count";
    let _cpu = alone();
    let mut workload = runq(20);
    let tracer = runqlat(&["-L", "-p", &pid_of(&workload), "--metrics-listen=127.0.0.1:0"]).json();
    let address = metrics::address(&tracer);
    // Before and after the threads take their names.
    metrics::get(&address, "");
    let threads = act(&mut workload);
    let waits = threads.iter().map(|thread| thread.waits).sum::<u64>() as f64;
    let samples = wait_until("all waits to be exported", || {
        let samples = metrics::parse(&metrics::get(&address, "").1);
        (metrics::sum(&samples, COUNT) > waits).then_some(samples)
    });
    let shown: u64 = sums(&tracer.stop(), "tid").values().map(|sum| sum.count).sum();
    assert_eq!(metrics::sum(&samples, COUNT), shown as f64, "{samples:?}");
    let ping = samples[&format!("{COUNT}{{comm=\"ping\"}}")];
    assert!(0.0 < ping && ping <= threads[0].waits as f64, "{samples:?} {threads:?}");
}

#[test]
fn waits_without_room_are_counted_as_lost() {
    let _cpu = alone();
    let mut workload = runq(20);
    let tracer = runqlat(&["-L", "-p", &pid_of(&workload), "--entries", "1", "--strict"]).json();
    let threads = act(&mut workload);
    tracer.signal(Signal::SIGINT);
    let ended = tracer.ended();
    assert_eq!(ended.code(), 3, "{ended:?}");
    let finished = Finished::from(ended);
    let shown: u64 = finished.events().map(|row| row["count"].as_u64().unwrap()).sum();
    assert_eq!(finished.events().count(), 1, "{finished:?}");
    let waits: u64 = threads.iter().map(|thread| thread.waits).sum();
    // The main thread's own waits are the rest.
    assert!(shown + finished.count("lost") >= waits, "{finished:?} {threads:?}");
    assert_eq!(finished.footer["lost_by_cause"]["map_full"], finished.count("lost"));
}

#[test]
fn the_hash_forgets_tasks_that_have_ended() {
    let count = more_than_a_hash_of_tasks();
    let workload = Workload::start(["forks", "--count", &count.to_string()]);
    let tracer = runqlat(&[]).env("KSCOPE_TASKS", "hash").json();
    workload.finish();
    let sums = sums(&tracer.stop(), "tid");
    assert!(sums[&None].count > count, "{sums:?}");
}

#[test]
fn processes_that_have_ended_make_room() {
    const COUNT: &str = "kscope_runqlat_wait_seconds_count";
    let tracer =
        runqlat(&["-P", "--entries", "1000", "--comm", "workload", "--metrics-listen=127.0.0.1:0", "0.1"]);
    let mut tracer = tracer.json();
    let address = metrics::address(&tracer);
    for _ in 0..10 {
        let workload = Workload::start(["forks", "--count", "300"]);
        let pid = workload.pid();
        workload.finish();
        tracer.wait_for(|row| row["pid"] == pid);
    }
    let late = Workload::start(["comm", &hex(b"late-workload")]);
    let pid = late.pid();
    late.finish();
    tracer.wait_for(|row| row["pid"] == pid);
    let samples = metrics::parse(&metrics::get(&address, "").1);
    let finished = tracer.stop();
    finished.check();
    assert_eq!(finished.count("lost"), 0, "{finished:?}");
    // A wait that has ended since the last scrape is in the rows alone.
    let shown: u64 = finished.events().map(|row| row["count"].as_u64().unwrap()).sum();
    assert!(metrics::sum(&samples, COUNT) <= shown as f64, "{samples:?}");
    let children: BTreeSet<_> = finished.events().map(|row| row["pid"].as_u64().unwrap()).collect();
    assert!(children.len() > 3000, "{}", children.len());
}
