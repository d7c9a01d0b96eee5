// SPDX-License-Identifier: Apache-2.0 OR MIT
//! tcplife against the oracle: what was connected, and how much went each way, and nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use kscope_tests::bytes::bytes_of;
use kscope_tests::table::Table;
use kscope_tests::{Finished, Run, Workload, left_out, now, say_untested};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

/// The workload's connections that are made while the tool looks.
const WAYS: [&str; 10] =
    ["v4", "v6", "mapped", "empty", "large", "server-closes", "half-close", "reset", "unread", "worker"];

/// One end of a connection: what the workload had, or what the tool reported.
#[derive(Clone, Debug, PartialEq)]
struct End {
    side: Option<String>,
    pid: Option<u64>,
    comm: Option<Vec<u8>>,
    uid: Option<u64>,
    ip_version: u64,
    local: (String, u64),
    remote: (String, u64),
    /// Nothing where the workload can't know.
    sent: Option<u64>,
    received: Option<u64>,
}

impl End {
    fn of(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap().to_string();
        let number = |key: &str| value[key].as_u64();
        let comm = match value.get("comm_hex") {
            Some(hex) => hex.as_str().map(kscope_tests::bytes::unhex),
            None => (!value["comm"].is_null()).then(|| bytes_of(value, "comm")),
        };
        Self {
            side: value["side"].as_str().map(String::from),
            pid: number("pid"),
            uid: number("uid"),
            comm,
            ip_version: number("ip_version").unwrap(),
            local: (text("local_address"), number("local_port").unwrap()),
            remote: (text("remote_address"), number("remote_port").unwrap()),
            sent: number("sent_bytes"),
            received: number("received_bytes"),
        }
    }

    /// What the tool has to report of an action.
    fn expected(action: &Value) -> Self {
        let mut end = Self::of(action);
        end.uid = end.pid.map(|_| 0);
        if action["way"] == "old" {
            end.side = None;
        }
        end
    }
}

fn tcplife(args: &[&str]) -> Run {
    Run::new("tcplife").args(args)
}

/// Do these, and give what was reported of them, by the ports that the workload had, and what should have been.
fn traced(run: Run, workload: Workload, wanted: impl Fn(&Value) -> bool) -> (Finished, Vec<Value>) {
    let before = now();
    let mut tracer = run.json();
    let actions = workload.finish();
    assert!(!actions.is_empty());
    let wanted: Vec<Value> = actions.iter().filter(|action| wanted(action)).cloned().collect();
    // A connection may end a moment later than its processes.
    let ports = ports(&actions);
    for _ in &wanted {
        tracer.wait_for(|event| event["type"] == "event" && ports.contains(&ports_of(event)));
    }
    let finished = tracer.stop();
    let after = now();
    left_out::check(&finished);
    finished.check();
    let ours = finished.events().filter(|event| ports.contains(&ports_of(event)));
    let ours: Vec<Value> = ours.collect();
    for event in &ours {
        let time = event["time"].as_str().unwrap().to_string();
        assert!(before <= time && time <= after, "{before} {after} {event}");
    }
    assert_same(&ours, &wanted);
    (finished, ours)
}

/// Do these, and wait until they have ended: that may be a moment later than their processes do.
fn ended(workload: Workload) -> Vec<Value> {
    let mut tracer = tcplife(&[]).json();
    let actions = workload.finish();
    let ports = ports(&actions);
    for _ in &actions {
        tracer.wait_for(|event| event["type"] == "event" && ports.contains(&ports_of(event)));
    }
    actions
}

fn ports_of(value: &Value) -> (u64, u64) {
    (value["local_port"].as_u64().unwrap(), value["remote_port"].as_u64().unwrap())
}

fn ports(values: &[Value]) -> BTreeSet<(u64, u64)> {
    values.iter().map(ports_of).collect()
}

/// Check that these ends were reported, once each, and no others.
fn assert_same(events: &[Value], actions: &[Value]) {
    let mut reported: Vec<End> = events.iter().map(End::of).collect();
    for action in actions {
        let mut expected = End::expected(action);
        let same = |end: &End| (&end.local, &end.remote) == (&expected.local, &expected.remote);
        let at = reported.iter().position(same);
        let found = reported.remove(at.unwrap_or_else(|| panic!("missing {action}\nin {events:#?}")));
        expected.sent = expected.sent.or(found.sent);
        assert_eq!(found, expected, "{action}");
    }
    assert!(reported.is_empty(), "invented {reported:#?}");
}

