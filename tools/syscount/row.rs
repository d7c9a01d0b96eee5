// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rows of syscount.

use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::metrics::Label;
use kscope::row::Field;
use kscope::row::Kind;
use kscope::row::Row;
use kscope::row::Value;
use kscope::syscalls::Request;
use kscope::time::Wall;

const CALLS: Family = Family::counter("calls", "Calls that ended");
const FAILED: Family = Family::counter("failed_calls", "Calls that failed");
const TIME: Family = Family::counter("time", "How long the calls took, added up").seconds();

/// Counts of one interval.
pub struct Counted {
    /// The interval's end.
    pub time: Wall,
    /// The interval's length in seconds.
    pub interval_s: f64,
    /// What was asked for, or by whom.
    pub request: Request,
    /// The call's name, if it is known.
    pub name: Option<String>,
    /// The same for a table.
    pub shown: String,
    /// With -P: the process's name.
    pub comm: Option<Vec<u8>>,
    /// How many ended.
    pub count: u64,
    /// How many of these failed, if not all did.
    pub errors: Option<u64>,
    /// With -L: their times, added up.
    pub total_ns: Option<u64>,
}

impl Counted {
    fn total(&self, unit_ns: f64) -> Value<'_> {
        self.total_ns.map_or(Value::Null, |ns| Value::Float(ns as f64 / unit_ns, 3))
    }

    fn mean(&self, unit_ns: f64) -> Value<'_> {
        self.total(unit_ns * self.count as f64)
    }

    /// Add it to the metrics.
    pub fn export(&self, to: &mut Exporter) {
        let via = self.request.via();
        let (of, name): Label<'_> =
            self.comm.as_ref().map_or(("call", &self.shown as _), |comm| ("comm", comm as _));
        let labels: [Label<'_>; 2] = [("via", &via), (of, name)];
        to.add(&CALLS, &labels, self.count);
        self.errors.iter().for_each(|errors| to.add(&FAILED, &labels, *errors));
        self.total_ns.iter().for_each(|ns| to.add(&TIME, &labels, *ns));
    }
}

impl Row for Counted {
    const TYPE: &'static str = "row";
    const FIELDS: &'static [Field<Self>] = &[
        Field::new("time", Kind::Time, "The interval's end", |r: &Self| Value::Time(r.time)),
        Field::new("interval_s", Kind::Float, "The interval's length in seconds", |r: &Self| {
            Value::Float(r.interval_s, 3)
        }),
        Field::table_only("SYSCALL", 0, "Name, and of whom if not of a 64-bit caller", |r: &Self| {
            Value::Text(&r.shown)
        }),
        Field::new("syscall", Kind::Text, "Name of the call or operation, if known", |r: &Self| {
            r.name.as_deref().into()
        })
        .nullable(),
        Field::new("number", Kind::Int, "Its number, if it has one", |r: &Self| r.request.number().into())
            .nullable(),
        Field::new("abi", Kind::Text, "Of which callers: 64-bit, 32-bit or x32", |r: &Self| {
            r.request.abi().into()
        })
        .nullable(),
        Field::new("pid", Kind::Uint, "With -P: the process", |r: &Self| r.request.pid().into())
            .nullable()
            .column("PID", 0),
        Field::new("comm", Kind::Bytes, "With -P: its name", |r: &Self| r.comm.as_deref().into())
            .nullable()
            .column("COMM", 0),
        Field::new("via", Kind::Text, "syscall; or io_uring, of operations that it does", |r: &Self| {
            r.request.via().into()
        })
        .column("VIA", 0),
        Field::new("count", Kind::Uint, "Calls that ended in the interval", |r: &Self| r.count.into())
            .column("COUNT", 0),
        Field::new("errors", Kind::Uint, "Without -x and -e: how many failed", |r: &Self| r.errors.into())
            .nullable()
            .column("ERRORS", 0),
        Field::new("total_us", Kind::Float, "With -L: sum of their times", |r: &Self| r.total(1e3))
            .nullable()
            .column("TOTAL(us)", 0),
        Field::new("mean_us", Kind::Float, "With -L: mean of their times", |r: &Self| r.mean(1e3))
            .nullable()
            .column("MEAN(us)", 0),
        Field::table_only("TOTAL(ms)", 0, "The sum with -m", |r: &Self| r.total(1e6)),
        Field::table_only("MEAN(ms)", 0, "The mean with -m", |r: &Self| r.mean(1e6)),
    ];
}
