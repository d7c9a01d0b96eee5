// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel time to wall-clock time.

use std::cell::OnceCell;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::time::ClockId;
use nix::time::clock_gettime;

/// A point of wall-clock time, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(pub i64);

impl Wall {
    /// Now.
    pub fn now() -> Self {
        Self(read(ClockId::CLOCK_REALTIME))
    }

    /// RFC 3339 in UTC, with nine digits of a second.
    pub fn rfc3339(self) -> String {
        format!("{:.9}", self.timestamp())
    }

    /// Time of day, `HH:MM:SS`.
    pub fn time_of_day(self, zone: &TimeZone) -> String {
        self.timestamp().to_zoned_datetime(zone.clone()).strftime("%H:%M:%S").to_string()
    }

    fn timestamp(self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default()
    }
}

/// A clock as the kernel has it, and not as a time namespace shows it.
fn read(clock: ClockId) -> i64 {
    static ADDED: OnceLock<Added> = OnceLock::new();
    let added = ADDED.get_or_init(Added::here);
    let added = match clock {
        ClockId::CLOCK_MONOTONIC => added.monotonic,
        ClockId::CLOCK_BOOTTIME => added.boottime,
        _ => 0,
    };
    // The clocks exist on every kernel, and 64 bits of nanoseconds last until 2262.
    let seen = clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
    seen.saturating_sub(added)
}

/// What the time namespace of this process adds to the clocks that BPF programs read, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Added {
    monotonic: i64,
    boottime: i64,
}

/// The inode of the first time namespace (PROC_TIME_INIT_INO of include/linux/proc_ns.h).
const FIRST_TIME_NAMESPACE: u64 = 0xefff_fffa;

impl Added {
    fn here() -> Self {
        let namespace = fs::metadata("/proc/self/ns/time").map_or(FIRST_TIME_NAMESPACE, |meta| meta.ino());
        if namespace == FIRST_TIME_NAMESPACE {
            return Self::default();
        }
        // Those for children, who are in the same one: a program is moved there when it is executed.
        Self::parse(&fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default())
    }

    /// Each line has a clock, seconds, which may be negative, and nanoseconds.
    fn parse(text: &str) -> Self {
        let of = |clock: &str| {
            let mut fields = text.lines().find_map(|line| line.strip_prefix(clock))?.split_whitespace();
            let (seconds, ns): (i64, i64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            seconds.checked_mul(1_000_000_000)?.checked_add(ns)
        };
        Self { monotonic: of("monotonic").unwrap_or_default(), boottime: of("boottime").unwrap_or_default() }
    }
}

/// CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns()`, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).cast_unsigned()
}

/// CLOCK_BOOTTIME, the clock of `bpf_ktime_get_boot_ns()`, in nanoseconds.
pub fn boottime_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME).cast_unsigned()
}

/// Turns CLOCK_BOOTTIME, the clock of `bpf_ktime_get_boot_ns()`, into wall-clock time.
#[derive(Clone, Debug)]
pub struct Clock {
    offset: i64,
    started: i64,
    zone: OnceCell<TimeZone>,
}

impl Clock {
    /// Take the present difference of the two clocks.
    pub fn new() -> Self {
        let started = read(ClockId::CLOCK_BOOTTIME);
        let mut clock = Self { offset: 0, started, zone: OnceCell::new() };
        clock.adjust();
        clock
    }

    /// Follow changes that were made to the wall clock since.
    pub fn adjust(&mut self) {
        // The closest of a few tries: a preemption between the two reads would stay in every time.
        let pair = || {
            let before = read(ClockId::CLOCK_BOOTTIME);
            let wall = read(ClockId::CLOCK_REALTIME);
            let after = read(ClockId::CLOCK_BOOTTIME);
            (after - before, wall - (before + (after - before) / 2))
        };
        let best = (0..3).map(|_| pair()).min();
        self.offset = best.map_or(0, |(_, offset)| offset);
    }

    /// The wall-clock time of a CLOCK_BOOTTIME in nanoseconds.
    pub fn wall(&self, boot_ns: u64) -> Wall {
        Wall(boot_ns.cast_signed().saturating_add(self.offset))
    }

    /// The host's time zone, which many files are looked at for: not before it is asked for.
    pub fn zone(&self) -> &TimeZone {
        self.zone.get_or_init(TimeZone::system)
    }

    /// When this clock was made.
    pub fn started(&self) -> Wall {
        Wall(self.started + self.offset)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_is_written_with_nanoseconds() {
        assert_eq!(Wall(1_700_000_000_000_000_007).rfc3339(), "2023-11-14T22:13:20.000000007Z");
    }

    #[test]
    fn a_time_namespace_adds_to_two_clocks() {
        let added = Added::parse("monotonic      100000         0\nboottime            -5         7\n");
        assert_eq!(added, Added { monotonic: 100_000_000_000_000, boottime: -4_999_999_993 });
        assert_eq!(Added::parse(""), Added::default());
    }

    #[test]
    fn now_is_now_on_both_clocks() {
        let clock = Clock::new();
        let boot = read(ClockId::CLOCK_BOOTTIME).cast_unsigned();
        let off = (clock.wall(boot).0 - Wall::now().0).abs();
        assert!(off < 1_000_000_000, "{off} ns apart");
    }
}