#[test]
fn connections_are_reported_exactly() {
    let mut ways = vec![None, Some("raw_tp")];
    if Path::new("/sys/kernel/tracing/events").is_dir() {
        ways.push(Some("tp"));
    } else {
        say_untested("tcplife by tp", "tracefs is not mounted");
    }
    for way in ways {
        left_out::retried(|| {
            let workload = Workload::start(["tcp-life"].iter().chain(&WAYS));
            let run = if let Some(way) = way { tcplife(&[]).env("KSCOPE_WAY", way) } else { tcplife(&[]) };
            let (finished, events) = traced(run, workload, |_| true);
            let hook = match way {
                None => finished.header["hooks"]["state"].as_str().unwrap(),
                Some("tp") => "tp/sock/inet_sock_set_state",
                Some(_) => "raw_tp/inet_sock_set_state",
            };
            assert_eq!(finished.header["hooks"]["state"], hook);
            for event in events {
                assert!(event["duration_us"].as_f64().unwrap() > 0.0, "{event}");
            }
        });
    }
}

#[test]
fn connections_that_began_before_are_reported_without_a_duration() {
    left_out::retried(|| {
        let workload = Workload::start(["tcp-life", "old", "v4"]);
        let (_, events) = traced(tcplife(&[]), workload, |_| true);
        let known: Vec<bool> = events.iter().map(|event| !event["duration_us"].is_null()).collect();
        assert_eq!(known.iter().filter(|known| !**known).count(), 2, "{events:#?}");
    });
}

#[test]
fn what_nobody_closes_has_no_owner() {
    for args in [&[][..], &["--pid", "1"]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tracer = tcplife(args).json();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        let ends = (
            u64::from(accepted.local_addr().unwrap().port()),
            u64::from(client.local_addr().unwrap().port()),
        );
        drop(client);
        // It has heard of the reset.
        accepted.read(&mut [0]).unwrap_err();
        let finished = tracer.stop();
        drop(accepted);
        finished.check();
        let ours: Vec<Value> = finished.events().filter(|event| ports_of(event) == ends).collect();
        assert_eq!(ours.len(), usize::from(args.is_empty()), "{ours:#?}");
        assert!(ours.iter().all(|event| event["pid"].is_null() && event["side"] == "accepted"), "{ours:#?}");
        let [generated, events] = ["generated", "events"].map(|key| finished.count(key));
        assert_eq!(generated, events, "{finished:?}");
    }
}

#[test]
fn connects_that_fail_are_no_connections() {
    let mut tracer = tcplife(&[]).json();
    let workload = Workload::start(["tcp-connect", "refused", "nonblocking-refused", "unreachable"]);
    let pid = workload.pid();
    workload.finish();
    for _ in 0..2 {
        tracer.wait_for(|event| event["pid"] == pid && event["side"] == "connected");
    }
    let finished = tracer.stop();
    finished.check();
    // Those to its own listeners, which it makes beforehand.
    let of_pid = finished.events_of(pid).into_iter().filter(|event| event["side"] == "connected").count();
    assert_eq!(of_pid, 2, "{finished:?}");
}

#[test]
fn connections_without_a_descriptor_belong_to_whose_ring_it_is() {
    const RING_WAYS: [&str; 4] = ["uring-close", "uring-close-async", "uring-shutdown", "uring-end"];
    for filtered in [false, true] {
        let workload = match Workload::try_start(["tcp-life"].iter().chain(&RING_WAYS)) {
            Ok(workload) => workload,
            Err(refused) => return say_untested("tcplife of io_uring", &refused.to_string()),
        };
        let args = if filtered { &["--comm", "tcp-server"][..] } else { &[] };
        traced(tcplife(args), workload, |action| !filtered || action["side"] == "accepted");
    }
}

#[test]
fn mptcp_connections_have_their_owner() {
    let workload = match Workload::try_start(["tcp-life", "mptcp", "v4"]) {
        Ok(workload) => workload,
        Err(refused) => return say_untested("tcplife of MPTCP", &refused.to_string()),
    };
    let (_, events) = traced(tcplife(&[]), workload, |_| true);
    let tokens = events.iter().filter(|event| !event["mptcp_token"].is_null()).count();
    assert_eq!(tokens, 2, "{events:#?}");
}

#[test]
fn filter_by_process() {
    let workload = Workload::start(["tcp-life"].iter().chain(&WAYS));
    let pid = workload.pid();
    traced(tcplife(&["--pid", &pid.to_string()]), workload, |action| action["pid"] == pid);
}

#[test]
fn filter_by_name_of_the_thread() {
    let workload = Workload::start(["tcp-life"].iter().chain(&WAYS));
    let worker = kscope_tests::bytes::hex(b"tcp-worker");
    traced(tcplife(&["--comm", "tcp-work"]), workload, |action| action["comm_hex"] == worker.as_str());
}

#[test]
fn filter_by_ip_version() {
    for version in [4, 6] {
        let workload = Workload::start(["tcp-life", "v4", "v6", "mapped"]);
        let run = tcplife(&[&format!("-{version}")]);
        traced(run, workload, |action| action["ip_version"] == version);
    }
}

