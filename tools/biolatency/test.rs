// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biolatency against the oracle: the workload's own count and times, and what the kernel counts of each disk.
#![allow(clippy::unwrap_used)]

use std::fs;

use kscope_tests::block::{
    BlockCgroup, Disk, Limited, Loop, Stat, Zram, block_cgroups, read_at_once, slow_disks,
};
use kscope_tests::cgroup;
use kscope_tests::left_out;
use kscope_tests::setting::Setting;
use kscope_tests::{Ended, Finished, Run, Workload};
use kscope_tests::{now, say_untested, scale, wait_until};
use nix::unistd::getpid;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const DISK_SIZE: u64 = 64 * MIB;
const MODES: [&str; 4] = ["read", "write", "flush", "discard"];

/// One histogram that the tool printed.
#[derive(Clone, Debug)]
struct Hist {
    layer: String,
    from: String,
    disk: Option<String>,
    flags: Option<String>,
    count: u64,
    total_us: f64,
    /// From, to, count; in microseconds.
    buckets: Vec<(u64, u64, u64)>,
    time: String,
}

impl Hist {
    /// Read, and checked against itself.
    fn of(row: &Value) -> Self {
        assert_eq!(row["type"], "histogram", "{row}");
        let text = |key: &str| row[key].as_str().map(String::from);
        let number = |value: &Value| value.as_u64().unwrap();
        let bounds = |value: &Value| (number(&value["from_us"]), number(&value["to_us"]));
        let buckets = row["buckets"].as_array().unwrap().iter();
        let hist = Self {
            layer: text("layer").unwrap(),
            from: text("from").unwrap(),
            disk: text("disk"),
            flags: text("flags"),
            count: number(&row["count"]),
            total_us: row["total_us"].as_f64().unwrap(),
            buckets: buckets.map(|b| (bounds(b).0, bounds(b).1, number(&b["count"]))).collect(),
            time: text("time").unwrap(),
        };
        assert!(row["interval_s"].as_f64().unwrap() > 0.0, "{row}");
        assert!(hist.buckets.iter().all(|(from, to, count)| from < to && *count > 0), "{row}");
        assert!(hist.buckets.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{row}");
        assert_eq!(hist.count, hist.buckets.iter().map(|bucket| bucket.2).sum::<u64>(), "{row}");
        // The total is that of the times themselves: each lies in its bucket.
        let sum =
            |of: fn(&(u64, u64, u64)) -> u64| hist.buckets.iter().map(|b| of(b) * b.2).sum::<u64>() as f64;
        assert!(sum(|b| b.0) <= hist.total_us && hist.total_us <= sum(|b| b.1), "{row}");
        let mean = row["mean_us"].as_f64();
        assert_eq!(mean.is_some(), hist.count > 0, "{row}");
        assert!(mean.is_none_or(|mean| (mean * hist.count as f64 - hist.total_us).abs() < 0.01), "{row}");
        let percentiles = row["percentiles"].as_object().unwrap();
        assert_eq!(percentiles.len(), if hist.count > 0 { 4 } else { 0 }, "{row}");
        for (name, value) in percentiles {
            assert_eq!(bounds(value), hist.percentile(name), "{name}: {row}");
        }
        hist
    }

    /// The bucket of the value of rank ceil(p/100 * count), in whole numbers.
    fn percentile(&self, name: &str) -> (u64, u64) {
        let per_mille = match name {
            "p50" => 500,
            "p90" => 900,
            "p99" => 990,
            "p99.9" => 999,
            other => panic!("a percentile named {other}"),
        };
        let rank = (self.count * per_mille).div_ceil(1000);
        let mut below = 0;
        let found = self.buckets.iter().find(|bucket| {
            below += bucket.2;
            below >= rank
        });
        found.map(|bucket| (bucket.0, bucket.1)).unwrap()
    }

    /// The operation: the first word of the flags.
    fn op(&self) -> &str {
        self.flags.as_deref().unwrap().split('|').next().unwrap()
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.flags.as_deref().unwrap().split('|').skip(1).any(|name| name == flag)
    }
}

/// All that a run printed, each line checked.
fn hists(finished: &Finished) -> Vec<Hist> {
    finished.check();
    assert_eq!(finished.count("lost"), 0, "{}", finished.footer);
    finished.events().map(|row| Hist::of(&row)).collect()
}

/// The layer of a disk's requests: loop devices stand on files.
fn layer(disk: &Disk) -> &'static str {
    if disk.name().starts_with("loop") { "stacked" } else { "request" }
}

fn total(hists: &[Hist]) -> u64 {
    hists.iter().map(|hist| hist.count).sum()
}

fn biolatency(args: &[&str]) -> Run {
    Run::new("biolatency").args(args)
}

fn with_way(run: Run, way: Option<&str>) -> Run {
    if let Some(way) = way { run.env("KSCOPE_WAY", way) } else { run }
}

/// The workload, ready to do so many I/Os.
fn io(path: &str, mode: &str, count: u64, size: u64) -> Workload {
    let (count, size) = (count.to_string(), size.to_string());
    Workload::start(["io", "--path", path, "--count", &count, "--bs", &size, "--mode", mode])
}

/// What the workload measured, in microseconds.
struct Measured {
    count: u64,
    total_us: f64,
    max_us: f64,
}

