// SPDX-License-Identifier: Apache-2.0 OR MIT
//! fsslower against the oracle: each operation of a process on files of a type, and no other.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd as _;

use kscope_tests::bytes::{bytes_of, unescape, unhex};
use kscope_tests::mounted::Mounted;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Workload, now, process, say_untested, wait_until};
use serde_json::{Value, json};

const ACTIONS: [&str; 18] = [
    "open",
    "create",
    "read",
    "pread",
    "readv",
    "preadv",
    "preadv2",
    "preadv2-here",
    "read-end",
    "write",
    "pwrite",
    "writev",
    "pwritev2-here",
    "append",
    "deleted",
    "fsync",
    "fdatasync",
    "append",
];
const EXT4_BYTES: u64 = 16 << 20;

fn fsslower(args: &[&str]) -> Run {
    Run::new("fsslower").args(args)
}

fn workload(on: &Mounted, actions: &[&str]) -> Workload {
    let folder = on.folder();
    Workload::start([&["files", "--dir", &folder], actions].concat())
}

fn with_pid(workload: &Workload, args: &[&str]) -> Run {
    fsslower(args).args([format!("--pid={}", workload.pid())])
}

/// What is to be reported of an action.
fn expected(action: &Value, kind: &str) -> Value {
    let text = |key: &str| String::from_utf8(unhex(action[key].as_str().unwrap())).unwrap();
    json!({
        "uid": 0, "comm": text("comm_hex"), "pid": action["pid"], "tid": action["tid"], "finished": true,
        "fs_type": if action["untyped"] == true { Value::Null } else { kind.into() },
        "operation": action["operation"], "size_bytes": action["size_bytes"],
        "offset_bytes": action["offset_bytes"], "error": action["error"], "path": text("path_hex"),
        "deleted": action["deleted"],
    })
}

/// An event without what only the kernel knows.
fn reported(mut event: Value) -> Value {
    let object = event.as_object_mut().unwrap();
    ["type", "time", "cgroup", "latency_us", "call"].iter().for_each(|key| drop(object.remove(*key)));
    event
}

fn assert_exactly(finished: &Finished, actions: &[Value], kind: &str) {
    finished.check();
    let reported: Vec<Value> = finished.events().map(reported).collect();
    let expected: Vec<Value> = actions.iter().map(|action| expected(action, kind)).collect();
    for (n, (reported, expected)) in reported.iter().zip(&expected).enumerate() {
        assert!(reported == expected, "{n}: reported {reported}\nexpected {expected}\n{}", finished.header);
    }
    assert_eq!(reported.len(), expected.len(), "{finished:?}");
    assert_eq!(finished.count("generated"), actions.len() as u64, "{}", finished.footer);
    assert_eq!((finished.count("lost"), finished.count("filtered")), (0, 0), "{}", finished.footer);
}

/// Run it, and check that it reports exactly these actions, with times that can be.
fn exactly(on: &Mounted, args: &[&str], way: &str) -> Finished {
    let workload = workload(on, &ACTIONS);
    let before = now();
    let tracer = with_pid(&workload, &[&["-m", "0"], args].concat()).env("KSCOPE_WAY", way).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    let span_us = micros(&now()) - micros(&before);
    assert_exactly(&finished, &actions, on.kind());
    let mut total_us = 0.0;
    for event in finished.events() {
        let time = event["time"].as_str().unwrap();
        assert!(before.as_str() <= time, "{before} {event}");
        let latency_us = event["latency_us"].as_f64().unwrap();
        assert!(latency_us > 0.0, "{event}");
        total_us += latency_us;
    }
    assert!(total_us < span_us, "{total_us} of {span_us} us");
    finished
}

fn micros(time: &str) -> f64 {
    time.parse::<jiff::Timestamp>().unwrap().as_nanosecond() as f64 / 1e3
}

#[test]
fn every_type_is_seen_at_the_system_calls() {
    let tmpfs = Mounted::tmpfs();
    for way in ["tp_btf", "raw_tp"] {
        for args in [&[][..], &["-t", "tmpfs"]] {
            let finished = exactly(&tmpfs, args, way);
            assert_eq!(finished.header["hooks"]["syscall_exit"], format!("{way}/sys_exit"));
        }
    }
}

