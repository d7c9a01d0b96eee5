// SPDX-License-Identifier: Apache-2.0 OR MIT
//! sampleip against the oracle: shares of CPU time that the workload knows, and the tool's own account.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use caps::Capability;
use kscope_tests::burn::{Burner, assert_share, cpus, last_cpu, workload_has_symbols};
use kscope_tests::bytes::bytes_of;
use kscope_tests::scale::{is_slow, times};
use kscope_tests::setting::Setting;
use kscope_tests::table::Table;
use kscope_tests::{Ended, Finished, Run, Who, Workload, metrics, say_untested, wait_until};
use serde_json::Value;

const MAX_SAMPLE_RATE: &str = "/proc/sys/kernel/perf_event_max_sample_rate";
const KPTR_RESTRICT: &str = "/proc/sys/kernel/kptr_restrict";
/// Samples a second, in tests that need many; no multiple of the kernel's tick.
const OFTEN: u64 = 999;

/// Settings of the whole kernel: a test that changes one runs alone.
static KERNEL: RwLock<()> = RwLock::new(());

fn settings_stay() -> RwLockReadGuard<'static, ()> {
    KERNEL.read().unwrap_or_else(PoisonError::into_inner)
}

fn settings_change() -> RwLockWriteGuard<'static, ()> {
    KERNEL.write().unwrap_or_else(PoisonError::into_inner)
}

fn sampleip(args: &[&str]) -> Run {
    Run::new("sampleip").args(args)
}

/// One address, or function, that the tool listed.
#[derive(Debug)]
struct Sampled {
    pid: Option<u64>,
    comm: Option<Vec<u8>>,
    samples: u64,
    symbol: Option<String>,
    reason: Option<String>,
    address: u64,
}

impl Sampled {
    fn of(row: &Value) -> Self {
        let text = |key: &str| row[key].as_str().map(String::from);
        let address = text("address").unwrap();
        Self {
            pid: row["pid"].as_u64(),
            comm: (!row["comm"].is_null()).then(|| bytes_of(row, "comm")),
            samples: row["samples"].as_u64().unwrap(),
            symbol: text("symbol"),
            reason: text("unknown_reason"),
            address: u64::from_str_radix(address.strip_prefix("0x").unwrap(), 16).unwrap(),
        }
    }

    fn has(&self, parts: &[&str]) -> bool {
        self.symbol.as_ref().is_some_and(|symbol| parts.iter().any(|part| symbol.contains(part)))
    }
}

/// A run: what it listed, its summary, and its options, checked against each other.
struct Samples {
    rows: Vec<Sampled>,
    summary: Value,
}