impl Measured {
    fn of(actions: &[Value]) -> Self {
        let number = |key: &str| actions[0][key].as_u64().unwrap();
        Self {
            count: number("count"),
            total_us: number("total_ns") as f64 / 1e3,
            max_us: number("max_ns") as f64 / 1e3,
        }
    }
}

/// Do I/O in one mode under the tool, and check all that it says: of the disk alone, by flags.
fn one_mode(disk: &Disk, mode: &str, queued: bool, way: Option<&str>, count: u64) {
    if let Err(why) = disk.can(mode) {
        return say_untested(&format!("biolatency, {mode}"), &why);
    }
    let workload = io(&disk.device(), mode, count, 4096);
    let run = biolatency(&["-D", "-F", "-d", disk.name()]).args(queued.then_some("-Q"));
    let tracer = with_way(run, way).json();
    let before = disk.stat();
    let measured = Measured::of(&workload.finish());
    assert_eq!(measured.count, count);
    // A flush is a write before it, the request that asks for it (an empty write), and the flush itself.
    let expected = match mode {
        "read" => Stat { reads: count, ..Stat::default() },
        "write" => Stat { writes: count, ..Stat::default() },
        "discard" => Stat { discards: count, ..Stat::default() },
        _ => Stat { writes: 2 * count, flushes: count, ..Stat::default() },
    };
    assert_eq!(disk.counted(&before, |stat| *stat == expected), expected);
    let finished = tracer.stop();
    assert_eq!(disk.stat().since(&before), expected, "somebody else used {}", disk.name());
    let hists = hists(&finished);

    // Nothing is counted twice or not at all: the device's flush if that is measured, else the request for it.
    assert_eq!(total(&hists), if mode == "flush" { 2 * count } else { count }, "{hists:#?}");
    assert_eq!(finished.footer["dropped_by_cause"], serde_json::json!({}), "{}", finished.footer);
    let from = if queued { "submission" } else { "issue" };
    let hooks = finished.header["hooks"].as_object().unwrap();
    assert!(hooks.contains_key("complete") && hooks.contains_key("split") == queued, "{hooks:?}");
    // The hook throttle has ways of its own.
    let mut others = hooks.iter().filter(|(hook, _)| *hook != "throttle");
    assert!(others.all(|(_, taken)| taken.as_str().unwrap().starts_with(way.unwrap_or(""))), "{hooks:?}");
    for hist in &hists {
        assert_eq!((hist.disk.as_deref(), hist.from.as_str()), (Some(disk.name()), from), "{hist:?}");
        assert_eq!(hist.layer, layer(disk));
    }

    // What the workload timed.
    let timed: Vec<&Hist> = match (mode, queued) {
        // The kernel takes the flag away when it begins the sequence; the write before has one of its own.
        ("flush", true) => hists.iter().filter(|hist| !hist.has_flag("idle")).collect(),
        ("flush", false) => hists.iter().filter(|hist| hist.op() == "flush").collect(),
        _ => hists.iter().collect(),
    };
    assert_eq!(timed.iter().map(|hist| hist.count).sum::<u64>(), count, "{hists:#?}");
    for hist in &timed {
        let op = if queued && mode == "flush" { "write" } else { mode };
        assert_eq!(hist.op(), op, "{hist:?}");
        assert_eq!(hist.has_flag("preflush"), mode == "flush" && !queued, "{hist:?}");
        let slowest = hist.buckets.last().unwrap().0;
        assert!(slowest as f64 <= measured.max_us, "{hist:?}: but none took more than {}", measured.max_us);
    }
    let total_us: f64 = timed.iter().map(|hist| hist.total_us).sum();
    assert!(total_us <= measured.total_us, "{total_us} of {}: {hists:#?}", measured.total_us);
    let others = hists.iter().filter(|hist| !timed.iter().any(|timed| timed.flags == hist.flags));
    assert!(others.into_iter().all(|hist| hist.op() == "write"), "{hists:#?}");
}

macro_rules! modes {
    ($($name:ident: $mode:literal),+ $(,)?) => {$(
        #[test]
        fn $name() {
            let device = Loop::new(DISK_SIZE);
            for queued in [false, true] {
                for way in [None, Some("raw_tp")] {
                    left_out::retried(|| one_mode(device.disk(), $mode, queued, way, 300));
                }
            }
        }
    )+};
}

mod mode {
    use super::{DISK_SIZE, Loop, left_out, one_mode};

    modes! { read: "read", write: "write", flush: "flush", discard: "discard" }
}

#[test]
fn whatever_the_kernel_keeps_of_a_request() {
    left_out::retried(|| {
        // The times that requests carry themselves, and those that the tool must keep.
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for scheduler in ["none", "mq-deadline"] {
            let Some(_scheduler) = disk.schedule("biolatency", scheduler) else { continue };
            // Write-back throttling takes statistics, with which the kernel times each issue.
            for throttling in ["0", "75000"] {
                let setting = Setting::try_new(disk.path("queue/wbt_lat_usec"), throttling);
                if let Err(error) = &setting {
                    say_untested("biolatency with statistics", &format!("wbt_lat_usec: {error}"));
                }
                for (mode, queued) in [("read", false), ("read", true), ("write", false), ("flush", false)] {
                    one_mode(disk, mode, queued, None, 300);
                }
            }
        }
    });
}

