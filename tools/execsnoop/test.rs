// SPDX-License-Identifier: Apache-2.0 OR MIT
//! execsnoop against the oracle: what was executed is reported exactly, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kscope_tests::bytes::{assert_harmless, bytes_of, list_of, unescape, unhex};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::scale::times;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Home, Run, Who, Workload};
use kscope_tests::{now, programs, say_untested, wait_until};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use serde_json::Value;
use tempfile::TempDir;

/// So much of an argument list is kept at least.
const KEPT: usize = 64 << 10;

/// One execution: what the workload did, or what the tool reported.
#[derive(Clone, Debug, PartialEq)]
struct Exec {
    pid: u64,
    ppid: u64,
    uid: u64,
    comm: Vec<u8>,
    ret: i64,
    error: Option<String>,
    compat: bool,
    filename: Vec<u8>,
    args: Vec<Vec<u8>>,
    args_cut: bool,
    args_unreadable: bool,
}

impl Exec {
    /// What the tool has to report of an action.
    fn expected(action: &Value) -> Self {
        let text = |key: &str| unhex(action[key].as_str().unwrap());
        let ret = action["ret"].as_i64().unwrap();
        let path = text("filename_hex");
        // The kernel makes a path of a directory's descriptor.
        let filename = match action["dirfd"].as_i64() {
            Some(fd) if path.is_empty() => format!("/dev/fd/{fd}").into(),
            Some(fd) => [format!("/dev/fd/{fd}/").as_bytes(), &path].concat(),
            None => path,
        };
        let args = action["args_hex"].as_array().unwrap();
        Self {
            pid: action["pid"].as_u64().unwrap(),
            ppid: action["ppid"].as_u64().unwrap(),
            uid: action["uid"].as_u64().unwrap(),
            comm: if action["comm_hex"].is_null() { b"workload".into() } else { text("comm_hex") },
            ret,
            error: error_name(ret),
            // A new program has a mode of its own.
            compat: ret < 0 && action["way"].as_str().unwrap().contains("compat"),
            filename,
            args: args.iter().map(|arg| unhex(arg.as_str().unwrap())).collect(),
            args_cut: false,
            args_unreadable: false,
        }
    }

    fn reported(event: &Value) -> Self {
        let filename = if event["filename"].is_null() { Vec::new() } else { bytes_of(event, "filename") };
        let comm = bytes_of(event, "comm");
        // Of a file without a path, the name is the descriptor's number before 6.14, and the file's name since.
        let number = filename.strip_prefix(b"/dev/fd/").filter(|rest| !rest.contains(&b'/'));
        let comm = if number == Some(&comm) { b"workload".into() } else { comm };
        Self {
            pid: event["pid"].as_u64().unwrap(),
            ppid: event["ppid"].as_u64().unwrap(),
            uid: event["uid"].as_u64().unwrap(),
            comm,
            ret: event["ret"].as_i64().unwrap(),
            error: event["error"].as_str().map(String::from),
            compat: event["compat"].as_bool().unwrap(),
            filename,
            args: list_of(event, "args"),
            args_cut: event["args_cut"].as_bool().unwrap(),
            args_unreadable: event["args_unreadable"].as_bool().unwrap(),
        }
    }

    /// Take this execution's arguments for those of `all`, if they are their exact beginning and marked as cut.
    fn uncut(mut self, all: &Self, least: usize) -> Self {
        if self.args_cut {
            // All of them, where the cut took the last NUL alone.
            let (kept, whole) = (self.args.join(&0), all.args.join(&0));
            assert!(
                whole.starts_with(&kept),
                "no beginning: {} arguments of {}",
                self.args.len(),
                all.args.len()
            );
            assert!(kept.len() >= least, "only {} bytes of arguments", kept.len());
            self.args = all.args.clone();
            self.args_cut = false;
        }
        self
    }
}

fn error_name(ret: i64) -> Option<String> {
    (ret < 0).then(|| format!("{:?}", Errno::from_raw(i32::try_from(-ret).unwrap())))
}

/// What the tool reported, in its order.
fn reported(finished: &Finished) -> Vec<Exec> {
    finished.events().map(|event| Exec::reported(&event)).collect()
}

fn expected(actions: &[Value]) -> Vec<Exec> {
    actions.iter().map(Exec::expected).collect()
}

/// Check that exactly these executions were reported, and nothing else.
fn assert_exactly(finished: &Finished, expected: &[Exec]) {
    finished.check();
    let reported = reported(finished);
    assert_eq!(reported, expected, "{finished:#?}");
    assert_accounted(finished, expected.len(), 0);
    assert_eq!(finished.count("lost"), 0, "{}", finished.footer);
}

/// Check the footer of a run in which so many executions passed the filters in the kernel.
fn assert_accounted(finished: &Finished, generated: usize, filtered: usize) {
    let footer = &finished.footer;
    assert_eq!(finished.count("generated"), generated as u64, "{footer}");
    assert_eq!(finished.count("filtered"), filtered as u64, "{footer}");
    let sum = finished.count("events") + finished.count("filtered") + finished.count("lost");
    assert_eq!(sum, finished.count("generated"), "{footer}");
    assert_eq!(finished.data().count() as u64, finished.count("events"), "{footer}");
}

fn home() -> Home {
    Home::new("execsnoop", "exec")
}

fn exec_loop(home: &Home, count: usize, args: usize) -> Workload {
    let (count, args) = (count.to_string(), args.to_string());
    home.adopt(Workload::start(["exec-loop", "--count", &count, "--args", &args]))
}

/// A command that will run there.
fn command(home: &Home, program: &OsStr) -> Command {
    let procs = File::options().write(true).open(home.cgroup.path().join("cgroup.procs")).unwrap();
    let join = move || {
        // SAFETY: it writes one byte, to a file that is open.
        let result = unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) };
        Errno::result(result).map(drop).map_err(Into::into)
    };
    let mut command = Command::new(program);
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(join) };
    command
}

