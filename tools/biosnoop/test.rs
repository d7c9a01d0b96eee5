// SPDX-License-Identifier: Apache-2.0 OR MIT
//! biosnoop against the oracle: the workload's own list of I/Os and times, and what the kernel counts of each disk.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use kscope_tests::block::{Disk, Limited, Loop, Stat, Zram, memory, read_at_once, slow_disks};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::setting::Setting;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Who, Workload, left_out, say_untested, scale};
use nix::unistd::{getpid, gettid};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const DISK_SIZE: u64 = 64 * MIB;

fn biosnoop(args: &[&str]) -> Run {
    Run::new("biosnoop").args(args)
}

fn with_way(run: Run, way: Option<&str>) -> Run {
    if let Some(way) = way { run.env("KSCOPE_WAY", way) } else { run }
}

/// The workload, ready to do so many I/Os and to tell each.
fn io(path: &str, mode: &str, count: usize, size: u64) -> Workload {
    Workload::start(io_args(path, mode, count, size))
}

fn io_args(path: &str, mode: &str, count: usize, size: u64) -> Vec<String> {
    let (count, size) = (count.to_string(), size.to_string());
    let words = ["io", "--path", path, "--count", &count, "--bs", &size, "--mode", mode, "--each", "true"];
    words.map(String::from).to_vec()
}

/// One I/O that the workload did.
#[derive(Debug)]
struct Done {
    sector: u64,
    bytes: u64,
    us: f64,
}

fn done(workload: Workload) -> Vec<Done> {
    let number = |action: &Value, key: &str| action[key].as_u64().unwrap();
    let one = |action: &Value| Done {
        sector: number(action, "sector"),
        bytes: number(action, "bytes"),
        us: number(action, "ns") as f64 / 1e3,
    };
    workload.finish()[1..].iter().map(one).collect()
}

/// One I/O that the tool printed.
#[derive(Clone, Debug)]
struct Io {
    pid: Option<u64>,
    tid: Option<u64>,
    comm: Option<String>,
    disk: String,
    layer: String,
    sector: u64,
    bytes: u64,
    bios: u64,
    others: u64,
    queue_us: Option<f64>,
    device_us: Option<f64>,
    flags: String,
    row: Value,
}

impl Io {
    fn of(row: Value) -> Self {
        assert_eq!(row["type"], "event", "{row}");
        let text = |key: &str| row[key].as_str().unwrap().to_string();
        let number = |key: &str| row[key].as_u64().unwrap();
        let io = Self {
            pid: row["pid"].as_u64(),
            tid: row["tid"].as_u64(),
            comm: row["comm"].as_str().map(String::from),
            disk: text("disk"),
            layer: text("layer"),
            sector: number("sector"),
            bytes: number("size_bytes"),
            bios: number("bios"),
            others: number("bios_of_others"),
            queue_us: row["queue_us"].as_f64(),
            device_us: row["device_us"].as_f64(),
            flags: text("flags"),
            row,
        };
        assert!(io.others < io.bios.max(1), "{io:?}");
        assert!(io.device_us.is_none_or(|us| us >= 0.0) && io.queue_us.is_none_or(|us| us >= 0.0), "{io:?}");
        io
    }

    fn op(&self) -> &str {
        self.flags.split('|').next().unwrap()
    }

    /// From the submission to the end.
    fn whole_us(&self) -> f64 {
        self.queue_us.unwrap() + self.device_us.unwrap()
    }

    fn is_by(&self, workload: u32) -> bool {
        let pid = Some(u64::from(workload));
        (self.pid, self.tid, self.comm.as_deref()) == (pid, pid, Some("workload"))
    }
}

/// All that a run printed, each line checked, and nothing lost.
fn ios(finished: &Finished) -> Vec<Io> {
    finished.check();
    left_out::check(finished);
    assert_eq!(finished.count("lost"), 0, "{}", finished.footer);
    assert_eq!(finished.count("generated"), finished.count("events"), "{}", finished.footer);
    finished.events().map(Io::of).collect()
}

/// The layer of a disk's requests: loop devices stand on files.
fn layer(disk: &Disk) -> &'static str {
    if disk.name().starts_with("loop") { "stacked" } else { "request" }
}

fn nothing_dropped(finished: &Finished) {
    left_out::check(finished);
    assert_eq!(finished.footer["dropped_by_cause"], serde_json::json!({}), "{}", finished.footer);
}

