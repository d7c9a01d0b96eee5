// SPDX-License-Identifier: Apache-2.0 OR MIT
//! profile: sample the stacks of the processors, as libbpf-tools' and bcc's profile do.

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
use kscope::perf;
use kscope::perf::CpuList;
use kscope::perf::Sampler;
use kscope::perf::Summary;
use kscope::row::RowInfo;
use kscope::session;
use kscope::stack;
use kscope::stack::Meaning;
use kscope::stack::Stack;
use kscope::stack::StackOutput;
use kscope::stack::Stacks;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

kscope::skeleton!("profile");
kscope::stack_types!();

kscope::tool!(Profile);

/// The option that gives more room.
const ROOM: &str = "--stack-storage-size";

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
    #[arg(value_name = "DURATION", value_parser = cli::duration, conflicts_with = "duration")]
    time: Option<Duration>,
    #[command(flatten)]
    stacks: StackOutput,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    common: Common,
}

impl Trace for Profile {
    const NAME: &'static str = "profile";
    const SUBSYSTEM: &'static str = "CPU";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Stack>(), RowInfo::of::<Summary>()]
    }

    fn run(mut self) -> anyhow::Result<()> {
        self.common.duration = self.time.or(self.common.duration);
        let cpus = perf::chosen_cpus(self.cpu.as_ref())?;
        let namer = self.stacks.namer()?;
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(ProfileSkelBuilder::default(), &mut storage, &self.common)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            kscope::set_stacks!(rodata, &self.stacks);
            rodata.include_idle = self.include_idle;
            // The tool's own samples are a part of the truth about a CPU.
            rodata.filter.own_tgid = u32::MAX;
        }
        self.stacks.size_maps(open.open_object_mut())?;
        let taken = self.stacks.hooks(Hooks::new()).choose(open.open_object_mut(), &Kernel::new()?)?;
        let skeleton = session::load(open)?;
        let sampler = Sampler::open(self.frequency, &cpus)?;
        let files = self.stacks.create_files(&self.common)?;
        let attach = |object: &_| sampler.attach(object);
        let keep = &self.stacks.capabilities();
        let mut session =
            Session::start_with(Self::NAME, &self.common, skeleton.object(), &taken, keep, attach)?;
        let slots = stack_slots(&skeleton.maps.stack_slots)?;
        let stacks = Stacks::start(&self.stacks, namer, stack::Taken::AtSample, slots)?;
        session.banner(&format!("Sampling at {} Hz; Ctrl-C ends it.", self.frequency));

        let on_record = |record: &[u8], _: &mut _| Ok(stacks.record::<types::stack_head>(record)?);
        session.stream_following(&mut stacks.ends(|| ()), &skeleton.maps.events, on_record)?;
        if self.common.dry_run {
            return Ok(session.finish()?);
        }
        let expected = sampler.expected()?;
        let duration = session.elapsed();
        let totals = skeleton.maps.bss_data.as_deref().map(|bss| bss.totals).unwrap_or_default();
        let mut summary = Summary::of(&sampler, totals.idle, totals.user, totals.kernel);
        summary.seconds = duration.as_secs_f64();
        summary.missed = expected.filter(|_| self.filter.is_empty()).map(|n| n.saturating_sub(summary.total));
        summary.uncounted = session.account()?.total_lost();

        let counted = maps::entries(&skeleton.maps.stacks)?.iter().map(stack_count).collect();
        let meaning = Meaning {
            title: "CPU profile",
            counted: "samples",
            timed: None,
            period: Some(Duration::from_nanos(1_000_000_000 / self.frequency)),
        };
        let out = session.out();
        stack::print(out, &stacks.named(counted, false)?, &self.stacks, files, &meaning, duration)?;
        if out.is_json() {
            out.json_row(&summary)?;
        } else if self.stacks.folded {
            summary.text(ROOM).lines().for_each(|line| session.banner(line));
        } else {
            out.text(&summary.text(ROOM))?;
        }
        Ok(session.finish()?)
    }
}
