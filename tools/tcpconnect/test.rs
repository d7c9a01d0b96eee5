// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tcpconnect against the oracle: each connect with its result, and nothing else.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;

use kscope_tests::bpf::PinnedMap;
use kscope_tests::bytes::{bytes_of, unhex};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Workload, metrics, moved, now, say_untested};
use nix::errno::Errno;
use procfs::net::TcpState;
use procfs::process::Process;
use serde_json::{Value, json};

/// The workload's ways that have come to their result when it has done them.
const WAYS: [&str; 16] = [
    "v4",
    "v6",
    "mapped",
    "thread",
    "refused",
    "refused6",
    "nonblocking",
    "nonblocking-again",
    "nonblocking-refused",
    "nonblocking-refused-again",
    "timeout",
    "abandoned",
    "unreachable",
    "unreachable6",
    "port-taken",
    "wrong-family",
];
/// Without that which takes its time.
fn quick_ways() -> Vec<&'static str> {
    WAYS.into_iter().filter(|way| *way != "timeout").collect()
}

/// One connect: what the workload did, or what the tool reported.
#[derive(Debug, PartialEq)]
struct Connect {
    pid: u64,
    tid: u64,
    uid: u64,
    comm: Vec<u8>,
    ip_version: Option<u64>,
    local_port: Option<u64>,
    remote_address: Option<String>,
    remote_port: Option<u64>,
    result: String,
    errno: u64,
    error: Option<String>,
    has_latency: bool,
}

impl Connect {
    fn expected(action: &Value) -> Self {
        let errno = action["errno"].as_u64().unwrap();
        let name = format!("{:?}", Errno::from_raw(i32::try_from(errno).unwrap()));
        Self {
            comm: unhex(action["comm_hex"].as_str().unwrap()),
            uid: 0,
            error: (errno != 0).then_some(name),
            has_latency: action["unsent"] == false && action["result"] != "pending",
            ..Self::common(action)
        }
    }

    fn reported(event: &Value) -> Self {
        Self {
            comm: bytes_of(event, "comm"),
            uid: event["uid"].as_u64().unwrap(),
            error: event["error"].as_str().map(String::from),
            has_latency: event["latency_us"].as_f64().is_some_and(|latency| latency > 0.0),
            ..Self::common(event)
        }
    }

    fn common(value: &Value) -> Self {
        Self {
            pid: value["pid"].as_u64().unwrap(),
            tid: value["tid"].as_u64().unwrap(),
            uid: 0,
            comm: Vec::new(),
            ip_version: value["ip_version"].as_u64(),
            local_port: value["local_port"].as_u64(),
            remote_address: value["remote_address"].as_str().map(String::from),
            remote_port: value["remote_port"].as_u64(),
            result: value["result"].as_str().unwrap().into(),
            errno: value["errno"].as_u64().unwrap(),
            error: None,
            has_latency: false,
        }
    }
}

fn tcpconnect(args: &[&str]) -> Run {
    Run::new("tcpconnect").args(args)
}

fn start(ways: &[&str]) -> Workload {
    Workload::start(["tcp-connect"].iter().chain(ways))
}

/// Check that these connects were reported, in this order, and nothing else of this process.
fn assert_same(events: &[Value], actions: &[&Value]) {
    for (event, action) in events.iter().zip(actions) {
        let (reported, mut expected) = (Connect::reported(event), Connect::expected(action));
        // The workload knows the port of what has connected alone.
        expected.local_port = expected.local_port.or(reported.local_port);
        assert_eq!(reported, expected, "{action}");
    }
    assert_eq!(events.len(), actions.len(), "{events:#?}\n{actions:#?}");
}

/// Do these, and check that what is `wanted` of them is reported.
fn traced(run: Run, workload: Workload, wanted: impl Fn(&Value) -> bool) -> Finished {
    let before = now();
    let pid = workload.pid();
    let tracer = run.json();
    let actions = workload.finish();
    let finished = tracer.stop();
    let after = now();
    finished.check();
    let actions: Vec<&Value> = actions.iter().filter(|action| wanted(action)).collect();
    let events = finished.events_of(pid);
    for event in &events {
        let time = event["time"].as_str().unwrap().to_string();
        assert!(before <= time && time <= after, "{before} {after} {event}");
    }
    assert_same(&events, &actions);
    finished
}