/// Do I/O in one mode, one at a time, and compare each with what is printed of it.
fn one_mode(disk: &Disk, mode: &str, size: u64, way: Option<&str>, count: usize) {
    if let Err(why) = disk.can(mode) {
        return say_untested(&format!("biosnoop, {mode}"), &why);
    }
    let workload = io(&disk.device(), mode, count, size);
    let pid = workload.pid();
    let tracer = with_way(biosnoop(&["-d", disk.name()]), way).json();
    let before = disk.stat();
    let done = done(workload);
    let n = count as u64;
    disk.counted(&before, |stat| stat.reads + stat.writes + stat.discards + stat.flushes >= n);
    let finished = tracer.stop();
    let hooks = finished.header["hooks"].as_object().unwrap();
    // The hook throttle has ways of its own.
    let mut others = hooks.iter().filter(|(hook, _)| *hook != "throttle");
    assert!(others.all(|(_, taken)| taken.as_str().unwrap().starts_with(way.unwrap_or(""))), "{hooks:?}");
    nothing_dropped(&finished);
    let ios = ios(&finished);
    for io in &ios {
        assert_eq!((io.disk.as_str(), io.layer.as_str()), (disk.name(), layer(disk)), "{io:?}");
        assert!(io.is_by(pid), "not by {pid}: {io:?}");
        assert_eq!((io.bios, io.others, &io.row["partial"]), (1, 0, &Value::Bool(false)), "{io:?}");
    }
    // A flush is a write before it, and the flush itself; the request for it, which is empty, is no I/O.
    let (of_mode, others): (Vec<&Io>, Vec<&Io>) = ios.iter().partition(|io| io.op() == mode);
    assert_eq!((of_mode.len(), done.len()), (count, count), "{ios:#?}");
    if mode == "flush" {
        let written: Vec<(u64, u64)> = others.iter().map(|io| (io.sector, io.bytes)).collect();
        assert_eq!(written, done.iter().map(|done| (done.sector, done.bytes)).collect::<Vec<_>>());
        assert!(others.iter().all(|io| io.op() == "write"), "{others:#?}");
    } else {
        assert!(others.is_empty(), "{others:#?}");
    }
    for (io, done) in of_mode.iter().zip(&done) {
        let place = if mode == "flush" { (0, 0) } else { (done.sector, done.bytes) };
        assert_eq!((io.sector, io.bytes), place, "{io:?} {done:?}");
        assert!(io.whole_us() <= done.us, "longer than the workload saw: {io:?} {done:?}");
    }
}

macro_rules! modes {
    ($($name:ident: $mode:literal),+ $(,)?) => {$(
        #[test]
        fn $name() {
            let device = Loop::new(DISK_SIZE);
            for way in [None, Some("raw_tp")] {
                left_out::retried(|| one_mode(device.disk(), $mode, 4096, way, scale::times(200)));
                left_out::retried(|| one_mode(device.disk(), $mode, 64 << 10, way, scale::times(20)));
            }
        }
    )+};
}

mod each {
    use super::{DISK_SIZE, Loop, left_out, one_mode, scale};

    modes! { read: "read", write: "write", discard: "discard", flush: "flush" }
}

