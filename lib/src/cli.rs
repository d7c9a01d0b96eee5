// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bundles of options that tools have, and what is the same in every command line.

use std::ffi::OsString;

use clap::Arg;
use clap::ArgAction;
use clap::Args;
use clap::Command;

use crate::options::Buffer;
use crate::options::CgroupColumn;
use crate::options::Common;
use crate::options::FILTERS;
use crate::options::Filter;
use crate::options::Interval;
use crate::options::Metrics;
use crate::options::UidColumn;
use crate::pinned::PinnedMaps;
use crate::stack::EventStacks;
use crate::stack::StackOutput;

/// The argument behind `--`, of every tool with [`Filter`].
pub(crate) const COMMAND: &str = "command";

/// What every tool has that prints events.
#[derive(Args, Clone, Debug)]
pub struct Snoop {
    #[command(flatten)]
    pub(crate) cgroup: CgroupColumn,
    /// Which tasks are traced.
    #[command(flatten)]
    pub filter: Filter,
    #[command(flatten)]
    pub(crate) buffer: Buffer,
    /// What every tool has.
    #[command(flatten)]
    pub common: Common,
}

/// What every tool has that sums up by intervals, and filters by tasks.
#[derive(Args, Clone, Debug)]
pub struct Summary {
    /// How often.
    #[command(flatten)]
    pub interval: Interval,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) metrics: Metrics,
    /// What every tool has.
    #[command(flatten)]
    pub common: Common,
}

/// Those of a tool's arguments that the library acts on.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a> {
    pub(crate) common: &'a Common,
    pub(crate) filter: Option<&'a Filter>,
    pub(crate) buffer: Option<&'a Buffer>,
    pub(crate) interval: Option<&'a Interval>,
    pub(crate) metrics: Option<&'a Metrics>,
    pub(crate) stacks: Option<&'a StackOutput>,
    pub(crate) event_stacks: Option<&'a EventStacks>,
    pub(crate) pinned: Option<&'a PinnedMaps>,
    pub(crate) print_uid: bool,
    pub(crate) print_cgroup: bool,
    pub(crate) csv: bool,
    pub(crate) names: bool,
}

impl<'a> Shared<'a> {
    /// Of a tool that has what every tool has.
    pub fn of(common: &'a Common) -> Self {
        Self {
            common,
            filter: None,
            buffer: None,
            interval: None,
            metrics: None,
            stacks: None,
            event_stacks: None,
            pinned: None,
            print_uid: false,
            print_cgroup: false,
            csv: false,
            names: false,
        }
    }

    /// And filters by tasks.
    pub fn filter(self, filter: &'a Filter) -> Self {
        Self { filter: Some(filter), ..self }
    }

    /// And sums up by intervals.
    pub fn interval(self, interval: &'a Interval) -> Self {
        Self { interval: Some(interval), ..self }
    }

    /// And exports metrics.
    pub fn metrics(self, metrics: &'a Metrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// And counts by stacks.
    pub fn stacks(self, stacks: &'a StackOutput) -> Self {
        Self { stacks: Some(stacks), ..self }
    }

    /// And prints stacks of events.
    pub fn event_stacks(self, stacks: &'a EventStacks) -> Self {
        Self { event_stacks: Some(stacks), ..self }
    }

    /// And filters by pinned maps.
    pub fn pinned(self, pinned: &'a PinnedMaps) -> Self {
        Self { pinned: Some(pinned), ..self }
    }

    /// And has a column for the user.
    pub fn uid(self, uid: &UidColumn) -> Self {
        Self { print_uid: uid.print_uid, ..self }
    }

    /// And looks for names in the files of processes, if so.
    pub fn names(self, names: bool) -> Self {
        Self { names, ..self }
    }

    /// And can print comma-separated values.
    pub fn csv(self, csv: bool) -> Self {
        Self { csv, ..self }
    }
}

impl<'a> From<&'a Snoop> for Shared<'a> {
    fn from(snoop: &'a Snoop) -> Self {
        let Snoop { cgroup, filter, buffer, common } = snoop;
        let print_cgroup = cgroup.print_cgroup;
        Self { filter: Some(filter), buffer: Some(buffer), print_cgroup, ..Self::of(common) }
    }
}

impl<'a> From<&'a Summary> for Shared<'a> {
    fn from(summary: &'a Summary) -> Self {
        let Summary { interval, filter, metrics, common } = summary;
        Self { filter: Some(filter), interval: Some(interval), metrics: Some(metrics), ..Self::of(common) }
    }
}

/// Bring a tool's command to the suite's form: the help flags of the peers too, and bounded lists.
pub(crate) fn prepare(command: Command) -> Command {
    let filters = command.get_groups().any(|group| group.get_id() == "Filter");
    let traced = filters.then(|| {
        Arg::new(COMMAND)
            .value_name("COMMAND")
            .value_parser(clap::value_parser!(OsString))
            .num_args(1..)
            .last(true)
            .help_heading(FILTERS)
            .help("Start this command, trace it and what it starts until it ends, and return its exit status")
    });
    command
        .args(traced)
        .disable_help_flag(true)
        .arg(
            Arg::new("help")
                .short('h')
                .short_alias('?')
                .long("help")
                .action(ArgAction::Help)
                .help("Print this help")
                .help_heading("Options of every kscope tool"),
        )
        .disable_version_flag(true)
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::Version)
                .help("Print the version")
                .help_heading("Options of every kscope tool"),
        )
        .max_term_width(100)
}
