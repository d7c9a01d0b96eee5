// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run of a tool goes by.

use crate::metrics::Exporter;
use crate::namer::Namer;
use crate::options::Common;
use crate::options::Interval;
use crate::row::Column;
use crate::stack::EventStacks;
use crate::stack::StackOutput;

/// What a run of a tool goes by, beside its object.
pub(crate) struct Plan {
    pub name: &'static str,
    pub common: Common,
    pub interval: Interval,
    pub is_filtered: bool,
    pub exporter: Option<Exporter>,
    pub stacks: Option<StackOutput>,
    pub event_stacks: Option<EventStacks>,
    pub namer: Namer,
    pub columns: Vec<Column>,
    pub widened: Vec<(&'static [&'static str], usize)>,
    pub csv: bool,
}

impl Plan {
    /// What names the frames of stacks, once.
    pub fn take_namer(&mut self) -> Namer {
        std::mem::replace(&mut self.namer, Namer::none())
    }

    /// The options of stacks, if there is any to take.
    pub fn wanted_stacks(&self) -> Option<&StackOutput> {
        let is_wanted = self.event_stacks.as_ref().is_none_or(EventStacks::any);
        self.stacks.as_ref().filter(|_| is_wanted)
    }
}