#[test]
fn connects_are_reported_with_their_results() {
    let finished = traced(tcpconnect(&[]), start(&WAYS), |_| true);
    // Where it is allowed, that which costs other system calls nothing.
    let hook = finished.header["hooks"]["refused"].as_str().unwrap();
    assert!(hook == "fexit/__sys_connect" || hook.ends_with("sys_exit"), "{hook}");
}

#[test]
fn each_way_of_the_hooks_tells_the_same() {
    let ways = [("tp_btf", "tp_btf"), ("raw_tp", "raw_tp"), ("tp", "tp/sock")];
    for (way, state) in ways {
        if way == "tp" && !Path::new("/sys/kernel/tracing/events").is_dir() {
            say_untested("tcpconnect by tp", "tracefs is not mounted");
            continue;
        }
        let run = tcpconnect(&[]).env("KSCOPE_WAY", way);
        let finished = traced(run, start(&quick_ways()), |_| true);
        assert_eq!(finished.header["hooks"]["state"], format!("{state}/inet_sock_set_state"));
        if way != "tp" {
            assert_eq!(finished.header["hooks"]["refused"], format!("{way}/sys_exit"));
        }
    }
}

#[test]
fn connects_without_an_answer_are_reported_at_the_end() {
    let mut workload = start(&["pending", "v4"]);
    let pid = workload.pid();
    let mut tracer = tcpconnect(&[]).json();
    workload.go();
    tracer.wait_for(|event| event["pid"] == pid && event["result"] == "connected");
    let finished = tracer.stop();
    let actions = workload.finish();
    finished.check();
    assert_same(&finished.events_of(pid), &[&actions[1], &actions[0]]);
    let [generated, events] = ["generated", "events"].map(|key| finished.count(key));
    assert_eq!((generated, finished.count("lost")), (events, 0), "{finished:?}");
}

#[test]
fn connects_of_a_process_that_starts_meanwhile_are_reported() {
    let tracer = tcpconnect(&[]).json();
    let workload = start(&["v4"]);
    let pid = workload.pid();
    workload.finish();
    let finished = tracer.stop();
    // Those that the workload makes beforehand, and the one.
    assert_eq!(finished.events_of(pid).len(), 3, "{finished:?}");
}

#[test]
fn filters() {
    let workload = start(&quick_ways());
    let pid = workload.pid().to_string();
    traced(tcpconnect(&["--pid", &pid, "-u", "root"]), workload, |_| true);
    traced(tcpconnect(&["--pid", "1"]), start(&quick_ways()), |_| false);
    let other = |action: &Value| action["way"] == "thread";
    traced(tcpconnect(&["--comm", "other-thread"]), start(&quick_ways()), other);
    traced(tcpconnect(&["-4"]), start(&quick_ways()), |action| action["ip_version"] == 4);
    traced(tcpconnect(&["-6"]), start(&quick_ways()), |action| action["ip_version"] == 6);
    traced(tcpconnect(&["-P", "1,9-10"]), start(&quick_ways()), |action| action["remote_port"] == 9);
}

#[test]
fn what_is_not_sent_can_be_left_out() {
    let finished =
        traced(tcpconnect(&["--sent-only"]), start(&quick_ways()), |action| action["unsent"] == false);
    let hooks: Vec<&String> = finished.header["hooks"].as_object().unwrap().keys().collect();
    assert_eq!(hooks, ["state"]);
}