fn ext4(test: &str) -> Option<Mounted> {
    Mounted::ext4(EXT4_BYTES).map_err(|why| say_untested(&format!("fsslower, {test}"), &why)).ok()
}

#[test]
fn ext4_is_seen_by_each_way() {
    let Some(ext4) = ext4("ext4") else { return };
    for way in ["tp_btf", "raw_tp"] {
        exactly(&ext4, &["--type=ext4", "--syscalls"], way);
    }
    for way in ["", "fentry", "kprobe"] {
        let finished = exactly(&ext4, &["-t", "ext4"], way);
        let hooks = finished.header["hooks"].as_object().unwrap();
        // With the hash, there is one more, which forgets tasks that end.
        let others = ["task_exit", "flush"];
        let names: Vec<&str> =
            hooks.keys().map(String::as_str).filter(|name| !others.contains(name)).collect();
        let notes = finished.header["notes"].as_array().unwrap();
        let by_calls =
            notes.iter().any(|note| note.as_str().unwrap().contains("measured at the system calls"));
        if by_calls {
            assert_eq!(names, ["syscall_enter", "syscall_exit"]);
            say_untested(&format!("fsslower by functions, {way}"), notes[0].as_str().unwrap());
        } else {
            assert_eq!(names, ["fsync", "open", "read", "write"]);
            let forced = |name: &&str| hooks[*name].as_str().unwrap().starts_with(way);
            assert!(names.iter().all(forced), "{}", finished.header);
        }
    }
}

#[test]
fn other_types_are_not_reported() {
    let tmpfs = Mounted::tmpfs();
    for args in
        [&["-m0", "--type", "ext4"][..], &["-m", "0", "-t", "ext4", "--syscalls"], &["-m0", "-t", "proc"]]
    {
        if fsslower(args).args(["--dry-run"]).output().code() != 0 {
            say_untested("fsslower -t ext4", "this kernel has no ext4, or its module is not loaded");
            continue;
        }
        let workload = workload(&tmpfs, &ACTIONS);
        let tracer = with_pid(&workload, args).json();
        workload.finish();
        assert_exactly(&tracer.stop(), &[], "");
    }
}

#[test]
fn system_calls_show_errors_and_folders() {
    let tmpfs = Mounted::tmpfs();
    let workload = workload(&tmpfs, &["read-dir", "fsync-dir", "read"]);
    let tracer = with_pid(&workload, &["-m", "0"]).json();
    let actions = workload.finish();
    assert_eq!(actions[0]["error"], "EISDIR");
    assert_exactly(&tracer.stop(), &actions, "tmpfs");
}

#[test]
fn system_calls_show_what_fails_and_what_has_no_descriptor() {
    let calls = [
        ("open-missing", "openat"),
        ("stat", "newfstatat"),
        ("stat-missing", "statx"),
        ("fstat", "newfstatat"),
        ("stat-at", "newfstatat"),
        ("readdir", "getdents64"),
        ("sendfile", "sendfile"),
        ("mkdirat", "mkdirat"),
        ("renameat", "renameat2"),
        ("symlinkat", "symlinkat"),
        ("unlinkat", "unlinkat"),
        ("truncate", "truncate"),
        ("ftruncate", "ftruncate"),
    ];
    let names = calls.map(|(action, _)| action);
    let tmpfs = Mounted::tmpfs();
    for way in ["tp_btf", "raw_tp"] {
        let workload = workload(&tmpfs, &names);
        let tracer = with_pid(&workload, &["-m", "0"]).env("KSCOPE_WAY", way).json();
        let typed = with_pid(&workload, &["-m", "0", "-t", "tmpfs"]).env("KSCOPE_WAY", way).json();
        let actions = workload.finish();
        assert_eq!(actions[0]["error"], "ENOENT");
        let finished = tracer.stop();
        let reported: Vec<_> = finished.events().map(|event| event["call"].clone()).collect();
        assert_eq!(reported, calls.map(|(_, call)| Value::from(call)));
        assert_exactly(&finished, &actions, "tmpfs");
        // Of what is known by its path alone, no type is known.
        let known: Vec<Value> = actions.into_iter().filter(|action| action["untyped"] == false).collect();
        assert_exactly(&typed.stop(), &known, "tmpfs");
    }
}