#[test]
fn whatever_the_kernel_keeps_of_a_request() {
    left_out::retried(|| {
        // The times that requests carry themselves, and those that the tool must keep.
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        for scheduler in ["none", "mq-deadline"] {
            let Some(_scheduler) = disk.schedule("biosnoop", scheduler) else { continue };
            for statistics in ["0", "1"] {
                let _iostats = Setting::new(disk.path("queue/iostats"), statistics);
                let throttling = if statistics == "1" { "75000" } else { "0" };
                let _throttling = Setting::try_new(disk.path("queue/wbt_lat_usec"), throttling);
                for mode in ["read", "flush"] {
                    const COUNT: usize = 50;
                    let workload = io(&disk.device(), mode, COUNT, 4096);
                    let pid = workload.pid();
                    let mut tracer = biosnoop(&["-d", disk.name()]).json();
                    let done = done(workload);
                    // Without statistics the disk counts nothing that could be waited for.
                    (0..COUNT).for_each(|_| {
                        _ = tracer.wait_for(|row| {
                            row["flags"].as_str().is_some_and(|flags| flags.starts_with(mode))
                        })
                    });
                    let finished = tracer.stop();
                    nothing_dropped(&finished);
                    let ios: Vec<Io> = ios(&finished).into_iter().filter(|io| io.op() == mode).collect();
                    assert_eq!(ios.len(), COUNT, "{scheduler}, {statistics}: {ios:#?}");
                    for (io, done) in ios.iter().zip(&done) {
                        assert!(
                            io.is_by(pid) && (mode == "flush" || io.sector == done.sector),
                            "{io:?} {done:?}"
                        );
                        assert!(io.whole_us() <= done.us, "{scheduler}, {statistics}: {io:?} {done:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn big_requests_are_split_as_the_disk_wants() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let _most = Setting::new(disk.path("queue/max_sectors_kb"), "128");
        for mode in ["read", "write"] {
            let workload = io(&disk.device(), mode, 6, 8 * MIB);
            let pid = workload.pid();
            let tracer = biosnoop(&["-d", disk.name()]).json();
            let before = disk.stat();
            let done = done(workload);
            disk.counted(&before, |stat| stat.reads + stat.writes >= 6 * 64);
            let ios = ios(&tracer.stop());
            assert!(
                ios.iter().all(|io| io.is_by(pid) && io.op() == mode && io.bytes <= 128 << 10),
                "{ios:#?}"
            );
            assert_covered_once(&ios, done.iter().map(|done| (done.sector, done.bytes)));
        }
    });
}

/// All that was done is covered by what is printed, each sector once.
fn assert_covered_once(ios: &[Io], done: impl Iterator<Item = (u64, u64)>) {
    let mut parts: Vec<(u64, u64)> = ios.iter().map(|io| (io.sector, io.sector + io.bytes / 512)).collect();
    parts.sort_unstable();
    let mut wanted: Vec<(u64, u64)> = done.map(|(sector, bytes)| (sector, sector + bytes / 512)).collect();
    wanted.sort_unstable();
    let joined = |parts: Vec<(u64, u64)>| {
        parts.into_iter().fold(Vec::<(u64, u64)>::new(), |mut all, part| {
            match all.last_mut() {
                Some(last) if last.1 == part.0 => last.1 = part.1,
                _ => all.push(part),
            }
            all
        })
    };
    assert_eq!(joined(parts), joined(wanted), "{ios:#?}");
}

#[test]
fn merged_bios_are_counted() {
    left_out::retried(|| {
        const BLOCKS: usize = 64;
        let rounds = scale::times(20);
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        // Older kernels do not want to merge what goes to a file.
        let _merges = Setting::new(disk.path("queue/nomerges"), "0");
        let tracer = biosnoop(&["-d", disk.name()]).json();
        let before = disk.stat();
        (0..rounds).for_each(|_| read_at_once(&disk.device(), BLOCKS));
        let all = |stat: &Stat| stat.reads + stat.read_merges == (rounds * BLOCKS) as u64;
        let stat = disk.counted(&before, all);
        assert!(stat.read_merges > 0, "{stat:?}: nothing was merged");
        let ios = ios(&tracer.stop());
        assert_eq!(ios.len() as u64, stat.reads, "{stat:?} {ios:#?}");
        let (pid, tid) = (getpid().as_raw() as u64, gettid().as_raw() as u64);
        for io in &ios {
            assert_eq!((io.pid, io.tid, io.others), (Some(pid), Some(tid), 0), "{io:?}");
            assert_eq!(io.bytes, io.bios * 4096, "{io:?}");
        }
        assert_eq!(ios.iter().map(|io| io.bios).sum::<u64>(), (rounds * BLOCKS) as u64);
        // Each round is its own, and they follow each other.
        let per_round = ios.iter().scan(0, |sum, io| {
            *sum += io.bytes;
            Some(*sum)
        });
        let ends = per_round.filter(|sum| sum % (BLOCKS as u64 * 4096) == 0).count();
        assert_eq!(ends, rounds, "{ios:#?}");
    });
}

#[test]
fn what_fails_is_shown_with_its_error_and_in_parts() {
    left_out::retried(|| {
        const HALF: u64 = 32 << 10;
        let memory = memory(DISK_SIZE).unwrap();
        let device = Loop::of(&memory);
        let disk = device.disk();
        // The loop driver gives what there is, goes on with the rest, and fails where there is nothing.
        memory.set_len(HALF).unwrap();
        let mut tracer = biosnoop(&["-d", disk.name()]).json();
        let text = biosnoop(&["-d", disk.name()]).text();
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(disk.device()).unwrap();
        let mut buffer = vec![0; 2 * HALF as usize + 4096];
        let start = buffer.as_ptr().align_offset(4096);
        let read = file.read_at(&mut buffer[start..start + 2 * HALF as usize], 0);
        if read.as_ref().is_ok_and(|bytes| *bytes as u64 == 2 * HALF) {
            return say_untested("biosnoop, parts and errors", "this kernel's loop driver fills with zeros");
        }
        tracer.wait_for(|row| row["error"].is_string());
        let ios = ios(&tracer.stop());
        let found: Vec<_> =
            ios.iter().map(|io| (io.sector, io.bytes, &io.row["partial"], &io.row["error"])).collect();
        let (yes, no, error) = (Value::Bool(true), Value::Bool(false), Value::from("EIO"));
        assert_eq!(found, [(0, HALF, &yes, &Value::Null), (HALF / 512, HALF, &no, &error)], "{ios:#?}");
        let pid = getpid().as_raw() as u64;
        assert!(ios.iter().all(|io| io.pid == Some(pid) && io.device_us.is_some()), "{ios:#?}");
        let ended = text.stop_text();
        left_out::check_text(&ended);
        let table = Table::of(&ended);
        let failed: Vec<_> = table.column("FLAGS").into_iter().map(|flags| flags.ends_with(" EIO")).collect();
        assert_eq!(failed, [false, true], "{ended:?}");
    });
}

#[test]
fn workloads_at_once_are_told_apart() {
    left_out::retried(|| {
        let count = scale::times(800);
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let mut workloads =
            ["read", "write", "read", "flush"].map(|mode| io(&disk.device(), mode, count, 4096));
        let pids = workloads.each_ref().map(Workload::pid);
        let tracer = biosnoop(&["-d", disk.name()]).json();
        let before = disk.stat();
        workloads.iter_mut().for_each(Workload::go);
        let done = workloads.map(done);
        let n = count as u64;
        // Those of two workloads may be merged; and one that asks for a flush is a write too.
        let ended = |stat: &Stat| {
            stat.reads + stat.read_merges == 2 * n
                && stat.writes + stat.write_merges == 3 * n
                && stat.flushes == n
        };
        let stat = disk.counted(&before, ended);
        let ios = ios(&tracer.stop());
        let of = |op: &str| ios.iter().filter(|io| io.op() == op).count() as u64;
        assert_eq!((of("read"), of("flush")), (stat.reads, n), "{stat:?}");
        assert_eq!(of("write"), stat.writes - n, "{stat:?}");
        for (pid, (mode, done)) in pids.iter().zip(["read", "write", "read", "flush"].iter().zip(&done)) {
            let own: Vec<&Io> = ios.iter().filter(|io| io.is_by(*pid)).collect();
            assert!(
                own.iter().all(|io| io.op() == *mode || *mode == "flush" && io.op() == "write"),
                "{own:#?}"
            );
            if stat.read_merges + stat.write_merges == 0 {
                let sectors =
                    |op: &str| own.iter().filter(|io| io.op() == op).map(|io| io.sector).collect::<Vec<_>>();
                let wanted: Vec<u64> = done.iter().map(|done| done.sector).collect();
                assert_eq!(sectors(if *mode == "flush" { "write" } else { mode }), wanted, "{mode}");
            }
        }
        assert!(ios.iter().all(|io| pids.iter().any(|pid| io.is_by(*pid))), "{ios:#?}");
    });
}

#[test]
fn a_flush_is_of_those_who_wait_for_it() {
    left_out::retried(|| {
        let count = scale::times(300) / if left_out::is_usual() { 3 } else { 1 };
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let mut workloads = [0; 6].map(|_| io(&disk.device(), "flush", count, 4096));
        let pids = workloads.each_ref().map(Workload::pid);
        let tracer = biosnoop(&["-d", disk.name()]).json();
        let before = disk.stat();
        workloads.iter_mut().for_each(Workload::go);
        workloads.into_iter().for_each(|workload| _ = done(workload));
        let n = (6 * count) as u64;
        let stat = disk.counted(&before, |stat| stat.writes + stat.write_merges == 2 * n);
        let ios = ios(&tracer.stop());
        let flushes: Vec<&Io> = ios.iter().filter(|io| io.op() == "flush").collect();
        assert_eq!(flushes.len() as u64, disk.stat().since(&before).flushes, "{stat:?}");
        assert!(flushes.iter().all(|io| pids.iter().any(|pid| io.is_by(*pid))), "{flushes:#?}");
        // Each that asked for one waited for one.
        assert_eq!(flushes.iter().map(|io| io.bios).sum::<u64>(), n);
        println!("{} flushes for {n} requests", flushes.len());
    });
}

#[test]
fn buffered_writes_are_of_who_writes_them_back() {
    left_out::retried(|| {
        const BYTES: u64 = 4 * MIB;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let file = File::options().write(true).open(disk.device()).unwrap();
        let pid = getpid().as_raw() as u64;
        // By who asks for it.
        let tracer = biosnoop(&["-d", disk.name()]).json();
        let before = disk.stat();
        file.write_all_at(&vec![1; BYTES as usize], 0).unwrap();
        file.sync_data().unwrap();
        disk.counted(&before, |stat| stat.writes > 0);
        let by_caller: Vec<Io> = ios(&tracer.stop()).into_iter().filter(|io| io.op() == "write").collect();
        assert_covered_once(&by_caller, [(0, BYTES)].into_iter());
        // By a thread of the kernel: what it was told of the disk is all that it can be said of it.
        let _age = Setting::new("/proc/sys/vm/dirty_expire_centisecs", "1");
        let _often = Setting::new("/proc/sys/vm/dirty_writeback_centisecs", "1");
        let mut tracer = biosnoop(&["-d", disk.name()]).json();
        file.write_all_at(&vec![2; BYTES as usize], BYTES).unwrap();
        let mut left = BYTES;
        while left > 0 {
            let row = tracer.wait_for(|row| row["type"] == "event");
            left -= row["size_bytes"].as_u64().unwrap();
        }
        let by_kernel = ios(&tracer.stop());
        assert_covered_once(&by_kernel, [(BYTES / 512, BYTES)].into_iter());
        for io in by_kernel {
            let comm = io.comm.unwrap();
            assert!(comm.starts_with("kworker/") && io.pid != Some(pid), "{comm}");
        }
    });
}

#[test]
fn filters_go_by_who_submits() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let cgroup = Cgroup::new(format!("kscope-biosnoop-{}", getpid()));
        let nobody = Who::new(Who::NOBODY, &[caps::Capability::CAP_DAC_OVERRIDE]);
        // One that is meant, and one that is not.
        let inside = Workload::start_by(&nobody, io_args(&disk.device(), "flush", 40, 4096));
        let outside = io(&disk.device(), "flush", 30, 4096);
        let pid = inside.pid();
        cgroup.add(pid);
        let path = cgroup.path().to_str().unwrap();
        let number = pid.to_string();
        let tracers = [
            ["--pid", &number],
            ["-p", &number],
            ["--tid", &number],
            ["--uid", "65534"],
            ["-c", path],
            ["--cgroup", path],
        ]
        .map(|filter| biosnoop(&["-d", disk.name()]).args(filter).json());
        let nobody_matches = biosnoop(&["-d", disk.name(), "--comm", "no-such-thread"]).json();
        let all_match = biosnoop(&["-d", disk.name(), "--comm", "orkloa"]).json();
        let before = disk.stat();
        // One after the other: else requests may be merged.
        let (outside, inside) = (done(outside), done(inside));
        disk.counted(&before, |stat| stat.writes == 2 * 70);
        for tracer in tracers {
            let ios = ios(&tracer.stop());
            let of_mode: Vec<u64> = ios.iter().filter(|io| io.op() == "flush").map(|io| io.sector).collect();
            assert!(ios.iter().all(|io| io.is_by(pid) && io.row["uid"] == 65534), "{ios:#?}");
            assert!(ios.iter().all(|io| io.row["cgroup"] == cgroup.name().to_str().unwrap()), "{ios:#?}");
            assert_eq!(of_mode.len(), inside.len(), "{ios:#?}");
            assert_eq!(ios.len(), 2 * 40, "{ios:#?}");
        }
        assert_eq!(ios(&nobody_matches.stop()).len(), 0);
        let all = ios(&all_match.stop());
        let of_mode = all.iter().filter(|io| io.op() == "flush").count();
        assert_eq!(of_mode, inside.len() + outside.len(), "{all:#?}");
    });
}

#[test]
fn disks_are_told_apart() {
    left_out::retried(|| {
        let (one, other) = (Loop::new(DISK_SIZE), Loop::new(DISK_SIZE));
        let (partitioned, partition) = Loop::with_partition(DISK_SIZE);
        let (all, only) = (biosnoop(&[]).json(), biosnoop(&["-d", &one.disk().device()]).json());
        let before = [&one, &other, &partitioned].map(|device| device.disk().stat());
        let paths = [one.disk().device(), other.disk().device(), format!("/dev/{partition}")];
        let workloads = paths.each_ref().map(|path| io(path, "write", 30, 4096));
        let pids = workloads.each_ref().map(Workload::pid);
        let done = workloads.map(done);
        for (device, before) in [&one, &other, &partitioned].iter().zip(&before) {
            device.disk().counted(before, |stat| stat.writes == 30);
        }
        let all = ios(&all.stop());
        // A partition's sectors are those of its disk.
        for (device, (pid, (done, shift))) in [&one, &other, &partitioned]
            .iter()
            .zip(pids.iter().zip(done.iter().zip([0, 0, DISK_SIZE / 2 / 512])))
        {
            let own: Vec<&Io> = all.iter().filter(|io| io.disk == device.disk().name()).collect();
            let sectors: Vec<u64> = own.iter().map(|io| io.sector).collect();
            assert_eq!(sectors, done.iter().map(|done| done.sector + shift).collect::<Vec<_>>());
            assert!(own.iter().all(|io| io.is_by(*pid)), "{own:#?}");
        }
        let only = ios(&only.stop());
        assert!(only.len() == 30 && only.iter().all(|io| io.disk == one.disk().name()), "{only:#?}");
        for nonsense in ["", "no-such-disk", "/", "/dev/null", "..", "loop0\n", &partition] {
            biosnoop(&["--dry-run", "-d", nonsense]).output().refusal(2);
        }
    });
}

#[test]
fn those_that_took_less_are_left_out() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let started = [&[][..], &["-m", "50us"], &["-m", "0.1"], &["--min=2h"], &["-m", "0"]].map(|min| {
            let workload = io(&disk.device(), "read", 100, 4096);
            let tracers =
                [biosnoop(&["-d", disk.name()]).json(), biosnoop(&["-d", disk.name()]).args(min).json()];
            let before = disk.stat();
            done(workload);
            disk.counted(&before, |stat| stat.reads == 100);
            tracers.map(|tracer| ios(&tracer.stop()))
        });
        for ([all, some], least) in started.iter().zip([0.0, 50.0, 100.0, 7.2e9, 0.0]) {
            assert_eq!(all.len(), 100, "{all:#?}");
            assert!(some.iter().all(|io| io.device_us.unwrap() >= least), "{least}: {some:#?}");
            // The two tracers run one after the other: they read the clock at moments of their own.
            match least {
                0.0 => assert_eq!(some.len(), 100, "{some:#?}"),
                7.2e9 => assert!(some.is_empty(), "{some:#?}"),
                _ => {
                    assert!(
                        some.iter().all(|io| all.iter().any(|other| other.sector == io.sector)),
                        "{some:#?}"
                    )
                }
            }
        }
        for nonsense in ["x", "-1", "", "1d", "nan"] {
            biosnoop(&["--dry-run", &format!("--min={nonsense}")]).output().refusal(2);
        }
    });
}