#[test]
fn requests_without_a_time_are_kept_or_counted() {
    left_out::retried(|| {
        // A disk that does not count I/O does not note either when a request begins.
        const COUNT: u64 = 200;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let _iostats = Setting::new(disk.path("queue/iostats"), "0");
        for (scheduler, queued) in
            [("none", false), ("none", true), ("mq-deadline", false), ("mq-deadline", true)]
        {
            let Some(_scheduler) = disk.schedule("biolatency", scheduler) else { continue };
            let workload = io(&disk.device(), "read", COUNT, 4096);
            let tracer = biolatency(&["-d", disk.name()]).args(queued.then_some("-Q")).json();
            let measured = Measured::of(&workload.finish());
            let finished = tracer.stop();
            let hists = hists(&finished);
            let dropped = finished.footer["dropped_by_cause"]["unknown_start"].as_u64().unwrap_or(0);
            println!("{scheduler}, queued {queued}: {} and {dropped} dropped", total(&hists));
            assert_eq!(total(&hists) + dropped, COUNT, "{hists:#?} {}", finished.footer);
            assert_eq!(dropped, 0, "{scheduler} {}", finished.footer);
            assert!(hists.iter().map(|hist| hist.total_us).sum::<f64>() <= measured.total_us, "{hists:#?}");
        }
    });
}

#[test]
fn big_requests_count_as_the_disk_counts_them() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for (mode, size) in [("read", MIB), ("read", 16 * MIB), ("write", 8 * MIB), ("discard", 16 * MIB)] {
            if let Err(why) = disk.can(mode) {
                say_untested(&format!("biolatency, big {mode}"), &why);
                continue;
            }
            // One request, and several where the disk takes less at once.
            for most in [None, Some("128")] {
                let _most = most.map(|most| Setting::new(disk.path("queue/max_sectors_kb"), most));
                let workload = io(&disk.device(), mode, 10, size);
                let tracer = biolatency(&["-F", "-d", disk.name()]).json();
                let before = disk.stat();
                workload.finish();
                let sum = |stat: &Stat| stat.reads + stat.writes + stat.discards;
                let stat = disk.counted(&before, |stat| sum(stat) >= 10);
                // All requests of an I/O have ended when it has; the last one may not be counted yet.
                let hists = hists(&tracer.stop());
                let stat = disk.counted(&before, |now| sum(now) >= sum(&stat).max(total(&hists)));
                assert_eq!(total(&hists), sum(&stat), "{mode} of {size} bytes: {stat:?} {hists:#?}");
                assert!(hists.iter().all(|hist| hist.op() == mode), "{hists:#?}");
                if most.is_some() && mode != "discard" {
                    assert!(sum(&stat) >= 10 * size / (128 << 10), "{stat:?}: not split");
                }
            }
        }
    });
}

#[test]
fn merged_requests_count_as_the_disk_counts_them() {
    left_out::retried(|| {
        const BLOCKS: usize = 64;
        const ROUNDS: u64 = 20;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        // Older kernels do not want to merge what goes to a file.
        let _merges = Setting::new(disk.path("queue/nomerges"), "0");
        let tracer = biolatency(&["-F", "-d", disk.name()]).json();
        let before = disk.stat();
        (0..ROUNDS).for_each(|_| read_at_once(&disk.device(), BLOCKS));
        let all = |stat: &Stat| stat.reads + stat.read_merges == ROUNDS * BLOCKS as u64;
        let stat = disk.counted(&before, all);
        let hists = hists(&tracer.stop());
        assert_eq!(total(&hists), stat.reads, "{stat:?} {hists:#?}");
        assert!(stat.read_merges > 0, "{stat:?}: nothing was merged");
    });
}

#[test]
fn workloads_at_once_are_all_counted() {
    left_out::retried(|| {
        const COUNT: u64 = 1500;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let mut workloads: Vec<Workload> =
            ["read", "write", "read", "write"].map(|mode| io(&disk.device(), mode, COUNT, 4096)).into();
        let (all, by_flags) =
            (biolatency(&["-d", disk.name()]).json(), biolatency(&["-F", "-d", disk.name()]).json());
        let before = disk.stat();
        workloads.iter_mut().for_each(Workload::go);
        let measured: Vec<Measured> =
            workloads.into_iter().map(|workload| Measured::of(&workload.finish())).collect();
        // Requests of two workloads may be merged.
        let done = |stat: &Stat| stat.reads + stat.read_merges + stat.writes + stat.write_merges == 4 * COUNT;
        let stat = disk.counted(&before, done);
        for tracer in [all, by_flags] {
            let hists = hists(&tracer.stop());
            assert_eq!(total(&hists), stat.reads + stat.writes, "{stat:?} {hists:#?}");
            let total_us: f64 = hists.iter().map(|hist| hist.total_us).sum();
            assert!(total_us <= measured.iter().map(|measured| measured.total_us).sum());
        }
    });
}

