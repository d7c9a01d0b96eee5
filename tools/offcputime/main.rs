// SPDX-License-Identifier: Apache-2.0 OR MIT
//! offcputime: the time that threads spend off the CPU, by stack, as libbpf-tools' and bcc's offcputime do.

use std::time::Duration;

use kscope::options;
use kscope::options::Common;
use kscope::options::Filter;
use kscope::prelude::*;
use kscope::stack::Meaning;
use kscope::stack::Stack;
use kscope::stack::StackOutput;
use kscope::time;

kscope::bpf!("offcputime");
use bpf::hooks;
use bpf::maps;

kscope::tool!(Offcputime);

const MEANING: Meaning =
    Meaning { title: "Off-CPU time", counted: "intervals", timed: Some("off_cpu"), period: None };

/// Where do threads wait, and for how long?
#[derive(Parser, Debug)]
#[command(mut_arg("tid", |a| a.short('t')))]
struct Offcputime {
    /// Trace threads of user space only
    #[arg(short, long, conflicts_with = "kernel_threads_only")]
    user_threads_only: bool,
    /// Trace kernel threads only
    #[arg(short, long)]
    kernel_threads_only: bool,
    /// Leave out times below this, in microseconds
    #[arg(short, long, value_name = "US", default_value_t = 0)]
    min_block_time: u64,
    /// Leave out times above this, in microseconds
    #[arg(short = 'M', long, value_name = "US")]
    max_block_time: Option<u64>,
    /// Only of threads that leave in one of these states, a bit mask: 1 sleeps, 2 sleeps uninterruptibly; 0
    /// could run on
    #[arg(long, value_name = "STATE", value_parser = clap::value_parser!(i64).range(0..=0xffff))]
    state: Option<i64>,
    /// Trace for so long, in seconds; without it, until Ctrl-C
    #[arg(value_name = "DURATION", value_parser = options::duration, conflicts_with = "duration")]
    time: Option<Duration>,
    #[command(flatten)]
    stacks: StackOutput,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    common: Common,
}

impl Tool for Offcputime {
    const INFO: Info = Info::new("offcputime", Subsystem::Cpu);
    type Bpf = bpf::Object;
    type Rows = (Stack,);

    fn shared(&self) -> Shared<'_> {
        Shared::of(&self.common).filter(&self.filter).stacks(&self.stacks)
    }

    fn begin(&mut self) -> anyhow::Result<Begin> {
        self.common.duration = self.time.or(self.common.duration);
        Ok(Begin::Trace)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.task_values(maps::STARTS_HASH, Values::Any)?;
        bpf.flush_at_end(hooks::FLUSH);
        let rodata = bpf.rodata();
        rodata.user_threads_only = self.user_threads_only;
        rodata.kernel_threads_only = self.kernel_threads_only;
        rodata.min_ns = self.min_block_time.saturating_mul(1000);
        rodata.max_ns = self.max_block_time.map_or(u64::MAX, |us| us.saturating_mul(1000));
        rodata.wanted_state = self.state.unwrap_or(-1);
        let tracing = bpf.attach(Hooks::new().without(&[hooks::FLUSH]))?;
        tracing.banner("Tracing time off the CPU; Ctrl-C ends it.");
        tracing.stacks(&MEANING, |bss| bss.ended_ns = time::monotonic_ns(), None)
    }
}
