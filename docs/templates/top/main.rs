// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname: show the processes of which the most threads end.

use std::cmp::Reverse;

use kscope::escape::c_bytes;
use kscope::hist::IntervalEnd;
use kscope::metrics::Family;
use kscope::prelude::*;

kscope::bpf!("toolname");
use bpf::types::toolname_key as Key;
use bpf::types::toolname_value as Ends;

kscope::tool!(Toolname);

const ENDS: Family = Family::counter("ends", "Threads that have ended");

/// Which processes have the most threads that end?
#[derive(Parser, Debug)]
#[command(mut_arg("interval", |a| a.default_value("1").help("Show the table each so many seconds")))]
#[command(mut_arg("count", |a| a.help("Stop after so many tables")))]
struct Toolname {
    /// Append each table to the last one, rather than refresh the screen; so it is anyway where stdout is no terminal
    #[arg(short = 'C', long = "noclear")]
    append: bool,
    /// Show so many rows at most [default: 20; with --json, all]
    #[arg(short, long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    rows: Option<u32>,
    #[command(flatten)]
    shared: Summary,
}

/// What a process did in an interval.
#[derive(Row)]
#[row(type = "row", table = "PID COMM ENDS")]
struct Usage {
    #[row(flatten)]
    end: IntervalEnd,
    /// Process id
    #[row(column = "PID")]
    pid: Pid,
    /// Name of the thread that ended first
    #[row(column = "COMM")]
    comm: Comm,
    /// Threads that ended in the interval
    #[row(column = "ENDS")]
    ends: u64,
}

impl Tool for Toolname {
    const INFO: Info = Info::new("toolname", Subsystem::Processes);
    type Bpf = bpf::Object;
    type Rows = (Usage,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared)
    }

    fn run(self, bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        let tracing = bpf.attach(Hooks::new())?;
        tracing.top(self.append, self.rows.map(|rows| rows as usize), |end, from, out| {
            let row = |(key, ends): &(Key, Ends)| {
                Usage { end, pid: Pid(key.tgid), comm: Comm(ends.comm), ends: ends.ends }
            };
            let mut rows: Vec<Usage> = from.turns()?.iter().map(row).collect();
            out.export(|to| {
                rows.iter().for_each(|row| to.add(&ENDS, &[("comm", &c_bytes(&row.comm.0))], row.ends));
            });
            rows.sort_by_key(|row| (Reverse(row.ends), row.pid.0));
            Ok(rows)
        })
    }
}