#[test]
fn table_shows_the_same() {
    left_out::retried(|| {
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let name = disk.name();
        for (options, more) in [
            (&[][..], &[][..]),
            (&["-Q"], &["QUE(ms)"]),
            (&["-t"], &["TIME"]),
            (&["--timestamp", "--queued"], &["TIME", "QUE(ms)"]),
            (&["-U", "--print-cgroup"], &["UID", "CGROUP"]),
        ] {
            let workload = io(&disk.device(), "write", 25, 4096);
            let pid = workload.pid().to_string();
            let tracer = biosnoop(&["-d", name]).args(options).text();
            let before = disk.stat();
            let done = done(workload);
            disk.counted(&before, |stat| stat.writes == 25);
            let ended = tracer.stop_text();
            left_out::check_text(&ended);
            let table = Table::of(&ended);
            for title in
                ["COMM", "PID", "DISK", "SECTOR", "BYTES", "BIOS", "LAT(ms)", "FLAGS"].iter().chain(more)
            {
                assert_eq!(table.column(title).len(), 25, "{title}: {ended:?}");
            }
            assert_eq!(table.titles.len(), 8 + more.len(), "{ended:?}");
            for (title, cell) in
                [("COMM", "workload"), ("PID", &pid), ("DISK", name), ("BYTES", "4096"), ("BIOS", "1")]
            {
                assert!(table.column(title).iter().all(|found| *found == cell), "{title}: {ended:?}");
            }
            assert!(table.column("FLAGS").iter().all(|flags| flags.starts_with("write|sync")), "{ended:?}");
            let sectors: Vec<String> = done.iter().map(|done| done.sector.to_string()).collect();
            assert_eq!(table.column("SECTOR"), sectors, "{ended:?}");
            for (ms, done) in table.column("LAT(ms)").iter().zip(&done) {
                let ms: f64 = ms.parse().unwrap();
                // Half of the last digit is rounding.
                assert!(ms - 0.0005 <= done.us / 1e3, "{ms} {done:?}");
            }
            if more.is_empty() {
                assert!(ended.stdout().lines().all(|line| line.len() < 80), "{ended:?}");
            }
        }
        let ended = biosnoop(&["-d", name, "--no-header"]).text().stop_text();
        assert_eq!(ended.stdout(), "");
    });
}

