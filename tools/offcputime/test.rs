// SPDX-License-Identifier: Apache-2.0 OR MIT
//! offcputime against the oracle: threads that sleep for known times, in a known function, and measure by the clock
//! and by their CPU time what is left for the time off the CPU.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use kscope_tests::burn::{Burner, last_cpu, workload_has_symbols};
use kscope_tests::scale::{is_slow, times};
use kscope_tests::stacks::{Frame, Pprof, Stack, flame_graph, folded};
use kscope_tests::{Ended, Finished, Run, Workload, left_out, process, say_untested};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The function in which the workload sleeps.
const PLACE: &str = "sleep_in_a_known_place";

/// The threads of a workload that wait, off their CPUs, until they are told to go.
const WAITS: u64 = 1;

fn offcputime(args: &[&str]) -> Run {
    Run::new("offcputime").args(args)
}

/// The stacks of a run, checked against its footer.
fn stacks_of(finished: &Finished) -> Vec<Stack> {
    finished.check();
    let stacks: Vec<Stack> = finished.events().map(|line| Stack::of(&line)).collect();
    assert_eq!(finished.count("events"), stacks.len() as u64, "{}", finished.footer);
    let counted: u64 = stacks.iter().map(|stack| stack.count).sum();
    assert_eq!(finished.count("generated"), counted + finished.count("lost"), "{}", finished.footer);
    assert!(stacks.is_sorted_by(|a, b| a.total_us.unwrap() as u64 >= b.total_us.unwrap() as u64));
    for stack in &stacks {
        // The idle tasks are nobody.
        assert!(stack.pid != 0 && stack.tid.is_some_and(|tid| tid != 0), "{stack:?}");
        assert!(!stack.comm.starts_with(b"swapper/"), "{stack:?}");
    }
    stacks
}

/// Microseconds off the CPU, and how often, of the stacks that are wanted.
fn sum(stacks: &[Stack], wanted: impl Fn(&Stack) -> bool) -> (f64, u64) {
    let wanted = stacks.iter().filter(|stack| wanted(stack));
    wanted.fold((0.0, 0), |(us, count), stack| (us + stack.total_us.unwrap(), count + stack.count))
}

/// Time that processors spent on interrupts, or that their host took away: it is nobody's CPU time. The kernel counts
/// ticks, of which each number may hide one.
struct Elsewhere(u64, u64);

impl Elsewhere {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let lines: Vec<&str> =
            stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).collect();
        // Hardware interrupts, software interrupts, stolen.
        let of = |line: &&str| {
            line.split_whitespace().skip(6).take(3).map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
        };
        Self(lines.iter().map(of).sum(), 3 * lines.len() as u64)
    }

    fn us_since(&self) -> f64 {
        const US_PER_TICK: f64 = 10_000.0;
        let now = Self::now();
        (now.0 - self.0 + now.1) as f64 * US_PER_TICK
    }
}