#[test]
fn what_is_appended_is_not_at_the_offset_that_was_asked() {
    let tmpfs = Mounted::tmpfs();
    let workload = workload(&tmpfs, &["append", "pwrite-append", "pwritev2-append", "append"]);
    let tracer = with_pid(&workload, &["-m", "0"]).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    assert_exactly(&finished, &actions, "tmpfs");
    // Where the file stood says it for the plain ones.
    let offsets: Vec<Value> = finished.events().map(|event| event["offset_bytes"].clone()).collect();
    let start = offsets[0].as_u64().unwrap();
    assert_eq!(offsets, [json!(start), Value::Null, Value::Null, json!(start + 500 + 500 + 150)]);
}

#[test]
fn pipes_and_devices_are_not_reported() {
    let pipe_and_zero = Workload::start(["comm", "61"]);
    let tracer = with_pid(&pipe_and_zero, &["-m", "0"]).json();
    pipe_and_zero.finish();
    let finished = tracer.stop();
    finished.check();
    let paths: Vec<_> = finished.events().map(|event| bytes_of(&event, "path")).collect();
    assert!(paths.iter().all(|path| path.starts_with(b"/")), "{finished:?}");
    let typed = finished.events().filter(|event| !event["fs_type"].is_null());
    let types: Vec<_> = typed.map(|event| bytes_of(&event, "fs_type")).collect();
    assert!(!types.iter().any(|kind| kind == b"pipefs" || kind == b"sockfs"), "{finished:?}");
}

/// FIFREEZE and FITHAW of linux/fs.h.
mod ioctl {
    nix::ioctl_write_int_bad!(freeze, nix::request_code_readwrite!('X', 119, 4));
    nix::ioctl_write_int_bad!(thaw, nix::request_code_readwrite!('X', 120, 4));
}

#[test]
fn a_write_that_waits_is_as_slow_as_it_was() {
    const LEAST_MS: u128 = 60;
    let Some(ext4) = ext4("a frozen file system") else { return };
    let mut workload = workload(&ext4, &["pread", "pwrite", "pread"]);
    let pid = workload.pid();
    let tracer = with_pid(&workload, &["-t", "ext4", "--syscalls", "-m", &LEAST_MS.to_string()]).json();
    let root = std::fs::File::open(ext4.path()).unwrap();
    // SAFETY: they take no memory.
    unsafe { ioctl::freeze(root.as_raw_fd(), 0) }.unwrap();
    let before = std::time::Instant::now();
    workload.go();
    wait_until("the write to wait", || (process::state(pid) == Some('D')).then_some(()));
    let waits = std::time::Instant::now();
    wait_until("it to have waited long", || (waits.elapsed().as_millis() > LEAST_MS).then_some(()));
    let least_us = waits.elapsed().as_micros() as f64;
    // SAFETY: as above.
    unsafe { ioctl::thaw(root.as_raw_fd(), 0) }.unwrap();
    let actions = workload.finish();
    let most_us = before.elapsed().as_micros() as f64;
    let finished = tracer.stop();
    finished.check();
    let all: Vec<Value> = finished.events().collect();
    assert!(
        all.iter().all(|event| event["latency_us"].as_f64().unwrap() >= LEAST_MS as f64 * 1e3),
        "{all:#?}"
    );
    let writes: Vec<&Value> = all.iter().filter(|event| event["operation"] == "write").collect();
    assert_eq!(writes.len(), 1, "{all:#?}");
    assert_eq!(reported(writes[0].clone()), expected(&actions[1], "ext4"));
    let latency_us = writes[0]["latency_us"].as_f64().unwrap();
    assert!(least_us <= latency_us && latency_us <= most_us, "{least_us} {latency_us} {most_us}");
}