#[test]
fn devices_without_requests_are_shown_by_bio() {
    left_out::retried(|| {
        let Some(zram) = Zram::new(DISK_SIZE) else {
            return say_untested("biosnoop, by bio", "this kernel has no zram");
        };
        let disk = zram.disk();
        for mode in ["write", "read", "discard"] {
            for way in [None, Some("raw_tp")] {
                let count = scale::times(300) / if left_out::is_usual() { 3 } else { 1 };
                let workload = io(&disk.device(), mode, count, 4096);
                let pid = workload.pid();
                let tracer = with_way(biosnoop(&["-d", disk.name()]), way).json();
                let done = done(workload);
                let finished = tracer.stop();
                nothing_dropped(&finished);
                let ios = ios(&finished);
                assert_eq!(ios.len(), count, "{mode}: {ios:#?}");
                for (io, done) in ios.iter().zip(&done) {
                    assert_eq!((io.sector, io.bytes, io.op()), (done.sector, done.bytes, mode), "{io:?}");
                    assert_eq!((io.layer.as_str(), io.bios), ("bio", 1), "{io:?}");
                    assert!(io.is_by(pid) && io.device_us.unwrap() <= done.us, "{io:?} {done:?}");
                }
            }
        }
    });
}

#[test]
fn known_delays_are_measured() {
    left_out::retried(|| {
        const COUNT: usize = 20;
        let disks = slow_disks();
        if disks.is_empty() {
            say_untested("biosnoop, known delays", "KSCOPE_DISKS names no disk with a known delay");
        }
        for (disk, delay_ns) in disks {
            let is_request = disk.path("mq").exists();
            for mode in ["read", "write"] {
                let workload = io(&disk.device(), mode, COUNT, 4096);
                let pid = workload.pid();
                let least = format!("{}us", delay_ns / 2000);
                let tracers = ["0", &least].map(|min| biosnoop(&["-d", disk.name(), "-m", min]).json());
                let before = disk.stat();
                let done = done(workload);
                disk.counted(&before, |stat| stat.reads + stat.writes == COUNT as u64);
                for tracer in tracers {
                    let ios = ios(&tracer.stop());
                    assert_eq!(ios.len(), COUNT, "{}: {ios:#?}", disk.name());
                    for (io, done) in ios.iter().zip(&done) {
                        assert_eq!((io.sector, io.bytes, io.op()), (done.sector, done.bytes, mode), "{io:?}");
                        assert!(io.device_us.unwrap() <= done.us, "{io:?} {done:?}");
                        assert!(io.is_by(pid) && (io.layer != "bio") == is_request, "{io:?}");
                    }
                    let total_us: f64 = ios.iter().map(|io| io.device_us.unwrap()).sum();
                    assert!(
                        total_us * 1e3 >= (COUNT as u64 * delay_ns) as f64,
                        "{delay_ns} ns each: {ios:#?}"
                    );
                }
            }
            for mode in ["discard", "flush"] {
                if is_request {
                    one_mode(&disk, mode, 4096, None, COUNT);
                }
            }
        }
    });
}

