// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Metrics against the oracle: what biolatency exports of a disk of its own is what the workload did there.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use kscope_tests::block::Loop;
use kscope_tests::metrics::{self, OPEN_METRICS, Samples};
use kscope_tests::mounted::Mounted;
use kscope_tests::{Run, Tracer, Workload, say_untested, wait_until};
use tempfile::TempDir;

const DISK_SIZE: u64 = 16 << 20;
const COUNT: &str = "kscope_biolatency_io_seconds_count";
const MERGED: &str = "kscope_metrics_series_merged_total";

fn biolatency(disk: &Loop, args: &[&str]) -> Run {
    let run = Run::new("biolatency").args(["--duration=1h", "-d", disk.disk().name()]);
    run.args(["--metrics-listen=127.0.0.1:0"]).args(args)
}

fn io(disk: &Loop, mode: &str, count: u64) {
    let (path, count) = (disk.disk().device(), count.to_string());
    Workload::start(["io", "--path", &path, "--count", &count, "--bs", "4096", "--mode", mode]).finish();
}

/// Scrape until so many I/Os are in the numbers.
fn scrape(address: &str, count: u64) -> Samples {
    wait_until(&format!("metrics of {count} I/Os"), || {
        let samples = metrics::parse(&metrics::get(address, "").1);
        (metrics::sum(&samples, COUNT) >= count as f64).then_some(samples)
    })
}

/// Whether nothing that counts has gone down, or away.
fn assert_monotone(before: &Samples, after: &Samples) {
    for (name, value) in before.iter().filter(|(name, _)| !name.starts_with("kscope_snapshot")) {
        assert!(
            after.get(name).is_some_and(|now| now >= value),
            "{name}: {value}, then {:?}",
            after.get(name)
        );
    }
}

#[test]
fn what_is_exported_is_what_was_done() {
    let disk = Loop::new(DISK_SIZE);
    let tracer = biolatency(&disk, &["-D"]).json();
    let address = metrics::address(&tracer);
    io(&disk, "read", 70);
    let first = scrape(&address, 70);
    io(&disk, "write", 30);
    let second = scrape(&address, 100);
    assert_monotone(&first, &second);

    // As the tool's own histogram has it, which is told at the end alone.
    assert_eq!(tracer.lines(), 1);
    let finished = tracer.stop();
    finished.check();
    let rows: Vec<_> = finished.events().collect();
    assert_eq!((rows.len(), rows[0]["count"].as_u64()), (1, Some(100)), "{finished:?}");
    let labels = format!("{{from=\"issue\",layer=\"stacked\",disk=\"{}\"}}", disk.disk().name());
    assert_eq!(second[&format!("{COUNT}{labels}")], 100.0);
    let sum = second[&format!("kscope_biolatency_io_seconds_sum{labels}")] * 1e6;
    let total = rows[0]["total_us"].as_f64().unwrap();
    assert!((sum - total).abs() < 0.001, "{sum} {total}");
    let buckets = metrics::of(&second, "kscope_biolatency_io_seconds_bucket");
    assert!(buckets.len() < 32, "{buckets:?}");
    for (name, value) in buckets {
        let bound = name.split('"').nth(1).unwrap().replace("+Inf", "inf").parse::<f64>().unwrap() * 1e6;
        let below = rows[0]["buckets"].as_array().unwrap().iter().filter(|b| {
            let to = b["to_us"].as_f64().unwrap();
            to <= bound + 0.001
        });
        let below: u64 = below.map(|b| b["count"].as_u64().unwrap()).sum();
        assert_eq!(value, below as f64, "{name}");
    }
}

