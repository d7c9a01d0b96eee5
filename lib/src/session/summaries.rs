// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The loop of tools that sum up by intervals.

use std::time::Instant;

use crate::Out;
use crate::links;
use crate::losses::REPORT;
use crate::metrics::Exporter;
use crate::options::Interval;
use crate::session::Session;

impl Session {
    /// Call `print` after each interval and at the end, until the user, the count or `--duration` ends it.
    /// Without an interval, call it at the end; and, where metrics are exported, whenever they are wanted: then
    /// [`Out::is_due`] is false, and nothing is to be printed.
    ///
    /// # Errors
    /// Those of `print`, of the kernel, or of the output.
    pub(crate) fn intervals(
        &mut self,
        interval: &Interval,
        mut print: impl FnMut(&mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.confine()?;
        let mut printed = 0;
        if let (None, Some(exporter)) = (interval.interval, &self.out.exporter) {
            exporter.on_demand();
        }
        while !self.watch.over() {
            // From the beginning, so that lateness does not add up.
            let next = interval.interval.map(|time| self.began + time.saturating_mul(printed + 1));
            while !self.watch.over() && next.is_none_or(|next| Instant::now() < next) {
                let left = next.map_or(REPORT, |next| next.saturating_duration_since(Instant::now()));
                self.watch.wait(left.min(REPORT))?;
                self.losses.tell(&mut self.out)?;
                if next.is_none() && self.out.exporter.as_ref().is_some_and(Exporter::is_wanted) {
                    self.out.is_due = false;
                    print(&mut self.out)?;
                    self.out.is_due = true;
                    self.publish()?;
                }
            }
            if self.watch.over() {
                break;
            }
            print(&mut self.out)?;
            self.out.flush()?;
            self.publish()?;
            printed += 1;
            if interval.count.is_some_and(|count| u64::from(printed) >= count) {
                return links::end(&mut self.links, &self.grace).map_err(Into::into);
            }
        }
        links::end(&mut self.links, &self.grace)?;
        if self.watch.reader_gone || self.watch.dry_run {
            return Ok(());
        }
        print(&mut self.out)?;
        Ok(self.publish()?)
    }
}
