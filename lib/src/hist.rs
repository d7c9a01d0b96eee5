// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Histograms that were counted in the kernel (bpf/hist.bpf.h): rows of powers of two, percentiles with the
//! bounds of their bucket, mean and total.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::Value as Json;
use serde_json::json;

use crate::intervals::Growing;
use crate::row::Field;
use crate::row::Fields;
use crate::row::Kind;
use crate::row::Row;
use crate::row::Value;
use crate::time::Wall;

/// The percentiles that are printed, in thousandths.
const PERCENTILES: [(u64, &str); 4] = [(500, "p50"), (900, "p90"), (990, "p99"), (999, "p99.9")];
const STARS: usize = 40;

/// The unit in which a histogram's buckets were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its length in nanoseconds.
    pub ns: u64,
    /// As the peers' tables head their column.
    pub plural: &'static str,
    /// Its symbol.
    pub symbol: &'static str,
}

/// Microseconds.
pub const MICROSECONDS: Unit = Unit { ns: 1_000, plural: "usecs", symbol: "us" };
/// Milliseconds.
pub const MILLISECONDS: Unit = Unit { ns: 1_000_000, plural: "msecs", symbol: "ms" };
/// The bound of the last bucket but one in metrics is at most this.
const METRICS_MAX_NS: u64 = 1 << 36;

/// How many powers of two of the unit bound buckets in metrics.
fn powers(unit: Unit) -> usize {
    (METRICS_MAX_NS / unit.ns).ilog2() as usize + 1
}

/// A histogram's counts, or what was added to them in an interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hist {
    slots: Vec<u64>,
    sum_ns: u64,
}

/// The values that one slot counts: from the first to the last, both included.
fn bounds(slot: usize) -> (u64, u64) {
    if slot < 4 {
        return (slot as u64, slot as u64);
    }
    let log2 = slot / 4 + 1;
    let width = 1u64 << (log2 - 2);
    let low = (1u64 << log2) + width * (slot as u64 % 4);
    (low, low + (width - 1))
}

impl Hist {
    /// From the kernel's counts.
    pub fn new(slots: &[u64], sum_ns: u64) -> Self {
        Self { slots: slots.to_vec(), sum_ns }
    }

    /// The bounds of buckets for metrics, in seconds: each power of two of the unit, up to about a minute.
    pub(crate) fn bounds_s(unit: Unit) -> Vec<f64> {
        (0..powers(unit)).map(|power| (unit.ns << power) as f64 / 1e9).collect()
    }

    /// How many values lie in each of these buckets, and behind them. A value that is the bound itself counts in the
    /// next one, as the kernel's buckets begin with it.
    pub(crate) fn powers(&self, unit: Unit) -> Vec<u64> {
        let last = powers(unit);
        let mut counts = vec![0; last + 1];
        for (slot, n) in self.slots.iter().enumerate() {
            let (_, high) = bounds(slot);
            let power = high.checked_ilog2().map_or(0, |log2| log2 as usize + 1);
            counts[power.min(last)] += n;
        }
        counts
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// The sum of the values, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The mean of the values in nanoseconds: of the values themselves, not of their buckets.
    pub fn mean_ns(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum_ns as f64 / count as f64)
    }

    /// The bucket in which a percentile lies, given in thousandths: the first and last value it counts. It holds
    /// the value of rank ceil(permille/1000 * count), the nearest-rank definition.
    pub fn percentile(&self, permille: u64) -> Option<(u64, u64)> {
        let rank = (u128::from(permille) * u128::from(self.count())).div_ceil(1000).max(1);
        let mut below = 0;
        let slot = self.slots.iter().position(|n| {
            below += u128::from(*n);
            below >= rank
        })?;
        Some(bounds(slot))
    }