impl Samples {
    /// Of a run with these options.
    fn of(finished: &Finished, options: &[&str]) -> Self {
        finished.check();
        let (rows, mut summaries): (Vec<Value>, Vec<Value>) =
            finished.events().partition(|line| line["type"] == "row");
        let summary = summaries.pop().unwrap();
        assert!(summary["type"] == "summary" && summaries.is_empty(), "{summaries:?} {summary}");
        let samples = Self { rows: rows.iter().map(Sampled::of).collect(), summary };
        let summary = &samples.summary;

        let has = |option: &str| options.contains(&option);
        let (idle, user, kernel) = (samples.count("idle"), samples.count("user"), samples.count("kernel"));
        assert_eq!(samples.count("samples"), idle + user + kernel, "{summary}");
        assert_eq!(finished.count("generated"), samples.count("samples"), "{summary}");
        let listed = if has("--user") { user } else { kernel + if has("-I") { idle } else { 0 } };
        assert_eq!(samples.listed() + samples.count("uncounted"), listed, "{summary}");
        assert_eq!(finished.count("lost"), samples.count("uncounted"), "{summary}");
        assert_eq!(finished.count("events"), samples.rows.len() as u64, "{}", finished.footer);
        assert!(["cycles", "cpu-clock"].contains(&summary["event"].as_str().unwrap()), "{summary}");

        // Most samples first, and their shares.
        assert!(samples.rows.is_sorted_by(|a, b| a.samples >= b.samples), "{finished:#?}");
        let mut names: Vec<_> =
            samples.rows.iter().map(|row| (row.pid, row.symbol.clone(), row.address)).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), samples.rows.len(), "a row stands there twice: {finished:#?}");
        for (row, sampled) in rows.iter().zip(&samples.rows) {
            let share = sampled.samples as f64 * 100.0 / samples.listed() as f64;
            assert!((row["share_percent"].as_f64().unwrap() - share).abs() < 0.01, "{row}");
            // The kernel's addresses are the upper half.
            assert_eq!(sampled.address >> 63 == 1, !has("--user"), "{row}");
            assert_eq!(
                (sampled.pid.is_some(), sampled.comm.is_some()),
                (has("--user"), has("--user")),
                "{row}"
            );
            assert_eq!(sampled.symbol.is_some(), sampled.reason.is_none(), "{row}");
        }
        samples
    }

    fn count(&self, key: &str) -> u64 {
        self.summary[key].as_u64().unwrap_or_else(|| panic!("{key}: {}", self.summary))
    }

    fn listed(&self) -> u64 {
        self.rows.iter().map(|row| row.samples).sum()
    }

    /// Samples in functions whose names have one of these parts.
    fn inside(&self, parts: &[&str]) -> u64 {
        self.rows.iter().filter(|row| row.has(parts)).map(|row| row.samples).sum()
    }
}

#[test]
fn kernel_functions_have_their_share() {
    /// What getrandom and a read of /dev/zero spend their time in, from 5.10 to 7.x.
    const RANDOM: [&str; 8] = [
        "chacha",
        "getrandom",
        "get_random",
        "urandom",
        "crng",
        "_copy_to_iter",
        "copy_user_",
        "rep_movs_alternative",
    ];
    const ZERO: [&str; 4] = ["read_zero", "read_iter_zero", "clear_user", "rep_stos_alternative"];
    let _settings = settings_stay();
    let mut workload = Burner::new("syscalls", "4");
    let pid = workload.pid();
    let tracer =
        sampleip(&["-F", &OFTEN.to_string(), "--by-symbol", "--duration", "1h", "--pid", &pid]).json();
    let start = Instant::now();
    workload.go();
    let actions = workload.finish();
    let finished = tracer.stop();
    let longest = start.elapsed();
    let samples = Samples::of(&finished, &["--by-symbol"]);
    if fs::read_to_string(KPTR_RESTRICT).unwrap().trim() == "2" {
        assert!(samples.rows.iter().all(|row| row.symbol.is_none()), "{finished:#?}");
        return say_untested("sampleip, shares of kernel functions", "kernel.kptr_restrict is 2");
    }
    let time = |key: &str| actions[0][key].as_u64().unwrap();
    let (a, b, all) = (samples.inside(&RANDOM), samples.inside(&ZERO), samples.count("samples"));
    // The rest is shared by both: entry, exit, clocks, interrupts.
    assert!(a + b >= all * 3 / 4, "{a} and {b} of {all}: {finished:#?}");
    assert_share(a, all - b, all, time("a_ns") as f64 / (time("a_ns") + time("b_ns")) as f64);
    // A process can't be sampled more often than the timer ticks while it is there.
    if samples.summary["event"] == "cpu-clock" {
        assert!(all <= 2 + (longest.as_secs_f64() * OFTEN as f64) as u64, "{all} in {longest:?}");
    }
    assert!(all > 100, "{}", samples.summary);
    assert!(samples.summary["missed"].is_null(), "{}", samples.summary);
}

