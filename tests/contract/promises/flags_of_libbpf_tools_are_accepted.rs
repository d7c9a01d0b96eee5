// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The flags of libbpf-tools' tool of the same name are accepted.

use std::collections::BTreeSet;

use kscope_tests::{Run, Workload, bpf, cgroup, process};

use crate::shared::disk;

/// The facts about libbpf-tools' flags: tool, positional arguments, flags.
const FLAGS: &str = include_str!("../../data/flags.tsv");

/// One flag of libbpf-tools.
struct Flag {
    short: Option<char>,
    long: Option<String>,
    value: Option<String>,
}

impl Flag {
    /// From `-p/--pid=PID`, `--max-args=MAX_ARGS` or `-x/--failed`.
    fn parse(text: &str) -> Self {
        let (names, value) = match text.split_once('=') {
            Some((names, value)) => (names, Some(value.to_string())),
            None => (text, None),
        };
        let names: Vec<&str> = names.split('/').collect();
        Self {
            short: names.iter().find(|name| !name.starts_with("--")).and_then(|name| name.chars().nth(1)),
            long: names.iter().find(|name| name.starts_with("--")).map(ToString::to_string),
            value,
        }
    }

    /// The ways to write it. A long name that `taken` has is that of another flag too, and means that one.
    fn forms(&self, taken: &BTreeSet<String>, pinned: &bpf::PinnedMap) -> Vec<Vec<String>> {
        let short = self.short.map(|short| format!("-{short}"));
        let long = self.long.clone().filter(|long| self.value.is_some() || !taken.contains(long));
        let Some(value) = self.value.as_deref().map(|name| fitting_value(name, pinned)) else {
            return [short, long].into_iter().flatten().map(|name| vec![name]).collect();
        };
        let joined = short.iter().map(|name| format!("{name}{value}"));
        let joined = joined.chain(long.iter().map(|name| format!("{name}={value}")));
        let mut forms: Vec<_> = joined.map(|word| vec![word]).collect();
        forms.extend([short, long].into_iter().flatten().map(|name| vec![name, value.clone()]));
        forms
    }
}

/// A value that a tool can take on this machine, for one that a help text calls by this name.
fn fitting_value(name: &str, pinned: &bpf::PinnedMap) -> String {
    match name {
        "PID" | "TID" => std::process::id().to_string(),
        "UID" => "0".into(),
        "NAME" | "COMM" | "COMMAND" | "LINE" => "x".into(),
        "DURATION" | "SECONDS" | "INTERVAL" | "TIME" => "1".into(),
        "MIN" | "MIN-BLOCK-TIME" | "ROWS" | "TOP" | "CPU" | "MAX_ARGS" => "1".into(),
        "MAX-BLOCK-TIME" | "PERF-MAX-STACK-DEPTH" | "FREQUENCY" | "SAMPLE_PERIOD" => "100".into(),
        "STATE" => "2".into(),
        "STACK-STORAGE-SIZE" => "1024".into(),
        "PORT" | "PORTS" | "LPORT" | "RPORT" | "DPORT" | "LOCALPORT" | "REMOTEPORT" => "80".into(),
        "ERRNO" => "ENOENT".into(),
        "SORT" => "all".into(),
        "DISK" => disk(),
        "LIBC" => {
            let workload = Workload::start(["lookup"]);
            process::c_library(workload.pid()).to_str().unwrap().into()
        }
        "PATH" => pinned.path().to_str().unwrap().into(),
        "Filesystem" => "tmpfs".into(),
        "off" => "off".into(),
        path if path.starts_with("/sys/fs/cgroup") => cgroup::root().to_str().unwrap().into(),
        _ => panic!("flags.tsv has a value named {name}: say in the test what fits"),
    }
}

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    // As --cgroupmap and --mntnsmap take it.
    let pinned = bpf::PinnedMap::new(&format!("flags-{tool}"));
    // Those of tools that libbpf-tools has not are tested by the tool's own tests.
    for line in FLAGS.lines().skip(1) {
        let [name, positional, flags] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if name != tool {
            continue;
        }
        let positional = match positional {
            "" => vec![],
            "FUNCTION" => vec!["vfs_read"],
            "[interval [count]]" => vec!["1", "1"],
            other => panic!("flags.tsv has the positional argument {other}: say in the test what fits"),
        };
        let flags: Vec<Flag> = flags.split_whitespace().map(Flag::parse).collect();
        let with_value = flags.iter().filter(|flag| flag.value.is_some());
        let taken = with_value.filter_map(|flag| flag.long.clone()).collect();
        let forms = flags.iter().flat_map(|flag| flag.forms(&taken, &pinned)).chain([vec![]]);
        for form in forms {
            let ended = Run::new(tool).args(&form).args(&positional).args(["--dry-run"]).output();
            assert_eq!(ended.code(), 0, "{tool} {form:?}: {ended:?}");
        }
    }
}