#[test]
fn both_forms_say_the_same() {
    let disk = Loop::new(DISK_SIZE);
    let tracer = biolatency(&disk, &["-D", "-F", "1h"]).json();
    let address = metrics::address(&tracer);
    let (head, open) = metrics::get(&address, OPEN_METRICS);
    assert!(
        head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    assert!(open.ends_with("# EOF\n"), "{open}");
    let (head, classic) = metrics::get(&address, "Accept: */*\r\n");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(!classic.contains("# EOF") && !classic.contains("# UNIT"), "{classic}");
    assert_eq!(metrics::parse(&open), metrics::parse(&classic));
    tracer.stop().check();
}

#[test]
fn an_interval_decides_when_numbers_are_taken() {
    let disk = Loop::new(DISK_SIZE);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("bio.prom");
    let mut tracer = biolatency(&disk, &["1", "--textfile", file.to_str().unwrap()]).json();
    let address = metrics::address(&tracer);
    io(&disk, "read", 50);
    tracer.wait_for(|row| row["count"] == 50);
    let samples = scrape(&address, 50);
    assert_eq!(metrics::sum(&samples, COUNT), 50.0);
    // The file is that of an interval too, whole, for everyone, and alone.
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(metrics::sum(&metrics::parse(&text), COUNT), 50.0, "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    io(&disk, "read", 20);
    tracer.stop().check();
    // It stays, with all that was done.
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(metrics::sum(&metrics::parse(&text), COUNT), 70.0, "{text}");
}

#[test]
fn series_are_bounded_and_nothing_is_left_out() {
    let disk = Loop::new(DISK_SIZE);
    let tracer = biolatency(&disk, &["-F", "--metrics-series=1"]).json();
    let address = metrics::address(&tracer);
    io(&disk, "read", 60);
    let first = scrape(&address, 60);
    assert_eq!(metrics::of(&first, COUNT).len(), 1, "{first:?}");
    io(&disk, "write", 90);
    let second = scrape(&address, 150);
    assert_monotone(&first, &second);
    let counts = metrics::of(&second, COUNT);
    let other = format!("{COUNT}{{from=\"other\",layer=\"other\",flags=\"other\"}}");
    assert_eq!((counts.len(), counts[&other]), (2, 90.0), "{counts:?}");
    assert_eq!(metrics::sum(&second, MERGED), 1.0, "{second:?}");
    tracer.stop().check();
}

#[test]
fn nonsense_from_the_network_harms_nobody() {
    let disk = Loop::new(DISK_SIZE);
    let mut tracer = biolatency(&disk, &[]).json();
    let address = metrics::address(&tracer);
    let long = format!("GET /metrics HTTP/1.1\r\nA: {}", "x".repeat(64 << 10));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    for (request, status) in [
        ("GET /other HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n", "405"),
        ("\u{16}\u{3}\u{1}\r\n\r\n", "400"),
        ("GET /metrics\r\n\r\n", "400"),
        (&many, "431"),
    ] {
        let (head, _) = metrics::ask(&address, request.as_bytes());
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {head}");
    }
    // What is not read to its end may be answered by a reset alone.
    metrics::ask(&address, long.as_bytes());
    let (head, body) = metrics::ask(&address, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head} {body}");
    // Those who connect and say nothing hold nobody up for long, and cost no thread each.
    let threads = || fs::read_dir(format!("/proc/{}/task", tracer.pid())).unwrap().count();
    let before = threads();
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for mut stream in &silent[..20] {
        stream.write_all(b"GET /metrics HT").unwrap();
    }
    assert_eq!(threads(), before);
    drop(silent);
    metrics::get(&address, "");
    tracer.assert_running();
    tracer.stop().check();
}

#[test]
fn what_can_not_be_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let sentence = Run::new("biolatency").args(["--metrics-listen", &address]).output();
    let sentence = sentence.refusal(1);
    assert!(sentence.contains(&address) && sentence.contains("in use"), "{sentence}");
    for (path, code) in [("/no/such/folder/a.prom", 1), ("/", 2), ("/proc/a.prom", 1)] {
        let ended = Run::new("biolatency").args(["--textfile", path]).output();
        assert_eq!(ended.code(), code, "{ended:?}");
        assert!(ended.stderr.contains(path), "{ended:?}");
    }
    for words in [
        ["--metrics-listen", "9435"],
        ["--metrics-listen", "127.0.0.1"],
        ["--metrics-listen", "127.0.0.1:99999"],
        ["--metrics-listen", "no.such.host:1"],
        ["--metrics-listen", ""],
        ["--metrics-series", "0"],
        ["--metrics-series", "x"],
        ["--textfile", ""],
    ] {
        let ended = Run::new("biolatency").args(words).args(["--dry-run"]).output();
        ended.refusal(2);
    }
}

#[test]
fn only_a_regular_file_of_the_own_user_is_replaced() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name);
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(path("target"), "kept").unwrap();
    std::os::unix::fs::symlink(path("target"), path("link")).unwrap();
    fs::write(path("other"), "kept").unwrap();
    std::os::unix::fs::chown(path("other"), Some(65534), None).unwrap();
    fs::create_dir(path("folder")).unwrap();
    for name in ["fifo", "link", "other", "folder"] {
        let before = fs::symlink_metadata(path(name)).unwrap();
        let ended = Run::new("runqlat").args(["--textfile", path(name).to_str().unwrap(), "1", "1"]).output();
        let sentence = ended.refusal(2);
        assert!(sentence.contains(path(name).to_str().unwrap()), "{sentence}");
        let after = fs::symlink_metadata(path(name)).unwrap();
        assert_eq!((before.ino(), before.file_type()), (after.ino(), after.file_type()), "{name}");
    }
    assert_eq!(fs::read_to_string(path("target")).unwrap(), "kept");

    // What takes the place of the file later is not replaced either.
    let file = path("a.prom");
    let mut tracer = Run::new("runqlat").args(["--textfile", file.to_str().unwrap(), "0.1"]).json();
    wait_until("the file", || file.exists().then_some(()));
    wait_until("a FIFO in the place of the file", || {
        // The tool may be quicker.
        _ = fs::remove_file(&file);
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).ok()
    });
    wait_until("the failure to be said", || tracer.stderr().contains("regular file").then_some(()));
    assert!(fs::symlink_metadata(&file).unwrap().file_type().is_fifo());
    tracer.assert_running();
    fs::remove_file(&file).unwrap();
    wait_until("the file to be written again", || fs::read_to_string(&file).ok());
    tracer.stop().check();
}

