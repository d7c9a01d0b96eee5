// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biotop against the oracle: all that the workloads did, and what the kernel counts, is the sum of what it shows.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kscope_tests::block::{Disk, Loop, Stat, Zram, slow_disks};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::setting::Setting;
use kscope_tests::table::Table;
use kscope_tests::terminal::Terminal;
use kscope_tests::{Finished, Run, Who, Workload, left_out, metrics, now, say_untested, scale, wait_until};
use nix::unistd::getpid;
use serde_json::Value;

const DISK_SIZE: u64 = 64 << 20;

fn biotop(args: &[&str]) -> Run {
    Run::new("biotop").args(args)
}

fn io_args(path: &str, mode: &str, count: usize, size: u64) -> Vec<String> {
    let (count, size) = (count.to_string(), size.to_string());
    ["io", "--path", path, "--count", &count, "--bs", &size, "--mode", mode].map(String::from).to_vec()
}

fn io(path: &str, mode: &str, count: usize, size: u64) -> Workload {
    Workload::start(io_args(path, mode, count, size))
}

/// What the workload measured of all its I/Os, in microseconds.
fn total_us(workload: Workload) -> f64 {
    workload.finish()[0]["total_ns"].as_u64().unwrap() as f64 / 1e3
}

/// Sums over all intervals.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    ios: u64,
    bytes: u64,
    us: f64,
    intervals: usize,
}

/// By process, disk and operation.
type Sums = BTreeMap<(u64, String, String), Sum>;

/// All that a run printed, each line checked, and nothing lost.
fn sums(finished: &Finished) -> Sums {
    finished.check();
    left_out::check(finished);
    assert_eq!(finished.count("lost"), 0, "{}", finished.footer);
    assert_eq!(finished.footer["dropped_by_cause"], serde_json::json!({}), "{}", finished.footer);
    let mut sums = Sums::new();
    let mut seen = BTreeMap::new();
    for row in finished.events() {
        assert_eq!(row["type"], "row", "{row}");
        let text = |key: &str| row[key].as_str().unwrap().to_string();
        let number = |key: &str| row[key].as_u64().unwrap();
        let key = (number("pid"), text("disk"), text("op"));
        assert!(row["interval_s"].as_f64().unwrap() > 0.0 && number("ios") > 0, "{row}");
        let is_loop = row["disk"].as_str().unwrap().starts_with("loop");
        assert_eq!(row["layer"] == "stacked", is_loop, "{row}");
        let mean = row["mean_us"].as_f64().unwrap();
        assert!((mean * number("ios") as f64 - row["total_us"].as_f64().unwrap()).abs() < 0.01, "{row}");
        assert!(seen.insert((text("time"), key.clone()), ()).is_none(), "twice in an interval: {row}");
        let sum = sums.entry(key).or_default();
        sum.ios += number("ios");
        sum.bytes += number("size_bytes");
        sum.us += row["total_us"].as_f64().unwrap();
        sum.intervals += 1;
    }
    sums
}

