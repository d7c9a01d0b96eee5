// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What filters name, and what ends or comes again while a tool runs; and the names of cgroups.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use kscope_tests::bytes::bytes_of;
use kscope_tests::programs::{has_option, tools};
use kscope_tests::{Finished, Run, Tracer, Workload};
use kscope_tests::{cgroup, programs, say_untested, wait_until};
use nix::unistd::getpid;
use serde_json::Value;
use tempfile::TempDir;

/// Tools that filter by process.
fn each_tool() -> impl Iterator<Item = &'static str> {
    tools()
        .iter()
        .map(String::as_str)
        .filter(|tool| has_option(tool, "--tid"))
        .inspect(|tool| eprintln!("tool {tool}"))
}

/// A process that does nothing until it is let go.
fn idle() -> Workload {
    Workload::start(["lookup"])
}

/// The number of a process that has ended.
fn ended() -> u32 {
    let workload = idle();
    let pid = workload.pid();
    workload.finish();
    pid
}

/// The workload's program under another name, run to its end.
fn run_as(dir: &Path, name: &str) {
    let program = dir.join(name);
    if !program.exists() {
        fs::copy(programs::workload(), &program).unwrap();
    }
    Command::new(program).output().unwrap();
}

fn wait_for_word(tracer: &Tracer, word: &str) {
    wait_until(&format!("the tool to say {word:?}"), || tracer.stderr().contains(word).then_some(()));
}

fn comms(finished: &Finished) -> Vec<String> {
    finished.check();
    finished.events().map(|event| String::from_utf8(bytes_of(&event, "comm")).unwrap()).collect()
}

#[test]
fn names_of_threads_are_a_list() {
    let dir = TempDir::new().unwrap();
    let (first, second, comma, other) = ("kf-first", "kf-second", "kf,comma", "kf-other");
    for (list, wanted) in [
        ("kf-first,kf-second", vec![first, second]),
        ("nothing,f-secon", vec![second]),
        (r"kf\,comma", vec![comma]),
        (r"kf-other,kf\,c,x\\y", vec![comma, other]),
        ("kf,comma", vec![first, second, comma, other]),
    ] {
        let tracer = Run::new("exitsnoop").args(["--comm", list]).json();
        [first, second, comma, other].into_iter().for_each(|name| run_as(dir.path(), name));
        assert_eq!(comms(&tracer.stop()), wanted, "{list}");
    }
    let many = vec!["kf-nobody"; 31].join(",") + ",kf-first";
    let tracer = Run::new("exitsnoop").args(["--comm", &many]).json();
    [first, second].into_iter().for_each(|name| run_as(dir.path(), name));
    assert_eq!(comms(&tracer.stop()), [first]);
    let refusal = |list: &str| Run::new("exitsnoop").args(["--comm", list]).output().refusal(2).to_string();
    assert!(refusal(&(many + ",more")).contains("at most 32"));
    assert!(refusal("kf-first,sixteen bytes of it").contains("sixteen bytes o"));
    refusal("kf-first,");
}

#[test]
fn cgroups_are_a_list() {
    let groups = ["kf,first", "kf-second", "kf-third"].map(cgroup::Cgroup::new);
    let list = format!("{},kf-second", groups[0].path().to_str().unwrap().replace(',', "\\,"));
    let tracer = Run::new("exitsnoop").args(["--cgroup", &list]).json();
    let pids = groups.each_ref().map(|group| {
        let workload = idle();
        group.add(workload.pid());
        let pid = workload.pid();
        workload.finish();
        u64::from(pid)
    });
    let finished = tracer.stop();
    finished.check();
    let seen: Vec<u64> = finished.events().map(|event| event["pid"].as_u64().unwrap()).collect();
    assert_eq!(seen, pids[..2]);
}