/// Make this system call in a child there: its output, or the error.
fn raw_execve(home: &Home, path: usize, argv: usize) -> std::io::Result<Output> {
    let call = move || {
        // SAFETY: the kernel checks every address.
        unsafe { libc::syscall(libc::SYS_execve, path, argv, 0usize) };
        Err(std::io::Error::last_os_error())
    };
    let mut command = command(home, "not executed".as_ref());
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(call) };
    command.output()
}

/// Execute the workload there so that it does nothing with these arguments: all of its arguments.
fn noop(home: &Home, args: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut command = command(home, OsStr::from_bytes(&exe()));
    let status = command.arg("noop").args(args.iter().map(|arg| OsStr::from_bytes(arg))).status();
    assert!(status.as_ref().unwrap().success(), "{status:?}");
    [vec![exe(), b"noop".to_vec()], args.to_vec()].concat()
}

/// The workload's path, as the workload itself sees it.
fn exe() -> Vec<u8> {
    programs::workload().canonicalize().unwrap().into_os_string().into_encoded_bytes()
}

/// One way, with the tool's own choice of hooks, and with the fallback.
fn one_way(way: &str) {
    let home = home();
    for forced in [None, Some("raw_tp")] {
        let workload = match Workload::try_start(home.args(&[way])) {
            Ok(workload) => home.adopt(workload),
            // Nobody can execute that way here.
            Err(refused) => return say_untested(&format!("execsnoop, {way}"), &refused.to_string()),
        };
        let run = home.run(&["-x"]);
        let run = if let Some(way) = forced { run.env("KSCOPE_WAY", way) } else { run };
        let before = now();
        let tracer = run.json();
        let actions = workload.finish();
        let finished = tracer.stop();
        let after = now();
        assert_eq!(actions.len(), 1);
        if way == "huge" {
            let all = &expected(&actions)[0];
            let reported = reported(&finished);
            assert!(reported.len() == 1 && reported[0].args_cut, "{finished:#?}");
            assert_eq!(reported[0].clone().uncut(all, KEPT), *all);
            finished.check();
            assert_accounted(&finished, 1, 0);
        } else {
            assert_exactly(&finished, &expected(&actions));
        }
        let time = finished.events().next().unwrap()["time"].as_str().unwrap().to_string();
        assert!(before <= time && time <= after, "{before} {time} {after}");
        if let Some(way) = forced {
            let hooks = finished.header["hooks"].as_object().unwrap();
            assert_eq!(hooks.len(), 2, "{hooks:?}");
            assert!(hooks.values().all(|hook| hook.as_str().unwrap().starts_with(way)), "{hooks:?}");
        }
    }
}

macro_rules! ways {
    ($($name:ident: $way:literal),+ $(,)?) => {$(
        #[test]
        fn $name() {
            one_way($way);
        }
    )+};
}

mod way {
    use super::one_way;

    ways! {
        execve: "execve",
        execveat: "execveat",
        fexecve: "fexecve",
        thread: "thread",
        vfork: "vfork",
        posix_spawn: "posix-spawn",
        script: "script",
        unmapped_args: "unmapped-args",
        many_args: "many-args",
        long_arg: "long-arg",
        huge: "huge",
        empty_arg: "empty-arg",
        odd_bytes: "odd-bytes",
        fail_enoent: "fail-enoent",
        fail_eacces: "fail-eacces",
        fail_enoexec: "fail-enoexec",
    }

    #[cfg(target_arch = "x86_64")]
    ways! {
        compat_execve: "compat-execve",
        compat_execveat: "compat-execveat",
        fail_compat_enoent: "fail-compat-enoent",
    }
}

/// Ways of which each kernel has all.
const WAYS: [&str; 12] = [
    "execve",
    "fail-enoent",
    "execveat",
    "fexecve",
    "thread",
    "vfork",
    "fail-eacces",
    "posix-spawn",
    "script",
    "many-args",
    "fail-enoexec",
    "empty-arg",
];

#[test]
fn many_executions_are_reported_in_order() {
    let home = home();
    let workload = home.workload(&WAYS);
    let tracer = home.run(&["-x"]).json();
    let actions = workload.finish();
    assert_exactly(&tracer.stop(), &expected(&actions));
}

#[test]
fn failures_are_reported_with_x_only() {
    let home = home();
    for (options, wanted) in [(&[][..], 9), (&["-x"], 12), (&["--fails"], 12)] {
        let workload = home.workload(&WAYS);
        let tracer = home.run(options).json();
        let mut actions = workload.finish();
        actions.retain(|action| !options.is_empty() || action["ret"] == 0);
        assert_eq!(actions.len(), wanted);
        let finished = tracer.stop();
        assert_exactly(&finished, &expected(&actions));
        assert_eq!(finished.header["hooks"].get("failed_exec").is_some(), !options.is_empty());
    }
}

#[test]
fn without_a_filter_nothing_is_missed() {
    let home = home();
    let workload = home.workload(&WAYS);
    let tracer = Run::new("execsnoop").args(["-x"]).json();
    let (pid, own) = (workload.pid(), tracer.pid());
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let children = finished.events().filter(|event| event["ppid"] == pid);
    let children: Vec<Exec> = children.map(|event| Exec::reported(&event)).collect();
    assert_eq!(children, expected(&actions));
    // Both were started before.
    for pid in [pid, own] {
        assert_eq!(finished.events_of(pid), Vec::<Value>::new());
    }
}

