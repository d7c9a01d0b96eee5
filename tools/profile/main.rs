// SPDX-License-Identifier: Apache-2.0 OR MIT
//! profile: sample the stacks of the processors, as libbpf-tools' and bcc's profile do.

use std::time::Duration;

use kscope::options;
use kscope::options::Common;
use kscope::options::Filter;
use kscope::perf;
use kscope::perf::CpuList;
use kscope::perf::Sampler;
use kscope::prelude::*;
use kscope::stack::Meaning;
use kscope::stack::Stack;
use kscope::stack::StackOutput;

kscope::bpf!("profile");

kscope::tool!(Profile);

/// What are the processors doing, and who called it?
#[derive(Parser, Debug)]
#[command(mut_arg("tid", |a| a.short('L')), mut_arg("annotations", |a| a.short('a')))]
struct Profile {
    /// Samples a second on each CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 49, value_parser = clap::value_parser!(u64).range(1..))]
    frequency: u64,
    /// Sample these CPUs only: a list as in 0-3,5
    #[arg(short = 'C', long, value_name = "CPUS")]
    cpu: Option<CpuList>,
    /// Count the idle task too
    #[arg(short = 'I', long)]
    include_idle: bool,
    /// Sample for so long, in seconds; without it, until Ctrl-C
    #[arg(value_name = "DURATION", value_parser = options::duration, conflicts_with = "duration")]
    time: Option<Duration>,
    #[command(flatten)]
    stacks: StackOutput,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    common: Common,
}

impl Tool for Profile {
    const INFO: Info = Info::new("profile", Subsystem::Cpu);
    type Bpf = bpf::Object;
    type Rows = (Stack, perf::Summary);

    fn shared(&self) -> Shared<'_> {
        Shared::of(&self.common).filter(&self.filter).stacks(&self.stacks)
    }

    fn begin(&mut self) -> anyhow::Result<Begin> {
        self.common.duration = self.time.or(self.common.duration);
        perf::chosen_cpus(self.cpu.as_ref())?;
        Ok(Begin::Trace)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.rodata().include_idle = self.include_idle;
        // The tool's own samples are a part of the truth about a CPU.
        bpf.rodata().filter.own_tgid = u32::MAX;
        let sampler = Sampler::open(self.frequency, &perf::chosen_cpus(self.cpu.as_ref())?)?;
        let tracing = bpf.attach_with(Hooks::new(), |object| sampler.attach(object))?;
        tracing.banner(&format!("Sampling at {} Hz; Ctrl-C ends it.", self.frequency));
        let meaning = Meaning {
            title: "CPU profile",
            counted: "samples",
            timed: None,
            period: Some(Duration::from_nanos(1_000_000_000 / self.frequency)),
        };
        let totals = |bss: &bpf::types::bss| [bss.totals.idle, bss.totals.user, bss.totals.kernel];
        tracing.stacks(&meaning, |_| (), Some((&sampler, totals)))
    }
}
