// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the kernel counts by key, taken apart into intervals. [`Intervals`]: of keys that stay, whose counts only
//! grow, without a reset, which would lose what is added meanwhile. [`Tables`]: of keys that come and go, as
//! processes do, whose counts `maps::Turns` takes out of the kernel.

use std::collections::BTreeMap;
use std::time::Instant;

/// Counts that only grow.
pub trait Growing: Clone {
    /// What has been added since an earlier snapshot of the same.
    #[must_use]
    fn since(&self, earlier: &Self) -> Self;

    /// Add what came after.
    fn add(&mut self, later: &Self);
}

/// Counts with what goes with them, a name perhaps: as it is now.
impl<V: Growing, W: Clone> Growing for (V, W) {
    fn since(&self, earlier: &Self) -> Self {
        (self.0.since(&earlier.0), self.1.clone())
    }

    fn add(&mut self, later: &Self) {
        self.0.add(&later.0);
        self.1.clone_from(&later.1);
    }
}

/// Make a struct of counts [`Growing`], and give it `plus`, which sums two of them up.
#[macro_export]
macro_rules! growing {
    ($type:ty: $($field:ident),+ $(,)?) => {
        impl $crate::intervals::Growing for $type {
            fn since(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field.saturating_sub(earlier.$field)),+ }
            }

            fn add(&mut self, later: &Self) {
                $(self.$field = self.$field.saturating_add(later.$field);)+
            }
        }

        impl $type {
            fn plus(self, other: Self) -> Self {
                Self { $($field: self.$field.saturating_add(other.$field)),+ }
            }
        }
    };
}

/// Counts or histograms, interval by interval.
#[derive(Debug)]
pub struct Intervals<K, V> {
    before: BTreeMap<K, V>,
    since: Instant,
}

impl<K: Ord, V: Growing> Intervals<K, V> {
    /// The first interval begins.
    pub fn new() -> Self {
        Self { before: BTreeMap::new(), since: Instant::now() }
    }

    /// The interval that ends with this snapshot: its length in seconds, and what it added by key, which may be
    /// nothing.
    pub fn next(&mut self, now: BTreeMap<K, V>) -> (f64, Vec<(&K, V)>) {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let before = std::mem::replace(&mut self.before, now);
        let added = |(key, all): (_, &V)| {
            (key, before.get(key).map_or_else(|| all.clone(), |earlier| all.since(earlier)))
        };
        (seconds, self.before.iter().map(added).collect())
    }
}

impl<K: Ord, V: Growing> Default for Intervals<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// What was counted since the last summary, of a bounded number of keys: nothing stays of those that have gone.
#[derive(Debug)]
pub struct Tables<K, V> {
    table: BTreeMap<K, V>,
    most: usize,
    since: Instant,
}

impl<K: Ord, V: Growing> Tables<K, V> {
    /// Tables of at most `most` keys.
    pub fn new(most: u32) -> Self {
        Self { table: BTreeMap::new(), most: most as usize, since: Instant::now() }
    }

    /// Add what came since the last call to this interval. How many events found no room, which are lost: `events`
    /// tells how many a value is.
    #[must_use]
    pub fn add(&mut self, new: impl IntoIterator<Item = (K, V)>, events: impl Fn(&V) -> u64) -> u64 {
        let mut unkept = 0u64;
        for (key, value) in new {
            if let Some(sum) = self.table.get_mut(&key) {
                sum.add(&value);
            } else if self.table.len() < self.most {
                self.table.insert(key, value);
            } else {
                unkept = unkept.saturating_add(events(&value));
            }
        }
        unkept
    }

    /// The interval that ends now: its length in seconds, and its table.
    pub fn take(&mut self) -> (f64, BTreeMap<K, V>) {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        (seconds, std::mem::take(&mut self.table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Growing for u64 {
        fn since(&self, earlier: &Self) -> Self {
            self - earlier
        }

        fn add(&mut self, later: &Self) {
            *self += later;
        }
    }

    #[test]
    fn intervals_are_taken_key_by_key() {
        let mut intervals = Intervals::new();
        intervals.next(BTreeMap::from([(1, 5)]));
        let (_, second) = intervals.next(BTreeMap::from([(1, 9), (2, 3)]));
        assert_eq!(second, [(&1, 4), (&2, 3)]);
        assert_eq!(intervals.next(BTreeMap::new()).1, []);
    }
}
