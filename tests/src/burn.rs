// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CPU time that a workload burns in known functions, and what samples of it must show.

use std::fs;

use serde_json::Value;

use crate::{Workload, process, programs, wait_until};

/// The processors that are online.
///
/// # Panics
/// If the kernel does not say.
pub fn cpus() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").expect("the processors that are online");
    let number = |text: &str| text.parse::<u32>().expect("a processor's number");
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first)..=number(last)
    };
    text.trim().split(',').flat_map(range).collect()
}

/// The last processor: the first one has most of the host's own work.
///
/// # Panics
/// If the kernel does not say.
pub fn last_cpu() -> String {
    cpus().last().expect("a processor").to_string()
}

/// A workload that burns CPU time on the last processor, and sleeps before and after.
pub struct Burner {
    workload: Workload,
    /// How often it had gone to sleep before it was let go.
    slept: u64,
}

impl Burner {
    /// Start it in one of its ways.
    pub fn new(way: &str, seconds: &str) -> Self {
        Self::of(Workload::start([way, "--seconds", seconds, "--cpu", &last_cpu()]))
    }

    /// Start it in one of its ways, for so many seconds of its own CPU time.
    pub fn for_cpu_seconds(way: &str, seconds: &str) -> Self {
        Self::of(Workload::start([way, "--cpu-seconds", seconds, "--cpu", &last_cpu()]))
    }

    /// One that was started.
    pub fn of(workload: Workload) -> Self {
        Self { slept: asleep(&workload, 0), workload }
    }

    /// Its process id, as an argument.
    pub fn pid(&self) -> String {
        self.workload.pid().to_string()
    }

    /// Let it burn.
    pub fn go(&mut self) {
        self.workload.go();
    }

    /// Wait until it has burnt what it should; it stays until it is dropped.
    pub fn wait(&self) {
        asleep(&self.workload, self.slept + 1);
    }

    /// What it did.
    pub fn finish(self) -> Vec<Value> {
        self.workload.finish()
    }
}

/// Wait until a process sleeps, which it has done so often at least by then: how often it has.
fn asleep(workload: &Workload, least: u64) -> u64 {
    wait_until("the workload to sleep", || {
        let state = process::state(workload.pid());
        assert_ne!(state, Some('Z'), "the workload has failed");
        let slept =
            process::status(workload.pid()).voluntary_ctxt_switches.expect("a kernel that counts switches");
        (state == Some('S') && slept >= least).then_some(slept)
    })
}

/// Check that a part of `all` samples fits this probability, within four standard deviations; for samples of
/// which nobody can tell whether they belong to the part, give the least and the most that it can be.
///
/// # Panics
/// If it does not.
pub fn assert_share(least: u64, most: u64, all: u64, probability: f64) {
    let sigma = (probability * (1.0 - probability) / all as f64).sqrt();
    let (low, high) = (least as f64 / all as f64, most as f64 / all as f64);
    let fits = low <= probability + 4.0 * sigma && high >= probability - 4.0 * sigma;
    println!("{low:.4} to {high:.4} of {all} samples, where {probability:.4} is right, sigma {sigma:.4}");
    assert!(fits, "{low} to {high} of {all} samples, where {probability} is right");
}

/// Whether the workload has names for its functions: a stripped one has not.
///
/// # Panics
/// If it can't be read.
pub fn workload_has_symbols() -> bool {
    let name = b"\0burn_seventy\0";
    fs::read(programs::workload()).expect("the workload").windows(name.len()).any(|window| window == name)
}