#[test]
fn disks_are_told_apart() {
    left_out::retried(|| {
        let (one, other) = (Loop::new(DISK_SIZE), Loop::new(DISK_SIZE));
        let (all, only) = (biolatency(&["-D"]).json(), biolatency(&["-d", &one.disk().device()]).json());
        let before = [one.disk().stat(), other.disk().stat()];
        let workloads =
            [io(&one.disk().device(), "read", 70, 4096), io(&other.disk().device(), "write", 50, 4096)];
        workloads.into_iter().for_each(|workload| _ = workload.finish());
        one.disk().counted(&before[0], |stat| stat.reads == 70);
        other.disk().counted(&before[1], |stat| stat.writes == 50);
        let hists_of_all = hists(&all.stop());
        for (device, count) in [(&one, 70), (&other, 50)] {
            let name = Some(device.disk().name());
            let of_it: Vec<_> =
                hists_of_all.iter().filter(|hist| hist.disk.as_deref() == name).cloned().collect();
            assert_eq!((total(&of_it), of_it.len()), (count, 1), "{hists_of_all:#?}");
        }
        let only = hists(&only.stop());
        assert_eq!((total(&only), only[0].disk.as_deref()), (70, None), "{only:#?}");
    });
}

#[test]
fn other_disks_are_no_concern() {
    left_out::retried(|| {
        let Some(zram) = Zram::new(DISK_SIZE) else {
            return say_untested("biolatency -d, beside other kinds of disks", "this kernel has no zram");
        };
        let device = Loop::new(DISK_SIZE);
        let disks = [device.disk(), zram.disk()];
        let tracers = disks.map(|disk| biolatency(&["-d", disk.name()]).json());
        disks.iter().for_each(|disk| _ = io(&disk.device(), "write", 120, 4096).finish());
        for tracer in tracers {
            let finished = tracer.stop();
            assert_eq!(total(&hists(&finished)), 120, "{finished:#?}");
            assert_eq!(finished.footer["dropped_by_cause"], serde_json::json!({}), "{}", finished.footer);
        }
    });
}

#[test]
fn disks_that_come_later_are_counted_or_dropped() {
    left_out::retried(|| {
        const COUNT: u64 = 160;
        let tracer = biolatency(&["-D"]).json();
        let device = Loop::new(DISK_SIZE);
        io(&device.disk().device(), "read", COUNT, 4096).finish();
        let mut names = vec![device.disk().name().to_string()];
        let zram = Zram::new(DISK_SIZE);
        if let Some(zram) = &zram {
            io(&zram.disk().device(), "write", COUNT, 4096).finish();
            names.push(zram.disk().name().into());
        }
        let finished = tracer.stop();
        let hists = hists(&finished);
        let of_them = |hist: &&Hist| names.iter().any(|name| hist.disk.as_ref() == Some(name));
        let counted: u64 = hists.iter().filter(of_them).map(|hist| hist.count).sum();
        let dropped = finished.footer["dropped_by_cause"]["unknown_start"].as_u64().unwrap_or(0);
        let done = names.len() as u64 * COUNT;
        // What the rest of the host does may be dropped too.
        assert!(counted <= done && counted + dropped >= done, "{names:?} {hists:#?} {}", finished.footer);
    });
}

#[test]
fn partitions_count_for_their_disk() {
    left_out::retried(|| {
        let (device, partition) = Loop::with_partition(DISK_SIZE);
        let disk = device.disk();
        let path = format!("/dev/{partition}");
        for name in [&partition, &path] {
            let ended = biolatency(&["--dry-run", "-d", name]).output();
            let sentence = ended.refusal(2);
            assert!(sentence.contains("partition") && sentence.contains(disk.name()), "{sentence}");
        }
        let workload = io(&path, "read", 80, 4096);
        let tracer = biolatency(&["-D", "-d", disk.name()]).json();
        let before = disk.stat();
        workload.finish();
        disk.counted(&before, |stat| stat.reads == 80);
        let hists = hists(&tracer.stop());
        assert_eq!(total(&hists), 80, "{hists:#?}");
        assert_eq!(hists[0].disk.as_deref(), Some(disk.name()));
    });
}

#[test]
fn disks_that_are_none_are_refused() {
    for nonsense in ["", "no-such-disk", "/", "/dev/null", "..", "../block", "loop0\n", "\u{1b}[2J", "a/b"] {
        let ended = biolatency(&["--dry-run", "-d", nonsense]).output();
        ended.refusal(2);
    }
}

/// Check intervals of a workload that has begun and ended within them.
fn assert_intervals(hists: &[Hist], count: u64) {
    assert_eq!(total(hists), count, "{hists:#?}");
    assert!(hists.is_sorted_by(|a, b| a.time < b.time), "{hists:#?}");
}

#[test]
fn intervals_add_up() {
    left_out::retried(|| {
        const COUNT: u64 = 3000;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let workload = io(&disk.device(), "read", COUNT, 4096);
        let mut every = biolatency(&["-d", disk.name(), "50ms"]).json();
        let at_end = biolatency(&["-d", disk.name()]).json();
        let measured = Measured::of(&workload.finish());
        // Several, and one that begins after the workload has ended.
        let end = now();
        every.wait_for(|row| row["time"].as_str().unwrap() > end.as_str());
        every.wait_for(|row| row["count"] == 0);
        let every = hists(&every.stop());
        assert!(every.len() > 2, "{every:#?}");
        assert_intervals(&every, COUNT);
        let at_end = hists(&at_end.stop());
        assert_eq!(at_end.len(), 1, "{at_end:#?}");
        assert_intervals(&at_end, COUNT);
        for hists in [&every, &at_end] {
            assert!(hists.iter().map(|hist| hist.total_us).sum::<f64>() <= measured.total_us);
        }
    });
}