/// Do I/O of all kinds at once while the tool takes its turns, and compare the sums with what was done.
fn sums_are_what_was_done(disk: &Disk, way: Option<&str>, interval: &str, count: usize) -> usize {
    // An I/O that is merged into another one's would count for that.
    let _merges = Setting::new(disk.path("queue/nomerges"), "2");
    let modes: Vec<&str> = ["read", "write", "discard", "flush"]
        .into_iter()
        .filter(|mode| match disk.can(mode) {
            Ok(()) => true,
            Err(why) => {
                say_untested(&format!("biotop, {mode}"), &why);
                false
            }
        })
        .collect();
    let mut workloads: Vec<Workload> =
        modes.iter().map(|mode| io(&disk.device(), mode, count, 4096)).collect();
    let pids: Vec<u64> = workloads.iter().map(|workload| workload.pid().into()).collect();
    let run = biotop(&["-d", disk.name(), interval]);
    let tracer = if let Some(way) = way { run.env("KSCOPE_WAY", way) } else { run }.json();
    let before = disk.stat();
    workloads.iter_mut().for_each(Workload::go);
    let measured: Vec<f64> = workloads.into_iter().map(total_us).collect();
    let n = count as u64;
    let each = |mode: &str| if modes.contains(&mode) { n } else { 0 };
    // One that asks for a flush is a write too, but nothing that the device does.
    let all = |stat: &Stat| {
        let writes = stat.writes + stat.write_merges == each("write") + 2 * each("flush");
        stat.reads + stat.read_merges == n && stat.discards == each("discard") && writes
    };
    let stat = disk.counted(&before, all);
    assert_eq!(
        stat.read_merges + stat.write_merges,
        0,
        "{stat:?}: one at a time each, of places of their own"
    );
    let finished = tracer.stop();
    let sums = sums(&finished);
    // Each I/O that the kernel told of is in one interval, and in no other.
    assert_eq!(sums.values().map(|sum| sum.ios).sum::<u64>(), finished.count("generated"), "{sums:#?}");

    let mut wanted: BTreeMap<(u64, String), (u64, u64)> = BTreeMap::new();
    for (pid, mode) in pids.iter().zip(&modes) {
        let bytes = if *mode == "flush" { 0 } else { n * 4096 };
        wanted.insert((*pid, (*mode).into()), (n, bytes));
        if *mode == "flush" {
            wanted.insert((*pid, "write".into()), (n, n * 4096));
        }
    }
    let found: BTreeMap<(u64, String), (u64, u64)> =
        sums.iter().map(|((pid, _, op), sum)| ((*pid, op.clone()), (sum.ios, sum.bytes))).collect();
    assert_eq!(found, wanted, "{interval}, {way:?}: {sums:#?}");
    for (pid, (mode, measured)) in pids.iter().zip(modes.iter().zip(&measured)) {
        let sum = &sums[&(*pid, disk.name().to_string(), (*mode).to_string())];
        assert!(sum.us <= *measured, "{mode}: longer than the workload saw, {measured}: {sum:?}");
    }
    sums.values().map(|sum| sum.intervals).max().unwrap()
}

#[test]
fn sums_of_all_intervals_are_what_was_done() {
    // Where the kernel leaves out one of a few thousand runs, it leaves out none of a few hundred in most attempts.
    let count = scale::times(3000) / if left_out::is_usual() { 10 } else { 1 };
    for way in [None, Some("raw_tp")] {
        left_out::retried(|| {
            let device = Loop::new(DISK_SIZE);
            // As often as it can: each I/O that ends in the moment of a change must count, once.
            let intervals = sums_are_what_was_done(device.disk(), way, "1ms", count);
            assert!(intervals > 1, "the workload ended within one interval");
        });
    }
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        assert_eq!(sums_are_what_was_done(device.disk(), None, "1h", count / 10), 1);
    });
}

#[test]
fn many_processes_have_a_row_each() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let mut workloads = [0; 24].map(|_| io(&disk.device(), "read", 10, 8192));
        let pids = workloads.each_ref().map(|workload| u64::from(workload.pid()));
        let [all, few] =
            [&[][..], &["-r", "5"]].map(|rows| biotop(&["-d", disk.name(), "1h"]).args(rows).json());
        let text = biotop(&["-d", disk.name(), "1h"]).text();
        if !left_out::is_usual() {
            workloads.iter_mut().for_each(Workload::go);
        }
        workloads.into_iter().for_each(|workload| _ = workload.finish());
        // The last one is counted a moment after its reader is woken up.
        let mut probe = biotop(&["-d", disk.name(), "10ms"]).json();
        let after = io(&disk.device(), "write", 1, 4096);
        let last = u64::from(after.pid());
        after.finish();
        probe.wait_for(|row| row["pid"] == last);
        let all = sums(&all.stop());
        for pid in pids {
            let sum = all[&(pid, disk.name().into(), "read".into())];
            assert_eq!((sum.ios, sum.bytes), (10, 81920), "{all:#?}");
        }
        assert_eq!(all.len(), 25, "{all:#?}");
        assert_eq!(sums(&few.stop()).len(), 5);
        let ended = text.stop_text();
        left_out::check_text(&ended);
        assert_eq!(ended.stdout().lines().count(), 2 + 20, "{ended:?}");
    });
}

#[test]
fn order_is_what_was_asked_for() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for (sort, key) in
            [("all", "size_bytes"), ("bytes", "size_bytes"), ("io", "ios"), ("time", "total_us")]
        {
            let workloads = [(30, 4096), (3, 1 << 20), (12, 64 << 10)]
                .map(|(n, size)| io(&disk.device(), "read", n, size));
            let tracer = biotop(&["-d", disk.name(), "1h", "-s", sort]).json();
            let before = disk.stat();
            workloads.into_iter().for_each(|workload| _ = workload.finish());
            disk.counted(&before, |stat| stat.reads >= 45);
            let finished = tracer.stop();
            left_out::check(&finished);
            let values: Vec<f64> = finished.events().map(|row| row[key].as_f64().unwrap()).collect();
            assert_eq!(values.len(), 3, "{finished:?}");
            assert!(values.is_sorted_by(|a, b| a >= b), "by {sort}: {finished:?}");
        }
        for nonsense in
            [&["-s", "no-such-order"][..], &["-r", "0"], &["-r", "x"], &["-d", "no-such-disk"], &["0"]]
        {
            biotop(&["--dry-run"]).args(nonsense).output().refusal(2);
        }
    });
}

