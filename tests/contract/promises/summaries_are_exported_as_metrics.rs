// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A summary is exported as OpenMetrics.

use std::fs;

use kscope_tests::programs::has_option;
use kscope_tests::{Run, metrics, wait_until};
use tempfile::TempDir;

use crate::shared::{a_few_events, endless};

pub const TOGETHER: bool = true;

pub fn applies(tool: &str) -> bool {
    has_option(tool, "--metrics-listen")
}

pub fn check(tool: &str) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("a.prom");
    let export = ["--metrics-listen=127.0.0.1:0", "--textfile", file.to_str().unwrap()];
    let mut tracer = endless(tool).args(export).json();
    let address = metrics::address(&tracer);
    a_few_events();
    let read = |headers: &str| metrics::parse(&metrics::get(&address, headers).1);
    let build = |samples: &metrics::Samples| {
        metrics::of(samples, "kscope_build_info").into_keys().next().unwrap_or_default()
    };
    let own = format!("kscope_{tool}_");
    // One that counts by interval knows of them when that has ended.
    let classic = wait_until("the tool's own metrics", || {
        Some(read("")).filter(|samples| samples.keys().any(|name| name.starts_with(&own)))
    });
    let open = read(metrics::OPEN_METRICS);
    for samples in [&open, &classic] {
        assert!(build(samples).contains(&format!("tool=\"{tool}\"")), "{tool}: {samples:?}");
        assert!(samples.keys().any(|name| name.starts_with(&own)), "{tool}: {samples:?}");
        assert!(samples.keys().all(|name| !name.contains("pid=")), "{tool}: {samples:?}");
    }
    tracer.assert_running();
    let finished = tracer.stop();
    finished.check();
    let last = metrics::parse(&fs::read_to_string(&file).unwrap());
    assert_eq!(build(&last), build(&classic), "{tool}");
    let lost =
        [open, classic, last].map(|samples| metrics::sum(&samples, "kscope_events_lost_total") as u64);
    assert!(
        lost.is_sorted() && lost[2] == finished.count("lost"),
        "{tool}: {lost:?} {}",
        finished.footer
    );

    // Without an end of its own, nothing but a signal ends it.
    let tracer = Run::new(tool).args(["--metrics-listen=127.0.0.1:0"]).text();
    metrics::get(&metrics::address(&tracer), "");
    assert_eq!(tracer.stop_text().code(), 0, "{tool}");
}
