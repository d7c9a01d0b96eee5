// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The options that tools share, an argument a line.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use clap::Parser;
use kscope::options;

#[derive(Parser)]
struct All {
    #[command(flatten)]
    common: options::Common,
    #[command(flatten)]
    buffer: options::Buffer,
    #[command(flatten)]
    filter: options::Filter,
    #[command(flatten)]
    metrics: options::Metrics,
    #[command(flatten)]
    interval: options::Interval,
    #[arg(long, value_parser = options::milliseconds)]
    slower: Option<std::time::Duration>,
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let words = bytes.split(|byte| *byte == b'\n').map(OsStr::from_bytes);
    if let Ok(all) = All::try_parse_from(std::iter::once(OsStr::new("tool")).chain(words)) {
        assert!(all.buffer.size.is_power_of_two());
        assert!(all.common.duration.is_none_or(|time| !time.is_zero()));
        _ = (all.filter.comms().count(), all.metrics.metrics_series, all.interval.count, all.slower);
    }
});
