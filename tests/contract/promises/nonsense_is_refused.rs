// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nonsense is answered by one sentence, and exit status 2.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use kscope_tests::bytes::assert_harmless;
use kscope_tests::programs::has_option;
use kscope_tests::Run;

pub const TOGETHER: bool = true;

pub fn applies(_: &str) -> bool {
    true
}

pub fn check(tool: &str) {
    let thirty_three = (1..=33).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    // Each applies to the tools that have the option it begins with.
    let nonsense: Vec<Vec<OsString>> = [
        &["--no-such-option"][..],
        &["--no-such-option=1"],
        &["-~"],
        &["abc"],
        &["1", "1", "1", "abc"],
        &[""],
        &["\u{1b}]0;title\u{7}"],
        &["--\u{1b}[2J\n"],
        &["--\u{202e}x"],
        &["--json=yes"],
        &["--strict", "--no-such-option"],
        &["--pid"],
        &["--pid", "x"],
        &["--pid", "-1"],
        &["--pid=-1"],
        &["--pid", "0"],
        &["--pid", "4294967296"],
        &["--pid", "1,"],
        &["--pid="],
        &["--pid", "\u{1b}[2J"],
        &["--pid", &thirty_three],
        &["--tid", "x"],
        &["--tid="],
        &["--tid", &thirty_three],
        &["--uid", "no-such-user"],
        &["--uid", "no\nsuch\u{1b}[2Juser"],
        &["--uid", "-1"],
        &["--uid", "4294967296"],
        &["--uid="],
        &["--uid", &thirty_three],
        &["--comm="],
        &["--comm", "sixteen bytes of"],
        &["--cgroup="],
        &["--cgroup", "/no/such/cgroup"],
        &["--cgroup", "/"],
        &["--cgroup", "/proc"],
        &["--cgroup", "\u{1b}[2J\n"],
        &["--cgroup", "no-such-unit.service"],
        &["--cgroup", "18446744073709551615"],
        &["--container="],
        &["--container", "abc"],
        &["--container", "no such container"],
        &["--container", "fedcba98fedcba98"],
        &["--container", "FEDC"],
        &["--container", "\u{1b}[2J\n"],
        &["--duration", "0"],
        &["--duration", "abc"],
        &["--duration", "-1"],
        &["--duration", "nan"],
        &["--duration", "1d"],
        &["--duration", "99999999999"],
        &["--duration="],
        &["--buffer", "0"],
        &["--buffer", "9G"],
        &["--buffer", "-1"],
        &["--buffer", "M"],
        &["--buffer", "1\u{e9}"],
        &["--buffer="],
        &["--timestamps=never"],
        &["--timestamps="],
    ]
    .into_iter()
    .map(|words| words.iter().map(OsString::from).collect())
    .chain([
        vec![OsString::from_vec(b"\xff\xfe".to_vec())],
        vec!["--comm".into(), OsString::from_vec(b"\xff".to_vec())],
        vec!["--cgroup".into(), OsString::from_vec(b"\xff\x1b".to_vec())],
    ])
    .collect();
    let accepted: Vec<_> = nonsense
        .iter()
        .filter(|words| {
            let option = words[0].to_str().unwrap_or_default().split('=').next().unwrap();
            const OPTIONS: [&str; 8] = [
                "--pid",
                "--tid",
                "--uid",
                "--comm",
                "--cgroup",
                "--container",
                "--duration",
                "--buffer",
            ];
            !OPTIONS.contains(&option) || has_option(tool, option)
        })
        .filter_map(|words| {
            // --dry-run, so that one that is accepted comes to an end.
            let ended = Run::new(tool).args(words).args(["--dry-run"]).output();
            if ended.code() != 2 {
                return Some(format!("{words:?}: {ended:?}"));
            }
            let sentence = ended.refusal(2);
            assert_harmless(&format!("{tool} {words:?}: stderr"), sentence.as_bytes());
            let is_sentence = sentence.len() > tool.len() + 2 && !sentence.contains("Usage:");
            assert!(is_sentence, "{tool} {words:?} is not answered by a sentence: {sentence}");
            None
        })
        .collect();
    assert!(accepted.is_empty(), "{tool} did not refuse: {accepted:#?}");
}