#[test]
fn user_functions_have_their_share() {
    let _settings = settings_stay();
    let mut workload = Burner::new("burn", "4");
    // Another one, which is not asked for.
    let mut bystander = Burner::new("burn", "4");
    let (pid, often) = (workload.pid(), OFTEN.to_string());
    let options = ["--user", "--by-symbol", "-F", &often, "--duration", "1h", "--pid", &pid];
    let tracer = sampleip(&options).json();
    workload.go();
    bystander.go();
    // It must be there when its addresses are looked up.
    workload.wait();
    let finished = tracer.stop();
    bystander.finish();
    let action = &workload.finish()[0];
    let samples = Samples::of(&finished, &["--user"]);
    for row in &samples.rows {
        assert_eq!(row.pid.map(|pid| pid.to_string()), Some(pid.clone()), "{row:?}");
        assert_eq!(row.comm.as_deref(), Some(&b"workload"[..]), "{row:?}");
    }
    assert!(samples.count("user") > 100, "{}", samples.summary);
    if !workload_has_symbols() {
        assert!(samples.rows.iter().any(|row| row.reason.is_some()), "{finished:#?}");
        return say_untested("sampleip --user, shares of functions", "the workload has no symbols");
    }
    let (seventy, thirty) = (samples.inside(&["burn_seventy"]), samples.inside(&["burn_thirty"]));
    let all = samples.listed();
    let steps = |key: &str| action[key].as_u64().unwrap() as f64;
    let share = steps("seventy_iterations") / (steps("seventy_iterations") + steps("thirty_iterations"));
    assert!((share - 0.7).abs() < 1e-9, "{action}");
    assert!(seventy + thirty >= all * 95 / 100, "{seventy} and {thirty} of {all}: {finished:#?}");
    assert_share(seventy, all - thirty, all, share);
}

#[test]
fn addresses_and_symbols_are_the_same_samples() {
    let _settings = settings_stay();
    let mut workload = Burner::new("burn", "2");
    let pid = workload.pid();
    let often = OFTEN.to_string();
    let options = ["--user", "-F", &often, "--duration", "1h", "--pid", &pid];
    let tracers = [sampleip(&options).json(), sampleip(&options).args(["-s"]).json()];
    workload.go();
    workload.wait();
    let [each, by_symbol] = tracers.map(|tracer| Samples::of(&tracer.stop(), &["--user"]));
    for name in ["burn_seventy", "burn_thirty"] {
        let (rows, folded) = (each.rows.iter(), by_symbol.rows.iter());
        let named = |row: &&Sampled| row.symbol.as_deref() == Some(name);
        let (count, once) = (rows.filter(named).count(), folded.filter(named).count());
        // QEMU takes interrupts where its translated blocks end, in a loop at a single address.
        let least = if is_slow() { 1 } else { 2 };
        if workload_has_symbols() {
            assert!(count >= least && once == 1, "{name}: {count} addresses, {once} functions");
        }
    }
}

/// Check that the timer's samples are all there, taken or missed, between these bounds of the time.
fn assert_complete(samples: &Samples, cpus: u64, least: Duration, most: Duration) {
    let summary = &samples.summary;
    assert_eq!(samples.count("cpus"), cpus, "{summary}");
    let seconds = summary["duration_s"].as_f64().unwrap();
    assert!(seconds <= most.as_secs_f64(), "{summary}: {most:?}");
    if summary["event"] == "cycles" {
        assert!(summary["missed"].is_null(), "{summary}");
        return;
    }
    let all = samples.count("samples") + samples.count("missed");
    let expected = |time: f64| time * (samples.count("frequency_hz") * cpus) as f64;
    // One begun per processor.
    let few = cpus as f64;
    assert!(all as f64 >= expected(least.as_secs_f64()) - few, "{all} in {least:?}: {summary}");
    assert!(all as f64 <= expected(most.as_secs_f64()) + few, "{all} in {most:?}: {summary}");
    // One percent, and what a processor that is busy with others may do between two lines of the tool.
    let off = (all as f64 - expected(seconds)).abs();
    assert!(off <= expected(seconds) * 0.01 + expected(0.1) + few, "{off} off: {summary}");
}