#[test]
fn what_began_before_is_not_known() {
    left_out::retried(|| {
        // A disk that takes long enough for a tool to start meanwhile.
        let slow =
            slow_disks().into_iter().filter(|(disk, _)| disk.path("mq").exists()).max_by_key(|slow| slow.1);
        let Some((disk, _)) = slow else {
            return say_untested(
                "biosnoop, I/O that began before",
                "KSCOPE_DISKS names no disk with a known delay",
            );
        };
        let mut workload = io(&disk.device(), "read", 400, 4096);
        let pid = workload.pid();
        workload.go();
        let tracer = biosnoop(&["-d", disk.name()]).json();
        done(workload);
        let ios = ios(&tracer.stop());
        let unknown: Vec<&Io> = ios.iter().filter(|io| !io.is_by(pid)).collect();
        // One at most was on its way, and nobody is named for it.
        assert!(
            unknown.len() <= 1 && unknown.iter().all(|io| io.pid.is_none() && io.comm.is_none()),
            "{unknown:?}"
        );
        let columns: BTreeMap<bool, usize> = ios.iter().fold(BTreeMap::new(), |mut counts, io| {
            *counts.entry(io.pid.is_some()).or_default() += 1;
            counts
        });
        println!("{}: known or not: {columns:?}", disk.name());
    });
}

