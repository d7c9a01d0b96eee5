// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool at work: load, attach, one loop, and the account of what was lost.

mod stream;
mod summaries;
mod watch;

use std::os::fd::AsFd as _;
use std::time::Duration;
use std::time::Instant;

use ::caps::Capability;
use libbpf_rs::Link;
use libbpf_rs::Object;
use serde_json::json;

use crate::Error;
pub use crate::account::Account;
use crate::account::NO_ROOM;
use crate::account::list;
use crate::account::nonzero;
use crate::caps;
use crate::cgroup_paths;
use crate::command;
use crate::grace::GracePeriod;
use crate::hooks::Taken;
use crate::iterator::ITERATOR;
use crate::json::SCHEMA_VERSION;
use crate::kernel;
use crate::kernel_types;
use crate::libbpf::bpf_error;
use crate::links;
use crate::losses::Counters;
use crate::losses::Losses;
use crate::memory;
use crate::metrics::Exporter;
use crate::options::Common;
use crate::out::Out;
use crate::sandbox;
use crate::sandbox::Needs;
use crate::say;
use crate::session::watch::Watch;
use crate::targets::Targets;
use crate::time::Clock;
use crate::time::Wall;
use crate::uprobe;

/// A tool at work.
pub struct Session {
    out: Out,
    links: Vec<Link>,
    grace: GracePeriod,
    watch: Watch,
    losses: Losses,
    began: Instant,
    strict: bool,
    /// Until nothing else is done.
    sandbox: Option<Needs>,
}

impl Session {
    /// Attach the loaded programs, with `attach` those that libbpf can't attach by their section's name; keep `keep` of
    /// the capabilities, and print the header.
    ///
    /// # Errors
    /// The kernel's, those of `attach`, or that of the output: also that there is no room for the header.
    pub fn start(
        tool: &'static str,
        common: &Common,
        object: &Object,
        taken: &Taken,
        keep: &[Capability],
        attach: impl FnOnce(&Object) -> Result<Vec<Link>, Error>,
    ) -> Result<Self, Error> {
        let counters = Counters::of(object)?;
        // Before the first event can come, which no time may precede.
        let clock = Clock::new();
        let mut targets = Targets::take(object)?;
        let grace = GracePeriod::new()?;
        let mut links = attach(object)?;
        let mut programs = Vec::new();
        for program in object.progs_mut().filter(|program| program.autoload()) {
            let name = program.name().to_string_lossy().into_owned();
            let fd = program.as_fd().try_clone_to_owned();
            programs.push((name.clone(), fd.map_err(|error| Error::System { what: name.clone(), error })?));
            // Perf events are one a CPU (lib/src/perf.rs), and functions are many (lib/src/uprobe.rs).
            // An iterator runs when it is read.
            let section = program.section();
            let is_iterator = section.to_string_lossy().starts_with(ITERATOR);
            if section != "perf_event" && !uprobe::is_section(section) && !is_iterator {
                let link = match taken.sections.get(&name).and_then(|section| section.split_once('/')) {
                    Some((kind @ ("kprobe" | "kretprobe"), function)) => {
                        program.attach_kprobe(kind == "kretprobe", function)
                    }
                    _ if kernel_types::is_by_id(&program) => program.attach_trace(),
                    _ => program.attach(),
                };
                links.push(link.map_err(bpf_error(format!("attaching {name}")))?);
            }
        }
        cgroup_paths::look_at_cgroups();
        let command = if common.dry_run { None } else { command::fork()? };
        caps::give_up(keep, || counters.as_ref().is_none_or(|counters| counters.read().is_ok()))?;
        memory::give_back_heap();

        let mut out = Out::new(tool, common, clock)?;
        targets.say_notes(tool);
        taken.notes.iter().for_each(|note| say(&format!("{tool}: note: {note}")));
        if common.verbose {
            taken.hooks.iter().for_each(|(hook, way)| say(&format!("{tool}: hook {hook}: {way}")));
        }
        if common.json {
            out.object(&json!({
                "type": "header", "tool": tool, "version": env!("CARGO_PKG_VERSION"), "schema": SCHEMA_VERSION,
                "host": kernel::host(), "kernel": kernel::release(), "time": Wall::now().rfc3339(),
                "hooks": taken.hooks, "notes": taken.notes,
            }))?;
            // Later, a full disk ends nothing.
            out.sink.try_flush().map_err(Error::output)?;
        }
        let began = Instant::now();
        let losses = Losses::new(tool, counters, programs, out.sink.state())?;
        let needs = Needs { attaches: keep.contains(&Capability::CAP_BPF), signals: command.is_some() };
        let watch = Watch::new(tool, common, began, command, targets)?;
        let sandbox = (!common.dry_run).then_some(needs);
        Ok(Self { out, links, grace, watch, losses, began, strict: common.strict, sandbox })
    }