#[test]
fn filters_go_by_who_submits() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let cgroup = Cgroup::new(format!("kscope-biotop-{}", getpid()));
        let nobody = Who::new(Who::NOBODY, &[caps::Capability::CAP_DAC_OVERRIDE]);
        let inside = Workload::start_by(&nobody, io_args(&disk.device(), "flush", 40, 4096));
        let outside = io(&disk.device(), "flush", 30, 4096);
        let pid = u64::from(inside.pid());
        cgroup.add(inside.pid());
        let number = pid.to_string();
        let filters = [
            ["-p", &number],
            ["--pid", &number],
            ["--uid", "65534"],
            ["-c", cgroup.path().to_str().unwrap()],
        ];
        let tracers = filters.map(|filter| biotop(&["-d", disk.name(), "50ms"]).args(filter).json());
        let before = disk.stat();
        [outside, inside].into_iter().for_each(|workload| _ = workload.finish());
        disk.counted(&before, |stat| stat.writes == 140);
        for tracer in tracers {
            let sums = sums(&tracer.stop());
            let found: Vec<_> =
                sums.iter().map(|((pid, _, op), sum)| (*pid, op.as_str(), sum.ios, sum.bytes)).collect();
            assert_eq!(found, [(pid, "flush", 40, 0), (pid, "write", 40, 40 * 4096)], "{sums:#?}");
        }
    });
}

#[test]
fn other_layers_and_disks() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let zram = Zram::new(DISK_SIZE);
        let mut disks = vec![device.disk().clone()];
        match &zram {
            Some(zram) => disks.push(zram.disk().clone()),
            None => say_untested("biotop, by bio", "this kernel has no zram"),
        }
        let slow = slow_disks();
        if slow.is_empty() {
            say_untested("biotop, known delays", "KSCOPE_DISKS names no disk with a known delay");
        }
        disks.extend(slow.iter().map(|(disk, _)| disk.clone()));
        let mut tracer = biotop(&["100ms"]).json();
        let done: Vec<(u64, f64)> = disks
            .iter()
            .map(|disk| {
                let workload = io(&disk.device(), "write", 20, 4096);
                (workload.pid().into(), total_us(workload))
            })
            .collect();
        let end = now();
        let (last, name) = (done.last().unwrap().0, disks.last().unwrap().name().to_string());
        tracer.wait_for(|row| row["pid"] == last && row["disk"] == name.as_str());
        // The interval in which the last one was counted may be the one after.
        io(&device.disk().device(), "read", 1, 4096).finish();
        tracer.wait_for(|row| row["op"] == "read" && row["time"].as_str().unwrap() > end.as_str());
        let finished = tracer.stop();
        left_out::check(&finished);
        let rows: Vec<Value> = finished.events().collect();
        for (disk, (pid, measured)) in disks.iter().zip(&done) {
            let own = rows.iter().filter(|row| row["pid"] == *pid && row["disk"] == disk.name());
            let of = |key: &str| own.clone().map(|row| row[key].as_f64().unwrap()).sum::<f64>();
            assert_eq!((of("ios"), of("size_bytes")), (20.0, 20.0 * 4096.0), "{}: {finished:?}", disk.name());
            assert!(of("total_us") <= *measured, "{}: {finished:?}", disk.name());
            let delay = slow.iter().find(|slow| slow.0.name() == disk.name()).map_or(0, |slow| slow.1);
            assert!(of("total_us") * 1e3 >= 20.0 * delay as f64, "{}: {finished:?}", disk.name());
        }
    });
}

