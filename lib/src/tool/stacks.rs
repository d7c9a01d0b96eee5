// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver of tools that count by stacks, and of those whose events have stacks.

use std::time::Duration;

use plain::Plain;

use super::tracing::Done;
use super::tracing::Tracing;
use super::tracing::on_event;
use crate::Error;
use crate::Out;
use crate::bpf::Bpf;
use crate::follow::Ending;
use crate::maps::Map;
use crate::perf::Sampler;
use crate::perf::Summary;
use crate::row::Row;
use crate::stack;
use crate::stack::EventFrames;
use crate::stack::HasStacks;
use crate::stack::Meaning;
use crate::stack::Stacks;
use crate::stack::Taken;

/// Samples in the idle task, in user space and in the kernel.
pub type Totals<B> = fn(&<B as Bpf>::Bss) -> [u64; 3];

impl<B: HasStacks> Tracing<'_, B> {
    fn start_stacks(&mut self, taken: Taken) -> Result<Option<Stacks>, Error> {
        let namer = self.plan.take_namer();
        let slots = self.map(Map("stack_slots"))?;
        let Some(options) = self.plan.wanted_stacks() else { return Ok(None) };
        Stacks::start::<B>(options, namer, taken, slots).map(Some)
    }

    /// Take stacks until the end, and print what was counted by them. `at_end` is called just before the programs are
    /// detached. Of samples, `totals` are those in the idle task, in user space and in the kernel.
    ///
    /// # Errors
    /// The kernel's, or those of the output.
    pub fn stacks(
        mut self,
        meaning: &Meaning,
        at_end: impl FnOnce(&mut B::Bss),
        sampled: Option<(&Sampler, Totals<B>)>,
    ) -> anyhow::Result<Done> {
        let taken = if sampled.is_some() { Taken::AtSample } else { Taken::InHook };
        let stacks = self.start_stacks(taken)?.ok_or_else(|| Error::Mistake("no stacks are taken".into()))?;
        let ring = self.map(Map("events"))?;
        let Self { session, bss, flush, .. } = &mut self;
        let before = || {
            if let Some(bss) = bss {
                at_end(bss);
            }
        };
        let mut ending = Ending { follow: &mut stacks.ends(), before: Some(before), flush: flush.take() };
        session.stream(&mut ending, &ring, |record, _| Ok(stacks.record::<B>(record)?))?;
        if self.plan.common.dry_run {
            return self.finish();
        }
        let time = self.session.elapsed();
        let summary = match (&sampled, self.bss()) {
            (Some((sampler, totals)), Some(bss)) => {
                Some(self.summary(sampler, totals(bss), time, sampler.expected()?)?)
            }
            _ => None,
        };
        let entries = self.entries::<B::Key, B::Value>(Map("stacks"))?;
        let counted = entries.iter().map(|(key, value)| B::counted(key, value)).collect();
        let named = stacks.named(counted, meaning.timed.is_some())?;
        let Self { session, plan, files, .. } = &mut self;
        let Some(options) = &plan.stacks else { return self.finish() };
        let out = session.out();
        stack::print(out, &named, options, std::mem::take(files), meaning, time)?;
        if let Some(summary) = summary {
            if out.is_json() {
                out.json_row(&summary)?;
            } else if options.folded {
                summary.text(stack::ROOM).lines().for_each(|line| session.banner(line));
            } else {
                out.text(&summary.text(stack::ROOM))?;
            }
        }
        self.finish()
    }

    /// [`Tracing::stream`] of events that have the ids of a kernel stack and of a user stack, which `ids` tells.
    ///
    /// # Errors
    /// Those of [`Tracing::stream`].
    pub fn stream_with_stacks<R: Row, E: Plain>(
        mut self,
        ids: fn(&E) -> [u64; 2],
        mut each: impl FnMut(&E, Option<&EventFrames>, &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        let Some(stacks) = self.start_stacks(Taken::InHook)? else {
            return self.stream::<R, E>(|event, _, out| each(event, None, out));
        };
        let mut print = on_event(|event: &E, _, out| {
            let [kernel, user] = ids(event);
            let frames = stacks.of_event(kernel, user)?;
            let lines = if out.is_json() { Vec::new() } else { frames.lines() };
            each(event, Some(&frames), out)?;
            Ok(lines.iter().try_for_each(|line| out.text(line))?)
        });
        let ring = self.map(Map("events"))?;
        self.session.out().header::<R>()?;
        self.session.stream(&mut stacks.ends(), &ring, |record, out| {
            if stack::is_stack(record) { Ok(stacks.record::<B>(record)?) } else { print(record, out) }
        })?;
        self.finish()
    }
}

impl<B: Bpf> Tracing<'_, B> {
    /// What was sampled in all: in the idle task, in user space and in the kernel. With a filter, nobody knows how many
    /// samples there should be.
    ///
    /// # Errors
    /// The kernel's.
    pub fn summary(
        &self,
        sampler: &Sampler,
        totals: [u64; 3],
        time: Duration,
        expected: Option<u64>,
    ) -> Result<Summary, Error> {
        let uncounted = self.session.account()?.total_lost();
        let expected = expected.filter(|_| !self.plan.is_filtered);
        Ok(Summary::of(sampler, totals, time, expected, uncounted))
    }
}