#[test]
fn processes_that_are_not_there_are_refused() {
    let (gone, (send, receive)) = (ended(), mpsc::channel());
    let (stop, wait) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        send.send(nix::unistd::gettid().as_raw()).unwrap();
        _ = wait.recv();
    });
    let (thread_id, own) = (receive.recv().unwrap().to_string(), getpid().to_string());
    let gone = gone.to_string();
    for tool in each_tool() {
        let run = |option: &str, value: &str| Run::new(tool).args([option, value, "--dry-run"]).output();
        assert!(run("--pid", &gone).refusal(2).contains(&gone));
        assert!(run("--tid", &gone).refusal(2).contains(&gone));
        let ended = run("--pid", &thread_id);
        let sentence = ended.refusal(2);
        assert!(sentence.contains(&format!("thread of process {own}")), "{sentence}");
        assert_eq!(run("--tid", &thread_id).code(), 0);
        let one_lives = run("--pid", &format!("{gone},{own}"));
        assert!(one_lives.code() == 0 && one_lives.stderr.contains(&gone), "{one_lives:?}");
    }
    stop.send(()).unwrap();
    thread.join().unwrap();
}

#[test]
fn tools_end_with_the_last_process_that_they_are_asked_about() {
    for tool in each_tool() {
        let (first, last) = (idle(), idle());
        let list = format!("{},{}", first.pid(), last.pid());
        let run = |option: &str| Run::new(tool).args([option, &list, "--duration=1h"]).json();
        let metrics = has_option(tool, "--metrics-listen");
        let listening =
            Run::new(tool).args(["--pid", &list]).args(metrics.then_some("--metrics-listen=127.0.0.1:0"));
        let mut tracers = [run("--pid"), run("--tid"), listening.json()];
        first.finish();
        for tracer in &mut tracers {
            wait_for_word(tracer, "has ended");
            tracer.assert_running();
        }
        last.finish();
        tracers.into_iter().for_each(|tracer| tracer.finished().check_end());
    }
}

#[test]
fn cgroups_that_are_made_again_are_followed() {
    let name = format!("kf-again-{}.service", getpid());
    let ends = |group: &cgroup::Cgroup| {
        let workload = idle();
        group.add(workload.pid());
        let pid = workload.pid();
        workload.finish();
        pid
    };
    let group = cgroup::Cgroup::new(&name);
    let id = fs::metadata(group.path()).unwrap().ino();
    let tracer = Run::new("exitsnoop").args(["--cgroup", &name]).json();
    // What has an id never comes again.
    let by_id = Run::new("exitsnoop").args(["--cgroup", &id.to_string()]).json();
    let first = ends(&group);
    drop(group);
    wait_for_word(&tracer, "removed");
    let ended = by_id.finished();
    assert!(ended.stderr.contains("removed"), "{}", ended.stderr);
    assert_eq!(ended.events().count(), 1);
    let group = cgroup::Cgroup::new(&name);
    wait_for_word(&tracer, "made again");
    let second = ends(&group);
    let finished = tracer.stop();
    finished.check();
    let seen: Vec<_> = finished.events().map(|event| event["pid"].clone()).collect();
    assert_eq!(seen, [first, second]);
}

#[test]
fn tools_end_with_their_container() {
    let id = "c0de".repeat(16);
    for tool in each_tool() {
        let container = cgroup::Cgroup::new(format!("docker-{id}.scope"));
        let tracer = Run::new(tool).args(["--container", &id[..12], "--duration=1h"]).json();
        drop(container);
        let finished = tracer.finished();
        finished.check_end();
        assert!(finished.stderr.contains("removed"), "{tool}: {}", finished.stderr);
    }
}

/// A version 1 hierarchy with controllers.
fn version_1() -> Option<PathBuf> {
    let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo()).unwrap();
    let is_it = |mount: &procfs::process::MountInfo| {
        mount.fs_type == "cgroup"
            && ["memory", "pids", "cpu"].iter().any(|name| mount.super_options.contains_key(*name))
    };
    mounts.into_iter().find(is_it).map(|mount| mount.mount_point)
}

