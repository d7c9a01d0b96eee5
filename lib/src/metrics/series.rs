// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What series are made of.

/// What a family's numbers are.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    One,
    Bytes,
    /// Given in nanoseconds.
    Seconds,
}

pub(super) type Key = Vec<(&'static str, String)>;

/// A series' number; of a histogram, also how many values lie in each bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Amount {
    pub(super) sum: u64,
    pub(super) buckets: Vec<u64>,
}

impl Amount {
    pub(super) fn add(&mut self, more: &Self) {
        self.sum = self.sum.saturating_add(more.sum);
        self.buckets.resize(self.buckets.len().max(more.buckets.len()), 0);
        self.buckets.iter_mut().zip(&more.buckets).for_each(|(n, more)| *n = n.saturating_add(*more));
    }

    /// What came since; all of it where something went down, as the kernel began to count anew.
    pub(super) fn since(&self, before: &Self) -> Self {
        let pairs = || self.buckets.iter().zip(before.buckets.iter().chain(std::iter::repeat(&0)));
        if self.sum < before.sum || pairs().any(|(now, before)| now < before) {
            return self.clone();
        }
        Self { sum: self.sum - before.sum, buckets: pairs().map(|(now, before)| now - before).collect() }
    }

    /// What decides who gets a place: how often, of a histogram.
    pub(super) fn weight(&self) -> u64 {
        if self.buckets.is_empty() { self.sum } else { self.buckets.iter().sum() }
    }
}