#[test]
fn tables_are_appended_to_what_is_no_terminal() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for options in [&[][..], &["-C"], &["--timestamps=rfc3339"]] {
            let workload = io(&disk.device(), "write", 30, 8192);
            let pid = workload.pid().to_string();
            let tracer = biotop(&["-d", disk.name(), "50ms"]).args(options).text();
            let before = disk.stat();
            workload.finish();
            disk.counted(&before, |stat| stat.writes == 30);
            let lines = tracer.lines();
            wait_until("two more intervals", || (tracer.lines() > lines + 6).then_some(()));
            let ended = tracer.stop_text();
            left_out::check_text(&ended);
            assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{ended:?}");
            assert!(!ended.bytes.contains(&0x1b), "{ended:?}");
            let (mut ios, mut kib) = (0, 0);
            for interval in ended.stdout().split("\n\n") {
                let (head, table) = interval.split_once('\n').unwrap();
                assert!(head.contains("loadavg: ") && head.contains(':'), "{head}");
                assert_eq!(
                    head.contains('T') && head.contains('Z'),
                    options.contains(&"--timestamps=rfc3339"),
                    "{head}"
                );
                let table = Table::parse(table.lines());
                assert_eq!(table.titles, ["PID", "COMM", "DISK", "OP", "I/O", "KiB", "AVG(ms)"], "{ended:?}");
                for row in &table.rows {
                    assert_eq!(row[..4], [&pid, "workload", disk.name(), "write"], "{ended:?}");
                    ios += row[4].parse::<u64>().unwrap();
                    kib += row[5].parse::<u64>().unwrap();
                }
            }
            assert_eq!((ios, kib), (30, 240), "{ended:?}");
        }
        let ended = biotop(&["-d", disk.name(), "--no-header", "10ms", "3"]).output();
        assert_eq!((ended.code(), ended.stdout()), (0, ""), "{ended:?}");
        let ended = biotop(&["-d", disk.name(), "10ms", "3"]).output();
        assert_eq!(ended.stdout().matches("AVG(ms)").count(), 3, "{ended:?}");
    });
}

/// What a terminal shows after these bytes, if nothing but what a refresh needs is among them; and how often it was
/// refreshed.
fn shown(bytes: &str, rows: usize, columns: usize) -> (Vec<String>, usize) {
    let mut screen = vec![String::new(); rows];
    let (mut line, mut refreshes) = (0, 0);
    let mut rest = bytes;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("\x1b[H") {
            (line, rest) = (0, after);
            refreshes += 1;
            screen[0].clear();
        } else if let Some(after) = rest.strip_prefix("\x1b[J") {
            screen[line..].iter_mut().for_each(String::clear);
            rest = after;
        } else if let Some(after) =
            ["\x1b[K", "\x1b[1m", "\x1b[m", "\r"].iter().find_map(|s| rest.strip_prefix(s))
        {
            rest = after;
        } else if let Some(after) = rest.strip_prefix('\n') {
            if line + 1 == rows {
                assert_eq!(refreshes, 0, "it scrolls: {bytes:?}");
                screen.rotate_left(1);
            } else {
                line += 1;
            }
            screen[line].clear();
            rest = after;
        } else {
            assert!(!c.is_control(), "{c:?} in {bytes:?}");
            screen[line].push(c);
            assert!(screen[line].chars().count() <= columns, "a line wraps: {bytes:?}");
            rest = &rest[c.len_utf8()..];
        }
    }
    (screen, refreshes)
}

