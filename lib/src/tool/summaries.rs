// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The drivers of tools that sum up by intervals: histograms, who is at the top, and counts.

use std::time::Instant;

use libbpf_rs::Object;
use libbpf_rs::skel::Skel as _;
use plain::Plain;

use super::tracing::Done;
use super::tracing::Tracing;
use crate::Error;
use crate::Out;
use crate::Screen;
use crate::bpf::Bpf;
use crate::hist::Hist;
use crate::hist::IntervalEnd;
use crate::hist::Measured;
use crate::hist::Unit;
use crate::intervals::Growing;
use crate::intervals::Tables;
use crate::maps::Map;
use crate::maps::Turns;
use crate::metrics::Exporter;
use crate::metrics::Family;
use crate::metrics::Label;
use crate::row::Row;
use crate::time::Wall;

/// Where the programs count.
pub struct Source<'a, B: Bpf> {
    object: &'a Object,
    bss: Option<&'a B::Bss>,
    turns: Option<Turns>,
}

impl<'a, B: Bpf> Source<'a, B> {
    fn of(object: &'a Object, bss: &'a Option<&mut B::Bss>) -> Result<Self, Error> {
        Ok(Self { object, bss: bss.as_deref(), turns: Turns::of(object)? })
    }

    /// The variables of the programs, as they are now.
    pub fn bss(&self) -> Option<&'a B::Bss> {
        self.bss
    }

    /// What was counted into the maps of bpf/turns.bpf.h since the last call.
    ///
    /// # Errors
    /// The kernel's; or that the programs have no such maps.
    pub fn turns<K: Plain + Default, V: Plain + Default>(&mut self) -> Result<Vec<(K, V)>, Error> {
        let turns = self.turns.as_mut().ok_or_else(|| Error::Mistake("no maps take turns".into()))?;
        turns.take()
    }

    /// Every entry of a hash map that is there for the whole time of the reading.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries<K: Plain + Default, V: Plain + Default>(&self, map: Map) -> Result<Vec<(K, V)>, Error> {
        map.entries(self.object)
    }

    /// Every value of an array that has one for each CPU, summed up by `add`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn percpu_sums<V: Plain + Default>(
        &self,
        map: Map,
        add: impl Fn(V, V) -> V,
    ) -> Result<Vec<V>, Error> {
        map.percpu_sums(self.object, add)
    }
}

/// Histograms by key, with what is known of each besides.
pub type Measures<K, W> = Vec<(K, (Hist, W))>;

/// A tool's histograms, one for each key.
pub trait Histograms {
    /// The tool's object.
    type Bpf: Bpf;
    /// What histograms are told apart by.
    type Key: Ord;
    /// What is known of one besides, a name perhaps.
    type With: Clone;
    /// Its row.
    type Row: Row;

    /// What is measured, as in `no waits for a CPU`.
    const OF: &'static str;
    /// The metric.
    const METRIC: Family;

