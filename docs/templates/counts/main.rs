// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname: count the ends of processes by their name.

use std::cmp::Reverse;

use kscope::escape::c_bytes;
use kscope::hist::IntervalEnd;
use kscope::metrics::Family;
use kscope::prelude::*;

kscope::bpf!("toolname");
use bpf::types::toolname_key as Key;
use bpf::types::toolname_value as Ends;

kscope::growing!(Ends: ends);

kscope::tool!(Toolname);

const ENDS: Family = Family::counter("ends", "Processes that have ended");
/// How many names a summary has at most.
const NAMES_MAX: u32 = 8192;

/// Which programs end most often?
#[derive(Parser, Debug)]
struct Toolname {
    #[command(flatten)]
    shared: Summary,
}

/// The ends of one interval by name.
#[derive(Row)]
#[row(type = "row", table = "COMM COUNT")]
struct Count {
    #[row(flatten)]
    end: IntervalEnd,
    /// Name of the processes
    #[row(column = "COMM")]
    comm: Comm,
    /// How many ended in the interval
    #[row(column = "COUNT")]
    count: u64,
}

impl Tool for Toolname {
    const INFO: Info = Info::new("toolname", Subsystem::Processes);
    type Bpf = bpf::Object;
    type Rows = (Count,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared)
    }

    fn run(self, bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        let tracing = bpf.attach(Hooks::new())?;
        tracing.banner("Counting ends of processes, until Ctrl-C.");
        tracing.counts(
            "ends of processes",
            NAMES_MAX,
            |from| Ok(from.turns::<Key, Ends>()?.into_iter().map(|(key, ends)| (key.comm, ends)).collect()),
            |ends: &Ends| ends.ends,
            |to, new| {
                for (comm, ends) in new {
                    to.add(&ENDS, &[("comm", &c_bytes(comm))], ends.ends);
                }
            },
            |end, table, _| {
                let row = |(comm, ends): ([u8; 16], Ends)| Count { end, comm: Comm(comm), count: ends.ends };
                let mut rows: Vec<Count> = table.into_iter().map(row).collect();
                rows.sort_by_key(|row| Reverse(row.count));
                rows
            },
        )
    }
}