#[test]
fn a_count_of_intervals_ends_it() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        // Until it has ended before the tool has.
        wait_until("a workload that ends within three intervals", || {
            let workload = io(&disk.device(), "write", 200, 4096);
            let tracer = biolatency(&["-d", disk.name(), "1", "3"]).json();
            workload.finish();
            let end = now();
            let hists = hists(&tracer.finished());
            assert_eq!(hists.len(), 3, "{hists:#?}");
            assert!(total(&hists) <= 200, "{hists:#?}");
            let in_time = end < hists[2].time;
            if in_time {
                assert_intervals(&hists, 200);
            }
            in_time.then_some(())
        });
        let hists = hists(&biolatency(&["-d", disk.name(), "0.1", "1"]).json().finished());
        assert_eq!((hists.len(), total(&hists)), (1, 0), "{hists:#?}");
        // A duration ends it too, with what is there by then.
        let finished = biolatency(&["-d", disk.name(), "--duration", "300ms"]).json().finished();
        assert_eq!(finished.events().count(), 1, "{finished:?}");
    });
}

#[test]
fn milliseconds() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for option in ["-m", "--milliseconds"] {
            let workload = io(&disk.device(), "read", 150, 4096);
            let tracer = biolatency(&[option, "-d", disk.name()]).json();
            let measured = Measured::of(&workload.finish());
            let hists = hists(&tracer.stop());
            assert_eq!(total(&hists), 150, "{hists:#?}");
            let buckets = &hists[0].buckets;
            assert!(
                buckets.iter().all(|b| b.0.is_multiple_of(1000) && b.1.is_multiple_of(1000)),
                "{hists:#?}"
            );
            // The total is no less exact.
            assert!(hists[0].total_us > 0.0 && hists[0].total_us <= measured.total_us, "{hists:#?}");
        }
    });
}

/// A histogram in a table.
#[derive(Debug, Default)]
struct Shown {
    title: String,
    unit: String,
    rows: Vec<(u64, u64, u64)>,
    figures: String,
}

/// The histograms of a table, and the lines that are no part of one.
fn shown(ended: &Ended) -> (Vec<Shown>, Vec<String>) {
    assert_eq!(ended.code(), 0, "{ended:?}");
    let (mut hists, mut others): (Vec<Shown>, Vec<String>) = Default::default();
    for line in ended.stdout().lines() {
        if line.contains(": count     distribution") {
            let unit = line.split_whitespace().next().unwrap().to_string();
            let title = others
                .pop_if(|line| line.contains(" = ") || line.contains("by bio") || line.contains("on top of"))
                .unwrap_or_default();
            hists.push(Shown { title, unit, ..Shown::default() });
        } else if let Some((bounds, rest)) = line.split_once(" : ") {
            let (low, high) = bounds.split_once("->").unwrap();
            let (count, stars) = rest.split_once('|').unwrap();
            let stars = stars.strip_suffix('|').unwrap();
            assert!(stars.len() == 40 && stars.trim_end().chars().all(|c| c == '*'), "{line}");
            let number = |text: &str| text.trim().parse::<u64>().unwrap();
            assert!(line.len() < 80, "{line}");
            let row = (number(low), number(high), number(count));
            assert!(row.2 > 0 || stars.trim_end().is_empty(), "{line}");
            hists.last_mut().unwrap().rows.push(row);
        } else if line.starts_with("count ") || line.starts_with("p50 ") {
            hists.last_mut().unwrap().figures.push_str(&format!("{line}\n"));
        } else if !line.is_empty() {
            others.push(line.into());
        }
    }
    for hist in &hists {
        // Powers of two, one on the other.
        assert_eq!((hist.rows[0].0, hist.rows[0].1), (0, 1), "{ended:?}");
        let follows = |pair: &[(u64, u64, u64)]| pair[1].0 == pair[0].1 + 1 && pair[1].1 + 1 == 2 * pair[1].0;
        assert!(hist.rows.windows(2).all(follows), "{ended:?}");
        let sum: u64 = hist.rows.iter().map(|row| row.2).sum();
        assert!(hist.figures.starts_with(&format!("count {sum}")), "{ended:?}");
        assert_eq!(hist.figures.contains("p99.9 "), sum > 0, "{ended:?}");
    }
    (hists, others)
}

fn sum(shown: &[Shown]) -> u64 {
    shown.iter().flat_map(|hist| &hist.rows).map(|row| row.2).sum()
}

#[test]
fn table_shows_the_same() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let name = format!("disk = {}", disk.name());
        for (options, unit, titles) in [
            (&[][..], "usecs", &[][..]),
            (&["-m"], "msecs", &[]),
            (&["-D"], "usecs", &[name.as_str()]),
            (&["-F"], "usecs", &["flags = read"]),
            (&["-D", "-F", "-Q"], "usecs", &[name.as_str(), "flags = read"]),
        ] {
            let workload = io(&disk.device(), "read", 130, 4096);
            let tracer = biolatency(&["-d", disk.name()]).args(options).text();
            workload.finish();
            let ended = tracer.stop_text();
            let (hists, others) = shown(&ended);
            assert_eq!((hists.len(), sum(&hists)), (1, 130), "{ended:?}");
            assert_eq!(hists[0].unit, unit, "{ended:?}");
            assert!(titles.iter().all(|title| hists[0].title.contains(title)), "{ended:?}");
            assert_eq!((hists[0].title.is_empty(), others.len()), (titles.is_empty(), 0), "{ended:?}");
        }
        // Where there is nothing, it says so.
        let ended = biolatency(&["-d", disk.name(), "-D"]).text().stop_text();
        let (hists, others) = shown(&ended);
        assert!(hists.is_empty() && others == ["no block I/O"], "{ended:?}");
    });
}