#[test]
fn arguments_are_whole_up_to_a_limit() {
    // The tool takes arguments in parts of 8 KiB: sizes in bytes, with the NULs, around theirs.
    const PART: usize = 8 << 10;
    let home = home();
    let start = exe().len() + 1 + "noop".len() + 1;
    let sizes = [1, 2, 3, 8, 15, 16, 17].into_iter().flat_map(|n| [n * PART - 1, n * PART, n * PART + 1]);
    let sizes: Vec<usize> = sizes.chain([start + 1, start + 2, 20 * PART]).collect();
    let tracer = home.run(&[]).json();
    let mut lists = Vec::new();
    for size in &sizes {
        let mut left = size - start;
        let mut args = Vec::new();
        while left > 0 {
            let take = left.min(9973);
            args.push(vec![b'a' + (args.len() % 26) as u8; take - 1]);
            left -= take;
        }
        lists.push(noop(&home, &args));
    }
    let finished = tracer.stop();
    finished.check();
    assert_accounted(&finished, sizes.len(), 0);
    for ((exec, args), size) in reported(&finished).into_iter().zip(lists).zip(sizes) {
        assert!(size > KEPT || !exec.args_cut, "cut at {size} bytes");
        let all = Exec { args, args_cut: false, ..exec.clone() };
        let cut = exec.args_cut;
        let exec = exec.uncut(&all, KEPT);
        assert!(exec == all, "{size} bytes, cut {cut}: {} arguments", exec.args.len());
        println!("{size} bytes: cut {cut}");
    }
}

/// Fail to execute a file that is not there, with these arguments.
fn fail(home: &Home, args: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let path = home.dir.path().join("not-there");
    let mut command = command(home, path.as_os_str());
    let error = command.args(args.iter().map(|arg| OsStr::from_bytes(arg))).status().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    [vec![path.into_os_string().into_encoded_bytes()], args.to_vec()].concat()
}

#[test]
fn arguments_of_failures_are_whole_up_to_a_limit() {
    // The tool reads them string by string, in turns of 4 KiB.
    const TURN: usize = 4 << 10;
    let home = home();
    let lengths: Vec<usize> = [1, 2, 3, 4].iter().flat_map(|n| n * TURN - 3..n * TURN + 3).collect();
    let long = |length: &usize| vec![b'x'; *length];
    let mut lists: Vec<Vec<Vec<u8>>> = lengths.iter().map(|length| vec![long(length)]).collect();
    lists.push(lengths[..8].iter().map(long).collect());
    lists.push([0, 1, TURN, 0, TURN - 1, 0, 0, 2].iter().map(long).collect());
    lists.push(vec![]);
    lists.push(vec![vec![]; 200]);
    let whole = lists.len();
    lists.push((0..3000).map(|n| format!("{n}").into()).collect());
    lists.push(vec![long(&9999); 30]);
    lists.push(vec![long(&100_000); 3]);
    for forced in [None, Some("raw_tp")] {
        let run = home.run(&["-x"]);
        let run = if let Some(way) = forced { run.env("KSCOPE_WAY", way) } else { run };
        let tracer = run.json();
        let lists: Vec<_> = lists.iter().map(|list| fail(&home, list)).collect();
        let finished = tracer.stop();
        finished.check();
        assert_accounted(&finished, lists.len(), 0);
        for (n, (exec, args)) in reported(&finished).into_iter().zip(lists).enumerate() {
            assert_eq!((exec.error.as_deref(), &exec.filename), (Some("ENOENT"), &args[0]));
            let lengths: Vec<usize> = exec.args.iter().map(Vec::len).collect();
            let unreadable = exec.args_unreadable;
            assert!(n >= whole || !exec.args_cut, "list {n} is cut: {lengths:?}, unreadable {unreadable}");
            let all = Exec { args, args_cut: false, ..exec.clone() };
            // Of many short ones, as many are kept as could be whole.
            let least = if all.args.len() > 1000 { all.args[..200].join(&0).len() } else { KEPT };
            let exec = exec.uncut(&all, least);
            assert!(exec == all, "list {n}: {} arguments", exec.args.len());
        }
    }
}

/// The address of a list of arguments, which is never freed.
fn argv(addresses: &[usize]) -> usize {
    addresses.to_vec().leak().as_ptr().expose_provenance()
}

/// An execution that fails, and what the tool has to report of it.
struct Failing {
    path: usize,
    argv: usize,
    errno: i32,
    filename: Vec<u8>,
    args: &'static [&'static str],
    unreadable: bool,
}

#[test]
fn arguments_that_can_not_be_read_are_marked() {
    /// An address of which nothing can be read.
    const NOWHERE: usize = 8;
    let home = home();
    let exe = exe();
    // On the heap: pages of a file would not be in the page table of a forked child.
    let text = |text: &[u8]| CString::new(text).unwrap().into_raw().expose_provenance();
    let (there, not_there, one) = (text(&exe), text(b"/not/there"), text(b"one"));
    let (torn, good) = (argv(&[one, NOWHERE, 0]), argv(&[one, 0]));
    let failing = |path, argv, errno, filename: &[u8], args, unreadable| Failing {
        path,
        argv,
        errno,
        filename: filename.into(),
        args,
        unreadable,
    };
    let cases = [
        failing(there, NOWHERE, libc::EFAULT, &exe, &[], true),
        failing(there, torn, libc::EFAULT, &exe, &["one"], true),
        failing(NOWHERE, good, libc::EFAULT, b"", &["one"], false),
        failing(not_there, 0, libc::ENOENT, b"/not/there", &[], false),
        failing(not_there, good, libc::ENOENT, b"/not/there", &["one"], false),
    ];
    for forced in [None, Some("raw_tp")] {
        let run = || {
            let run = home.run(&["-x"]);
            if let Some(way) = forced { run.env("KSCOPE_WAY", way) } else { run }
        };
        let (json, text) = (run().json(), run().text());
        for case in &cases {
            let error = raw_execve(&home, case.path, case.argv).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(case.errno));
        }
        let finished = json.stop();
        finished.check();
        assert_accounted(&finished, cases.len(), 0);
        let rows = Table::of(&text.stop_text());
        let nulls = finished.events().map(|event| event["filename"].is_null());
        assert!(nulls.eq(cases.iter().map(|case| case.path == NOWHERE)), "{finished:#?}");
        for ((exec, row), case) in reported(&finished).iter().zip(rows.column("ARGS")).zip(&cases) {
            assert_eq!((exec.ret, &exec.filename), ((-case.errno).into(), &case.filename), "{exec:?}");
            assert!(exec.args.iter().eq(case.args.iter().map(|arg| arg.as_bytes())), "{exec:?}");
            assert_eq!((exec.args_unreadable, exec.args_cut), (case.unreadable, case.unreadable), "{exec:?}");
            let words = case.args.iter().copied().chain(case.unreadable.then_some("<unreadable>"));
            assert_eq!(row, words.collect::<Vec<_>>().join(" "));
        }
    }
}

