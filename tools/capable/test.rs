// SPDX-License-Identifier: Apache-2.0 OR MIT
//! capable against the oracle: each check that a process's system calls lead to, and no other.
#![allow(clippy::unwrap_used)]

use std::fs;

use caps::Capability;
use kscope_tests::bytes::{bytes_of, hex, unescape, unhex};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Who, Workload, now, programs, say_untested};
use serde_json::{Value, json};

/// What user nobody, who may change the root and use raw sockets, is granted and refused.
const CALLS: [&str; 6] = ["chroot", "sethostname", "raw-socket", "reboot", "setuid", "listxattr"];

fn somebody() -> Who {
    Who::new(Who::NOBODY, &[Capability::CAP_SYS_CHROOT, Capability::CAP_NET_RAW])
}

fn workload(args: &[&str]) -> Workload {
    Workload::start_by(&somebody(), [&["capability"], args].concat())
}

/// All checks, also those that are not audited.
fn capable(args: &[&str]) -> Run {
    Run::new("capable").args(["--all"]).args(args)
}

fn with_pid(workload: &Workload, args: &[&str]) -> Run {
    capable(args).args([format!("--pid={}", workload.pid())])
}

/// Whether the tool knows the options of a check: by the way it took, or by who asked.
fn knows_options(header: &Value) -> bool {
    let way = header["hooks"]["check"].as_str().unwrap();
    let function = way.starts_with("fexit") || way.starts_with("kprobe");
    let tracepoint = ["tp_btf/", "raw_tp/", "tp/"].iter().any(|kind| way.starts_with(kind));
    assert!(function || tracepoint, "{way}");
    let notes = header["notes"].as_array().unwrap();
    let blind = notes.iter().any(|note| note.as_str().unwrap().contains("can't be seen here"));
    // To root the kernel shows its addresses, unless it hides them from everybody.
    let hidden = fs::read_to_string("/proc/sys/kernel/kptr_restrict").is_ok_and(|text| text.trim() == "2");
    assert_eq!(blind, !function && hidden, "{header}");
    !blind
}

/// What is to be reported of an action.
fn expected(action: &Value, uid: u32, options: bool) -> Value {
    let granted = action["granted"].as_bool().unwrap_or(false);
    let option = |key: &str| if options { action[key].clone() } else { Value::Null };
    json!({
        "pid": action["pid"], "tid": action["tid"], "uid": uid, "cred_uid": uid, "cap": action["cap"],
        "name": action["name"], "audit": option("audit"), "insetid": option("insetid"),
        "user_ns": action["user_ns"], "cred_user_ns": action["cred_user_ns"],
        "comm": bytes_of_hex(action), "verdict": if granted { "granted" } else { "refused" },
    })
}

fn bytes_of_hex(action: &Value) -> String {
    String::from_utf8(unhex(action["comm_hex"].as_str().unwrap())).unwrap()
}

/// An event without what only the kernel knows.
fn reported(mut event: Value) -> Value {
    assert_eq!(event["type"], "event");
    let object = event.as_object_mut().unwrap();
    ["type", "time", "cgroup", "kernel_stack", "user_stack", "truncated"]
        .iter()
        .for_each(|key| drop(object.remove(*key)));
    event
}

fn assert_exactly(finished: &Finished, actions: &[Value], uid: u32) {
    finished.check();
    let options = knows_options(&finished.header);
    let reported: Vec<Value> = finished.events().map(reported).collect();
    let expected: Vec<Value> = actions.iter().map(|action| expected(action, uid, options)).collect();
    assert!(reported == expected, "reported {reported:#?}\nexpected {expected:#?}\n{finished:?}");
    assert_eq!(finished.count("generated"), actions.len() as u64, "{}", finished.footer);
    assert_eq!((finished.count("lost"), finished.count("filtered")), (0, 0), "{}", finished.footer);
}

#[test]
fn checks_are_reported_exactly_by_each_way() {
    for forced in ["", "tp_btf", "raw_tp", "tp", "fentry", "kprobe"] {
        let refused = capable(&["--dry-run"]).env("KSCOPE_WAY", forced).output();
        if refused.code() != 0 {
            let sentence = refused.refusal(1);
            assert!(!forced.is_empty(), "{sentence}");
            assert!(
                sentence.contains("no way to hook check") && sentence.contains("cap_capable"),
                "{sentence}"
            );
            say_untested(&format!("capable by {forced}"), sentence);
            continue;
        }
        let workload = workload(&CALLS);
        let before = now();
        let tracer = with_pid(&workload, &[]).env("KSCOPE_WAY", forced).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        let after = now();
        let granted: Vec<Option<bool>> = actions.iter().map(|action| action["granted"].as_bool()).collect();
        assert_eq!(granted, [Some(true), Some(false), Some(true), Some(false), None, None]);
        assert_exactly(&finished, &actions, Who::NOBODY);
        for event in finished.events() {
            let time = event["time"].as_str().unwrap().to_string();
            assert!(before <= time && time <= after, "{before} {after} {event}");
        }
    }
}