#[test]
fn table_with_times() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for (option, is_time) in [
            ("-T", (|text| text.len() == 8 && text.split(':').count() == 3) as fn(&str) -> bool),
            ("--timestamp", |text| text.len() == 8 && text.split(':').count() == 3),
            ("--timestamps=elapsed", |text| text.parse::<f64>().is_ok()),
            ("--timestamps=rfc3339", |text| text.len() == 30 && text.ends_with('Z')),
        ] {
            let workload = io(&disk.device(), "read", 90, 4096);
            let tracer = biolatency(&["-d", disk.name(), option, "100ms"]).text();
            workload.finish();
            // It shows what has been printed by then, one time above each.
            wait_until("an interval", || (tracer.lines() > 3).then_some(()));
            let ended = tracer.stop_text();
            let (hists, times) = shown(&ended);
            assert_eq!(sum(&hists), 90, "{ended:?}");
            assert_eq!(hists.len(), times.len(), "{ended:?}");
            assert!(times.iter().all(|time| is_time(time)), "{ended:?}");
        }
    });
}

#[test]
fn filter_by_cgroup() {
    left_out::retried(|| {
        let Some((root, is_v1)) = block_cgroups() else {
            let ended = biolatency(&["-c", cgroup::root().to_str().unwrap()]).output();
            ended.refusal(2);
            return;
        };
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let outer = BlockCgroup::new(&root, "outer");
        if !is_v1 {
            fs::write(outer.folder().join("cgroup.subtree_control"), "+io").unwrap();
        }
        let inner = BlockCgroup::new(outer.folder(), "inner");
        let sibling = BlockCgroup::new(&root, "sibling");
        for (option, filter, place, elsewhere, mode) in [
            ("-c", &sibling, &sibling, None, "read"),
            ("--cgroup", &inner, &inner, Some(&sibling), "write"),
            ("-c", &outer, &inner, Some(&sibling), "read"),
            ("-c", &sibling, &sibling, Some(&inner), "write"),
        ] {
            let (inside, outside) =
                (io(&disk.device(), mode, 140, 4096), io(&disk.device(), mode, 110, 4096));
            place.add(&inside);
            elsewhere.iter().for_each(|elsewhere| elsewhere.add(&outside));
            let tracer = biolatency(&["-d", disk.name(), option, filter.path()]).json();
            let before = disk.stat();
            outside.finish();
            let measured = Measured::of(&inside.finish());
            disk.counted(&before, |stat| stat.reads + stat.writes == 250);
            let hists = hists(&tracer.stop());
            assert_eq!(total(&hists), 140, "{} {mode}: {hists:#?}", filter.path());
            assert!(hists[0].total_us <= measured.total_us, "{hists:#?}");
        }
        // The root holds all.
        let workload = io(&disk.device(), "read", 60, 4096);
        let tracer = biolatency(&["-d", disk.name(), "-c", root.to_str().unwrap()]).json();
        workload.finish();
        assert_eq!(total(&hists(&tracer.stop())), 60);
        // On a zram device, by bio.
        if let Some(zram) = Zram::new(DISK_SIZE) {
            let path = zram.disk().device();
            let (inside, outside) = (io(&path, "write", 140, 4096), io(&path, "write", 110, 4096));
            inner.add(&inside);
            let tracer = biolatency(&["-d", zram.disk().name(), "-c", outer.path()]).json();
            [inside, outside].into_iter().for_each(|workload| _ = workload.finish());
            assert_eq!(total(&hists(&tracer.stop())), 140);
        }
    });
}

#[test]
fn cgroups_without_block_io_are_refused() {
    let Some((root, is_v1)) = block_cgroups() else {
        return say_untested("biolatency -c", "this kernel has no cgroups for block I/O");
    };
    for nonsense in ["/no/such/cgroup", "/", "/proc", "\u{1b}[2J"] {
        biolatency(&["--dry-run", "-c", nonsense]).output().refusal(2);
    }
    if is_v1 {
        // Its I/O belongs to a cgroup of the other hierarchy: the sentence says where that is.
        let unified = BlockCgroup::new(&cgroup::root(), "unified");
        let ended = biolatency(&["--dry-run", "-c", unified.path()]).output();
        let sentence = ended.refusal(2);
        assert!(sentence.contains(root.to_str().unwrap()), "{sentence}");
    } else {
        // Without the controller, its I/O counts for the cgroup above.
        let parent = BlockCgroup::new(&root, "parent");
        let child = BlockCgroup::new(parent.folder(), "child");
        let ended = biolatency(&["--dry-run", "-c", child.path()]).output();
        let sentence = ended.refusal(2);
        assert!(sentence.contains("io"), "{sentence}");
    }
}