#[test]
fn a_terminal_is_refreshed() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for (rows, columns, colour) in [(24, 80, true), (6, 30, false)] {
            let mut workloads = [0; 8].map(|_| io(&disk.device(), "read", 10, 4096));
            let pids = workloads.each_ref().map(|workload| workload.pid().to_string());
            let (terminal, stdout) = Terminal::new(rows, columns);
            let run = biotop(&["-d", disk.name(), "1h"]).env("TERM", "xterm").stdout(stdout);
            let tracer = run.env("NO_COLOR", if colour { "" } else { "1" }).text();
            let before = disk.stat();
            workloads.iter_mut().for_each(Workload::go);
            workloads.into_iter().for_each(|workload| _ = workload.finish());
            disk.counted(&before, |stat| stat.reads == 80);
            let ended = tracer.stop_text();
            left_out::check_text(&ended);
            assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{ended:?}");
            let bytes = terminal.written();
            let (screen, refreshes) = shown(&bytes, rows.into(), columns.into());
            assert_eq!(refreshes, 1, "{bytes:?}");
            assert_eq!(bytes.contains("\x1b[1mPID"), colour, "{bytes:?}");
            assert!(screen[0].contains("loadavg") && screen[1].starts_with("PID"), "{screen:#?}");
            let most = pids.len().min(usize::from(rows) - 3);
            for line in &screen[2..2 + most] {
                assert!(pids.iter().any(|pid| line.split_whitespace().next() == Some(pid)), "{screen:#?}");
            }
            assert!(screen[2 + most..].iter().all(String::is_empty), "{screen:#?}");
        }
        // Again and again, and not at all where that is not wanted, or not possible.
        for (options, term, wanted) in [
            (&["10ms", "5"][..], "xterm", 5),
            (&["-C", "10ms", "5"], "xterm", 0),
            (&["10ms", "5"], "dumb", 0),
        ] {
            let (terminal, stdout) = Terminal::new(10, 80);
            let ended = biotop(options).env("TERM", term).stdout(stdout).output();
            assert_eq!(ended.code(), 0, "{ended:?}");
            let bytes = terminal.written();
            assert_eq!(bytes.matches("\x1b[H").count(), wanted, "{term} {options:?}: {bytes:?}");
            assert_eq!(bytes.contains('\x1b'), wanted > 0, "{term} {options:?}: {bytes:?}");
            assert_eq!(bytes.matches("loadavg").count(), 5, "{term} {options:?}: {bytes:?}");
        }
        let (terminal, stdout) = Terminal::new(10, 80);
        let ended = biotop(&["--json", "10ms", "2"]).env("TERM", "xterm").stdout(stdout).output();
        assert_eq!(ended.code(), 0, "{ended:?}");
        assert!(terminal.written().starts_with("{\"type\":\"header\""));
    });
}

#[test]
fn metrics_are_the_sums() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let mut tracer = biotop(&["-d", disk.name(), "50ms", "--metrics-listen=127.0.0.1:0"]).json();
        let address = metrics::address(&tracer);
        let before = disk.stat();
        let measured = total_us(io(&disk.device(), "write", 60, 8192));
        disk.counted(&before, |stat| stat.writes == 60);
        // One that ends after those were counted.
        io(&disk.device(), "read", 1, 4096).finish();
        tracer.wait_for(|row| row["op"] == "read");
        let wanted = format!("disk=\"{}\",op=\"write\",comm=\"workload\"", disk.name());
        let samples = wait_until("the metrics of that interval", || {
            let samples = metrics::parse(&metrics::get(&address, "").1);
            (metrics::sum(&samples, "kscope_biotop_ios_total") == 61.0).then_some(samples)
        });
        let of = |name: &str| {
            let series = metrics::of(&samples, &format!("kscope_biotop_{name}_total"));
            let found = series.iter().find(|(labels, _)| labels.contains(&wanted));
            *found.unwrap_or_else(|| panic!("{name} {wanted}: {samples:?}")).1
        };
        assert_eq!((of("ios"), of("moved_bytes")), (60.0, 60.0 * 8192.0));
        let seconds = of("device_time_seconds");
        assert!(
            seconds > 0.0 && seconds * 1e6 <= measured,
            "{seconds} s, but the workload saw {measured} us"
        );
        tracer.stop().check();
    });
}

#[test]
fn new_names_are_seen_after_many_have_gone() {
    // More processes than one interval has room for.
    const PROCESSES: u64 = 5000;
    const ROWS: u64 = 4096;
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let name = disk.name();
        let mut often = biotop(&["-d", name, "200ms"]).json();
        let once = biotop(&["-d", name, "1h"]).json();
        let before = disk.stat();
        let script = format!(
            "i=0; while [ $i -lt {PROCESSES} ]; do dd if={} of=/dev/null bs=4096 count=1 iflag=direct; i=$((i+1)); done",
            disk.device()
        );
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).stderr(std::process::Stdio::null());
        assert!(shell.status().unwrap().success());
        disk.counted(&before, |stat| stat.reads >= PROCESSES);
        let last = io(&disk.device(), "write", 7, 4096);
        let pid = u64::from(last.pid());
        last.finish();
        often.wait_for(|row| row["pid"] == pid);
        let often = often.stop();
        left_out::check(&often);
        assert_eq!(often.count("lost"), 0, "{}", often.footer);
        let sum =
            |finished: &Finished| finished.events().map(|row| row["ios"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum(&often), often.count("generated"), "{}", often.footer);
        assert!(sum(&often) >= PROCESSES + 7);
        // What found no room is counted.
        let once = once.stop();
        left_out::check(&once);
        assert!(once.count("lost") >= PROCESSES - ROWS, "{}", once.footer);
        assert_eq!(sum(&once) + once.count("lost"), once.count("generated"), "{}", once.footer);
    });
}