#[test]
fn a_program_without_arguments_has_none_or_an_empty_one() {
    let home = home();
    let tracer = home.run(&[]).json();
    let path = CString::new(exe()).unwrap();
    let output = raw_execve(&home, path.as_ptr().expose_provenance(), 0).unwrap();
    // Without a subcommand, the workload says how it is used.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let finished = tracer.stop();
    finished.check();
    let exec = &reported(&finished)[0];
    // 5.18 and the kernels that took that over give it an empty argument.
    assert!(exec.args.is_empty() || exec.args == [b""], "{exec:?}");
    assert!(!exec.args_cut && !exec.args_unreadable, "{exec:?}");
    assert_accounted(&finished, 1, 0);
}

/// A program for 32-bit x86 that ends at once.
#[cfg(target_arch = "x86_64")]
fn program32() -> Vec<u8> {
    const BASE: u32 = 0x10000;
    const HEADERS: u32 = 52 + 32;
    // mov eax, 1 (exit); xor ebx, ebx; int 0x80
    let code = [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80];
    let size = HEADERS + code.len() as u32;
    let halves = |halves: &[u16]| halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<_>>();
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    // System V ABI: the file header, and one segment to be loaded, read and executed.
    [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, 3]),
        words(&[1, BASE + HEADERS, 52, 0, 0]),
        halves(&[52, 32, 1, 40, 0, 0]),
        words(&[1, 0, BASE, BASE, size, size, 5, 0x1000]),
        code.to_vec(),
    ]
    .concat()
}

#[test]
#[cfg(target_arch = "x86_64")]
fn programs_for_32_bits_are_marked() {
    let home = home();
    let path = home.dir.path().join("program32");
    fs::write(&path, program32()).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let tracer = home.run(&[]).json();
    match command(&home, path.as_os_str()).arg("one").status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
            return say_untested("execsnoop, a 32-bit program", &error.to_string());
        }
        Err(error) => panic!("{error}"),
    }
    let finished = tracer.stop();
    finished.check();
    assert_accounted(&finished, 1, 0);
    let exec = &reported(&finished)[0];
    assert!(exec.compat, "{exec:?}");
    assert_eq!(exec.args, [path.as_os_str().as_bytes(), b"one"], "{exec:?}");
}

/// A 64-bit program for this machine that needs this loader.
fn program_with_loader(loader: &str) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let len = loader.len() as u64 + 1;
    let halves = |halves: &[u16]| halves.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<_>>();
    let longs = |longs: &[u64]| longs.iter().flat_map(|long| long.to_le_bytes()).collect::<Vec<_>>();
    // System V ABI: the file header, and one segment, PT_INTERP.
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, machine, 1, 0]),
        longs(&[0, 64, 0]),
        halves(&[0, 0, 64, 56, 1, 64, 0, 0]),
        halves(&[3, 0, 4, 0]),
        longs(&[HEADERS, 0, 0, len, len, 1]),
        loader.as_bytes().to_vec(),
        b"\0".to_vec(),
    ]
    .concat()
}

/// A file to be executed.
fn program(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_missing_interpreter_or_loader_is_named() {
    let home = home();
    let dir = home.dir.path().canonicalize().unwrap();
    let nested = format!("#!{}/crlf\n", dir.display());
    let here = format!("#!{}/is-not-here -e\n", dir.display());
    let files: [(&str, Vec<u8>, Option<String>); 6] = [
        ("crlf", b"#!/bin/bash\r\necho\r\n".to_vec(), Some("/bin/bash\r".into())),
        ("script", b"#! /no/such/interpreter -x\n".to_vec(), Some("/no/such/interpreter".into())),
        ("nested", nested.into(), Some("/bin/bash\r".into())),
        ("relative", b"#!no-such/interpreter\n".to_vec(), Some("no-such/interpreter".into())),
        ("program", program_with_loader("/lib64/ld-missing.so.1"), Some("/lib64/ld-missing.so.1".into())),
        ("beside", here.into(), Some(format!("{}/is-not-here", dir.display()))),
    ];
    for (name, bytes, _) in &files {
        program(&dir.join(name), bytes);
    }
    let (json, text) = (home.run(&["-x"]).json(), home.run(&["-x"]).text());
    let names = files.iter().map(|(name, ..)| *name).chain(["not-there"]);
    for name in names.clone() {
        // By its path, and from its folder.
        for relative in [false, true] {
            let path = if relative { Path::new("./").join(name) } else { dir.join(name) };
            let mut command = command(&home, path.as_os_str());
            let error = command.current_dir(&dir).status().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{path:?}");
        }
    }
    let finished = json.stop();
    finished.check();
    let expected: Vec<Option<&str>> = files
        .iter()
        .map(|(.., missing)| missing.as_deref())
        .chain([None])
        .flat_map(|one| [one, one])
        .collect();
    let found: Vec<Value> = finished.events().map(|event| event["missing"].clone()).collect();
    assert_eq!(found.iter().map(Value::as_str).collect::<Vec<_>>(), expected, "{finished:#?}");
    let table = Table::of(&text.stop_text());
    for (row, missing) in table.column("ARGS").into_iter().zip(expected) {
        let shown = row.split_once(" <missing: ").and_then(|(_, rest)| rest.strip_suffix('>'));
        assert_eq!(shown.map(unescape), missing.map(|text| text.as_bytes().to_vec()), "{row}");
    }
}

#[test]
fn what_is_missing_is_looked_for_below_the_root_of_the_caller() {
    let home = home();
    // The interpreter is there, but not in the chroot.
    program(&home.dir.path().join("script"), b"#!/bin/sh\n");
    let root = CString::new(home.dir.path().as_os_str().as_bytes()).unwrap();
    let argv = [c"/script".as_ptr(), std::ptr::null()];
    let (begin, go) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    // SAFETY: the child makes system calls, and nothing else.
    let pid = match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let mut byte = 0u8;
            // SAFETY: the buffer has one byte, and the list of arguments ends with null.
            unsafe {
                libc::read(begin.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::chroot(root.as_ptr());
                libc::chdir(c"/".as_ptr());
                libc::execv(c"/script".as_ptr(), argv.as_ptr());
                loop {
                    libc::pause();
                }
            }
        }
    };
    let child = Waiting { pid, go };
    let mut tracer = Run::new("execsnoop").args(["-x", "-p", &child.pid().to_string()]).json();
    nix::unistd::write(&child.go, b"g").unwrap();
    let event = tracer.wait_for(|line| line["type"] == "event");
    assert_eq!((&event["error"], &event["missing"]), (&"ENOENT".into(), &"/bin/sh".into()), "{event}");
    drop(child);
    tracer.stop().check();
}