#[test]
fn devices_without_requests_are_measured_by_bio() {
    left_out::retried(|| {
        const COUNT: u64 = 250;
        let Some(zram) = Zram::new(DISK_SIZE) else {
            return say_untested("biolatency, by bio", "this kernel has no zram");
        };
        let disk = zram.disk();
        for (mode, size) in [("write", 4096), ("read", 4096), ("write", MIB), ("discard", 4096)] {
            if let Err(why) = disk.can(mode) {
                say_untested(&format!("biolatency, {mode}, by bio"), &why);
                continue;
            }
            for way in [None, Some("raw_tp")] {
                let count = if size == 4096 { COUNT } else { 10 };
                let workload = io(&disk.device(), mode, count, size);
                let tracer = with_way(biolatency(&["-D", "-F", "-d", disk.name()]), way).json();
                let measured = Measured::of(&workload.finish());
                let hists = hists(&tracer.stop());
                // One bio of each I/O, unless that is bigger than one can be.
                let at_least = total(&hists) >= count && size > 4096;
                assert!(total(&hists) == count || at_least, "{mode} of {size} bytes: {hists:#?}");
                for hist in &hists {
                    assert_eq!((hist.layer.as_str(), hist.op()), ("bio", mode), "{hist:?}");
                    assert_eq!(hist.disk.as_deref(), Some(disk.name()));
                    assert!(hist.buckets.last().unwrap().0 as f64 <= measured.max_us, "{hist:?}");
                }
                let total_us: f64 = hists.iter().map(|hist| hist.total_us).sum();
                assert!(size > 4096 || total_us <= measured.total_us, "{hists:#?}");
            }
        }
        // Both layers have rows of their own.
        let device = Loop::new(DISK_SIZE);
        let tracer = biolatency(&["-D"]).json();
        let text = biolatency(&["-d", disk.name()]).text();
        io(&disk.device(), "write", 30, 4096).finish();
        io(&device.disk().device(), "write", 20, 4096).finish();
        let hists = hists(&tracer.stop());
        for (name, layer, count) in [(disk.name(), "bio", 30), (device.disk().name(), "stacked", 20)] {
            let of_it: Vec<_> = hists.iter().filter(|hist| hist.disk.as_deref() == Some(name)).collect();
            assert!(of_it.len() == 1 && of_it[0].layer == layer && of_it[0].count == count, "{hists:#?}");
        }
        let ended = text.stop_text();
        let (shown, _) = shown(&ended);
        let by_bio: Vec<_> = shown.into_iter().filter(|hist| hist.title.contains("by bio")).collect();
        assert_eq!((by_bio.len(), sum(&by_bio)), (1, 30), "{ended:?}");
    });
}

#[test]
fn known_delays_are_measured() {
    left_out::retried(|| {
        const COUNT: u64 = 30;
        let disks = slow_disks();
        if disks.is_empty() {
            say_untested("biolatency, known delays", "KSCOPE_DISKS names no disk with a known delay");
        }
        for (disk, delay_ns) in disks {
            let layer = if disk.path("mq").exists() { layer(&disk) } else { "bio" };
            for (mode, queued) in [("read", false), ("read", true), ("write", false), ("write", true)] {
                let workload = io(&disk.device(), mode, COUNT, 4096);
                let tracer = biolatency(&["-F", "-d", disk.name()]).args(queued.then_some("-Q")).json();
                let before = disk.stat();
                let measured = Measured::of(&workload.finish());
                disk.counted(&before, |stat| stat.reads + stat.writes == COUNT);
                let hists = hists(&tracer.stop());
                assert_eq!(total(&hists), COUNT, "{}: {hists:#?}", disk.name());
                assert!(hists.iter().all(|hist| hist.op() == mode && hist.layer == layer), "{hists:#?}");
                let least = hists.iter().map(|hist| hist.buckets[0].1).min().unwrap();
                assert!(least * 1000 > delay_ns, "{} takes {delay_ns} ns: {hists:#?}", disk.name());
                let total_us: f64 = hists.iter().map(|hist| hist.total_us).sum();
                assert!(total_us * 1e3 >= (COUNT * delay_ns) as f64, "{delay_ns} ns each: {hists:#?}");
                assert!(total_us <= measured.total_us, "{}: {hists:#?}", disk.name());
            }
            for mode in MODES.into_iter().filter(|_| layer != "bio") {
                one_mode(&disk, mode, false, None, COUNT);
                one_mode(&disk, mode, true, None, COUNT);
            }
        }
    });
}