#[test]
fn containers_are_found_in_version_1() {
    let Some(root) = version_1() else {
        return say_untested("containers of version 1", "there is no hierarchy");
    };
    let id = "fade".repeat(16);
    let folder = root.join(&id);
    fs::create_dir(&folder).unwrap();
    let tracers = [["--container", &id[..12]], ["--cgroup", folder.to_str().unwrap()]]
        .map(|filter| Run::new("exitsnoop").args(filter).json());
    let (inside, outside) = (idle(), idle());
    fs::write(folder.join("cgroup.procs"), inside.pid().to_string()).unwrap();
    let pid = inside.pid();
    inside.finish();
    outside.finish();
    wait_until("the cgroup to be empty", || fs::remove_dir(&folder).ok());
    for tracer in tracers {
        // That of --container has ended with it, or is about to.
        let finished = tracer.stop();
        finished.check();
        let seen: Vec<Value> = finished.events().map(|event| event["pid"].clone()).collect();
        assert_eq!(seen, [pid]);
        // It is at the root of version 2, which says nothing about its container.
        assert!(finished.events().all(|event| event["cgroup"].is_null()), "{}", finished.text());
    }
}

#[test]
fn cgroups_that_are_gone_have_their_path() {
    let old = cgroup::Cgroup::new("kf-old");
    let tracer = Run::new("exitsnoop").args(["--comm", "workload"]).json();
    // It reads nothing before they are gone.
    tracer.pause();
    let mut wanted = Vec::new();
    let mut ends = |group: cgroup::Cgroup| {
        let workload = idle();
        group.add(workload.pid());
        wanted.push((u64::from(workload.pid()), group.name().to_str().unwrap().to_string()));
        workload.finish();
    };
    let outer = cgroup::Cgroup::new("kf-outer");
    ends(outer.child("kf-inner"));
    ends(outer);
    ends(old);
    tracer.resume();
    let finished = tracer.stop();
    finished.check();
    let of =
        |pid: u64| finished.events().find(|event| event["pid"] == pid).map(|event| event["cgroup"].clone());
    for (pid, name) in wanted {
        assert_eq!(of(pid), Some(name.into()), "{}", finished.text());
    }
}

#[test]
fn times_are_right_in_a_time_namespace() {
    let dir = TempDir::new().unwrap();
    let (json, table) = (dir.path().join("json"), dir.path().join("table"));
    let script = format!(
        "{kscope} exitsnoop --json -o {json} -- true; {kscope} exitsnoop --timestamps=elapsed -o {table} -- true",
        kscope = programs::kscope().display(),
        json = json.display(),
        table = table.display(),
    );
    let unshare = ["--time", "--boottime", "100000", "--monotonic", "100000", "sh", "-c", &script];
    let ended = Run::program("unshare").args(unshare).output();
    if ended.code() != 0 {
        return say_untested("time namespaces", &ended.stderr);
    }
    let text = fs::read_to_string(json).unwrap();
    let times: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["time"].as_str().unwrap().to_string())
        .collect();
    assert!(times.len() > 2 && times[1..].iter().all(|time| *time <= times[times.len() - 1]), "{text}");
    // The command runs from the header on.
    assert!(times[1..].iter().all(|time| *time >= times[0]), "{text}");
    let table = fs::read_to_string(table).unwrap();
    let elapsed: f64 = table.lines().nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(elapsed > 0.0 && elapsed < 1000.0, "{table}");
}

#[test]
fn causes_outside_of_the_capabilities_are_named() {
    let kscope = programs::kscope();
    let kscope = kscope.to_str().unwrap();
    let sentence = |unshare: &[&str], script: &str| {
        let script = script.replace("kscope", kscope);
        let ended = Run::program("unshare").args(unshare).args(["sh", "-c", &script]).output();
        (ended.code(), ended.stderr.clone() + ended.stdout())
    };
    let of_doctor = "kscope doctor exitsnoop";
    for (unshare, script, cause) in [
        (&["-U", "-r"][..], "exec kscope exitsnoop", "user namespace"),
        (&["-U", "-r"], of_doctor, "user namespace"),
        (&["-m"], "umount -l /sys; exec kscope exitsnoop", "/sys is not mounted"),
        (&["-m"], "umount -l /proc; exec kscope exitsnoop", "/proc is not mounted"),
        (&["-m"], "umount -l /proc; exec kscope doctor exitsnoop", "/proc is not mounted"),
    ] {
        let (code, text) = sentence(unshare, script);
        assert!(code == 1 && text.contains(cause), "{script}: {code}: {text}");
    }
}