#[test]
fn the_effective_user_is_shown_beside_the_real_one() {
    let home = home();
    let change = || {
        // SAFETY: a system call without addresses.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, Who::NOBODY, -1) };
        Errno::result(result).map(drop).map_err(Into::into)
    };
    let (json, text) = (home.run(&["-x"]).json(), home.run(&["-x", "-U"]).text());
    for path in ["/", "/not/there"] {
        let mut command = command(&home, path.as_ref());
        // SAFETY: the closure makes one system call.
        unsafe { command.pre_exec(change) };
        command.status().unwrap_err();
    }
    let finished = json.stop();
    let ids: Vec<_> = finished.events().map(|event| (event["uid"].clone(), event["euid"].clone())).collect();
    assert_eq!(ids, vec![(Value::from(0), Value::from(Who::NOBODY)); 2], "{finished:#?}");
    assert_eq!(Table::of(&text.stop_text()).column("UID"), ["0/65534"; 2]);
}

/// A child of the test that waits before it executes the workload, so that its number is known.
struct Waiting {
    pid: Pid,
    go: OwnedFd,
}

impl Waiting {
    fn new() -> Self {
        let path = CString::new(exe()).unwrap();
        let argv = [path.as_ptr(), c"noop".as_ptr(), std::ptr::null()];
        let (begin, go) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        // SAFETY: the child makes system calls, and nothing else.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => Self { pid: child, go },
            ForkResult::Child => {
                let mut byte = 0u8;
                // SAFETY: the buffer has one byte, and the list of arguments ends with null.
                unsafe {
                    libc::close(go.as_raw_fd());
                    if libc::read(begin.as_raw_fd(), (&raw mut byte).cast(), 1) == 1 {
                        libc::execv(path.as_ptr(), argv.as_ptr());
                    }
                    libc::_exit(127)
                }
            }
        }
    }

    fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    fn finish(self) {
        nix::unistd::write(&self.go, b"g").unwrap();
        assert_eq!(waitpid(self.pid, None).unwrap(), WaitStatus::Exited(self.pid, 0));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Both fail where it has ended, as they may.
        _ = kill(self.pid, Signal::SIGKILL);
        _ = waitpid(self.pid, None);
    }
}

#[test]
fn filter_by_process() {
    for form in ["--pid", "-p", "--tid", "list"] {
        let (one, other, wanted) = (Waiting::new(), Waiting::new(), Waiting::new());
        let (pid, list) = (wanted.pid().to_string(), format!("--pid={},{}", wanted.pid(), one.pid()));
        let args = if form == "list" { vec![list.as_str()] } else { vec![form, &pid] };
        let tracer = Run::new("execsnoop").args(args).json();
        let mut pids = vec![wanted.pid()];
        if form == "list" {
            pids.push(one.pid());
        }
        [wanted, other, one].into_iter().for_each(Waiting::finish);
        let finished = tracer.stop();
        finished.check();
        assert_accounted(&finished, pids.len(), 0);
        let reported = reported(&finished);
        let own = u64::from(getpid().as_raw().cast_unsigned());
        let expected = pids.iter().map(|pid| (u64::from(*pid), own, vec![exe(), b"noop".to_vec()]));
        assert!(
            reported.iter().map(|exec| (exec.pid, exec.ppid, exec.args.clone())).eq(expected),
            "{finished:#?}"
        );
    }
}

const A_FEW: [&str; 3] = ["execve", "fail-enoent", "script"];

/// One of two workloads passes the filter: its executions are reported exactly, the other's not at all.
fn filtered(run: Run, wanted: Workload, bystander: Workload) {
    let (pid, other) = (wanted.pid(), bystander.pid());
    let tracer = run.args(["-x"]).json();
    let not_wanted = bystander.finish();
    let actions = wanted.finish();
    let finished = tracer.stop();
    finished.check();
    assert!(!not_wanted.is_empty() && !actions.is_empty());
    let of = |parent: u32| {
        let children = finished.events().filter(move |event| event["ppid"] == parent);
        children.map(|event| Exec::reported(&event)).collect::<Vec<_>>()
    };
    assert_eq!(of(pid), expected(&actions), "{}", finished.footer);
    assert_eq!(of(other), [], "{}", finished.footer);
}

#[test]
fn filter_by_user() {
    let home = home();
    let nobody = Who::new(Who::NOBODY, &[]);
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find(|user| user.split(':').nth(2) == Some("65534"));
    let name = name.and_then(|user| user.split(':').next());
    if name.is_none() {
        say_untested("execsnoop --uid NAME", "user 65534 has no name in /etc/passwd");
    }
    let forms = [vec!["--uid", "65534"], vec!["-u", "65534"], vec!["--uid=4,65534,5"]];
    for args in forms.into_iter().chain(name.map(|name| vec!["-u", name])) {
        let fresh = TempDir::new_in(home.dir.path()).unwrap();
        fs::set_permissions(fresh.path(), Permissions::from_mode(0o777)).unwrap();
        let dir = fresh.path().to_str().unwrap();
        let wanted = Workload::start_by(&nobody, ["exec", "--dir", dir].iter().chain(&A_FEW));
        filtered(Run::new("execsnoop").args(args), wanted, home.workload(&A_FEW));
    }
}