#[test]
fn root_is_granted_what_it_asks_for() {
    let workload = Workload::start(["capability", "chroot", "sethostname", "raw-socket"]);
    let tracer = with_pid(&workload, &[]).json();
    let actions = workload.finish();
    assert_exactly(&tracer.stop(), &actions, 0);
}

#[test]
fn capabilities_in_a_user_namespace_do_not_reach_beyond_it() {
    let args = ["capability", "--user-ns", "1", "chroot", "sethostname", "raw-socket"];
    let workload = match Workload::try_start(args) {
        Ok(workload) => workload,
        Err(refused) => return say_untested("capable, user namespaces", &refused.to_string()),
    };
    let tracer = with_pid(&workload, &[]).json();
    let actions = workload.finish();
    let granted: Vec<bool> = actions.iter().map(|action| action["granted"].as_bool().unwrap()).collect();
    assert_eq!(granted, [true, false, false]);
    assert_ne!(actions[0]["user_ns"], actions[1]["user_ns"]);
    // Root of the host, still, by the kernel's own numbers.
    assert_exactly(&tracer.stop(), &actions, 0);
}

#[test]
fn extra_fields_prefer_a_way_that_knows_them() {
    let workload = workload(&CALLS);
    // Whatever way the matrix forces.
    let tracer = with_pid(&workload, &["-x"]).env("KSCOPE_WAY", "").json();
    let actions = workload.finish();
    let finished = tracer.stop();
    let way = finished.header["hooks"]["check"].as_str().unwrap().to_string();
    // Functions can be hooked in more than one way, if at all.
    let others = ["fentry", "kprobe"];
    let function = |way: &&str| capable(&["--dry-run"]).env("KSCOPE_WAY", way).output().code() == 0;
    assert_eq!(others.iter().any(function), way.contains("fexit") || way.contains("kprobe"), "{finished:?}");
    assert_exactly(&finished, &actions, Who::NOBODY);
}

#[test]
fn checks_that_are_not_audited_are_hidden_unless_asked_for() {
    for forced in ["", "raw_tp", "tp", "fentry", "kprobe"] {
        let start = |args: &[&str], workload: &Workload| {
            Run::new("capable")
                .args(args)
                .args([format!("--pid={}", workload.pid())])
                .env("KSCOPE_WAY", forced)
        };
        let workload = workload(&CALLS);
        if start(&["--dry-run"], &workload).output().code() != 0 {
            workload.finish();
            say_untested(&format!("capable by {forced}"), "not on this kernel");
            continue;
        }
        let tracers =
            [&[][..], &["--refused"], &["--cap", "sys_boot,CAP_SYS_CHROOT,13"], &["-a", "--cap=21"]]
                .map(|args| (args, start(args, &workload).json()));
        let actions = workload.finish();
        for (args, tracer) in tracers {
            let finished = tracer.stop();
            let options = knows_options(&finished.header);
            let is_wanted = |action: &&Value| match args {
                [] => action["audit"] == true || !options,
                // What tells nobody of its verdict is refused too.
                ["--refused"] => action["granted"] != true && (action["audit"] == true || !options),
                ["-a", _] => action["cap"] == 21,
                _ => [22, 18, 13].contains(&action["cap"].as_u64().unwrap()),
            };
            let wanted: Vec<Value> = actions.iter().filter(is_wanted).cloned().collect();
            assert!(
                !wanted.is_empty() && wanted.len() < actions.len() + usize::from(!options),
                "{actions:?}"
            );
            assert_exactly(&finished, &wanted, Who::NOBODY);
        }
    }
}

#[test]
fn maps_of_memory_are_no_news() {
    // It is forked, mapped and written to, for each of which the kernel tries to have more memory.
    let run = |args: &[&str]| {
        let output = tempfile::TempDir::new().unwrap();
        let file = output.path().join("out");
        let command = ["--", programs::workload().to_str().unwrap(), "--help"].map(String::from);
        let ended = Run::new("capable")
            .args(args)
            .args(["--json", "-o", file.to_str().unwrap()])
            .args(command)
            .output();
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() >= 2, "{ended:?}");
        lines
    };
    let of_memory = |line: &&Value| line["type"] == "event" && line["cap"] == 21 && line["audit"] == false;
    let (shown, all) = (run(&[]), run(&["--all"]));
    assert_eq!(shown.iter().filter(of_memory).count(), 0, "{shown:?}");
    // By a function's hooks they may not be seen at all (LIMITS).
    let tracepoint = all[0]["hooks"]["check"].as_str().unwrap().contains("tp");
    assert!(!tracepoint || !knows_options(&all[0]) || all.iter().any(|line| of_memory(&line)), "{all:?}");
}