#[test]
fn filters_in_pinned_maps() {
    let cgroup = Cgroup::new(format!("kscope-tcpconnect-{}", std::process::id()));
    let map = PinnedMap::new("cgroups");
    let path = map.path().to_str().unwrap();
    for (listed, inside) in [(false, true), (true, true), (true, false)] {
        if listed {
            map.insert(std::os::unix::fs::MetadataExt::ino(&cgroup.path().metadata().unwrap()));
        }
        let workload = start(&quick_ways());
        if inside {
            cgroup.add(workload.pid());
        }
        traced(tcpconnect(&["--cgroupmap", path]), workload, |_| listed && inside);
    }
    let map = PinnedMap::new("mntns");
    let path = map.path().to_str().unwrap();
    for listed in [false, true] {
        if listed {
            map.insert(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/mnt").unwrap()));
        }
        traced(tcpconnect(&["-M", path]), start(&quick_ways()), |_| listed);
    }
}

#[test]
fn connects_are_counted() {
    let workload = start(&[&quick_ways()[..], &["v4", "v4"]].concat());
    let pid = workload.pid().to_string();
    let tracer = tcpconnect(&["-c", "--pid", &pid]).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let sum = |key: &str| finished.events().map(|row| row[key].as_u64().unwrap()).sum::<u64>();
    let failed = actions.iter().filter(|action| action["result"] != "connected").count();
    assert_eq!((sum("connects"), sum("failed")), (actions.len() as u64, failed as u64), "{finished:?}");
    let port = actions[0]["remote_port"].as_u64();
    let rows: Vec<Value> = finished.events().filter(|row| row["remote_port"].as_u64() == port).collect();
    let to_port = actions.iter().filter(|action| action["remote_port"].as_u64() == port);
    let counts: u64 = rows.iter().map(|row| row["connects"].as_u64().unwrap()).sum();
    assert_eq!(counts, to_port.count() as u64, "{rows:#?}");
    assert!(rows.iter().all(|row| row["local_port"].is_null()), "{rows:#?}");
}

#[test]
fn metrics_are_the_same_counts() {
    let workload = start(&[&quick_ways()[..], &["v4", "v4"]].concat());
    let pid = workload.pid().to_string();
    // They count without being told to.
    let tracer = tcpconnect(&["--pid", &pid, "--metrics-listen=127.0.0.1:0"]).json();
    let address = metrics::address(&tracer);
    let actions = workload.finish();
    let samples = metrics::parse(&metrics::get(&address, "").1);
    tracer.stop().check();
    let sum = |name: &str| metrics::sum(&samples, name) as usize;
    let failed = actions.iter().filter(|action| action["result"] != "connected").count();
    assert_eq!(sum("kscope_tcpconnect_connects_total"), actions.len(), "{samples:?}");
    assert_eq!(sum("kscope_tcpconnect_failed_connects_total"), failed, "{samples:?}");
    let port = format!("remote_port=\"{}\"", actions[0]["remote_port"]);
    let to_port = actions.iter().filter(|action| action["remote_port"] == actions[0]["remote_port"]).count();
    let of_port: f64 = metrics::of(&samples, "kscope_tcpconnect_connects_total")
        .iter()
        .filter_map(|(labels, count)| labels.contains(&port).then_some(count))
        .sum();
    assert_eq!(of_port as usize, to_port, "{samples:?}");
}

#[test]
fn forms_of_the_table() {
    let table = |args: &[&str]| {
        let workload = start(&["v4", "refused6", "unreachable"]);
        let tracer = tcpconnect(args).args([format!("--pid={}", workload.pid())]).text();
        workload.finish();
        Table::of(&tracer.stop_text())
    };
    const TITLES: [&str; 9] = ["PID", "COMM", "IP", "SADDR", "DADDR", "DPORT", "MS", "RESULT", "ASKED"];
    let plain = table(&[]);
    assert_eq!(plain.titles, TITLES);
    assert_eq!(plain.column("RESULT"), ["connected", "ECONNREFUSED", "ENETUNREACH"]);
    assert_eq!(plain.column("IP"), ["4", "6", "4"]);
    assert_eq!(plain.column("DADDR"), ["127.0.0.1", "::1", "255.255.255.255"]);
    assert_eq!(plain.column("SADDR"), ["127.0.0.1", "::1", "-"]);
    let full = table(&["-t", "-U", "-s"]);
    let titles =
        ["TIME", "UID", "PID", "COMM", "IP", "SADDR", "SPORT", "DADDR", "DPORT", "MS", "RESULT", "ASKED"];
    assert_eq!(full.titles, titles);
    assert_eq!(full.column("UID"), ["0"; 3]);
    assert!(full.column("SPORT")[0].parse::<u16>().is_ok());
}

/// The inode of a process' network namespace.
fn netns(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/ns/net");
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

#[test]
fn fast_open_is_measured_from_the_first_packet() {
    // The first has no cookie yet; those after it pause between connect() and the first data, as programs do.
    let ways = ["--netns", "true", "fastopen", "fastopen", "fastopen-sendto", "fastopen"];
    let workload = start(&ways);
    let pid = workload.pid();
    let tracer = tcpconnect(&[]).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let events = finished.events_of(pid);
    assert_same(&events, &actions.iter().collect::<Vec<_>>());
    for (event, action) in events.iter().zip(&actions).skip(1) {
        let latency_ns = event["latency_us"].as_f64().unwrap() * 1e3;
        assert!(latency_ns <= action["longest_ns"].as_f64().unwrap(), "{event} {action}");
    }
}

#[test]
fn mptcp_is_traced() {
    let ways = ["mptcp", "mptcp-unreachable", "mptcp"];
    let workload = match Workload::try_start(["tcp-connect"].iter().chain(&ways)) {
        Ok(workload) => workload,
        Err(refused) => return say_untested("tcpconnect of MPTCP", &refused.to_string()),
    };
    let finished = traced(tcpconnect(&[]), workload, |_| true);
    let tokens: Vec<Value> = finished.events().filter(|event| event["result"] == "connected").collect();
    assert!(tokens.iter().any(|event| !event["mptcp_token"].is_null()), "{tokens:#?}");
}

#[test]
fn what_was_asked_for_is_told_beside_what_the_kernel_made_of_it() {
    let workload = start(&["v4", "any"]);
    let pid = workload.pid();
    let tracer = tcpconnect(&[]).json();
    workload.finish();
    let finished = tracer.stop();
    finished.check();
    let seen: Vec<Value> = finished.events_of(pid);
    let asked: Vec<_> = seen.iter().map(|event| (&event["asked_address"], &event["asked_port"])).collect();
    // 0.0.0.0 is the host itself.
    assert_eq!(
        asked,
        [(&Value::Null, &Value::Null), (&json!("0.0.0.0"), &seen[1]["remote_port"])],
        "{seen:#?}"
    );
    assert_eq!(seen[1]["remote_address"], "127.0.0.1");
}

#[test]
fn connects_that_a_program_moves_are_told_with_both_ends() {
    let cgroup = Cgroup::new("kscope-tcpconnect-moved");
    moved::move_connects(&cgroup);
    let workload = start(&["--netns", "true", "service", "service6", "v4"]);
    let pid = workload.pid();
    cgroup.add(pid);
    let tracer = tcpconnect(&[]).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    let end = |value: &Value, address: &str, port: &str| -> Option<SocketAddr> {
        let port = u16::try_from(value[port].as_u64()?).unwrap();
        Some(SocketAddr::new(value[address].as_str()?.parse().unwrap(), port))
    };
    let events = finished.events_of(pid);
    assert_eq!(events.len(), 3, "{events:#?}");
    for (event, action) in events.iter().zip(&actions) {
        let made = end(event, "remote_address", "remote_port").unwrap();
        let asked = end(action, "remote_address", "remote_port").unwrap();
        assert!(made.ip().is_loopback() && event["result"] == "connected", "{event}");
        let told = end(event, "asked_address", "asked_port");
        assert_eq!(told, (asked != made).then_some(asked), "{event} {action}");
    }
    let is_moved: Vec<bool> = events.iter().map(|event| !event["asked_port"].is_null()).collect();
    assert_eq!(is_moved, [true, true, false]);

    // It is found by the port of the service, and by that of the backend.
    for of_service in [true, false] {
        let workload = start(&["--netns", "true", "service6"]);
        let pid = workload.pid();
        cgroup.add(pid);
        let sockets = Process::new(i32::try_from(pid).unwrap()).unwrap().tcp6().unwrap();
        let backend = sockets.iter().find(|socket| socket.state == TcpState::Listen).unwrap().local_address;
        let port = if of_service { moved::service(backend) } else { backend }.port();
        let tracer = tcpconnect(&["-P", &port.to_string()]).json();
        workload.finish();
        let finished = tracer.stop();
        assert_eq!(finished.events_of(pid).len(), 1, "{port}: {}", finished.footer);
    }
}

#[test]
fn namespaces_and_scopes_tell_the_same_addresses_apart() {
    let here = start(&["v4"]);
    let there = start(&["--netns", "true", "v4", "link-local"]);
    let pids = [here.pid(), there.pid()];
    let tracer = tcpconnect(&["--print-netns"]).json();
    let expected = pids.map(netns);
    assert_ne!(expected[0], expected[1]);
    here.finish();
    there.finish();
    let finished = tracer.stop();
    finished.check();
    for (pid, netns) in pids.into_iter().zip(expected) {
        let events = finished.events_of(pid);
        assert!(!events.is_empty() && events.iter().all(|event| event["netns"] == netns), "{events:#?}");
        assert!(events.iter().all(|event| (event["scope"] == 1) == (event["remote_address"] == "fe80::1")));
    }
    assert!(finished.events_of(pids[1]).iter().any(|event| event["scope"] == 1), "{finished:?}");
    let there = start(&["--netns", "true", "link-local"]);
    let tracer = tcpconnect(&["--print-netns"]).args([format!("--pid={}", there.pid())]).text();
    let netns = netns(there.pid()).to_string();
    there.finish();
    let table = Table::of(&tracer.stop_text());
    assert_eq!(table.column("DADDR"), ["fe80::1%1"]);
    assert_eq!(table.column("NETNS"), [netns]);
}

#[test]
fn each_interval_counts_for_itself() {
    // More pairs of ends than are counted at a time.
    const SCANNED: u32 = 10_000;
    let pid = std::process::id().to_string();
    let mut tracer = tcpconnect(&["-c", "--pid", &pid, "1"]).json();
    let connect = |host: u32, port: u16| {
        let address = std::net::Ipv4Addr::from_bits(u32::from_be_bytes([127, 0, 0, 0]) + host);
        std::net::TcpStream::connect((address, port)).unwrap_err();
    };
    for part in 0..2 {
        (1..=SCANNED).for_each(|n| connect(part * SCANNED + n, 9));
        // What is counted last may be a row of the next interval.
        let last = part * SCANNED + SCANNED;
        let last = std::net::Ipv4Addr::from_bits(u32::from_be_bytes([127, 0, 0, 0]) + last).to_string();
        tracer.wait_for(|row| row["remote_address"] == last.as_str());
    }
    (0..200).for_each(|_| connect(0x0063_6363, 5432));
    tracer.wait_for(|row| row["remote_address"] == "127.99.99.99");
    let finished = tracer.stop();
    finished.check();
    let ours: Vec<Value> = finished.events().filter(|row| row["remote_port"] == 5432).collect();
    let failed: u64 = ours.iter().map(|row| row["failed"].as_u64().unwrap()).sum();
    assert_eq!(failed, 200, "{ours:#?}");
    let scanned = finished.events().filter(|row| row["remote_port"] == 9).count();
    assert_eq!((scanned as u32, finished.count("lost")), (2 * SCANNED, 0), "{finished:?}");
}

#[test]
fn nonsense_is_refused() {
    let map = PinnedMap::of_keys("small", 4);
    let path = map.path().to_str().unwrap();
    for args in [
        &["-4", "-6"][..],
        &["-P", "0"],
        &["-P", "9-8"],
        &["1"],
        &["-C", "/no/such/map"],
        &["-M", "/proc/version"],
        &["-C", path],
    ] {
        tcpconnect(args).args(["--dry-run"]).output().refusal(2);
    }
}