    /// The rows of a table like the peers', one for each power of two, and a line of figures.
    pub fn table(&self, unit: Unit) -> String {
        let mut rows: Vec<(u64, u64, u64)> = vec![(0, 1, 0)];
        for (slot, n) in self.slots.iter().enumerate() {
            let (low, high) = bounds(slot);
            let end = if low < 2 { 1 } else { (1u64 << (low.ilog2() + 1)) - 1 };
            match rows.last_mut() {
                Some((_, last, sum)) if *last == end => *sum += n,
                _ => rows.push((1 << high.ilog2(), end, *n)),
            }
        }
        while rows.len() > 1 && rows.last().is_some_and(|(_, _, n)| *n == 0) {
            rows.pop();
        }
        let most = rows.iter().map(|(_, _, n)| *n).max().unwrap_or(0).max(1);
        let mut text = format!("{:>10}{:14} : count     distribution\n", unit.plural, "");
        for (low, high, n) in rows {
            let stars = (n as u128 * STARS as u128 / u128::from(most)) as usize;
            // Writing to a String can't fail.
            _ = writeln!(text, "{low:>10} -> {high:<10} : {n:<8} |{:<STARS$}|", "*".repeat(stars));
        }
        text.push_str(&self.figures(unit));
        text
    }

    fn figures(&self, unit: Unit) -> String {
        let Some(mean) = self.mean_ns() else { return "count 0\n".into() };
        let mut text = format!(
            "count {}, total {:.3?}, mean {:.1} {}",
            self.count(),
            Duration::from_nanos(self.sum_ns),
            mean / unit.ns as f64,
            unit.symbol
        );
        for (i, (permille, name)) in PERCENTILES.into_iter().enumerate() {
            if let Some((low, high)) = self.percentile(permille) {
                let start = if i == 0 { "\n" } else { ", " };
                // The bucket reaches up to the next whole unit.
                _ = write!(text, "{start}{name} {low}-{} {}", high + 1, unit.symbol);
            }
        }
        text.push('\n');
        text
    }

    /// Each bucket that is not empty: `from_us` included, `to_us` not.
    pub fn json_buckets(&self, unit: Unit) -> Json {
        let full = self.slots.iter().enumerate().filter(|(_, n)| **n > 0);
        full.map(|(slot, n)| bucket_json(bounds(slot), unit, Some(*n))).collect()
    }

    /// Each percentile with the bounds of its bucket.
    pub fn json_percentiles(&self, unit: Unit) -> Json {
        let found =
            PERCENTILES.into_iter().filter_map(|(p, name)| Some((name.to_string(), self.percentile(p)?)));
        Json::Object(found.map(|(name, bounds)| (name, bucket_json(bounds, unit, None))).collect())
    }
}

impl Growing for Hist {
    fn since(&self, earlier: &Self) -> Self {
        let before = earlier.slots.iter().copied().chain(std::iter::repeat(0));
        let slots = self.slots.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect();
        Self { slots, sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns) }
    }

    fn add(&mut self, later: &Self) {
        self.slots.resize(self.slots.len().max(later.slots.len()), 0);
        self.slots.iter_mut().zip(&later.slots).for_each(|(n, more)| *n = n.saturating_add(*more));
        self.sum_ns = self.sum_ns.saturating_add(later.sum_ns);
    }
}

fn bucket_json((low, high): (u64, u64), unit: Unit, count: Option<u64>) -> Json {
    let us = unit.ns / MICROSECONDS.ns;
    let mut bucket = json!({"from_us": low.saturating_mul(us), "to_us": (high + 1).saturating_mul(us)});
    if let Some(count) = count {
        bucket["count"] = count.into();
    }
    bucket
}

/// The part of a row that tells of an interval's end.
#[derive(Clone, Copy, Debug, Row)]
pub struct IntervalEnd {
    /// The interval's end
    pub time: Wall,
    /// The interval's length in seconds
    pub interval_s: f64,
}

/// The part of a row that has a histogram.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The counts.
    pub hist: Hist,
    /// The unit of their buckets.
    pub unit: Unit,
}