#[test]
fn names_of_capabilities_are_checked() {
    for bad in ["", "64", "SYS_NOTHING", "SYS_BOOT,,"] {
        let ended = capable(&["--cap", bad]).output();
        assert!(ended.refusal(2).contains("there is no capability"), "{ended:?}");
    }
}

#[test]
fn unique_prints_each_verdict_once() {
    let calls = ["chroot", "sethostname", "chroot", "reboot", "sethostname"];
    for (args, rows) in [(&["-u", "pid"][..], 3), (&["--unique=off"], 10), (&["-upid"], 3)] {
        let workload = workload(&[&["--count", "2"][..], &calls].concat());
        let tracer = with_pid(&workload, args).json();
        let actions = workload.finish();
        let finished = tracer.stop();
        if rows == 3 {
            let first: Vec<Value> = [0, 1, 3].iter().map(|at: &usize| actions[*at].clone()).collect();
            assert_exactly(&finished, &first, Who::NOBODY);
        } else {
            assert_exactly(&finished, &[actions.clone(), actions].concat(), Who::NOBODY);
        }
    }
}

#[test]
fn unique_by_process_or_cgroup() {
    let cgroup = Cgroup::new(format!("kscope-test-{}-capable", std::process::id()));
    for (option, processes) in [("pid", 2), ("cgroup", 1)] {
        let workloads = [workload(&["chroot", "reboot"]), workload(&["chroot", "reboot"])];
        workloads.iter().for_each(|workload| cgroup.add(workload.pid()));
        let path = cgroup.path().to_str().unwrap().to_string();
        let tracer = capable(&["--unique", option, "-c", &path]).json();
        let mut actions: Vec<Value> = Vec::new();
        for workload in workloads {
            actions.extend(workload.finish());
        }
        let finished = tracer.stop();
        // The end of a process may ask for others.
        let known = |event: &Value| [18, 22].contains(&event["cap"].as_u64().unwrap());
        let reported: Vec<Value> = finished.events().filter(known).map(reported).collect();
        let options = knows_options(&finished.header);
        let expected: Vec<Value> =
            actions[..2 * processes].iter().map(|action| expected(action, Who::NOBODY, options)).collect();
        assert_eq!(reported, expected, "{option}");
        let name = cgroup.name();
        let of_cgroup = |event: Value| bytes_of(&event, "cgroup") == name.as_os_str().as_encoded_bytes();
        assert!(finished.events().all(of_cgroup), "{finished:?}");
    }
}

#[test]
fn filters_choose_processes() {
    let calls = ["chroot", "reboot"];
    let start = || (workload(&calls), Workload::start(["capability", "chroot", "sethostname"]));
    let nobody = Who::NOBODY.to_string();
    for filter in ["--pid", "--tid", "--uid", "--comm"] {
        let (wanted, other) = start();
        let (pid, other_pid) = (wanted.pid().to_string(), other.pid());
        let value = match filter {
            "--uid" => &nobody,
            "--comm" => "workload",
            _ => pid.as_str(),
        };
        let tracer = capable(&["--buffer=64M", filter, value]).json();
        other.finish();
        let actions = wanted.finish();
        let finished = tracer.stop();
        finished.check();
        let options = knows_options(&finished.header);
        let own: Vec<Value> = finished.events_of(pid.parse().unwrap()).into_iter().map(reported).collect();
        let own: Vec<&Value> = own.iter().filter(|event| event["cap"] != 21).collect();
        let wanted: Vec<Value> = actions.iter().map(|a| expected(a, Who::NOBODY, options)).collect();
        assert_eq!(own, wanted.iter().collect::<Vec<_>>(), "{filter}");
        assert_eq!(finished.events_of(other_pid).is_empty(), filter != "--comm", "{filter}");
    }
}

