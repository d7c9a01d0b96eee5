// SPDX-License-Identifier: Apache-2.0 OR MIT
//! offcputime: the time that threads spend off the CPU, by stack, as libbpf-tools' and bcc's offcputime do.

use std::mem::MaybeUninit;
use std::time::Duration;

use clap::Parser;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::maps;
use kscope::row::RowInfo;
use kscope::session;
use kscope::stack;
use kscope::stack::Meaning;
use kscope::stack::Stack;
use kscope::stack::StackOutput;
use kscope::stack::Stacks;
use kscope::tasks;
use kscope::time;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("offcputime");
kscope::stack_types!();

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
    #[arg(value_name = "DURATION", value_parser = cli::duration, conflicts_with = "duration")]
    time: Option<Duration>,
    #[command(flatten)]
    stacks: StackOutput,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    common: Common,
}

impl Trace for Offcputime {
    const NAME: &'static str = "offcputime";
    const SUBSYSTEM: &'static str = "CPU";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Stack>()]
    }

    fn run(mut self) -> anyhow::Result<()> {
        self.common.duration = self.time.or(self.common.duration);
        let namer = self.stacks.namer()?;
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(OffcputimeSkelBuilder::default(), &mut storage, &self.common)?;
        let kernel = Kernel::new()?;
        let hooks = self.stacks.hooks(Hooks::new().without(&["flush"]));
        let taken = hooks.choose(open.open_object_mut(), &kernel)?;
        let task_storage = tasks::choose(open.open_object_mut(), &kernel, "starts", tasks::Of::Any(&taken))?;
        open.progs.flush.set_autoload(true);
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            kscope::set_stacks!(rodata, &self.stacks);
            rodata.task_storage = task_storage;
            rodata.sched_switch_state_second = !kernel.tracepoint_arg_is_pointer("sched_switch", 1);
            rodata.user_threads_only = self.user_threads_only;
            rodata.kernel_threads_only = self.kernel_threads_only;
            rodata.min_ns = self.min_block_time.saturating_mul(1000);
            rodata.max_ns = self.max_block_time.map_or(u64::MAX, |us| us.saturating_mul(1000));
            rodata.wanted_state = self.state.unwrap_or(-1);
        }
        drop(kernel);
        self.stacks.size_maps(open.open_object_mut())?;
        let mut skeleton = session::load(open)?;
        let files = self.stacks.create_files(&self.common)?;
        let mut flush = None;
        let attach = |object: &_| {
            flush = Some(session::Iterator::new(object, "flush")?);
            Ok(Vec::new())
        };
        let keep = &self.stacks.capabilities();
        let mut session =
            Session::start_with(Self::NAME, &self.common, skeleton.object(), &taken, keep, attach)?;
        let slots = stack_slots(&skeleton.maps.stack_slots)?;
        let stacks = Stacks::start(&self.stacks, namer, stack::Taken::InHook, slots)?;
        session.banner("Tracing time off the CPU; Ctrl-C ends it.");

        let bss = skeleton.maps.bss_data.as_deref_mut();
        let end = || {
            if let Some(bss) = bss {
                bss.ended_ns = time::monotonic_ns();
            }
        };
        let on_record = |record: &[u8], _: &mut _| Ok(stacks.record::<types::stack_head>(record)?);
        session.stream_following(&mut stacks.ends(end), &skeleton.maps.events, on_record)?;
        if self.common.dry_run {
            return Ok(session.finish()?);
        }
        let duration = session.elapsed();
        if let Some(flush) = flush {
            flush.run()?;
        }
        let counted = maps::entries(&skeleton.maps.stacks)?.iter().map(stack_count).collect();
        let named = stacks.named(counted, true)?;
        stack::print(session.out(), &named, &self.stacks, files, &MEANING, duration)?;
        Ok(session.finish()?)
    }
}