#[test]
fn filter_by_ports() {
    for (flag, key) in [("-L", "local_port"), ("-D", "remote_port")] {
        // Ports that are known beforehand: those of connections that are there already.
        let workload = Workload::start(["tcp-life", "old", "old", "v4"]);
        let ports = listening(workload.pid());
        let list = format!("{},{}-{}", ports[0], ports[2], ports[2]);
        traced(tcplife(&[flag, &list]), workload, |action| {
            let port = action[key].as_u64().unwrap();
            port == ports[0] || port == ports[2]
        });
    }
}

/// The ports that a process listens on, in ascending order.
fn listening(pid: u32) -> Vec<u64> {
    let process = procfs::process::Process::new(pid.cast_signed()).unwrap();
    let inodes: BTreeSet<u64> = process
        .fd()
        .unwrap()
        .flatten()
        .filter_map(|fd| match fd.target {
            procfs::process::FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    let listens = |socket: &procfs::net::TcpNetEntry| {
        socket.state == procfs::net::TcpState::Listen && inodes.contains(&socket.inode)
    };
    let mut ports: Vec<u64> = procfs::net::tcp()
        .unwrap()
        .iter()
        .filter(|socket| listens(socket))
        .map(|socket| socket.local_address.port().into())
        .collect();
    ports.sort_unstable();
    ports
}

#[test]
fn what_finds_no_room_is_counted() {
    let tracer = tcplife(&["--connections", "1"]).json();
    let actions = ended(Workload::start(["tcp-life"].iter().chain(&WAYS)));
    let finished = tracer.stop();
    finished.check();
    assert_eq!(finished.count("lost"), 0);
    assert!(finished.footer["dropped_by_cause"]["map_full"].as_u64() > Some(0), "{finished:?}");
    // They are all there, with all that the kernel itself knows.
    let ports = ports(&actions);
    let ours: Vec<Value> = finished.events().filter(|event| ports.contains(&ports_of(event))).collect();
    assert_eq!(ours.len(), actions.len(), "{finished:?}");
}

#[test]
fn what_a_filter_may_want_and_finds_no_room_is_lost() {
    // More than there is room for, and each still held by its owner when the other side resets it.
    const HELD: usize = 1300;
    let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
    // SAFETY: the limit is what the call takes.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let pid = std::process::id().to_string();
    let tracer = tcplife(&["--pid", &pid, "--connections", "1"]).json();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u64::from(listener.local_addr().unwrap().port());
    let mut held = Vec::new();
    for _ in 0..HELD {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        held.push(listener.accept().unwrap().0);
        setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    }
    held.iter_mut().for_each(|accepted| drop(accepted.read(&mut [0])));
    drop(held);
    let finished = tracer.stop();
    finished.check();
    let ours = finished.events().filter(|event| event["local_port"] == port).count();
    let lost = finished.footer["lost_by_cause"]["map_full"].as_u64().unwrap();
    assert!(lost > 0 && ours > 0, "{finished:?}");
    // Others on this host may have lost some too.
    assert!(ours as u64 + lost >= HELD as u64, "{ours} and {lost}");
    let [generated, events] = ["generated", "events"].map(|key| finished.count(key));
    assert_eq!(generated, events + finished.count("lost"), "{finished:?}");
}

#[test]
fn forms_of_the_table() {
    let table = |args: &[&str]| {
        let tracer = tcplife(args).text();
        ended(Workload::start(["tcp-life", "large", "v6"]));
        Table::of(&tracer.stop_text())
    };
    const TITLES: [&str; 9] = ["PID", "COMM", "LADDR", "LPORT", "RADDR", "RPORT", "TX_KB", "RX_KB", "MS"];
    let plain = table(&[]);
    assert_eq!(plain.titles, TITLES);
    let large = plain.column("TX_KB").iter().position(|sent| *sent == "976.57").unwrap();
    assert_eq!(plain.column("RX_KB")[large], "2929.70");
    assert!(plain.column("LADDR").contains(&"::1"));
    let timed = table(&["-T", "-w"]);
    assert_eq!(timed.titles, [&["TIME"][..], &TITLES].concat());
    assert!(timed.column("RADDR").contains(&"127.0.0.1"));
    let ended = tcplife(&["-w", "-T", "--dry-run"]).output();
    assert!(ended.stdout().lines().next().unwrap().len() > 80, "{ended:?}");
}

#[test]
fn nonsense_is_refused() {
    for args in [
        &["-4", "-6"][..],
        &["-L", "0"],
        &["-L", "65536"],
        &["-D", "9-8"],
        &["-D", "http"],
        &["--connections", "0"],
    ] {
        tcplife(args).args(["--dry-run"]).output().refusal(2);
    }
}