#[test]
fn what_goes_on_at_the_end_is_named() {
    let Some(ext4) = ext4("what goes on at the end") else { return };
    for way in ["tp_btf", "raw_tp"] {
        let mut workload = workload(&ext4, &["pwrite"]);
        let pid = workload.pid();
        let tracer =
            with_pid(&workload, &["-t", "ext4", "--syscalls", "-m", "1"]).env("KSCOPE_WAY", way).json();
        let root = std::fs::File::open(ext4.path()).unwrap();
        // SAFETY: they take no memory.
        unsafe { ioctl::freeze(root.as_raw_fd(), 0) }.unwrap();
        workload.go();
        wait_until("the write to wait", || (process::state(pid) == Some('D')).then_some(()));
        let waits = std::time::Instant::now();
        wait_until("it to have waited long", || (waits.elapsed().as_millis() > 5).then_some(()));
        let finished = tracer.stop();
        // SAFETY: as above.
        unsafe { ioctl::thaw(root.as_raw_fd(), 0) }.unwrap();
        let actions = workload.finish();
        finished.check();
        let running: Vec<Value> = finished.events().filter(|event| event["finished"] == false).collect();
        assert_eq!(running.len(), 1, "{finished:?}");
        let mut wanted = expected(&actions[0], "ext4");
        let open = ["finished", "size_bytes", "offset_bytes", "error"];
        open.iter().zip([json!(false), Value::Null, Value::Null, Value::Null]).for_each(|(key, value)| {
            wanted[*key] = value;
        });
        assert_eq!(reported(running[0].clone()), wanted);
        assert!(running[0]["latency_us"].as_f64().unwrap() >= 5e3, "{}", running[0]);
    }
}

#[test]
fn a_sync_takes_as_long_as_the_disk() {
    // As in $KSCOPE_DISKS of the kernel matrix: name and least time of a request, in nanoseconds.
    let disks = std::env::var("KSCOPE_DISKS").unwrap_or_default();
    let disk =
        disks.split_whitespace().filter_map(|disk| disk.split_once(':')).find(|(name, _)| *name == "sda");
    let Some((name, delay_ns)) = disk else {
        return say_untested("fsslower, a slow disk", "KSCOPE_DISKS names no disk sda with a known delay");
    };
    let delay_us = delay_ns.parse::<f64>().unwrap() / 1e3;
    let ext4 = match Mounted::ext4_on(&format!("/dev/{name}"), None) {
        Ok(ext4) => ext4,
        Err(why) => return say_untested("fsslower, a slow disk", &why),
    };
    for args in [&["-t", "ext4"][..], &["-t", "ext4", "--syscalls"]] {
        let workload = workload(&ext4, &["pwrite", "fsync"]);
        let tracer = with_pid(&workload, &[args, &["-m", "4"]].concat()).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        finished.check();
        let syncs: Vec<Value> = finished.events().filter(|event| event["operation"] == "fsync").collect();
        assert_eq!(syncs.len(), 1, "{finished:?}");
        assert!(syncs[0]["latency_us"].as_f64().unwrap() >= delay_us, "{delay_us} {syncs:#?}");
        assert_eq!(reported(syncs[0].clone()), expected(&actions[1], "ext4"));
    }
}

#[test]
fn aliases_stand_for_a_type() {
    let folder = tempfile::TempDir::new().unwrap();
    let link = folder.path().join("ext4slower");
    std::os::unix::fs::symlink(kscope_tests::programs::kscope(), &link).unwrap();
    if fsslower(&["-t", "ext4", "--dry-run"]).output().code() != 0 {
        return say_untested("ext4slower", "this kernel has no ext4, or its module is not loaded");
    }
    let titles = |output: &str| output.lines().next().unwrap_or_default().to_string();
    let by_type = fsslower(&["-t", "ext4", "--dry-run"]).output();
    let by_name = Run::kscope(["ext4slower", "--dry-run"]).output();
    let by_link = std::process::Command::new(&link).arg("--dry-run").output().unwrap();
    assert_eq!(titles(by_type.stdout()), titles(by_name.stdout()));
    assert_eq!(by_type.stdout().as_bytes(), by_link.stdout);
    assert_ne!(titles(by_type.stdout()), titles(fsslower(&["--dry-run"]).output().stdout()));
    let names = Run::kscope(["list", "--names"]).output();
    for name in ["fsslower", "ext4slower", "xfsslower", "btrfsslower", "nfsslower"] {
        assert!(names.stdout().lines().any(|line| line == name), "{names:?}");
    }
}

#[test]
fn unknown_types_are_refused() {
    let sentence = fsslower(&["-t", "no-such-fs"]).output();
    assert!(sentence.refusal(2).contains("no file system of type no-such-fs"), "{sentence:?}");
    for bad in ["", "sixteen-bytes-of", "\u{1b}[2J", "a b"] {
        fsslower(&["--type", bad]).output().refusal(2);
    }
    for bad in ["-1", "x", "nan", ""] {
        fsslower(&[&format!("--min={bad}")]).output().refusal(2);
    }
}

