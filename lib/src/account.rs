// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The account of events: how many there were, and what became of them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Of the causes for which an event has no stack, the one that is a loss.
pub(crate) const NO_ROOM: &str = "no_room";
/// Measurements that user space knows not to have been made, by cause.
static DROPPED: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Count one in the footer's `dropped_by_cause`.
pub(crate) fn count_dropped(cause: &'static str) {
    count(&DROPPED, cause);
}

fn count(counts: &Mutex<BTreeMap<&'static str, u64>>, cause: &'static str) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(cause).or_default();
    *count = count.saturating_add(1);
}

/// Files of stacks' frames that could not be read for their names, by cause.
static STACKS: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());

/// Count one in the footer's `stacks_by_cause`.
pub(crate) fn count_stack(cause: &'static str) {
    count(&STACKS, cause);
}

/// How many events there were and what became of them.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Events that the programs saw and that passed their filters.
    pub generated: u64,
    /// Events that happened and are not shown, by cause.
    pub lost: BTreeMap<String, u64>,
    /// Measurements not made because the number would be false, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// Events that are shown without a stack, or with a part of it, by cause.
    pub stacks: BTreeMap<String, u64>,
}

impl Account {
    /// Add a cause that no program counts.
    pub(crate) fn add_lost(&mut self, cause: &str, events: u64) {
        if events > 0 {
            self.lost.insert(cause.into(), events);
        }
    }

    /// Add what the tool itself has counted: [`count_dropped`] and [`count_stack`].
    pub(crate) fn add_counted(&mut self) {
        for (counts, to) in [(&DROPPED, &mut self.dropped), (&STACKS, &mut self.stacks)] {
            let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            to.extend(counts.iter().map(|(cause, n)| (String::from(*cause), *n)));
        }
    }

    /// All events lost.
    pub fn total_lost(&self) -> u64 {
        self.lost.values().sum()
    }
}

pub(crate) fn nonzero(counts: &BTreeMap<String, u64>) -> BTreeMap<&str, u64> {
    counts.iter().filter(|(_, n)| **n > 0).map(|(cause, n)| (cause.as_str(), *n)).collect()
}

pub(crate) fn list(counts: &BTreeMap<String, u64>) -> String {
    let one = |(cause, n): (&str, u64)| format!("{} {n}", cause.replace('_', " "));
    nonzero(counts).into_iter().map(one).collect::<Vec<_>>().join(", ")
}
