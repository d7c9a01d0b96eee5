// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the output goes, when that is slow or full or gone: nothing is lost in silence, and nothing is torn.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::fs::File;
use std::io::{Read as _, Write as _};

use kscope_tests::mounted::Mounted;
use kscope_tests::{Ended, Finished, Run, Schema, Workload, wait_until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

fn opens(count: &str) {
    let dir = TempDir::new().unwrap();
    Workload::start(["open-loop", "--dir", dir.path().to_str().unwrap(), "--count", count]).finish();
}

fn assert_accounted(finished: &Finished) {
    let [generated, events, filtered, lost] =
        ["generated", "events", "filtered", "lost"].map(|key| finished.count(key));
    assert_eq!(generated, events + filtered + lost, "{finished:?}");
    assert_eq!(events, finished.data().count() as u64, "{finished:?}");
}

#[test]
fn a_hangup_that_is_ignored_stays_so() {
    let mut tracer = Run::new("opensnoop").hangup(true).json();
    tracer.signal(Signal::SIGHUP);
    opens("10");
    tracer.wait_for(|row| row["type"] == "event");
    tracer.assert_running();
    tracer.stop().check();
}

#[test]
fn losses_are_told_while_the_reader_does_not_read() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let run = Run::new("opensnoop").args(["--json", "--buffer", "4096", "--comm", "workload"]).stdout(writer);
    let tracer = run.text();
    wait_until("losses to be told", || {
        opens("2000");
        tracer.stderr().contains("events lost").then_some(())
    });
    // The first signal waits for the reader, and says so.
    tracer.signal(Signal::SIGINT);
    wait_until("the wait to be told", || tracer.stderr().contains("waiting for the reader").then_some(()));
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    let finished = Finished::from(Ended { bytes, ..tracer.ended() });
    finished.check();
    assert!(finished.count("lost") > 0, "{finished:?}");
    assert_eq!(finished.count("lost"), finished.told_lost(), "{finished:?}");
    assert_accounted(&finished);
}

#[test]
fn losses_are_a_line_of_json_when_they_happen() {
    let mut tracer = Run::new("opensnoop").args(["--buffer", "4096", "--comm", "workload"]).json();
    tracer.pause();
    opens("5000");
    tracer.resume();
    let line = tracer.wait_for(|line| line["type"] == "lost");
    assert_eq!(line["lost"], line["lost_by_cause"]["ring_full"], "{line}");
    let finished = tracer.stop();
    finished.check();
    assert_eq!(finished.count("lost"), finished.told_lost(), "{finished:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (reader, writer) = std::io::pipe().unwrap();
    let tracer = Run::new("opensnoop").args(["--json", "--buffer", "4096"]).stdout(writer).text();
    wait_until("losses to be told", || {
        opens("2000");
        tracer.stderr().contains("events lost").then_some(())
    });
    tracer.signal(Signal::SIGINT);
    wait_until("the wait to be told", || tracer.stderr().contains("waiting for the reader").then_some(()));
    tracer.signal(Signal::SIGINT);
    assert_eq!(tracer.ended().code(), 130);
    drop(reader);
}

/// Opens until the tool has said this.
fn opens_until_said(tracer: &kscope_tests::Tracer, what: &str) {
    wait_until(what, || {
        opens("500");
        tracer.stderr().contains(what).then_some(())
    });
}

fn read(path: &std::path::Path, ended: Ended) -> Finished {
    Finished::from(Ended { bytes: fs::read(path).unwrap(), ..ended })
}

#[test]
fn a_full_disk_is_told_and_tried_again() {
    for to_stdout in [false, true] {
        let disk = Mounted::tmpfs_of(8 << 20);
        let (path, filler) = (disk.path().join("out"), disk.path().join("filler"));
        fs::write(&filler, vec![0; (8 << 20) - (128 << 10)]).unwrap();
        let run = Run::new("opensnoop").args(["--json", "--comm", "workload"]);
        let tracer = if to_stdout {
            run.stdout(File::create(&path).unwrap()).text()
        } else {
            run.args(["-o", path.to_str().unwrap()]).text()
        };
        opens_until_said(&tracer, "No space left on device");
        opens_until_said(&tracer, "output full");
        // Whole lines, but while one is being written.
        wait_until("whole lines", || (fs::read(&path).unwrap().last() == Some(&b'\n')).then_some(()));
        fs::remove_file(&filler).unwrap();
        opens_until_said(&tracer, "can be written again");
        tracer.signal(Signal::SIGINT);
        let ended = tracer.ended();
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr.contains("the output is incomplete"), "{ended:?}");
        let finished = read(&path, ended);
        let schema = Schema::of("opensnoop");
        finished.text().lines().for_each(|line| schema.check(line));
        assert_eq!(finished.footer["lost_by_cause"]["output_full"], finished.count("lost"), "{finished:?}");
        assert!(finished.count("lost") > 0, "{finished:?}");
        assert_eq!(finished.count("lost"), finished.told_lost(), "{finished:?}");
        assert_accounted(&finished);
    }
}

#[test]
fn a_disk_that_stays_full_holds_whole_lines() {
    let disk = Mounted::tmpfs_of(64 << 10);
    let path = disk.path().join("out");
    let tracer = Run::new("opensnoop").args(["--json", "-o", path.to_str().unwrap()]).text();
    opens_until_said(&tracer, "output full");
    tracer.signal(Signal::SIGINT);
    let ended = tracer.ended();
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert_eq!(ended.stderr.matches("No space left").count(), 1, "{ended:?}");
    let text = fs::read_to_string(&path).unwrap();
    let schema = Schema::of("opensnoop");
    text.lines().for_each(|line| schema.check(line));
    assert!(text.ends_with('\n'));
}

#[test]
fn a_profile_that_finds_no_room_is_a_failure() {
    for option in ["--svg", "--pprof"] {
        let disk = Mounted::tmpfs_of(8 << 10);
        let mut filler = File::create(disk.path().join("filler")).unwrap();
        while filler.write_all(&[0; 512]).is_ok() {}
        let path = disk.path().join("profile");
        let args = ["--json", "--duration", "0.2", option, path.to_str().unwrap()];
        let ended = Run::new("profile").args(args).output();
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(ended.stderr.contains("No space left on device"), "{ended:?}");
        // What it has printed is whole, and no half file is left.
        assert!(Finished::from(ended).footer["time"].is_string());
        assert!(!path.exists());
    }
}