#[test]
fn table_shows_the_same() {
    let tmpfs = Mounted::tmpfs();
    for (args, titles) in [
        (&[][..], "TIME COMM PID TYPE T BYTES OFF_KB LAT_MS FILE"),
        (&["-t", "tmpfs"], "TIME COMM PID T BYTES OFF_KB LAT_MS FILE"),
    ] {
        let workload = workload(&tmpfs, &ACTIONS);
        let tracer = with_pid(&workload, &[&["-m", "0"], args].concat()).text();
        let actions = workload.finish();
        let ended = tracer.stop_text();
        let table = Table::parse(ended.stdout().lines());
        assert_eq!(table.titles.join(" "), titles);
        let text = |key: &'static str| {
            let text = |value: &Value| if value.is_null() { "-".into() } else { value.to_string() };
            actions.iter().map(move |action| text(&action[key]))
        };
        let letter = |action: &Value| action["operation"].as_str().unwrap()[..1].to_uppercase();
        assert!(table.column("T").into_iter().eq(actions.iter().map(letter)), "{ended:?}");
        assert!(table.column("PID").into_iter().eq(text("pid")), "{ended:?}");
        assert!(table.column("BYTES").into_iter().eq(text("size_bytes")), "{ended:?}");
        let kib =
            |action: &Value| action["offset_bytes"].as_i64().map_or("-".into(), |n| (n / 1024).to_string());
        assert!(table.column("OFF_KB").into_iter().eq(actions.iter().map(kib)), "{ended:?}");
        for (shown, action) in table.column("FILE").into_iter().zip(&actions) {
            let mut path = unhex(action["path_hex"].as_str().unwrap());
            if action["deleted"] == true {
                path.extend(b" (deleted)");
            }
            assert_eq!(unescape(shown).escape_ascii().to_string(), path.escape_ascii().to_string());
        }
        let narrow = ended.stdout().lines().next().unwrap();
        assert!(narrow.len() < 80, "{narrow}");
    }
}

#[test]
fn comma_separated_values_are_those_of_json() {
    let tmpfs = Mounted::tmpfs();
    let folder = tmpfs.path().join("a,\"b");
    std::fs::create_dir(&folder).unwrap();
    for option in ["-c", "--csv"] {
        let workload = Workload::start(["files", "--dir", folder.to_str().unwrap(), "pread", "fsync"]);
        let json = with_pid(&workload, &["-m", "0"]).json();
        let csv = with_pid(&workload, &["-m", "0", option]).text();
        workload.finish();
        let (json, csv) = (json.stop(), csv.stop_text());
        let lines: Vec<&str> = csv.stdout().lines().collect();
        assert_eq!(lines.len(), 3, "{csv:?}");
        let keys: Vec<&str> = lines[0].split(',').collect();
        for (event, line) in json.events().zip(&lines[1..]) {
            let object = event.as_object().unwrap();
            assert_eq!(keys, object.keys().filter(|key| *key != "type").collect::<Vec<_>>());
            let cells = cells(line);
            assert_eq!(cells.len(), keys.len(), "{line}");
            for (key, cell) in keys.iter().zip(cells).filter(|(key, _)| !["time", "latency_us"].contains(key))
            {
                let value = match &event[*key] {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    Value::Bool(is) => if *is { "yes" } else { "no" }.into(),
                    other => other.to_string(),
                };
                assert_eq!(cell, value, "{key}: {line}");
            }
        }
    }
}

/// As RFC 4180 has it.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let cell = cells.last_mut().unwrap();
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => cell.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cell.push(c),
        }
    }
    cells
}

#[test]
fn overload_is_accounted_for() {
    let tmpfs = Mounted::tmpfs();
    let workload = workload(&tmpfs, &["--count", "5000", "pread", "pwrite"]);
    let tracer = with_pid(&workload, &["-m", "0", "--buffer", "4096"]).json();
    tracer.pause();
    workload.finish();
    tracer.resume();
    let finished = tracer.stop();
    finished.check();
    assert_eq!(finished.count("generated"), 10_000, "{}", finished.footer);
    assert!(finished.count("lost") > 0 && finished.count("events") > 0, "{}", finished.footer);
    assert_eq!(finished.count("generated"), finished.count("events") + finished.count("lost"));
}