#[test]
fn samples_are_taken_or_missed() {
    let _settings = settings_stay();
    let online = cpus();
    let all = online.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let last = last_cpu();
    for (options, count, hz) in [
        (&["-F", "999"][..], online.len(), 999),
        (&[], online.len(), 99),
        (&["--frequency", "250", "-I"], online.len(), 250),
        (&["-F999", "-C", &last], 1, 999),
        (&["-F", "1999", "--cpu", &all], online.len(), 1999),
        (&["-F", "499", "-I", "-C", &last], 1, 499),
    ] {
        let before = Instant::now();
        let tracer = sampleip(options).args(["--duration", "1h"]).json();
        let attached = Instant::now();
        Workload::start(["exec-loop", "--count", &times(200).to_string()]).finish();
        let least = attached.elapsed();
        let samples = Samples::of(&tracer.stop(), options);
        assert_complete(&samples, count as u64, least, before.elapsed());
        assert_eq!(samples.count("frequency_hz"), hz, "{}", samples.summary);
    }
}

#[test]
fn other_processors_are_not_sampled() {
    let _settings = settings_stay();
    let (cpus, last) = (cpus(), last_cpu());
    if cpus.len() < 2 {
        return say_untested("sampleip -C", "there is one processor only");
    }
    let mut workload = Burner::new("burn", "2");
    let pid = workload.pid();
    let run = |cpu: &str| sampleip(&["-U", "-F", "999", "--duration", "1h", "-p", &pid, "-C", cpu]).json();
    let (here, elsewhere) = (run(&last), run(&cpus[0].to_string()));
    workload.go();
    workload.wait();
    assert!(Samples::of(&here.stop(), &["--user"]).count("user") > 100);
    assert_eq!(Samples::of(&elsewhere.stop(), &["--user"]).count("samples"), 0);
}

#[test]
fn idle_time_is_listed_where_asked_for() {
    let _settings = settings_stay();
    // What adds up is checked for every run; here it must not be empty, or nothing would be.
    for options in [&["-I"][..], &["--include-idle"], &[]] {
        let options: Vec<&str> =
            options.iter().map(|o| if *o == "--include-idle" { "-I" } else { o }).collect();
        let samples = Samples::of(&sampleip(&options).args(["1"]).json().finished(), &options);
        println!("{options:?}: {}", samples.summary);
    }
}

#[test]
fn durations_end_it() {
    let _settings = settings_stay();
    for options in [&["1"][..], &["500ms"], &["--duration", "1"], &["--duration=0.3"]] {
        let before = Instant::now();
        let finished = sampleip(options).json().finished();
        let samples = Samples::of(&finished, options);
        assert_complete(&samples, cpus().len() as u64, Duration::ZERO, before.elapsed());
    }
    let sentence = sampleip(&["1", "--duration", "1"]).output().refusal(2).to_string();
    assert!(sentence.contains("--duration"), "{sentence}");
}

#[test]
fn without_room_samples_are_uncounted() {
    let _settings = settings_stay();
    for (entries, options) in [(1, &["--user"][..]), (3, &["--user"]), (2, &["--user", "--strict"])] {
        // Each process takes an entry at least.
        let mut workloads: Vec<_> = (0..=entries).map(|_| Burner::new("burn", "1")).collect();
        let pids: Vec<_> = workloads.iter().map(Burner::pid).collect();
        let run = sampleip(&[
            "--entries",
            &entries.to_string(),
            "-F",
            "999",
            "--duration",
            "1h",
            "-p",
            &pids.join(","),
        ]);
        let tracer = run.args(options).json();
        workloads.iter_mut().for_each(Burner::go);
        workloads.iter().for_each(Burner::wait);
        tracer.signal(nix::sys::signal::Signal::SIGINT);
        let ended = tracer.ended();
        let strict = options.contains(&"--strict");
        assert_eq!(ended.code(), if strict { 3 } else { 0 }, "{ended:?}");
        let finished = Finished::from(Ended { status: Default::default(), ..ended });
        let samples = Samples::of(&finished, options);
        assert!(samples.count("uncounted") > 0, "{}", samples.summary);
        assert_eq!(samples.rows.len(), entries, "{}", samples.summary);
        assert!(finished.stderr.contains("events lost"), "{}", finished.stderr);
    }
}