#[test]
fn a_full_disk_keeps_the_textfile_and_ends_nothing() {
    let disk = Mounted::tmpfs_of(64 << 10);
    let (file, filler) = (disk.path().join("a.prom"), disk.path().join("filler"));
    let mut tracer = Run::new("runqlat").args(["--textfile", file.to_str().unwrap(), "0.1"]).json();
    wait_until("the file", || file.exists().then_some(()));
    let fill =
        || fs::OpenOptions::new().append(true).create(true).open(&filler).unwrap().write_all(&[0; 512]);
    wait_until("the failure to be said", || {
        while fill().is_ok() {}
        tracer.stderr().contains("No space left on device").then_some(())
    });
    let text = fs::read_to_string(&file).unwrap();
    assert!(!metrics::parse(&text).is_empty(), "{text}");
    tracer.assert_running();
    fs::remove_file(&filler).unwrap();
    wait_until("another file", || (fs::read_to_string(&file).unwrap() != text).then_some(()));
    let finished = tracer.stop();
    finished.check();
    assert_eq!(finished.stderr.matches("No space left").count(), 1, "{finished:?}");
}

#[test]
fn slow_clients_hold_nobody_up() {
    let mut tracer = Run::new("runqlat").args(["--metrics-listen=127.0.0.1:0"]).json();
    let address = metrics::address(&tracer);
    // More than there may be at a time; some begin a request, some have asked and read no answer.
    let mut slow: Vec<_> = (0..300).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for (n, stream) in slow.iter_mut().enumerate() {
        let request: &[u8] = [&b""[..], b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\n\r\n"][n % 3];
        // The oldest have made room for others.
        _ = stream.write_all(request);
    }
    for _ in 0..5 {
        metrics::get(&address, "");
        for stream in &mut slow {
            _ = stream.write_all(b"X");
        }
    }
    let files = fs::read_dir(format!("/proc/{}/fd", tracer.pid())).unwrap().count();
    assert!(files < 200, "{files} descriptors");
    tracer.assert_running();
    tracer.stop().check();
}

/// Prometheus' own judgement, where it is installed.
fn promtool(test: &str, text: &str) {
    // Where `make test` has put it, if it is not installed.
    let own = std::env::current_exe().unwrap().with_file_name("../../promtool/promtool");
    let program = if own.is_file() { own } else { "promtool".into() };
    let found = Command::new(program).args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = found else {
        return say_untested(test, "promtool is not installed");
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "promtool check metrics: {text}");
}

#[test]
fn promtool_finds_no_fault() {
    let disk = Loop::new(DISK_SIZE);
    let tracer = biolatency(&disk, &["-D", "-F"]).json();
    io(&disk, "flush", 5);
    let (_, text) = metrics::get(&metrics::address(&tracer), "");
    promtool("biolatency's metrics", &text);
    tracer.stop().check();

    let tracer = Run::new("sampleip").args(["--metrics-listen=localhost:0", "-U"]).json();
    samples_of_sampleip(tracer);
}

/// sampleip has no end of its own while somebody listens.
fn samples_of_sampleip(mut tracer: Tracer) {
    let address = metrics::address(&tracer);
    let samples = wait_until("samples", || {
        let (_, text) = metrics::get(&address, "");
        let samples = metrics::parse(&text);
        promtool("sampleip's metrics", &text);
        (metrics::sum(&samples, "kscope_sampleip_samples_total") > 0.0).then_some(samples)
    });
    let modes = metrics::of(&samples, "kscope_sampleip_samples_total");
    let modes: Vec<_> = modes.keys().map(|key| key.split('"').nth(1).unwrap()).collect();
    assert_eq!(modes, ["idle", "kernel", "user"]);
    let user = samples["kscope_sampleip_samples_total{mode=\"user\"}"];
    assert!(metrics::sum(&samples, "kscope_sampleip_function_samples_total") <= user, "{samples:?}");
    tracer.assert_running();
    tracer.stop().check();
}