#[test]
fn table_shows_the_same() {
    for (args, titles) in [
        (&[][..], "TIME UID PID COMM CAP NAME VERDICT"),
        (&["-x"], "TIME UID PID TID COMM CAP NAME AUDIT INSETID USERNS VERDICT"),
    ] {
        let workload = workload(&CALLS);
        let header = with_pid(&workload, &[args, &["--json", "--dry-run"]].concat()).output();
        let header: Value = serde_json::from_str(header.stdout().lines().next().unwrap()).unwrap();
        let options = knows_options(&header);
        let tracer = with_pid(&workload, args).text();
        let actions = workload.finish();
        let ended = tracer.stop_text();
        assert_eq!(ended.code(), 0, "{ended:?}");
        let table = Table::parse(ended.stdout().lines());
        assert_eq!(table.titles.join(" "), titles);
        let text =
            |key: &'static str| actions.iter().map(move |action| action[key].to_string().replace('"', ""));
        assert!(table.column("PID").into_iter().eq(text("pid")), "{ended:?}");
        assert!(table.column("CAP").into_iter().eq(text("cap")), "{ended:?}");
        assert!(table.column("NAME").into_iter().eq(text("name")), "{ended:?}");
        assert_eq!(
            table.column("VERDICT"),
            ["granted", "refused", "granted", "refused", "refused", "refused"]
        );
        if !args.is_empty() {
            let yes = |key: &'static str| {
                let word = move |action: &Value| if action[key] == true { "yes" } else { "no" };
                actions.iter().map(move |action| if options { word(action) } else { "-" })
            };
            assert!(table.column("AUDIT").into_iter().eq(yes("audit")), "{ended:?}");
            assert!(table.column("INSETID").into_iter().eq(yes("insetid")), "{ended:?}");
            assert!(table.column("USERNS").into_iter().eq(text("user_ns")), "{ended:?}");
        }
        assert!(args.contains(&"-x") || ended.stdout().lines().all(|line| line.len() < 80), "{ended:?}");
    }
}

#[test]
fn names_of_threads_are_escaped() {
    let comm = b"\x1b[2J\n\xff\\";
    let workload = Workload::start(["comm", &hex(comm)]);
    let pid = workload.pid().to_string();
    let tracer = capable(&["-p", &pid, "--no-header"]).text();
    workload.finish();
    let ended = tracer.stop_text();
    assert_eq!(ended.code(), 0, "{ended:?}");
    // What a process asks for by itself depends on the kernel; whatever it is, its name is harmless.
    kscope_tests::bytes::assert_harmless("capable", &ended.bytes);
    for line in ended.stdout().lines() {
        let shown = unescape(line);
        assert!(shown.windows(comm.len()).any(|part| part == comm), "{line}");
    }
}

#[test]
fn overload_is_accounted_for() {
    let workload = workload(&["--count", "5000", "chroot", "reboot"]);
    let tracer = with_pid(&workload, &["--buffer", "4096"]).json();
    tracer.pause();
    workload.finish();
    tracer.resume();
    let finished = tracer.stop();
    finished.check();
    assert_eq!(finished.count("generated"), 10_000, "{}", finished.footer);
    assert!(finished.count("lost") > 0 && finished.count("events") > 0, "{}", finished.footer);
    assert_eq!(finished.count("generated"), finished.count("events") + finished.count("lost"));
}

#[test]
fn stacks_lead_to_the_check() {
    for (args, kernel, user) in
        [(&["-K", "-U"][..], true, true), (&["--kernel-stack"], true, false), (&["-U"], false, true)]
    {
        let mut workload = workload(&["chroot"]);
        let mut tracer = with_pid(&workload, args).json();
        workload.go();
        // While it is there, as its names are its files'.
        let event = tracer.wait_for(|line| line["type"] == "event" && line["cap"] == 18);
        workload.finish();
        tracer.stop().check();
        let frames = |key: &str| event[key].as_array().cloned();
        assert_eq!(frames("kernel_stack").is_some(), kernel, "{event}");
        assert_eq!(frames("user_stack").is_some(), user, "{event}");
        let has = |key: &str, what: &str, part: &str| {
            let text = |frame: &Value| frame[what].as_str().is_some_and(|text| text.contains(part));
            frames(key).unwrap().iter().any(text)
        };
        let traced = |part: &str| has("kernel_stack", "symbol", part);
        // By kprobes, old kernels lose the trace there.
        assert!(!kernel || traced("sys_chroot") || traced("kretprobe_trampoline"), "{event:#}");
        let program = kscope_tests::programs::workload();
        assert!(
            !user || has("user_stack", "module", program.file_name().unwrap().to_str().unwrap()),
            "{event:#}"
        );
    }
    let workload = workload(&["chroot"]);
    let tracer = with_pid(&workload, &["-K", "--perf-max-stack-depth", "2"]).text();
    workload.finish();
    let ended = tracer.stop_text();
    let mut lines: Vec<&str> = ended.stdout().lines().skip(2).collect();
    assert_eq!(lines.pop(), Some("    [cut]"), "{ended:?}");
    // Those of the tracing itself are left out, if there are any.
    assert!((1..=2).contains(&lines.len()), "{ended:?}");
    assert!(lines.iter().all(|line| line.starts_with("    ")), "{ended:?}");
}