#[test]
fn processes_that_have_ended_make_room() {
    let _settings = settings_stay();
    let args =
        ["--user", "--entries", "100", "-F", "499", "--comm", "workload", "--metrics-listen=127.0.0.1:0"];
    let tracer = sampleip(&args).json();
    let address = metrics::address(&tracer);
    let mut before = 0.0;
    // Each process has addresses of its own.
    for _ in 0..8 {
        let mut burner = Burner::for_cpu_seconds("burn", "0.1");
        burner.go();
        burner.wait();
        before = wait_until("all samples by function", || {
            let samples = metrics::parse(&metrics::get(&address, "").1);
            let user = samples.get("kscope_sampleip_samples_total{mode=\"user\"}").copied()?;
            let functions = metrics::sum(&samples, "kscope_sampleip_function_samples_total");
            (user > before && user == functions).then_some(user)
        });
    }
    let finished = tracer.stop();
    finished.check();
    // The summary has room for so many alone, which is told.
    let causes = finished.footer["lost_by_cause"].as_object().unwrap();
    assert!(causes.keys().all(|cause| cause == "summary_full"), "{finished:?}");
    let rows = finished.events().filter(|row| row["type"] == "row");
    let shown: u64 = rows.map(|row| row["samples"].as_u64().unwrap()).sum();
    let user = finished.events().find(|row| row["type"] == "summary").unwrap()["user"].as_u64().unwrap();
    assert_eq!(shown + finished.count("lost"), user, "{finished:?}");
}

#[test]
fn table_shows_the_same() {
    let _settings = settings_stay();
    for (options, titles) in [
        (&[][..], &["ADDR", "COUNT", "%", "SYMBOL"][..]),
        (&["--by-symbol"], &["COUNT", "%", "SYMBOL"]),
        (&["--user"], &["ADDR", "PID", "COMM", "COUNT", "%", "SYMBOL"]),
        (&["--user", "-s", "-F", "999"], &["PID", "COMM", "COUNT", "%", "SYMBOL"]),
    ] {
        let user = options.contains(&"--user");
        let mut workload = Burner::new(if user { "burn" } else { "syscalls" }, "1");
        let pid = workload.pid();
        let tracer = sampleip(options).args(["--duration", "1h", "--pid", &pid]).text();
        workload.go();
        workload.wait();
        let ended = tracer.stop_text();
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert!(ended.stderr.starts_with("Sampling at "), "{ended:?}");
        let (rows, summary) = ended.stdout().split_once("\n\n").unwrap();
        let table = Table::parse(rows.lines());
        assert_eq!(table.titles, titles);
        let sum: u64 = table.column("COUNT").iter().map(|count| count.parse::<u64>().unwrap()).sum();
        let kind = if user { "user" } else { "kernel" };
        let listed = summary.split([',', ':']).find_map(|part| part.trim().strip_suffix(&format!(" {kind}")));
        assert_eq!(listed.unwrap().trim(), sum.to_string(), "{ended:?}");
        assert!(summary.contains("0 uncounted"), "{ended:?}");
        if user {
            assert!(table.column("PID").iter().all(|shown| *shown == pid), "{ended:?}");
            assert!(table.column("COMM").iter().all(|comm| *comm == "workload"), "{ended:?}");
            let symbols = table.column("SYMBOL");
            assert_eq!(
                symbols.iter().any(|s| s.starts_with("burn_seventy")),
                workload_has_symbols(),
                "{ended:?}"
            );
        }
        let plain = options == ["--by-symbol"];
        assert!(!plain || !rows.contains("+0x"), "{ended:?}");
    }
}

