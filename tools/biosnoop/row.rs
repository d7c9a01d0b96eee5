// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of biosnoop.

use kscope::block;
use kscope::block::Flags;
use kscope::block::Layer;
use kscope::prelude::*;

use super::Event;

/// One I/O that has ended.
#[derive(Row)]
#[row(type = "event", table = "TIME? UID? COMM PID CGROUP? DISK SECTOR BYTES BIOS QUE(ms)? LAT(ms) FLAGS")]
pub struct Io<'a> {
    /// When it ended
    #[row(column = "TIME")]
    time: Wall,
    /// User id of who submitted it; null if not known
    #[row(column = "UID")]
    uid: Option<Uid>,
    /// Name of the thread that submitted it; null if not known
    #[row(column = "COMM", width = 16)]
    comm: Option<Comm>,
    /// Process that submitted it; null if not known
    #[row(column = "PID")]
    pid: Option<Pid>,
    /// Thread that submitted it; null if not known
    tid: Option<Tid>,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    cgroup: Option<Vec<u8>>,
    /// Disk
    #[row(column = "DISK", width = 8)]
    disk: String,
    #[row(flatten)]
    layer: Layer,
    /// Where on the disk it begins, in units of 512 bytes
    #[row(column = "SECTOR", width = 11)]
    sector: u64,
    /// How much
    #[row(column = "BYTES", width = 8)]
    size_bytes: u32,
    /// How many bios were merged into it; of a flush, how many requests wait for it
    bios: u32,
    /// How many of these other processes submitted
    #[row(also(
        column = "BIOS",
        width = 5,
        help = "Bios merged into it; as 2+1 where one is of another process",
        value = Self::bios_shown
    ))]
    bios_of_others: u32,
    /// Whether the device did a part of a request, and will be given the rest again
    partial: bool,
    /// From the submission to the issue to the device, in microseconds; null if not known
    #[row(also(
        column = "QUE(ms)",
        width = 9,
        help = "From the submission to the issue, in milliseconds",
        value = Self::queue_ms
    ))]
    queue_us: Option<Micros>,
    /// From the issue to the end, in microseconds; of a bio, from its submission; null if not known
    #[row(also(
        column = "LAT(ms)",
        width = 8,
        help = "From the issue to the end, in milliseconds",
        value = Self::device_ms
    ))]
    device_us: Option<Micros>,
    /// The error of one that failed, or null
    error: Option<String>,
    /// The operation and its flags, as the kernel names them
    #[row(also(
        column = "FLAGS",
        help = "The same, and behind it the error of one that failed",
        value = Self::flags_shown
    ))]
    flags: Flags<'a>,
}

impl<'a> Io<'a> {
    /// Of an event, with what its numbers stand for.
    pub fn new(event: &Event, disk: String, layer: Layer, flags: Flags<'a>, out: &mut Out) -> Self {
        let Task { time, pid, tid, uid, comm, cgroup } = out.task(&event.task);
        let is_known = pid.0 != 0;
        Self {
            time,
            uid: is_known.then_some(uid),
            comm: is_known.then_some(comm),
            pid: is_known.then_some(pid),
            tid: is_known.then_some(tid),
            cgroup,
            disk,
            layer,
            sector: event.sector,
            size_bytes: event.bytes,
            bios: event.bios,
            bios_of_others: event.others,
            partial: event.is_part != 0,
            queue_us: (event.has_queue_time != 0).then_some(Micros(event.queue_ns)),
            device_us: (event.has_device_time != 0).then_some(Micros(event.device_ns)),
            error: block::error(event.status),
            flags,
        }
    }

    /// As in `3`; or `2+1` where one of the three is of another process.
    fn bios_shown(&self) -> Value<'_> {
        match self.bios_of_others {
            0 => self.bios.into(),
            others => Value::String(format!("{}+{others}", self.bios.saturating_sub(others))),
        }
    }

    fn queue_ms(&self) -> Value<'_> {
        millis(self.queue_us.map(|Micros(ns)| ns), 3)
    }

    fn device_ms(&self) -> Value<'_> {
        millis(self.device_us.map(|Micros(ns)| ns), 3)
    }

    fn flags_shown(&self) -> Value<'_> {
        let error = self.error.as_ref().map(|error| format!(" {error}"));
        Value::String(self.flags.text() + &error.unwrap_or_default())
    }
}