    /// Refuse all that the tool does not do from now on.
    fn confine(&mut self) -> Result<(), Error> {
        let Some(needs) = self.sandbox.take() else { return Ok(()) };
        let error = |error| Error::System { what: "restricting system calls".into(), error };
        sandbox::only_trace(needs).map_err(error)
    }

    /// Export metrics from now on: those that the tool's [`Session::intervals`] gives to [`Out::export`], and the
    /// account of events.
    ///
    /// # Errors
    /// Those of the output.
    pub fn export(&mut self, exporter: Option<Exporter>) -> Result<(), Error> {
        let Some(mut exporter) = exporter else { return Ok(()) };
        exporter.serve()?;
        if let Some(wake) = exporter.wake() {
            self.watch.metrics(wake)?;
        }
        self.out.exporter = Some(exporter);
        self.publish()?;
        self.out.exporter.as_mut().map_or(Ok(()), Exporter::check_start)
    }

    /// Hand the metrics over to those who ask for them.
    fn publish(&mut self) -> Result<(), Error> {
        if self.out.exporter.is_none() {
            return Ok(());
        }
        let account = self.losses.account_of_metrics()?;
        let misses = self.losses.recursion_misses();
        self.out.export(|exporter| exporter.publish(&account, &misses));
        Ok(())
    }

    /// Where rows go.
    pub fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    /// How long the tool has been tracing.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Tell the user on stderr what goes on, where nothing is printed for a while.
    pub fn banner(&self, text: &str) {
        if !self.out.is_json() {
            say(text);
        }
    }

    /// The account so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn account(&self) -> Result<Account, Error> {
        self.losses.account(&self.out)
    }

    /// Print the footer and what was lost.
    ///
    /// # Errors
    /// [`Error::Lost`] with `--strict`, [`Error::Incomplete`], or that of the output.
    pub fn finish(mut self) -> Result<(), Error> {
        links::end(&mut self.links, &self.grace)?;
        self.out.sink.flush_at_end()?;
        let account = self.losses.account(&self.out)?;
        let lost = account.total_lost();
        let misses = self.losses.recursion_misses();
        if self.out.is_json() {
            // What room there is may do for the footer.
            if !self.out.sink.is_full() {
                self.losses.tell_of(&mut self.out, &account)?;
            }
            let (printed, filtered, found) = self.out.counts();
            self.out.object(&json!({
                "type": "footer", "time": Wall::now().rfc3339(), "generated": account.generated + found,
                "events": printed, "filtered": filtered, "lost": lost,
                "lost_by_cause": nonzero(&account.lost), "dropped_by_cause": nonzero(&account.dropped),
                "stacks_by_cause": nonzero(&account.stacks), "recursion_misses": misses,
            }))?;
        }
        self.out.sink.flush_at_end()?;
        self.losses.end_reports();
        let tool = self.losses.tool();
        if lost > 0 {
            say(&format!("{tool}: {lost} events lost: {}", list(&account.lost)));
        }
        if account.dropped.values().any(|n| *n > 0) {
            say(&format!("{tool}: measurements dropped: {}", list(&account.dropped)));
        }
        if account.stacks.values().any(|n| *n > 0) {
            say(&format!("{tool}: events without a stack or with a part of it: {}", list(&account.stacks)));
        }
        for (program, n) in misses {
            say(&format!("{tool}: the kernel left out {n} runs of {program}, which was running already"));
        }
        let lost = lost + account.stacks.get(NO_ROOM).copied().unwrap_or_default();
        if self.strict && lost > 0 {
            return Err(Error::Lost(lost));
        }
        self.out.take_failure()?;
        self.out.exporter.as_mut().map_or(Ok(()), Exporter::check_end)?;
        match self.out.sink.unwritten_lines() {
            0 => Ok(()),
            lines => Err(Error::Incomplete(lines)),
        }
    }
}