#[test]
fn the_time_in_the_queue_begins_with_the_bio() {
    left_out::retried(|| {
        const READERS: usize = 16;
        const TRIES: usize = 8;
        let count = scale::times(40);
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let Some(_scheduler) = disk.schedule("biosnoop, waits for a request", "none") else { return };
        let _merges = Setting::new(disk.path("queue/nomerges"), "2");
        let _few = Setting::new(disk.path("queue/nr_requests"), "4");
        for way in [None, Some("raw_tp")] {
            // On CPUs that others use, readers may wait for these most of the time: that is another try.
            let shows_the_wait = |_| {
                let mut workloads = [0; READERS].map(|_| io(&disk.device(), "read", count, 128 << 10));
                let pids = workloads.each_ref().map(Workload::pid);
                let tracer = with_way(biosnoop(&["-Q", "-d", disk.name()]), way).json();
                let before = disk.stat();
                workloads.iter_mut().for_each(Workload::go);
                let done = workloads.map(done);
                disk.counted(&before, |stat| stat.reads == (READERS * count) as u64);
                let finished = tracer.stop();
                nothing_dropped(&finished);
                let ios = ios(&finished);
                let (mut shown_us, mut all_us) = (0.0, 0.0);
                for (pid, done) in pids.iter().zip(&done) {
                    let own: Vec<&Io> = ios.iter().filter(|io| io.is_by(*pid)).collect();
                    assert_eq!(own.len(), count, "{ios:#?}");
                    for (io, done) in own.iter().zip(done) {
                        assert!(io.sector == done.sector && io.whole_us() <= done.us, "{io:?} {done:?}");
                        (shown_us, all_us) = (shown_us + io.whole_us(), all_us + done.us);
                    }
                }
                // What is missing is the reader's own work, and that it waits for a CPU.
                println!("{shown_us} of {all_us} us");
                shown_us > all_us / 2.0
            };
            assert!((0..TRIES).any(shows_the_wait), "{way:?}");
        }
    });
}

