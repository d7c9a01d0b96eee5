// SPDX-License-Identifier: Apache-2.0 OR MIT
//! sampleip: count where the instruction pointer is, as the kernel's samples/bpf/sampleip does.

use std::time::Duration;

use kscope::command;
use kscope::intervals::Tables;
use kscope::options;
use kscope::options::Common;
use kscope::options::Filter;
use kscope::options::Metrics;
use kscope::perf;
use kscope::perf::CpuList;
use kscope::perf::Sampler;
use kscope::prelude::*;
use kscope::symbols;
use names::Exported;
use names::Samples;
use row::Sampled;

mod names;
mod row;

kscope::bpf!("sampleip");
use bpf::types::sampleip_key as Key;
use bpf::types::sampleip_value as Entry;

kscope::tool!(Sampleip);

const DEFAULT_DURATION: Duration = Duration::from_secs(5);

/// Which instructions are the processors executing?
#[derive(Parser, Debug)]
struct Sampleip {
    /// Samples a second on each CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u64).range(1..))]
    frequency: u64,
    /// Sample these CPUs only: a list as in 0-3,5
    #[arg(short = 'C', long = "cpu", value_name = "CPUS")]
    cpu: Option<CpuList>,
    /// List addresses of user space, rather than of the kernel
    #[arg(short = 'U', long)]
    user: bool,
    /// List addresses of the idle task too
    #[arg(short = 'I', long = "include-idle")]
    idle: bool,
    /// List each function once, with the samples of all its addresses
    #[arg(short = 's', long)]
    by_symbol: bool,
    /// How many different addresses can be counted
    #[arg(long, value_name = "COUNT", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    entries: u32,
    /// How long to sample: seconds, or with a unit as in 500ms, 10s [default: 5; with
    /// --metrics-listen until Ctrl-C, with a command until it ends]
    #[arg(value_name = "DURATION", value_parser = options::duration, conflicts_with = "duration")]
    time: Option<Duration>,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    common: Common,
}

impl Tool for Sampleip {
    const INFO: Info = Info::new("sampleip", Subsystem::Cpu);
    type Bpf = bpf::Object;
    type Rows = (Sampled, perf::Summary);

    fn shared(&self) -> Shared<'_> {
        Shared::of(&self.common).filter(&self.filter).metrics(&self.metrics).names(self.user)
    }

    fn begin(&mut self) -> anyhow::Result<Begin> {
        let is_endless = self.metrics.is_listening() || command::is_given();
        let default = (!is_endless).then_some(DEFAULT_DURATION);
        self.common.duration = self.time.or(self.common.duration).or(default);
        perf::chosen_cpus(self.cpu.as_ref())?;
        Ok(Begin::Trace)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.show(&[Sampled::ADDR], !self.by_symbol);
        bpf.show(&[Sampled::PID, Sampled::COMM], self.user);
        bpf.keep(&symbols::capabilities(!self.user, self.user));
        bpf.turns_entries(self.entries)?;
        let rodata = bpf.rodata();
        rodata.list_kernel = !self.user;
        rodata.list_user = self.user;
        rodata.list_idle = self.idle;
        // The tool's own samples are a part of the truth about a CPU.
        rodata.filter.own_tgid = u32::MAX;
        let mut namer = bpf.namer();
        let sampler = Sampler::open(self.frequency, &perf::chosen_cpus(self.cpu.as_ref())?)?;
        let mut tracing = bpf.attach_with(Hooks::new(), |object| sampler.attach(object))?;
        let time = self.common.duration.map(|time| format!(" for {time:?}, or")).unwrap_or_default();
        tracing.banner(&format!("Sampling at {} Hz{time} until Ctrl-C.", self.frequency));

        let mut sampled = None;
        let mut exported = Exported::default();
        let mut tables = Tables::new(self.entries);
        tracing.intervals(|from, out| {
            let entries = from.turns::<Key, Entry>()?;
            let totals = from.bss().map(|bss| bss.totals).unwrap_or_default();
            let totals = [totals.idle, totals.user, totals.kernel];
            out.export(|to| exported.export(to, &mut namer, &entries, totals));
            let samples = |(key, entry): &(Key, Entry)| (names::address_of(key), Samples::of(entry));
            out.unkept(tables.add(entries.iter().map(samples), |samples| samples.count));
            if out.is_due() {
                sampled = Some((tables.take().1, totals, sampler.expected()?));
            }
            Ok(())
        })?;
        if let Some((entries, totals, expected)) = sampled {
            let summary = tracing.summary(&sampler, totals, tracing.elapsed(), expected)?;
            let rows = names::rows_of(&mut namer, entries, self.by_symbol);
            let rows = if self.by_symbol { names::fold(rows) } else { rows };
            let out = tracing.out();
            out.table(&rows)?;
            if out.is_json() {
                out.json_row(&summary)?;
            } else {
                out.text(&format!("\n{}", summary.text("--entries")))?;
            }
        }
        tracing.finish()
    }
}