#[test]
fn filter_by_comm() {
    let home = home();
    // The name is that of the new program, or, where that failed, of the old one.
    for (option, name, wanted) in [
        ("-n", "script", &["script"][..]),
        ("--name", "exec-script-who", &["script"]),
        ("--comm", "workload", &["execve", "fail-enoent"]),
        ("-n", "kload", &["execve", "fail-enoent"]),
        ("-n", "workloads", &[]),
    ] {
        let workload = home.workload(&A_FEW);
        let tracer = home.run(&["-x", option, name]).json();
        let mut actions = workload.finish();
        actions.retain(|action| wanted.contains(&action["way"].as_str().unwrap()));
        assert_eq!(actions.len(), wanted.len());
        assert_exactly(&tracer.stop(), &expected(&actions));
    }
}

#[test]
fn filter_by_cgroup() {
    let (home, sibling) = (home(), home());
    let inner = home.cgroup.child("inner");
    let innermost = inner.child("innermost");
    let path = |cgroup: &Cgroup| cgroup.path().to_str().unwrap().to_string();
    let start = |cgroup: &Cgroup| {
        let workload = Workload::start(home.args(&A_FEW));
        cgroup.add(workload.pid());
        workload
    };
    // In the cgroup itself, and deep below it; the others are in a sibling, and above.
    for (option, filter, place, elsewhere) in [
        ("-c", &home.cgroup, &home.cgroup, &sibling.cgroup),
        ("--cgroup", &home.cgroup, &innermost, &sibling.cgroup),
        ("-c", &inner, &inner, &home.cgroup),
        ("-c", &innermost, &innermost, &inner),
    ] {
        let run = Run::new("execsnoop").args([option, &path(filter)]);
        filtered(run, start(place), start(elsewhere));
    }
    // A list, and the root, which holds all.
    let run = Run::new("execsnoop").args(["-c", &path(&sibling.cgroup), "-c", &path(&innermost)]);
    filtered(run, start(&innermost), start(&inner));
    let workload = start(&innermost);
    let pid = workload.pid();
    let tracer = Run::new("execsnoop").args(["-c", kscope_tests::cgroup::root().to_str().unwrap()]).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    let successes = actions.iter().filter(|action| action["ret"] == 0).count();
    assert_eq!(finished.events().filter(|event| event["ppid"] == pid).count(), successes);
}

#[test]
fn cgroups_are_named() {
    let home = home();
    // Whoever may make cgroups may give them names that would clear a screen.
    for name in [OsStr::from_bytes(b"\x1b[2J\xff\\x"), "\u{202e}inner".as_ref(), "plain".as_ref()] {
        let cgroup = home.cgroup.child(name);
        let real = cgroup.name().into_os_string().into_encoded_bytes();
        let workload = Workload::start(home.args(&["execve"]));
        cgroup.add(workload.pid());
        let (json, text) = (home.run(&[]).json(), home.run(&["--print-cgroup"]).text());
        workload.finish();
        let finished = json.stop();
        finished.check();
        let event = finished.events().next().unwrap();
        assert_eq!(bytes_of(&event, "cgroup").escape_ascii().to_string(), real.escape_ascii().to_string());
        let ended = text.stop_text();
        assert_harmless("execsnoop --print-cgroup", &ended.bytes);
        let shown = unescape(ended.stdout().lines().nth(1).unwrap());
        assert!(shown.windows(real.len()).any(|window| window == real), "{ended:?}");
    }
}

#[test]
fn filters_are_all_applied() {
    let home = home();
    let workload = home.workload(&A_FEW);
    let tracer = home.run(&["-u", "0", "-n", "workload", "-x"]).json();
    let mut actions = workload.finish();
    actions.retain(|action| action["way"] != "script");
    assert_exactly(&tracer.stop(), &expected(&actions));

    let workload = home.workload(&A_FEW);
    let tracer = home.run(&["-u", "65534", "-n", "workload", "-x"]).json();
    workload.finish();
    assert_exactly(&tracer.stop(), &[]);
}

#[test]
fn arguments_are_counted_out() {
    let home = home();
    for most in [0, 1, 3, 100] {
        let workload = home.workload(&["execve", "empty-arg", "many-args", "fail-enoent"]);
        let tracer = home.run(&["-x", "--max-args", &most.to_string()]).json();
        let mut execs = expected(&workload.finish());
        for exec in &mut execs {
            exec.args_cut = exec.args.len() > most;
            exec.args.truncate(most);
        }
        assert_exactly(&tracer.stop(), &execs);
    }
}

/// The lines of `exec-loop` that have these numbers.
fn assert_loop(finished: &Finished, pid: u32, args: usize, numbers: impl Iterator<Item = usize>) {
    finished.check_end();
    let mut numbers = numbers.fuse();
    for event in finished.events().filter(|event| event["ppid"] == pid) {
        let n = numbers.next().unwrap_or_else(|| panic!("one too many: {event}"));
        let exec = Exec::reported(&event);
        let more = (0..args).map(|n| format!("arg-{n}").into());
        let args: Vec<Vec<u8>> =
            [exe(), b"noop".into(), format!("seq-{n}").into()].into_iter().chain(more).collect();
        assert_eq!((&exec.args, exec.args_cut, exec.ret), (&args, false, 0), "{event}");
        assert_eq!((exec.comm.as_slice(), exec.filename), (&b"workload"[..], exe()), "{event}");
    }
    assert_eq!(numbers.next(), None, "some are missing: {}", finished.footer);
}

