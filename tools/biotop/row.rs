// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of biotop.

use kscope::block::Layer;
use kscope::escape::c_bytes;
use kscope::hist::IntervalEnd;
use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::prelude::*;

use super::Counts;
use super::Key;

const IOS: Family = Family::counter("ios", "I/Os that have ended");
const BYTES: Family = Family::counter("moved", "How much I/Os have moved").bytes();
const TIME: Family =
    Family::counter("device_time", "How long I/Os took, each from its issue to its end").seconds();

/// What a process did on a disk in an interval.
#[derive(Row)]
#[row(type = "row", table = "PID COMM DISK OP I/O KiB AVG(ms)")]
pub struct Usage {
    #[row(flatten)]
    end: IntervalEnd,
    /// Process that submitted it; null if not known
    #[row(column = "PID")]
    pid: Option<Pid>,
    /// Name of its thread that submitted the first I/O of the row; null if not known
    #[row(column = "COMM")]
    comm: Option<Comm>,
    /// Disk
    #[row(column = "DISK", width = 9)]
    disk: String,
    #[row(flatten)]
    layer: Layer,
    /// The operation, as the kernel names it
    #[row(column = "OP", width = 9)]
    op: String,
    /// I/Os that ended in the interval
    #[row(column = "I/O", width = 9)]
    pub ios: u64,
    /// How much they moved
    #[row(also(column = "KiB", width = 9, help = "How much they moved", value = Self::kib))]
    pub size_bytes: u64,
    /// How long they took, each from its issue to its end, in microseconds
    pub total_us: Micros,
    /// How long one took, of those of which that is known; null if of none
    #[row(also(column = "AVG(ms)", help = "How long one took", value = Self::mean_ms))]
    mean_us: Option<f64>,
    /// The name that metrics have, also where the submitter is not known.
    #[row(skip)]
    name: Comm,
}

impl Usage {
    /// Of what was counted by a key.
    pub fn new(end: IntervalEnd, key: &Key, counts: &Counts, disk: String, layer: Layer, op: String) -> Self {
        let is_known = key.tgid != 0;
        let name = Comm(counts.comm);
        Self {
            end,
            pid: is_known.then_some(Pid(key.tgid)),
            comm: is_known.then_some(name),
            disk,
            layer,
            op,
            ios: counts.ios,
            size_bytes: counts.bytes,
            total_us: Micros(counts.total_ns),
            mean_us: (counts.timed > 0).then(|| counts.total_ns as f64 / counts.timed as f64 / 1e3),
            name,
        }
    }

    /// The process that submitted it, or 0.
    pub fn submitter(&self) -> u32 {
        self.pid.map_or(0, |Pid(pid)| pid)
    }

    /// Add it to the metrics.
    pub fn export(&self, to: &mut Exporter) {
        for (family, value) in [(&IOS, self.ios), (&BYTES, self.size_bytes), (&TIME, self.total_us.0)] {
            to.add(
                family,
                &[("disk", &self.disk), ("op", &self.op), ("comm", &c_bytes(&self.name.0))],
                value,
            );
        }
    }

    fn kib(&self) -> Value<'_> {
        Value::Float(self.size_bytes as f64 / 1024.0, 0)
    }

    fn mean_ms(&self) -> Value<'_> {
        self.mean_us.map_or(Value::Null, |us| Value::Float(us / 1e3, 3))
    }
}
