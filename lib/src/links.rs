// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Detaching programs.

use libbpf_rs::Link;

use crate::Error;
use crate::grace::GracePeriod;

/// Up to this many links are detached one after the other; more, by up to `DETACHING` threads at once.
const FEW: usize = 8;
const DETACHING: usize = 64;

/// Split into at most `parts` parts, of nearly the same size.
fn split<T>(mut all: Vec<T>, parts: usize) -> Vec<Vec<T>> {
    let share = all.len().div_ceil(parts.max(1)).max(1);
    let mut split = Vec::new();
    while !all.is_empty() {
        split.push(all.split_off(all.len().saturating_sub(share)));
    }
    split
}

/// Detach. Where the kernel waits each time, it waits for many at once.
pub(crate) fn detach(links: &mut Vec<Link>) {
    if links.len() <= FEW {
        return links.clear();
    }
    std::thread::scope(|scope| {
        for part in split(std::mem::take(links), DETACHING) {
            // Without a thread, they are dropped here.
            _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(part));
        }
    });
}

/// Detach, so that no program runs any more on return.
pub(crate) fn end(links: &mut Vec<Link>, grace: &GracePeriod) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    detach(links);
    grace.wait()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_split_into_parts() {
        for count in 0..=5000 {
            let all: Vec<usize> = (0..count).collect();
            for parts in [0, 1, 2, 7, 8, DETACHING] {
                let split = split(all.clone(), parts);
                assert!(split.len() <= parts.max(1), "{count} in {parts}");
                assert!(split.iter().all(|part| !part.is_empty()), "{count} in {parts}");
                let largest = split.iter().map(Vec::len).max().unwrap_or_default();
                assert_eq!(largest, count.div_ceil(parts.max(1)), "{count} in {parts}");
                let mut joined = split.concat();
                joined.sort_unstable();
                assert_eq!(joined, all);
            }
        }
    }
}