#[test]
fn a_long_loop_is_reported_line_by_line() {
    let (home, count) = (home(), times(2000));
    let workload = exec_loop(&home, count, 20);
    let pid = workload.pid();
    let tracer = home.run(&[]).json();
    workload.finish();
    let finished = tracer.stop();
    assert_loop(&finished, pid, 20, 0..count);
    assert_accounted(&finished, count, 0);
    assert_eq!(finished.count("lost"), 0, "{}", finished.footer);
}

#[test]
fn loops_at_once_are_reported_each_by_itself() {
    let (home, count) = (home(), times(500));
    let mut loops: Vec<Workload> = (0..4).map(|_| exec_loop(&home, count, 4)).collect();
    let pids: Vec<u32> = loops.iter().map(Workload::pid).collect();
    let tracer = home.run(&[]).json();
    loops.iter_mut().for_each(Workload::go);
    loops.into_iter().for_each(|workload| _ = workload.finish());
    let finished = tracer.stop();
    pids.into_iter().for_each(|pid| assert_loop(&finished, pid, 4, 0..count));
    assert_accounted(&finished, 4 * count, 0);
    assert_eq!(finished.count("lost"), 0, "{}", finished.footer);
}

#[test]
fn lines_are_filtered_by_argument() {
    let home = home();
    // Whatever is printed of the arguments.
    for (options, args) in
        [(&["-l"][..], 3), (&["--line"], 3), (&["--max-args", "2", "-l"], 3), (&["-q", "-l"], 0)]
    {
        let workload = exec_loop(&home, 120, args);
        let pid = workload.pid();
        let tracer = home.run(options).args(["q-11"]).json();
        workload.finish();
        let finished = tracer.stop();
        let wanted = (0..120).filter(|n| format!("seq-{n}").contains("q-11"));
        assert_accounted(&finished, 120, 120 - wanted.clone().count());
        if !options.contains(&"--max-args") {
            assert_loop(&finished, pid, args, wanted);
        }
    }
}

/// The table of these ways, and the executions.
fn table(args: &[&str], ways: &[&str]) -> (Table, Vec<Exec>) {
    let home = home();
    let workload = home.workload(ways);
    let tracer = home.run(args).text();
    let actions = workload.finish();
    (Table::of(&tracer.stop_text()), expected(&actions))
}

#[test]
fn table_shows_the_same() {
    let ways: Vec<&str> = WAYS.into_iter().filter(|way| *way != "fexecve").chain(["odd-bytes"]).collect();
    let (table, execs) = table(&["-x"], &ways);
    assert_eq!(table.titles, ["PCOMM", "PID", "PPID", "RET", "ARGS"]);
    assert_eq!(table.rows.len(), execs.len());
    let shown = table.column("PCOMM").into_iter().map(unescape);
    assert!(shown.eq(execs.iter().map(|exec| exec.comm.clone())), "{:?}", table.rows);
    for (title, get) in [
        ("PID", (|exec| exec.pid.to_string()) as fn(&Exec) -> String),
        ("PPID", |exec| exec.ppid.to_string()),
        ("RET", |exec| exec.ret.to_string()),
    ] {
        assert!(table.column(title).into_iter().eq(execs.iter().map(get)), "{title}: {:?}", table.rows);
    }
    for (shown, exec) in table.column("ARGS").into_iter().zip(&execs) {
        assert_eq!(unescape(shown), exec.args.join(&b' '), "{shown}");
    }
}

/// Arguments in quotes, told back.
fn unquote(text: &str) -> Vec<Vec<u8>> {
    let mut args = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.strip_prefix('"') {
        let mut escaped = false;
        let end = start.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (arg, more) = start.split_at(end.unwrap_or_else(|| panic!("no closing quote: {text}")));
        args.push(unescape(&arg.replace("\\\"", "\"")));
        rest = more[1..].trim_start();
    }
    assert_eq!(rest, "", "{text}");
    args
}

#[test]
fn table_with_quotes() {
    for option in ["-q", "--quote"] {
        let (table, execs) = table(&[option, "-x"], &["execve", "empty-arg", "odd-bytes", "fail-enoent"]);
        let shown: Vec<_> = table.column("ARGS").into_iter().map(unquote).collect();
        assert_eq!(shown, execs.into_iter().map(|exec| exec.args).collect::<Vec<_>>());
    }
}

#[test]
fn table_marks_a_cut() {
    let (long, execs) = table(&[], &["huge", "execve"]);
    let [huge, plain] = long.column("ARGS")[..] else { panic!("{:?}", long.rows) };
    let kept = huge.strip_suffix(" ...").unwrap();
    assert!(kept.len() >= KEPT && execs[0].args.join(&b' ').starts_with(kept.as_bytes()));
    assert_eq!(plain.as_bytes(), execs[1].args.join(&b' '));

    let (few, execs) = table(&["--max-args", "2", "-x"], &["execve", "many-args", "fail-enoent"]);
    for (shown, exec) in few.column("ARGS").into_iter().zip(execs) {
        assert_eq!(shown.as_bytes(), [&exec.args[..2], &[b"...".to_vec()]].concat().join(&b' '));
    }
    let (quoted, _) = table(&["--max-args", "2", "-q"], &["many-args"]);
    assert!(quoted.column("ARGS")[0].ends_with("\"noop\" ..."), "{:?}", quoted.rows);
}

#[test]
fn table_with_more_columns() {
    let ways = ["execve", "fail-enoent"];
    for args in [&["-x", "-U", "-T"][..], &["--fails", "--print-uid", "--time"], &["-xUT"]] {
        let zone = TimeZone::system();
        let before = Timestamp::now();
        let (table, execs) = table(args, &ways);
        let after = Timestamp::now();
        assert_eq!(table.titles, ["TIME", "UID", "PCOMM", "PID", "PPID", "RET", "ARGS"]);
        assert_eq!(table.rows.len(), execs.len());
        let seconds = std::iter::successors(Some(before), |time| Some(*time + SignedDuration::from_secs(1)));
        let times: BTreeSet<String> = seconds
            .take_while(|time| *time <= after)
            .chain([after])
            .map(|time| time.to_zoned_datetime(zone.clone()).strftime("%H:%M:%S").to_string())
            .collect();
        assert!(table.column("TIME").iter().all(|time| times.contains(*time)), "{times:?} {:?}", table.rows);
        assert_eq!(table.column("UID"), ["0", "0"]);
        assert_eq!(table.column("RET"), ["0", "-2"]);
    }
}