fn numbers(action: &Value, key: &str) -> Vec<u64> {
    action[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
}

fn number(action: &Value, key: &str) -> u64 {
    action[key].as_u64().unwrap()
}

/// Many sleeps of two lengths, in microseconds.
fn sleeps(count: usize) -> String {
    (0..count).map(|n| if n % 2 == 0 { "2000" } else { "60000" }).collect::<Vec<_>>().join(",")
}

#[test]
fn time_off_the_cpu_is_clock_time_less_cpu_time() {
    left_out::retried(check_times);
    if !workload_has_symbols() {
        say_untested("offcputime, user stacks", "the workload has no symbols");
    }
}

fn check_times() {
    let count = times(12);
    let mut workload = Workload::start(["sleeps", "--threads", "3", "--us", &sleeps(count)]);
    let pid = workload.pid();
    let tracer = offcputime(&["-p", &pid.to_string()]).json();
    let elsewhere = Elsewhere::now();
    workload.go();
    let actions = workload.finish();
    let elsewhere = elsewhere.us_since();
    let finished = tracer.stop();
    left_out::check_switches(&finished, WAITS);
    let stacks = stacks_of(&finished);
    assert_eq!(finished.footer["dropped_by_cause"].get("negative_time"), None, "{}", finished.footer);
    assert!(stacks.iter().all(|stack| stack.pid == pid), "{stacks:?}");
    for action in &actions {
        let tid = number(action, "tid") as u32;
        let (us, intervals) = sum(&stacks, |stack| stack.tid == Some(tid));
        let cpu = number(action, "cpu_ns") as f64 / 1000.0;
        // The kernel accounts CPU time a moment before a switch, to which it does not come while the thread
        // computes.
        let most = (number(action, "around_ns") - number(action, "on_cpu_ns")) as f64 / 1000.0;
        let in_sleep = numbers(action, "each_ns").iter().sum::<u64>() as f64 / 1000.0;
        let least = in_sleep - cpu - elsewhere;
        println!("thread {tid}: {us} us in {intervals}, between {least} and {most}");
        assert!(us <= most && us >= least, "{us} us is not between {least} and {most}: {action}");
        let (voluntary, involuntary) = (number(action, "voluntary"), number(action, "involuntary"));
        assert!(intervals >= voluntary + involuntary, "{intervals}: {action}");

        // Each time that it left the CPU to sleep is one interval with the stack of a sleep.
        let slept = |stack: &Stack| {
            stack.tid == Some(tid)
                && stack
                    .kernel
                    .iter()
                    .any(|f| f.symbol.as_ref().is_some_and(|s| s.contains("hrtimer_nanosleep")))
        };
        let (us, intervals) = sum(&stacks, slept);
        let expected = voluntary..=voluntary + involuntary;
        assert!(expected.contains(&intervals), "{intervals} sleeps: {action}: {stacks:?}");
        assert!(us <= in_sleep && us >= least, "{us} us of sleeps: {action}");
        for stack in stacks.iter().filter(|stack| slept(stack)) {
            let name = &stack.comm;
            assert!(name.starts_with(b"sleeper-"), "{stack:?}");
            if workload_has_symbols() {
                assert_eq!(stack.user[0].symbol.as_deref(), Some(PLACE), "{stack:?}");
            }
            // The tracing itself is no part of it.
            let first = stack.kernel[0].symbol.as_deref().unwrap();
            assert!(first.contains("schedule"), "{stack:?}");
        }
    }
}

#[test]
fn short_and_long_times_are_left_out_as_asked_for() {
    left_out::retried(check_limits);
}

fn check_limits() {
    const LIMIT: u64 = 10_000_000;
    let count = times(12);
    let mut workload = Workload::start(["sleeps", "--threads", "1", "--us", &sleeps(count)]);
    let run = |options: &[&str]| offcputime(&["-p", &workload.pid().to_string()]).args(options).json();
    let tracers =
        [run(&["-m", "10000"]), run(&["--max-block-time", "9999"]), run(&["-m", "10000", "-M", "20"])];
    workload.go();
    let action = &workload.finish()[0];
    let tid = number(action, "tid") as u32;
    let [long, short, none] = tracers.map(|tracer| {
        let finished = tracer.stop();
        left_out::check_switches(&finished, WAITS);
        let stacks = stacks_of(&finished);
        let slept = |stack: &Stack| {
            stack.tid == Some(tid)
                && stack
                    .kernel
                    .iter()
                    .any(|f| f.symbol.as_ref().is_some_and(|s| s.contains("hrtimer_nanosleep")))
        };
        for stack in stacks.iter().filter(|stack| stack.count == 1) {
            println!("{:?} {:?} {}", stack.tid, stack.total_us, stack.folded());
        }
        sum(&stacks, slept).1
    });
    // Those asked for are longer; a short one may have become so.
    let asked_long = count as u64 / 2;
    let became_long = numbers(action, "each_ns").iter().filter(|ns| **ns >= LIMIT).count() as u64;
    println!("{long} long, {short} short, where {asked_long} to {became_long} are");
    assert!((asked_long..=became_long).contains(&long), "{long}: {action}");
    assert!(short + became_long >= number(action, "voluntary"), "{short}: {action}");
    assert_eq!(none, 0);
}

#[test]
fn a_file_in_the_place_of_another_has_its_own_names() {
    left_out::retried(check_plugins);
}

fn check_plugins() {
    for way in ["unmap", "smaller", "fixed"] {
        let dir = TempDir::new().unwrap();
        let args = ["--way", way, "--cpu-seconds", "0.01", "--sleeps", "20"];
        let workload =
            Workload::start(["plugins", "--dir", dir.path().to_str().unwrap()].into_iter().chain(args));
        let tracer = offcputime(&["-p", &workload.pid().to_string()]).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        left_out::check_switches(&finished, WAITS);
        if way == "fixed" && !finished.header["hooks"]["stack_mapping"].to_string().contains("ma_write") {
            say_untested("offcputime, code mapped over code", "this kernel does not tell it");
            continue;
        }
        let stacks = stacks_of(&finished);
        let slept = |stack: &Stack| {
            let sleeps = |f: &Frame| f.symbol.as_ref().is_some_and(|s| s.contains("hrtimer_nanosleep"));
            stack.kernel.iter().any(sleeps)
        };
        // Where the tool waits for a CPU longer than a plugin is there, it says that.
        const LATE: &str = "the process's mappings had changed before they could be read";
        let is_late = |f: &Frame| f.reason.as_deref() == Some(LATE);
        let late = sum(&stacks, |stack: &Stack| slept(stack) && stack.user.iter().any(is_late)).1;
        assert!(late == 0 || is_slow(), "{way}: {late} were read too late: {stacks:?}");
        for action in &actions {
            let name = format!("{}_sleep", action["plugin"].as_str().unwrap());
            let count = sum(&stacks, |stack: &Stack| slept(stack) && stack.has(&name)).1;
            let most = number(action, "sleeps") + number(action, "preempted");
            let least = number(action, "sleeps").min(number(action, "voluntary"));
            let is_right = count <= most && count + late >= least;
            assert!(is_right, "{way}: {count} of {action}, {late} late: {stacks:?}");
        }
    }
}

#[test]
fn what_is_off_the_cpu_at_the_end_is_counted() {
    let mut workload = Burner::for_cpu_seconds("burn", "0.05");
    let pid: u32 = workload.pid().parse().unwrap();
    let start = Instant::now();
    let tracer = offcputime(&["-p", &pid.to_string()]).json();
    workload.go();
    // It then waits for its input to end, which it does not while this process lives.
    workload.wait();
    let asleep = Instant::now();
    let waited = Duration::from_millis(50);
    std::thread::sleep(waited);
    let least = asleep.elapsed();
    let finished = tracer.stop();
    let most = start.elapsed();
    let stacks = stacks_of(&finished);
    let reads = |stack: &Stack| {
        stack.tid == Some(pid)
            && stack
                .kernel
                .iter()
                .any(|f| f.symbol.as_ref().is_some_and(|symbol| symbol.contains("pipe_read")))
    };
    let (us, count) = sum(&stacks, reads);
    assert!(count >= 1, "{stacks:?}");
    assert!(us >= least.as_micros() as f64 && us <= most.as_micros() as f64, "{us}: {least:?} {most:?}");
    assert_eq!(process::state(pid), Some('S'));
    workload.finish();
}

#[test]
fn kernel_threads_and_others_are_told_apart() {
    let sleeper = Workload::start(["sleeps", "--threads", "1", "--us", &sleeps(10)]);
    let pid = sleeper.pid();
    let tracers =
        [&["-k"][..], &["--kernel-threads-only"], &["-u"], &[]].map(|options| offcputime(options).json());
    sleeper.finish();
    // Their names are in brackets in ps: they have no memory of their own.
    let is_kernel_thread = |stack: &Stack| {
        let names: Vec<&str> = stack.kernel.iter().filter_map(|frame| frame.symbol.as_deref()).collect();
        stack.user.is_empty() && names.contains(&"kthread")
    };
    let [only, long, user, all] = tracers.map(|tracer| stacks_of(&tracer.stop()));
    for stacks in [&only, &long] {
        assert!(stacks.iter().all(|stack| stack.user.is_empty()), "{stacks:?}");
        assert!(stacks.iter().any(is_kernel_thread) && !stacks.iter().any(|stack| stack.pid == pid));
    }
    assert!(user.iter().any(|stack| stack.pid == pid) && !user.iter().any(is_kernel_thread), "{user:?}");
    assert!(all.iter().any(|stack| stack.pid == pid) && all.iter().any(is_kernel_thread));
    let sentence = offcputime(&["-k", "-u"]).output().refusal(2).to_string();
    assert!(sentence.contains("-u") || sentence.contains("user-threads-only"), "{sentence}");
}

#[test]
fn threads_are_picked_by_state() {
    // One that sleeps, and two that take the same processor from each other.
    let sleeper = Workload::start(["sleeps", "--threads", "1", "--us", &sleeps(10)]);
    let mut burners = [Burner::for_cpu_seconds("burn", "0.3"), Burner::for_cpu_seconds("burn", "0.3")];
    let pids = burners.iter().map(|burner| burner.pid().parse().unwrap());
    let pids: Vec<u32> = [sleeper.pid()].into_iter().chain(pids).collect();
    let list = pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let run = |state: &str| offcputime(&["-p", &list, "--state", state]).json();
    let tracers = [run("0"), run("1"), run("2")];
    burners.iter_mut().for_each(Burner::go);
    sleeper.finish();
    burners.iter().for_each(Burner::wait);
    let [runnable, asleep, _] = tracers.map(|tracer| stacks_of(&tracer.stop()));
    let sleeping = |stack: &Stack| {
        stack.kernel.iter().any(|f| f.symbol.as_ref().is_some_and(|name| name.contains("hrtimer_nanosleep")))
    };
    assert!(asleep.iter().any(sleeping), "{asleep:?}");
    // They burn, and have nothing to wait for: they are preempted.
    let preempted = sum(&runnable, |stack| pids[1..].contains(&stack.pid)).1;
    assert!(preempted > 0, "{runnable:?}");
    let burning = |stack: &&Stack| pids[1..].contains(&stack.pid) && stack.has("burn_seventy");
    assert_eq!(asleep.iter().filter(burning).count(), 0, "{asleep:?}");
    burners.into_iter().for_each(|burner| drop(burner.finish()));
    for nonsense in ["-2", "x", ""] {
        offcputime(&[&format!("--state={nonsense}"), "--dry-run"]).output().refusal(2);
    }
}

#[test]
fn threads_and_processes_are_picked_by_number() {
    let wanted = Workload::start(["sleeps", "--threads", "1", "--us", &sleeps(6)]);
    let other = Workload::start(["sleeps", "--threads", "1", "--us", &sleeps(6)]);
    let number = wanted.pid();
    let pid = number.to_string();
    let tracers =
        [&["-t", &pid][..], &["--tid", &pid], &["-p", &pid]].map(|options| offcputime(options).json());
    wanted.finish();
    other.finish();
    let [thread, long, process] = tracers.map(|tracer| stacks_of(&tracer.stop()));
    for stacks in [&thread, &long] {
        assert!(!stacks.is_empty() && stacks.iter().all(|stack| stack.tid == Some(number)), "{stacks:?}");
    }
    assert!(process.iter().all(|stack| stack.pid == number), "{process:?}");
    assert!(process.iter().any(|stack| stack.tid != Some(number)), "{process:?}");
}

#[test]
fn all_forms_agree() {
    let dir = TempDir::new().unwrap();
    let [svg, pprof] = ["flames.svg", "profile.pb.gz"].map(|name| dir.path().join(name));
    let files = ["--svg", svg.to_str().unwrap(), "--pprof", pprof.to_str().unwrap()];
    for form in [&["-f"][..], &[], &["--json"]] {
        let workload = Workload::start(["sleeps", "--threads", "2", "--us", &sleeps(6)]);
        let pid = workload.pid().to_string();
        let run = offcputime(&["-p", &pid]).args(files);
        let tracer = if form == ["--json"] { run.json() } else { run.args(form).text() };
        workload.finish();
        let stacks: BTreeMap<String, u64> = if form == ["--json"] {
            let mut stacks = BTreeMap::new();
            for stack in stacks_of(&tracer.stop()) {
                *stacks.entry(stack.folded()).or_default() +=
                    (stack.total_us.unwrap() * 1000.0).round() as u64 / 1000;
            }
            stacks
        } else {
            let ended = tracer.stop_text();
            assert_eq!(ended.code(), 0, "{ended:?}");
            if form.is_empty() { stacks_of_text(&ended, &pid) } else { folded(ended.stdout()) }
        };
        let profile = Pprof::read(&pprof);
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(profile.types, [pair("intervals", "count"), pair("off_cpu", "nanoseconds")]);
        // Whole microseconds of each entry.
        let mut of_pprof: BTreeMap<String, u64> = BTreeMap::new();
        for (frames, values, labels) in &profile.samples {
            let parts = [&labels["comm"]].into_iter().chain(frames.iter().rev());
            let stack = parts.map(|part| part.replace(';', ":")).collect::<Vec<_>>().join(";");
            *of_pprof.entry(stack).or_default() += values[1] as u64 / 1000;
            assert_eq!(labels["pid"], pid);
            assert!(labels.contains_key("tid"), "{labels:?}");
        }
        assert_eq!(of_pprof, stacks);
        assert!(profile.program.as_ref().is_some_and(|path| path.ends_with("/workload")), "{profile:#?}");
        let drawn = flame_graph(&fs::read_to_string(&svg).unwrap());
        let all = drawn.iter().find(|(name, _)| name == "all").unwrap().1;
        assert_eq!(all, stacks.values().sum::<u64>());
        fs::remove_file(&svg).unwrap();
        fs::remove_file(&pprof).unwrap();
    }
}

/// The text's stacks, folded; threads of one name and process are one there.
fn stacks_of_text(ended: &Ended, pid: &str) -> BTreeMap<String, u64> {
    let mut stacks: BTreeMap<String, u64> = BTreeMap::new();
    for block in ended.stdout().split_terminator("\n\n") {
        let mut lines: Vec<&str> = block.trim_start_matches('\n').lines().collect();
        let us: u64 = lines.pop().unwrap().trim().parse().unwrap();
        let who = lines.pop().unwrap().trim().trim_start_matches('-').trim();
        let (comm, ids) = who.rsplit_once(" (").unwrap();
        assert!(ids.starts_with(&format!("{pid}/")), "{block}");
        let frames = lines.iter().rev().map(|line| line.trim().replace(';', ":"));
        let stack = [comm.to_string()].into_iter().chain(frames).collect::<Vec<_>>().join(";");
        *stacks.entry(stack).or_default() += us;
    }
    stacks
}

#[test]
fn what_has_no_room_is_counted() {
    let workload = Workload::start(["sleeps", "--threads", "2", "--us", &sleeps(6)]);
    let tracer =
        offcputime(&["-p", &workload.pid().to_string(), "--stack-storage-size", "1", "--strict"]).json();
    workload.finish();
    tracer.signal(Signal::SIGINT);
    let ended = tracer.ended();
    assert_eq!(ended.code(), 3, "{ended:?}");
    let finished = Finished::from(Ended { status: Default::default(), ..ended });
    let stacks = stacks_of(&finished);
    assert!(finished.count("lost") > 0, "{}", finished.footer);
    let no_room = finished.footer["stacks_by_cause"]["no_room"].as_u64().unwrap();
    assert!(no_room > 0 && stacks.len() == 1, "{}", finished.footer);
}

#[test]
fn time_on_the_cpu_is_not_counted() {
    let mut workload = Burner::for_cpu_seconds("burn", "0.3");
    let pid: u32 = workload.pid().parse().unwrap();
    let start = Instant::now();
    let tracer = offcputime(&["-p", &pid.to_string()]).json();
    workload.go();
    workload.wait();
    let stacks = stacks_of(&tracer.stop());
    let around = start.elapsed();
    let (us, _) = sum(&stacks, |stack| stack.pid == pid);
    assert!(us <= around.as_micros() as f64 - 300_000.0, "{us} in {around:?} on CPU {}", last_cpu());
    workload.finish();
}
