// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was counted since the last summary. Where metrics are exported without an interval, that can be long.

use std::collections::BTreeMap;

use super::Key;
use super::Sum;

kscope::growing!(Sum: connects, failed);

/// At most this many have a row of their own in a summary.
const ROWS_MAX: usize = 65_536;

/// Connects by their ends.
#[derive(Default)]
pub struct Sums(BTreeMap<Vec<u8>, (Key, Sum)>);

impl Sums {
    /// Add what was counted between two ends.
    pub fn add(&mut self, key: Key, sum: Sum) {
        let bytes = |key: &Key| {
            let Key { ends, place, asked, asked_port, is_moved, pad: _ } = key;
            let numbers = [ends.local_port, ends.remote_port, *asked_port, (*is_moved).into()];
            let numbers = numbers.iter().flat_map(|number| number.to_ne_bytes());
            let places = [place.netns, place.scope].into_iter().flat_map(u32::to_ne_bytes);
            [ends.local, ends.remote, *asked].into_iter().flatten().chain(numbers).chain(places).collect()
        };
        let mut key = key;
        if self.0.len() >= ROWS_MAX && !self.0.contains_key(&bytes(&key)) {
            key = Key::default();
        }
        let (_, all) = self.0.entry(bytes(&key)).or_insert_with(|| (key, Sum::default()));
        *all = all.plus(sum);
    }

    /// All of them; from now on there are none.
    pub fn take(&mut self) -> impl Iterator<Item = (Key, Sum)> + use<> {
        std::mem::take(&mut self.0).into_values()
    }
}