#[test]
fn table_with_other_times() {
    for option in ["-t", "--timestamp", "--timestamps=elapsed"] {
        let (elapsed, _) = table(&[option], &["execve", "script"]);
        assert_eq!(elapsed.titles[0], "TIME");
        let times: Vec<f64> = elapsed.column("TIME").iter().map(|time| time.parse().unwrap()).collect();
        assert!(times.len() == 2 && 0.0 < times[0] && times[0] <= times[1], "{times:?}");
    }
    let before = now();
    let (rfc3339, _) = table(&["--timestamps=rfc3339"], &["execve", "script"]);
    let after = now();
    let times = rfc3339.column("TIME");
    assert_eq!(times.len(), 2);
    assert!(times.iter().all(|time| before.as_str() <= *time && *time <= after.as_str()), "{times:?}");
}

#[test]
fn table_without_header() {
    let home = home();
    let workload = home.workload(&["execve"]);
    let tracer = home.run(&["--no-header"]).text();
    let execs = expected(&workload.finish());
    let ended = tracer.stop_text();
    let lines: Vec<&str> = ended.stdout().lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("workload"), "{ended:?}");
    assert!(lines[0].contains(&execs[0].pid.to_string()), "{ended:?}");
}

#[test]
fn table_is_narrow() {
    let ended = Run::new("execsnoop").args(["--dry-run"]).output();
    // What others execute meanwhile may follow.
    let header = ended.stdout().lines().next().unwrap();
    assert!(header.starts_with("PCOMM") && header.len() < 80, "{header}");
}

#[test]
fn duration_ends_it() {
    for args in [["--duration", "1"], ["--duration", "200ms"], ["--duration=0.3", "--strict"]] {
        Run::new("execsnoop").args(args).json().finished().check();
    }
}

#[test]
fn overload_is_accounted_for() {
    // More than fit into the buffer.
    let (home, count) = (home(), times(2000));
    for options in [&["--strict"][..], &["-l", "seq-1"]] {
        let workload = exec_loop(&home, count, 8);
        let pid = workload.pid();
        let tracer = home.run(&["--buffer", "4096"]).args(options).json();
        tracer.pause();
        let actions = workload.finish();
        tracer.resume();
        tracer.signal(Signal::SIGINT);
        let ended = tracer.ended();
        assert_eq!(ended.code(), if options == ["--strict"] { 3 } else { 0 }, "{ended:?}");
        let finished = Finished::from(ended);
        let (footer, filtered) = (&finished.footer, finished.count("filtered"));
        assert_eq!(actions[0]["count"], count);
        assert_accounted(&finished, count, usize::try_from(filtered).unwrap());
        assert!(finished.count("lost") > 0 && finished.count("events") > 0, "{footer}");
        assert_eq!(filtered > 0, options != ["--strict"], "{footer}");
        // Those that are there are right, each once and in order.
        let numbers = finished.events().map(|event| {
            assert_eq!(event["ppid"], pid);
            let seq = event["args"][2].as_str().unwrap().strip_prefix("seq-").unwrap().to_string();
            seq.parse::<usize>().unwrap()
        });
        assert!(numbers.is_sorted_by(|a, b| a < b), "{finished:?}");
    }
}

#[test]
fn lost_parts_of_arguments_are_a_cut() {
    let home = home();
    // Buffers that can take only a part, or a few parts, of what many-args and long-arg need.
    for buffer in ["4096", "16K", "64K"] {
        let ways: Vec<&str> = ["many-args", "execve", "long-arg", "execve"].repeat(5);
        let workload = home.workload(&ways);
        let tracer = home.run(&["--buffer", buffer]).json();
        tracer.pause();
        let actions = workload.finish();
        tracer.resume();
        let finished = tracer.stop();
        finished.check();
        assert_accounted(&finished, ways.len(), 0);
        assert!(finished.count("lost") > 0 || buffer == "64K", "{}", finished.footer);
        let mut all = expected(&actions).into_iter();
        let mut cut = 0;
        for exec in reported(&finished) {
            let all = all.find(|all| all.pid == exec.pid).unwrap();
            cut += u32::from(exec.args_cut);
            let exec = exec.uncut(&all, 0);
            assert!(exec == all, "{buffer}: {} arguments of {}", exec.args.len(), all.args.len());
        }
        println!("{buffer}: {cut} cut: {}", finished.footer);
        assert!(cut > 0 || buffer == "4096", "{buffer}: {}", finished.footer);
    }
}

#[test]
fn losses_are_reported_while_they_happen() {
    let home = home();
    let workload = exec_loop(&home, 100, 8);
    let tracer = home.run(&["--buffer", "4096"]).json();
    tracer.pause();
    workload.finish();
    tracer.resume();
    wait_until("a report of the loss", || tracer.stderr().contains("events lost").then_some(()));
    let finished = tracer.stop();
    let lost = finished.count("lost");
    assert!(finished.stderr.contains(&format!("ring full {lost}")), "{}", finished.stderr);
}

#[test]
fn events_come_while_it_runs() {
    let home = home();
    let mut workload = home.workload(&["execve"]);
    let pid = workload.pid();
    let (mut json, text) = (home.run(&[]).json(), home.run(&[]).text());
    workload.go();
    let event = json.wait_for(|line| line["type"] == "event");
    assert_eq!(event["ppid"], pid);
    wait_until("the row in the table", || (text.lines() == 2).then_some(()));
    json.stop();
    text.stop_text();
}