#[test]
fn parts_of_a_big_request_begin_with_the_whole() {
    left_out::retried(|| {
        const COUNT: usize = 20;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let Some(_scheduler) = disk.schedule("biosnoop, parts that wait", "none") else { return };
        let _most = Setting::new(disk.path("queue/max_sectors_kb"), "64");
        let _few = Setting::new(disk.path("queue/nr_requests"), "4");
        // Of one bio each.
        let workload = io(&disk.device(), "read", COUNT, MIB);
        let tracer = biosnoop(&["-Q", "-d", disk.name()]).json();
        let before = disk.stat();
        let done = done(workload);
        disk.counted(&before, |stat| stat.reads >= 16 * COUNT as u64);
        let ios = ios(&tracer.stop());
        assert_covered_once(&ios, done.iter().map(|done| (done.sector, done.bytes)));
        let (mut last_us, mut all_us) = (0.0, 0.0);
        for done in &done {
            let parts = ios.iter().filter(|io| {
                (done.sector..done.sector + done.bytes / 512).contains(&io.sector) && io.whole_us() <= done.us
            });
            last_us += parts.map(Io::whole_us).fold(0.0, f64::max);
            all_us += done.us;
        }
        assert!(last_us > all_us / 2.0, "{last_us} of {all_us} us: {ios:#?}");
    });
}

#[test]
fn what_a_limit_holds_back_is_of_who_submitted_it_or_of_nobody() {
    left_out::retried(|| {
        const READERS: usize = 4;
        const COUNT: usize = 40;
        let (device, partition) = Loop::with_partition(DISK_SIZE);
        let disk = device.disk();
        let _merges = Setting::new(disk.path("queue/nomerges"), "2");
        let Some(limited) = Limited::new(disk) else {
            return say_untested("biosnoop, limits", "this kernel has no limits of block I/O");
        };
        let paths = [disk.device(), format!("/dev/{partition}")];
        for (path, options) in
            [(&paths[0], &["-Q"][..]), (&paths[1], &["-Q"]), (&paths[0], &["--comm", "workload"])]
        {
            let mut workloads = [0; READERS].map(|_| io(path, "read", COUNT, 4096));
            let pids = workloads.each_ref().map(Workload::pid);
            workloads.iter().for_each(|workload| limited.add(workload));
            let tracer = biosnoop(&["-d", disk.name()]).args(options).json();
            let before = disk.stat();
            workloads.iter_mut().for_each(Workload::go);
            let all_us: f64 = workloads.map(done).iter().flatten().map(|done| done.us).sum();
            disk.counted(&before, |stat| stat.reads >= (READERS * COUNT) as u64);
            let finished = tracer.stop();
            left_out::check(&finished);
            let ios = ios(&finished);
            let held_back = finished.footer["dropped_by_cause"]["held_back"].as_u64().unwrap_or(0);
            let (known, unknown): (Vec<&Io>, Vec<&Io>) = ios.iter().partition(|io| io.pid.is_some());
            assert!(known.iter().all(|io| pids.iter().any(|pid| io.is_by(*pid))), "{known:#?}");
            assert!(unknown.iter().all(|io| io.queue_us.is_none() && io.device_us.is_some()), "{unknown:#?}");
            assert_eq!(unknown.len() as u64, held_back, "{}", finished.footer);
            let hooks = finished.header["hooks"].as_object().unwrap();
            let is_seen = hooks.contains_key("throttle") || path.ends_with("p1");
            if options[0] == "--comm" && !is_seen {
                // It is of nobody that is asked for.
                assert!(unknown.is_empty(), "{unknown:#?}");
                continue;
            }
            assert_eq!(ios.len(), READERS * COUNT, "{ios:#?}");
            if is_seen {
                let shown_us: f64 = ios.iter().map(Io::whole_us).sum();
                assert!(held_back == 0 && shown_us > all_us / 2.0, "{shown_us} of {all_us} us");
                assert!(shown_us <= all_us, "{shown_us} of {all_us} us");
            } else {
                assert!(held_back > 0, "{ios:#?}");
                let notes = finished.header["notes"].to_string();
                assert!(notes.contains("held_back"), "{notes}");
            }
        }
    });
}

#[test]
fn long_requests_leave_nothing_behind() {
    left_out::retried(|| {
        const BLOCKS: usize = 300;
        let device = Loop::new(DISK_SIZE);
        let disk = device.disk();
        let _merges = Setting::new(disk.path("queue/nomerges"), "0");
        let _most = Setting::try_new(disk.path("queue/max_sectors_kb"), "1280");
        for options in [&[][..], &["-Q"]] {
            let tracer = biosnoop(&["-d", disk.name()]).args(options).text();
            let before = disk.stat();
            (0..10).for_each(|_| read_at_once(&disk.device(), BLOCKS));
            let stat = disk.counted(&before, |stat| stat.reads + stat.read_merges == 10 * BLOCKS as u64);
            kscope_tests::wait_until("nothing to be remembered", || {
                (kscope_tests::bpf::entries("submitted") == 0).then_some(())
            });
            let ended = tracer.stop_text();
            left_out::check_text(&ended);
            let bios =
                Table::of(&ended).column("BIOS").iter().map(|n| n.parse::<u64>().unwrap()).sum::<u64>();
            assert_eq!(bios, 10 * BLOCKS as u64, "{stat:?} {ended:?}");
            if stat.reads * 128 >= 10 * BLOCKS as u64 {
                say_untested("biosnoop, long requests", &format!("this kernel makes short ones: {stat:?}"));
            }
        }
    });
}
