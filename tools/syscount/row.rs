// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of syscount.

use kscope::hist::IntervalEnd;
use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::metrics::Label;
use kscope::prelude::*;
use kscope::syscalls::Request;

const CALLS: Family = Family::counter("calls", "Calls that ended");
const FAILED: Family = Family::counter("failed_calls", "Calls that failed");
const TIME: Family = Family::counter("time", "How long the calls took, added up").seconds();

/// Counts of one interval.
#[derive(Row)]
#[row(
    type = "row",
    table = "SYSCALL? PID? COMM? VIA? COUNT ERRORS? TOTAL(us)? MEAN(us)? TOTAL(ms)? MEAN(ms)?"
)]
pub struct Counted {
    #[row(flatten)]
    #[row(also(column = "SYSCALL", help = "Name, and of whom if not of a 64-bit caller", value = Self::name_shown))]
    pub end: IntervalEnd,
    /// Name of the call or operation, if known
    pub syscall: Option<String>,
    /// Its number, if it has one
    pub number: Option<i32>,
    /// Of which callers: 64-bit, 32-bit or x32
    pub abi: Option<&'static str>,
    /// With -P: the process
    #[row(column = "PID", width = 0)]
    pub pid: Option<Pid>,
    /// With -P: its name
    #[row(column = "COMM")]
    pub comm: Option<Vec<u8>>,
    /// syscall; or io_uring, of operations that it does
    #[row(column = "VIA")]
    pub via: &'static str,
    /// Calls that ended in the interval
    #[row(column = "COUNT")]
    pub count: u64,
    /// Without -x and -e: how many failed
    #[row(column = "ERRORS")]
    pub errors: Option<u64>,
    /// With -L: sum of their times
    #[row(column = "TOTAL(us)")]
    pub total_us: Option<Micros>,
    /// With -L: mean of their times
    #[row(column = "MEAN(us)")]
    #[row(also(column = "TOTAL(ms)", help = "The sum with -m", value = Self::total_ms))]
    #[row(also(column = "MEAN(ms)", help = "The mean with -m", value = Self::mean_ms))]
    pub mean_us: Option<f64>,
    /// The name for a table.
    #[row(skip)]
    pub shown: String,
}

impl Counted {
    /// Of what was counted by this request, with its names.
    pub fn new(end: IntervalEnd, request: Request, syscall: Option<String>, shown: String) -> Self {
        Self {
            end,
            syscall,
            number: request.number(),
            abi: request.abi(),
            pid: request.pid().map(Pid),
            comm: None,
            via: request.via(),
            count: 0,
            errors: None,
            total_us: None,
            mean_us: None,
            shown,
        }
    }

    fn name_shown(&self) -> Value<'_> {
        Value::Text(&self.shown)
    }

    fn total_ms(&self) -> Value<'_> {
        millis(self.total_us.map(|Micros(ns)| ns), 3)
    }

    fn mean_ms(&self) -> Value<'_> {
        self.mean_us.map_or(Value::Null, |us| Value::Float(us / 1e3, 3))
    }

    /// Add it to the metrics.
    pub fn export(&self, to: &mut Exporter) {
        let (of, name): Label<'_> =
            self.comm.as_ref().map_or(("call", &self.shown as _), |comm| ("comm", comm as _));
        let labels: [Label<'_>; 2] = [("via", &self.via), (of, name)];
        to.add(&CALLS, &labels, self.count);
        self.errors.iter().for_each(|errors| to.add(&FAILED, &labels, *errors));
        self.total_us.iter().for_each(|Micros(ns)| to.add(&TIME, &labels, *ns));
    }
}