#[test]
fn the_time_in_the_queue_begins_with_the_bio() {
    left_out::retried(|| {
        const READERS: usize = 16;
        const TRIES: usize = 8;
        let count = scale::times(40) as u64;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let Some(_scheduler) = disk.schedule("biolatency, waits for a request", "none") else { return };
        let _merges = Setting::new(disk.path("queue/nomerges"), "2");
        let _few = Setting::new(disk.path("queue/nr_requests"), "4");
        // One request each, and several that are parts of one bio.
        for (size, most, parts) in [(128 << 10, "128", 1), (MIB, "128", 8)] {
            let _most = Setting::new(disk.path("queue/max_sectors_kb"), most);
            // On CPUs that others use, readers may wait for these most of the time: that is another try.
            let shows_the_wait = |_| {
                let mut workloads = [0; READERS].map(|_| io(&disk.device(), "read", count, size));
                let tracer = biolatency(&["-Q", "-d", disk.name()]).json();
                let before = disk.stat();
                workloads.iter_mut().for_each(Workload::go);
                let all_us: f64 =
                    workloads.map(|workload| Measured::of(&workload.finish()).total_us).iter().sum();
                disk.counted(&before, |stat| stat.reads == READERS as u64 * count * parts);
                let finished = tracer.stop();
                left_out::check(&finished);
                assert_eq!(finished.footer["dropped_by_cause"], serde_json::json!({}), "{}", finished.footer);
                let hists = hists(&finished);
                assert_eq!(total(&hists), READERS as u64 * count * parts, "{hists:#?}");
                let shown_us: f64 = hists.iter().map(|hist| hist.total_us).sum();
                assert!(shown_us <= all_us * parts as f64, "{shown_us} of {all_us} us: {hists:#?}");
                // What is missing is the reader's own work, and that it waits for a CPU; and parts end one after another.
                let least = if parts == 1 { all_us / 2.0 } else { all_us * parts as f64 / 4.0 };
                println!("{shown_us} of {all_us} us, {parts} parts: {hists:#?}");
                assert_eq!(kscope_tests::bpf::entries("submitted"), 0);
                shown_us > least
            };
            assert!((0..TRIES).any(shows_the_wait), "{parts} parts");
        }
    });
}

#[test]
fn what_a_limit_holds_back_is_time_in_the_queue_or_of_no_known_time() {
    left_out::retried(|| {
        const READERS: usize = 4;
        const COUNT: u64 = 40;
        let (device, partition) = Loop::with_partition(DISK_SIZE);
        let disk = device.disk();
        let _merges = Setting::new(disk.path("queue/nomerges"), "2");
        let Some(limited) = Limited::new(disk) else {
            return say_untested("biolatency, limits", "this kernel has no limits of block I/O");
        };
        for path in [disk.device(), format!("/dev/{partition}")] {
            let mut workloads = [0; READERS].map(|_| io(&path, "read", COUNT, 4096));
            workloads.iter().for_each(|workload| limited.add(workload));
            let tracer = biolatency(&["-Q", "-d", disk.name()]).json();
            let before = disk.stat();
            workloads.iter_mut().for_each(Workload::go);
            let all_us: f64 =
                workloads.map(|workload| Measured::of(&workload.finish()).total_us).iter().sum();
            disk.counted(&before, |stat| stat.reads >= READERS as u64 * COUNT);
            let finished = tracer.stop();
            left_out::check(&finished);
            let hists = hists(&finished);
            let held_back = finished.footer["dropped_by_cause"]["held_back"].as_u64().unwrap_or(0);
            assert_eq!(total(&hists) + held_back, READERS as u64 * COUNT, "{hists:#?}");
            if finished.header["hooks"].get("throttle").is_some() || path.ends_with("p1") {
                let shown_us: f64 = hists.iter().map(|hist| hist.total_us).sum();
                assert!(held_back == 0 && shown_us > all_us / 2.0, "{shown_us} of {all_us} us: {hists:#?}");
                assert!(shown_us <= all_us, "{shown_us} of {all_us} us: {hists:#?}");
            } else {
                assert!(held_back > 0, "{hists:#?}");
            }
        }
    });
}

#[test]
fn stacked_disks_are_apart() {
    left_out::retried(|| {
        const COUNT: u64 = 500;
        // Over a file, whose disk does it once more; and over memory, where nobody else does.
        let folder = std::env::temp_dir().join(format!("kscope-biolatency-{}", getpid()));
        fs::write(&folder, vec![1; 8 << 20]).unwrap();
        let file = fs::File::open(&folder).unwrap();
        file.sync_all().unwrap();
        let on_file = Loop::of(&file);
        fs::remove_file(&folder).unwrap();
        let on_memory = Loop::new(DISK_SIZE);
        let (by_layer, by_disk) = (biolatency(&[]).json(), biolatency(&["-D"]).json());
        let text = biolatency(&[]).text();
        for device in [&on_file, &on_memory] {
            io(&device.disk().device(), "read", COUNT, 4096).finish();
        }
        let by_layer = hists(&by_layer.stop());
        let stacked: Vec<&Hist> = by_layer.iter().filter(|hist| hist.layer == "stacked").collect();
        // Others may use loop devices too; what the disks do is another histogram.
        assert!(stacked.iter().map(|hist| hist.count).sum::<u64>() >= 2 * COUNT, "{by_layer:#?}");
        assert_eq!(by_layer.iter().filter(|hist| hist.layer == "request").count(), 1, "{by_layer:#?}");
        let by_disk = hists(&by_disk.stop());
        for device in [&on_file, &on_memory] {
            let name = Some(device.disk().name());
            let own: Vec<&Hist> = by_disk.iter().filter(|hist| hist.disk.as_deref() == name).collect();
            assert_eq!((own.len(), own[0].count, own[0].layer.as_str()), (1, COUNT, "stacked"), "{own:#?}");
        }
        assert!(by_disk.iter().all(|hist| hist.layer != "request"
            || hist.disk.as_ref().is_some_and(|disk| !disk.starts_with("loop"))));
        let ended = text.stop_text();
        let (shown, _) = shown(&ended);
        let apart: Vec<_> = shown.into_iter().filter(|hist| hist.title.contains("on top of")).collect();
        assert!(apart.len() == 1 && sum(&apart) >= 2 * COUNT, "{ended:?}");
    });
}