    /// What was measured since the last call.
    ///
    /// # Errors
    /// The kernel's.
    fn take(&mut self, from: &mut Source<'_, Self::Bpf>) -> Result<Measures<Self::Key, Self::With>, Error>;

    /// The labels of a histogram in metrics.
    fn labels(&mut self, key: &Self::Key, with: &Self::With) -> Vec<(&'static str, Vec<u8>)>;

    /// Whether one that is empty tells something; `all` says that all are.
    fn shows_empty(&self, key: &Self::Key, all: bool) -> bool;

    /// The row, and the title above it in a table, if it needs one.
    fn row(
        &mut self,
        end: IntervalEnd,
        key: Self::Key,
        with: Self::With,
        measured: Measured,
    ) -> (Option<String>, Self::Row);
}

impl<B: Bpf> Tracing<'_, B> {
    /// Call `each` after each interval and at the end; and, where metrics are exported without an interval, whenever they are
    /// wanted: then [`Out::is_due`] is false, and nothing is to be printed.
    ///
    /// # Errors
    /// Those of `each`, of the kernel, or of the output.
    pub fn intervals(
        &mut self,
        mut each: impl FnMut(&mut Source<'_, B>, &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { session, loaded, bss, plan, .. } = self;
        let mut source = Source::of(loaded.object(), bss)?;
        session.intervals(&plan.interval, |out| each(&mut source, out))
    }

    /// Print histograms, whose buckets were counted in this unit, by intervals; at most so many in one.
    ///
    /// # Errors
    /// The kernel's, or those of the output.
    pub fn histograms<H: Histograms<Bpf = B>>(
        mut self,
        mut of: H,
        unit: Unit,
        most: u32,
    ) -> anyhow::Result<Done> {
        let mut tables = Tables::new(most);
        self.intervals(|from, out| {
            let new = of.take(from)?;
            out.export(|to| {
                for (key, (hist, with)) in &new {
                    let labels = of.labels(key, with);
                    let labels: Vec<Label<'_>> =
                        labels.iter().map(|(name, value)| (*name, value as _)).collect();
                    to.add_histogram(&H::METRIC, &labels, hist, unit);
                }
            });
            out.unkept(tables.add(new, |(hist, _)| hist.count()));
            if !out.is_due() {
                return Ok(());
            }
            let (interval_s, table) = tables.take();
            let end = IntervalEnd { time: Wall::now(), interval_s };
            out.interval_time()?;
            let mut printed = false;
            let all_empty = table.values().all(|(hist, _)| hist.count() == 0);
            for (key, (hist, with)) in table {
                if hist.count() == 0 && !of.shows_empty(&key, all_empty) {
                    continue;
                }
                printed = true;
                let text = (!out.is_json()).then(|| hist.table(unit));
                let (title, row) = of.row(end, key, with, Measured { hist, unit });
                match text {
                    None => out.json_row(&row)?,
                    Some(text) => title.into_iter().chain([text]).try_for_each(|text| out.text(&text))?,
                }
            }
            if !printed && !out.is_json() {
                out.text(&format!("no {}", H::OF))?;
            }
            Ok(())
        })?;
        self.finish()
    }

    /// Show after each interval who is at the top: of the rows that `rows` makes of what was counted, in their order, so many
    /// at most. On a terminal the screen is refreshed, unless tables are to be appended.
    ///
    /// # Errors
    /// Those of `rows`, or of the output.
    pub fn top<R: Row>(
        mut self,
        append: bool,
        most: Option<usize>,
        mut rows: impl FnMut(IntervalEnd, &mut Source<'_, B>, &mut Out) -> anyhow::Result<Vec<R>>,
    ) -> anyhow::Result<Done> {
        let mut screen = Screen::new(&self.plan.common, append);
        let mut since = Instant::now();
        self.intervals(|from, out| {
            let interval_s = since.elapsed().as_secs_f64();
            since = Instant::now();
            let rows = rows(IntervalEnd { time: Wall::now(), interval_s }, from, out)?;
            Ok(screen.show(out, &rows, most)?)
        })?;
        self.finish()
    }

    /// Print a table of counts after each interval, of at most `most` keys. `take` tells what was counted since its last call,
    /// `export` adds it to the metrics, and `rows` makes the rows of it, in their order; `of` says what there was none of.
    ///
    /// # Errors
    /// Those of `take`, or of the output.
    pub fn counts<K: Ord, V: Growing, R: Row>(
        mut self,
        of: &str,
        most: u32,
        mut take: impl FnMut(&mut Source<'_, B>) -> anyhow::Result<Vec<(K, V)>>,
        events: impl Fn(&V) -> u64,
        mut export: impl FnMut(&mut Exporter, &[(K, V)]),
        mut rows: impl FnMut(IntervalEnd, Vec<(K, V)>, bool) -> Vec<R>,
    ) -> anyhow::Result<Done> {
        let mut tables = Tables::new(most);
        self.intervals(|from, out| {
            let new = take(from)?;
            out.export(|to| export(to, &new));
            out.unkept(tables.add(new, &events));
            if !out.is_due() {
                return Ok(());
            }
            let (interval_s, table) = tables.take();
            let rows = rows(
                IntervalEnd { time: Wall::now(), interval_s },
                table.into_iter().collect(),
                out.is_json(),
            );
            out.interval_time()?;
            if rows.is_empty() && !out.is_json() {
                Ok(out.text(&format!("no {of}"))?)
            } else {
                Ok(out.table(&rows)?)
            }
        })?;
        self.finish()
    }
}