const fn field(key: &'static str, kind: Kind, nullable: bool, help: &'static str) -> Field {
    Field { key, kind, nullable, help, title: "", width: 0 }
}

impl Fields for Measured {
    const FIELDS: &'static [Field] = &[
        field("count", Kind::Uint, false, "How many were measured in the interval"),
        field("total_us", Kind::Float, false, "Sum of their times in microseconds"),
        field("mean_us", Kind::Float, true, "Mean of their times in microseconds"),
        field("percentiles", Kind::Object, false, "Bounds of the bucket in which each percentile lies"),
        field("buckets", Kind::Array, false, "Buckets that are not empty: from_us included, to_us not"),
    ];

    fn value(&self, at: usize) -> Value<'_> {
        let Self { hist, unit } = self;
        match at {
            0 => Value::Uint(hist.count()),
            1 => Value::Float(hist.total_ns() as f64 / 1e3, 3),
            2 => hist.mean_ns().map_or(Value::Null, |ns| Value::Float(ns / 1e3, 3)),
            3 => Value::Json(hist.json_percentiles(*unit)),
            4 => Value::Json(hist.json_buckets(*unit)),
            _ => Value::Null,
        }
    }
}

/// In which unit histograms count.
#[derive(Args, Clone, Debug)]
pub struct HistArgs {
    /// Count in milliseconds
    #[arg(short, long)]
    milliseconds: bool,
}

impl HistArgs {
    /// The unit.
    pub fn unit(&self) -> Unit {
        if self.milliseconds { MILLISECONDS } else { MICROSECONDS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// hist_slot() of bpf/hist.bpf.h, said another way.
    fn slot(value: u64) -> usize {
        (0..128).rev().find(|slot| bounds(*slot).0 <= value).unwrap()
    }

    #[test]
    fn slots_follow_on_each_other() {
        assert_eq!(bounds(0), (0, 0));
        for slot in 1..128 {
            assert_eq!(bounds(slot).0, bounds(slot - 1).1 + 1, "slot {slot}");
        }
        assert_eq!(bounds(slot(1000)), (896, 1023));
    }

    fn hist(values: &[u64]) -> Hist {
        let mut slots = vec![0; 128];
        values.iter().for_each(|v| slots[slot(*v)] += 1);
        Hist::new(&slots, values.iter().sum::<u64>() * 1000)
    }

    #[test]
    fn percentiles_are_in_the_bucket_of_their_rank() {
        let values: Vec<u64> = (1..=1000).collect();
        let h = hist(&values);
        for (percent, value) in [(500, 500), (900, 900), (990, 990), (999, 999)] {
            let (low, high) = h.percentile(percent).unwrap();
            assert!((low..=high).contains(&value), "{percent}: {low}..{high}");
        }
        assert_eq!(h.mean_ns(), Some(500_500.0));
        assert_eq!(Hist::default().percentile(500), None);
        assert_eq!(hist(&[7]).percentile(999), Some((7, 7)));
    }

    #[test]
    fn tables_have_a_row_for_each_power_of_two() {
        let table = hist(&[0, 1, 2, 3, 3, 300]).table(MICROSECONDS);
        let rows: Vec<&str> = table.lines().collect();
        assert!(rows[1].starts_with("         0 -> 1          : 2 "), "{table}");
        assert!(
            rows[2].starts_with(
                "         2 -> 3          : 3        |****************************************|"
            )
        );
        assert!(rows[9].starts_with("       256 -> 511        : 1 "), "{table}");
        assert_eq!(rows.len(), 12, "{table}");
    }

    #[test]
    fn intervals_are_differences() {
        let all = hist(&[1, 5, 5, 9]);
        assert_eq!(all.since(&hist(&[1, 5])), hist(&[5, 9]));
        assert_eq!(all.since(&Hist::default()), all);
    }
}
