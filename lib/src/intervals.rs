// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What grows in the kernel, by key, taken apart into intervals: without a reset, which would lose what is added
//! meanwhile.

use std::collections::BTreeMap;
use std::time::Instant;

/// Counts that only grow.
pub trait Growing: Clone {
    /// What has been added since an earlier snapshot of the same.
    #[must_use]
    fn since(&self, earlier: &Self) -> Self;
}

/// Counts with what goes with them, a name perhaps: as it is now.
impl<V: Growing, W: Clone> Growing for (V, W) {
    fn since(&self, earlier: &Self) -> Self {
        (self.0.since(&earlier.0), self.1.clone())
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
        }

        impl $type {
            fn plus(self, other: Self) -> Self {
                Self { $($field: self.$field + other.$field),+ }
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

#[cfg(test)]
mod tests {
    use super::*;

    impl Growing for u64 {
        fn since(&self, earlier: &Self) -> Self {
            self - earlier
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