#[test]
fn the_kernel_s_limit_throttles() {
    const HZ: u64 = 5000;
    let _settings = settings_change();
    let limit: u64 = fs::read_to_string(MAX_SAMPLE_RATE).unwrap().trim().parse().unwrap();
    let _enough = (limit < HZ).then(|| Setting::new(MAX_SAMPLE_RATE, &HZ.to_string()));
    let mut workload = Burner::new("burn", "4");
    let (hz, cpu) = (HZ.to_string(), last_cpu());
    let before = Instant::now();
    let tracer = sampleip(&["-U", "-F", &hz, "-C", &cpu, "--duration", "1h"]).json();
    let attached = Instant::now();
    // The kernel takes it at once, and each of its ticks then allows so many samples less.
    let lower = match Setting::try_new(MAX_SAMPLE_RATE, "500") {
        Ok(lower) => lower,
        Err(error) => return say_untested("sampleip, throttled", &format!("{MAX_SAMPLE_RATE}: {error}")),
    };
    workload.go();
    workload.wait();
    let least = attached.elapsed();
    let samples = Samples::of(&tracer.stop(), &["--user"]);
    drop(lower);
    println!("{}", samples.summary);
    assert_complete(&samples, 1, least, before.elapsed());
    let throttled = samples.count("throttled");
    assert!(throttled > 0, "{}", samples.summary);
    if samples.summary["event"] == "cpu-clock" {
        // What is held back comes again with the next tick, of which there are at least a hundred a second: each
        // time at most fifty samples are missed for that; no less than half of all are, on a processor that ran.
        let missed = samples.count("missed");
        assert!(missed > 0 && throttled >= missed / 100, "too few: {}", samples.summary);
    }
}

#[test]
fn frequencies_above_the_limit_are_refused() {
    let _settings = settings_change();
    let limit: u64 = fs::read_to_string(MAX_SAMPLE_RATE).unwrap().trim().parse().unwrap();
    let ended = sampleip(&["--dry-run", "-F", &(limit + 1).to_string()]).output();
    let sentence = ended.refusal(2);
    assert!(sentence.contains(&limit.to_string()) && sentence.contains("max_sample_rate"), "{sentence}");
    let ended = sampleip(&["--dry-run", "-F", &limit.to_string()]).output();
    assert_eq!(ended.code(), 0, "{ended:?}");
    for nonsense in ["0", "-1", "x", ""] {
        sampleip(&["--dry-run", &format!("--frequency={nonsense}")]).output().refusal(2);
    }
}

#[test]
fn symbols_that_the_kernel_hides_are_unknown() {
    let _settings = settings_change();
    // What some kernels want to see beside the first two: before 5.11 the limit of locked memory is too low for
    // the maps, and Debian's level 3 forbids perf events to all but root.
    let mut enough = vec![Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_RESOURCE];
    enough.retain(|capability| caps::has_cap(None, caps::CapSet::Permitted, *capability).unwrap());
    let _paranoid = Setting::new("/proc/sys/kernel/perf_event_paranoid", "2");
    let nobody = Who::new(Who::NOBODY, &enough);
    // With 1, root may see them, with 2, nobody may.
    for (restrict, who, hidden) in [("1", Some(&nobody), true), ("2", None, true), ("1", None, false)] {
        let _restrict = Setting::new(KPTR_RESTRICT, restrict);
        for options in [&["-F", "999"][..], &["-F", "999", "--by-symbol"]] {
            let mut workload = Burner::new("syscalls", "1");
            let pid = workload.pid();
            let run = sampleip(options).args(["--duration", "1h", "--pid", &pid]);
            let run = if let Some(who) = who { run.by(who) } else { run };
            let tracer = run.json();
            workload.go();
            workload.wait();
            let samples = Samples::of(&tracer.stop(), options);
            assert!(!samples.rows.is_empty(), "{}", samples.summary);
            let named = samples.rows.iter().filter(|row| row.symbol.is_some()).count();
            assert_eq!(named, if hidden { 0 } else { samples.rows.len() }, "{restrict} {:#?}", samples.rows);
            let reasons = samples.rows.iter().filter_map(|row| row.reason.as_ref());
            assert!(reasons.into_iter().all(|reason| reason.contains("CAP_SYSLOG")), "{:#?}", samples.rows);
        }
    }
}

