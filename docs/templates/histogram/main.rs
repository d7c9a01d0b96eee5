// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname: summarise how long processes live.

use kscope::hist::Hist;
use kscope::hist::HistArgs;
use kscope::hist::IntervalEnd;
use kscope::hist::Measured;
use kscope::intervals::Intervals;
use kscope::metrics::Family;
use kscope::prelude::*;
use kscope::tool::Histograms;
use kscope::tool::Measures;

kscope::bpf!("toolname");

kscope::tool!(Toolname);

/// How long do processes live?
#[derive(Parser, Debug)]
struct Toolname {
    #[command(flatten)]
    hist: HistArgs,
    #[command(flatten)]
    shared: Summary,
}

/// A histogram of one interval.
#[derive(Row)]
#[row(type = "histogram")]
struct Lives {
    #[row(flatten)]
    end: IntervalEnd,
    #[row(flatten, helps("count" = "Processes that ended in the interval"))]
    lives: Measured,
}

struct Ends(Intervals<(), Hist>);

impl Histograms for Ends {
    type Bpf = bpf::Object;
    type Key = ();
    type With = ();
    type Row = Lives;

    const OF: &'static str = "ends of processes";
    const METRIC: Family = Family::histogram("life", "How long processes lived");

    fn take(&mut self, from: &mut Source<'_, Self::Bpf>) -> Result<Measures<(), ()>, Error> {
        let total = from.bss().map(|bss| bss.total).unwrap_or_default();
        let now = [((), Hist::new(&total.slots, total.sum_ns))].into();
        Ok(self.0.next(now).1.into_iter().map(|(_, hist)| ((), (hist, ()))).collect())
    }

    fn labels(&mut self, (): &(), (): &()) -> Vec<(&'static str, Vec<u8>)> {
        Vec::new()
    }

    fn shows_empty(&self, (): &(), _: bool) -> bool {
        true
    }

    fn row(&mut self, end: IntervalEnd, (): (), (): (), lives: Measured) -> (Option<String>, Lives) {
        (None, Lives { end, lives })
    }
}

impl Tool for Toolname {
    const INFO: Info = Info::new("toolname", Subsystem::Processes);
    type Bpf = bpf::Object;
    type Rows = (Lives,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        let unit = self.hist.unit();
        bpf.rodata().unit_ns = unit.ns;
        let tracing = bpf.attach(Hooks::new())?;
        tracing.banner("Tracing ends of processes, until Ctrl-C.");
        tracing.histograms(Ends(Intervals::new()), unit, 1)
    }
}