#[test]
fn processors_that_are_not_online_are_refused() {
    let highest = cpus().last().unwrap() + 1;
    for list in [highest.to_string(), format!("0,{highest}"), format!("0-{highest}"), "65535".into()] {
        let ended = sampleip(&["--dry-run", "-C", &list]).output();
        let sentence = ended.refusal(2);
        assert!(sentence.contains("not online"), "{sentence}");
    }
    for nonsense in ["", "x", "1-0", "-1", "0,", "0--1", "99999999999"] {
        sampleip(&["--dry-run", &format!("--cpu={nonsense}")]).output().refusal(2);
    }
}

#[test]
fn a_processor_named_twice_is_sampled_once() {
    let _settings = settings_stay();
    let cpu = last_cpu();
    let before = Instant::now();
    let tracer = sampleip(&["-C", &format!("{cpu},{cpu}"), "-F", "999", "--duration", "1h"]).json();
    let attached = Instant::now();
    Workload::start(["exec-loop", "--count", &times(200).to_string()]).finish();
    let least = attached.elapsed();
    let samples = Samples::of(&tracer.stop(), &[]);
    assert_complete(&samples, 1, least, before.elapsed());
}

#[test]
fn filters_are_applied() {
    let _settings = settings_stay();
    let nobody = Who::new(Who::NOBODY, &[]);
    let args = ["burn", "--cpu-seconds", "0.3", "--cpu", &last_cpu()].map(String::from);
    for option in ["--uid", "--tid", "--comm"] {
        let mut wanted = Burner::of(Workload::start_by(&nobody, &args));
        let mut other = Burner::of(Workload::start(&args));
        let pid = wanted.pid();
        let value = match option {
            "--uid" => "65534",
            "--tid" => &pid,
            _ => "workload",
        };
        let tracer = sampleip(&["-U", "-F", "999", "--duration", "1h", option, value]).json();
        wanted.go();
        other.go();
        wanted.wait();
        other.wait();
        let samples = Samples::of(&tracer.stop(), &["--user"]);
        let of = |burner: &Burner| {
            samples.rows.iter().filter(|row| row.pid == Some(burner.pid().parse().unwrap())).count()
        };
        assert!(of(&wanted) > 0, "{option}: {:#?}", samples.rows);
        assert_eq!(of(&other) > 0, option == "--comm", "{option}: {:#?}", samples.rows);
        assert!(option != "--tid" || samples.rows.len() == of(&wanted), "{:#?}", samples.rows);
        let named = samples.rows.iter().all(|row| row.comm.as_deref() == Some(b"workload"));
        assert!(option == "--uid" || named, "{:#?}", samples.rows);
        assert!(samples.summary["missed"].is_null(), "{}", samples.summary);
    }
}

#[test]
fn processes_that_have_ended_are_told() {
    let _settings = settings_stay();
    let workload = Burner::new("burn", "1");
    let pid = workload.pid();
    let tracer = sampleip(&["-U", "-F", "999", "--duration", "1h", "--pid", &pid]).json();
    workload.finish();
    let samples = Samples::of(&tracer.stop(), &["--user"]);
    assert!(!samples.rows.is_empty(), "{}", samples.summary);
    assert!(
        samples.rows.iter().all(|row| row.symbol.is_none() && row.reason.is_some()),
        "{:#?}",
        samples.rows
    );
}

#[test]
fn nothing_is_sampled_of_a_process_that_sleeps() {
    let _settings = settings_stay();
    let workload = Burner::new("burn", "1");
    let pid = workload.pid();
    let samples = Samples::of(&sampleip(&["-U", "-p", &pid, "300ms"]).json().finished(), &["--user"]);
    assert_eq!(samples.count("samples"), 0, "{:#?}", samples.rows);
    let ended = sampleip(&["-p", &pid, "300ms"]).output();
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(ended.stdout().contains("0 samples by "), "{ended:?}");
    workload.finish();
}
