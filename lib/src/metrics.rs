// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A summary as metrics: series that only grow, of which there are only so many, for Prometheus to scrape
//! (`--metrics-listen`) and for node_exporter to collect (`--textfile`). `docs/output.md` has the contract.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use nix::sys::eventfd::EventFd;
use prometheus_client::metrics::MetricType;

mod series;
mod server;
mod text;
mod textfile;

use crate::Error;
use crate::account::Account;
use crate::escape::escape;
use crate::hist::Hist;
use crate::hist::Unit;
use crate::options::Metrics;
use crate::say;
use crate::sink::is_full;
use crate::time::Wall;
use series::Amount;
use series::Key;
use series::Scale;
use server::Server;

#[cfg(fuzzing)]
pub(crate) use server::parse_request;
use text::Rendered;

/// The value of every label of the series in which those without a place of their own are added up.
const OTHER: &str = "other";
/// Without an interval, the file is written this often.
const TEXTFILE_EVERY: Duration = Duration::from_secs(10);
/// So many label sets without a place are told apart, in order to count them.
const MERGED_MAX: usize = 1 << 16;

/// A metric of a tool: its name, of which the library makes `kscope_<tool>_<name>` with the unit behind it.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    scale: Scale,
}

impl Family {
    /// What is counted since the tool began to trace. The name has no `_total`, which is added.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Counter, scale: Scale::One }
    }

    /// What goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Gauge, scale: Scale::One }
    }

    /// How often something took how long, in seconds.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Histogram, scale: Scale::Seconds }
    }

    /// The same, in seconds; its values are given in nanoseconds.
    pub const fn seconds(mut self) -> Self {
        self.scale = Scale::Seconds;
        self
    }

    /// The same, in bytes.
    pub const fn bytes(mut self) -> Self {
        self.scale = Scale::Bytes;
        self
    }
}

/// A label of a series: its name, and its value, of which bytes that are no harmless text are escaped.
pub type Label<'a> = (&'static str, &'a dyn AsRef<[u8]>);

/// A family's series.
#[derive(Debug)]
struct State {
    family: Family,
    /// The upper bounds of a histogram's buckets, without infinity.
    bounds: Vec<f64>,
    series: BTreeMap<Key, Amount>,
    other: Option<(Key, Amount)>,
    /// The label sets without a place, by hash.
    merged: HashSet<u64>,
    hasher: RandomState,
    /// The kernel's totals as they were, to see what came since.
    totals: BTreeMap<Key, Amount>,
    /// What this interval brought so far: totals, and increments.
    new_totals: BTreeMap<Key, Amount>,
    increments: BTreeMap<Key, Amount>,
}

impl State {
    fn new(family: Family) -> Self {
        Self {
            family,
            bounds: Vec::new(),
            series: BTreeMap::new(),
            other: None,
            merged: HashSet::new(),
            hasher: RandomState::new(),
            totals: BTreeMap::new(),
            new_totals: BTreeMap::new(),
            increments: BTreeMap::new(),
        }
    }

    /// Add the interval's increments to the series. Those that grew most come first where places are left.
    fn settle(&mut self, limit: usize) {
        let mut increments = std::mem::take(&mut self.increments);
        if matches!(self.family.kind, MetricType::Gauge) {
            // Values of the moment: the last ones are no part of them.
            self.series.clear();
            self.other = None;
        }
        // What the kernel no longer has begins at nothing when it comes again.
        let before = std::mem::replace(&mut self.totals, std::mem::take(&mut self.new_totals));
        for (key, total) in &self.totals {
            let more = before.get(key).map_or_else(|| total.clone(), |before| total.since(before));
            increments.entry(key.clone()).or_default().add(&more);
        }
        let mut increments: Vec<_> = increments.into_iter().collect();
        increments.sort_by_key(|(_, amount)| std::cmp::Reverse(amount.weight()));
        for (key, amount) in increments {
            if let Some(series) = self.series.get_mut(&key) {
                series.add(&amount);
            } else if self.series.len() < limit {
                self.series.insert(key, amount);
            } else {
                if self.merged.len() < MERGED_MAX {
                    self.merged.insert(self.hasher.hash_one(&key));
                }
                let other = key.into_iter().map(|(name, _)| (name, OTHER.to_string())).collect();
                self.other.get_or_insert_with(|| (other, Amount::default())).1.add(&amount);
            }
        }
    }

    fn rendered(&self, tool: &str) -> Rendered {
        let mut series = self.series.clone();
        if let Some((key, amount)) = &self.other {
            // One that is truly called so keeps its name, and both are one.
            series.entry(key.clone()).or_default().add(amount);
        }
        Rendered {
            name: format!("kscope_{tool}_{}", self.family.name),
            help: self.family.help,
            kind: self.family.kind,
            scale: self.family.scale,
            bounds: self.bounds.clone(),
            series: series.into_iter().collect(),
        }
    }
}

/// Metrics that somebody asked for, from interval to interval.
pub struct Exporter {
    tool: &'static str,
    limit: usize,
    families: Vec<State>,
    listener: Option<TcpListener>,
    server: Option<Server>,
    textfile: Option<PathBuf>,
    next_file: Instant,
    /// Why the file could not be written.
    file_error: Option<io::Error>,
    has_started: bool,
}

impl Metrics {
    /// Bind the address. Nothing, if no metrics are asked for.
    ///
    /// # Errors
    /// [`Error::System`] names the address, [`Error::Usage`] what is there and may not be replaced.
    pub fn open(&self, tool: &'static str) -> Result<Option<Exporter>, Error> {
        if !self.is_asked_for() {
            return Ok(None);
        }
        if let Some(path) = &self.textfile {
            textfile::check(path).map_err(|error| Error::Usage(textfile::named(path, &error)))?;
        }
        let bind = |address: &SocketAddr| {
            let error = |error| Error::System { what: format!("--metrics-listen {address}"), error };
            TcpListener::bind(address).map_err(error)
        };
        Ok(Some(Exporter {
            tool,
            limit: self.metrics_series as usize,
            families: Vec::new(),
            listener: self.metrics_listen.as_ref().map(bind).transpose()?,
            server: None,
            textfile: self.textfile.clone(),
            next_file: Instant::now(),
            file_error: None,
            has_started: false,
        }))
    }

    /// Whether metrics are asked for.
    pub fn is_asked_for(&self) -> bool {
        self.metrics_listen.is_some() || self.textfile.is_some()
    }

    /// Whether somebody may come and ask: the tool then has no end of its own.
    pub fn is_listening(&self) -> bool {
        self.metrics_listen.is_some()
    }
}

impl Exporter {
    /// How often something happened since the tool began to trace, as the kernel counts it. The same labels must
    /// mean the same thing each time, and be given each time; several values of the same labels are added up.
    pub fn total(&mut self, family: &Family, labels: &[Label<'_>], total: u64) {
        let amount = Amount { sum: total, buckets: Vec::new() };
        self.state(family).new_totals.entry(key(labels)).or_default().add(&amount);
    }

    /// How often something happened since the last call, where the kernel's counts are cleared.
    pub fn add(&mut self, family: &Family, labels: &[Label<'_>], more: u64) {
        let amount = Amount { sum: more, buckets: Vec::new() };
        self.state(family).increments.entry(key(labels)).or_default().add(&amount);
    }

    /// What the value of a gauge is now.
    pub fn gauge(&mut self, family: &Family, labels: &[Label<'_>], value: u64) {
        self.add(family, labels, value);
    }

    /// [`Exporter::total`] of a histogram.
    pub fn histogram(&mut self, family: &Family, labels: &[Label<'_>], hist: &Hist, unit: Unit) {
        let state = self.state(family);
        state.bounds = Hist::bounds_s(unit);
        let amount = Amount { sum: hist.total_ns(), buckets: hist.powers(unit) };
        state.new_totals.entry(key(labels)).or_default().add(&amount);
    }

    /// [`Exporter::add`] of a histogram.
    pub fn add_histogram(&mut self, family: &Family, labels: &[Label<'_>], hist: &Hist, unit: Unit) {
        let state = self.state(family);
        state.bounds = Hist::bounds_s(unit);
        let amount = Amount { sum: hist.total_ns(), buckets: hist.powers(unit) };
        state.increments.entry(key(labels)).or_default().add(&amount);
    }

    fn state(&mut self, family: &Family) -> &mut State {
        let at = self.families.iter().position(|state| state.family.name == family.name);
        let at = at.unwrap_or_else(|| {
            self.families.push(State::new(*family));
            self.families.len() - 1
        });
        &mut self.families[at]
    }

    /// Begin to serve, once the privileges are given up, which threads have each for themselves.
    pub(crate) fn serve(&mut self) -> Result<(), Error> {
        if let Some(listener) = self.listener.take() {
            self.server = Some(Server::start(self.tool, listener)?);
        }
        Ok(())
    }

    /// What wakes the tool when somebody asks for new numbers.
    pub(crate) fn wake(&self) -> Option<&EventFd> {
        self.server.as_ref().map(Server::wake)
    }

    /// Whether new numbers are wanted between intervals, or where there are none.
    pub(crate) fn is_wanted(&self) -> bool {
        self.server.as_ref().is_some_and(Server::is_wanted)
            || self.textfile.is_some() && Instant::now() >= self.next_file
    }

    /// Without an interval, who asks gets new numbers.
    pub(crate) fn on_demand(&self) {
        self.server.as_ref().map(Server::on_demand).unwrap_or_default();
    }

    /// Take what was exported since as the new state, and hand it over.
    pub(crate) fn publish(&mut self, account: &Account, misses: &BTreeMap<String, u64>) {
        self.families.iter_mut().for_each(|state| state.settle(self.limit));
        let mut all: Vec<_> = self.families.iter().map(|state| state.rendered(self.tool)).collect();
        all.extend(self.own(account, misses));
        all.retain(|family| !family.series.is_empty());
        let text = text::open_metrics(all);
        if let Some(path) = self.textfile.clone() {
            self.write(&path, &text::classic(&text));
        }
        if let Some(server) = &self.server {
            server.publish(text);
        }
    }

    /// Write the file. A failure is said once, and the next write is tried all the same.
    fn write(&mut self, path: &Path, text: &str) {
        self.next_file = Instant::now() + TEXTFILE_EVERY;
        let had_failed = self.file_error.is_some();
        self.file_error = textfile::write(path, text).err();
        match &self.file_error {
            Some(error) if !had_failed && self.has_started => {
                say(&format!("{}: {}; it is tried again", self.tool, textfile::named(path, error)));
            }
            None if had_failed => {
                say(&format!("{}: --textfile {} is written again", self.tool, path.display()))
            }
            _ => (),
        }
    }

    /// The first write is to show that the file can be written, but for a disk that is full now.
    pub(crate) fn check_start(&mut self) -> Result<(), Error> {
        self.has_started = true;
        let Some(path) = self.textfile.clone() else { return Ok(()) };
        match &self.file_error {
            Some(error) if is_full(error) => {
                say(&format!("{}: {}; it is tried again", self.tool, textfile::named(&path, error)));
                Ok(())
            }
            _ => self.check_end(),
        }
    }

    /// Fail if the last write did.
    pub(crate) fn check_end(&mut self) -> Result<(), Error> {
        let (Some(path), Some(error)) = (&self.textfile, self.file_error.take()) else { return Ok(()) };
        Err(Error::System { what: format!("--textfile {}", path.display()), error })
    }

    /// kscope's metrics about itself.
    fn own(&self, account: &Account, misses: &BTreeMap<String, u64>) -> Vec<Rendered> {
        let one = |name: &str, help, kind, series: Vec<(Key, u64)>| Rendered {
            name: format!("kscope_{name}"),
            help,
            kind,
            scale: Scale::One,
            bounds: Vec::new(),
            series: series.into_iter().map(|(key, sum)| (key, Amount { sum, buckets: vec![] })).collect(),
        };
        let tool = || ("tool", self.tool.to_string());
        let by = |label: &'static str, counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, n)| (vec![tool(), (label, name.clone())], *n)).collect()
        };
        let merged = self.families.iter().map(|state| {
            let metric = state.rendered(self.tool).full_name();
            (vec![tool(), ("metric", metric)], state.merged.len() as u64)
        });
        let version = ("version", env!("CARGO_PKG_VERSION").to_string());
        let mut taken = one(
            "snapshot_timestamp",
            "When these numbers were taken, in seconds since 1970",
            MetricType::Gauge,
            vec![(vec![tool()], Wall::now().0.cast_unsigned())],
        );
        taken.scale = Scale::Seconds;
        // Programs that measure do not all count what they see.
        let generated = (account.generated > 0).then(|| (vec![tool()], account.generated));
        vec![
            taken,
            one("build", "The version of kscope", MetricType::Info, vec![(vec![tool(), version], 1)]),
            one(
                "events",
                "Events that the programs saw and that passed their filters",
                MetricType::Counter,
                generated.into_iter().collect(),
            ),
            one(
                "events_lost",
                "Events that happened and are not in the numbers, by cause",
                MetricType::Counter,
                by("cause", &account.lost),
            ),
            one(
                "measurements_dropped",
                "Measurements not made, as the number would have been false, by cause",
                MetricType::Counter,
                by("cause", &account.dropped),
            ),
            one(
                "recursion_misses",
                "Runs of a program that the kernel left out, since it was running on that CPU already",
                MetricType::Counter,
                by("program", misses),
            ),
            one(
                "metrics_series_merged",
                "Label sets that have no series of their own and are added up in the one named other",
                MetricType::Counter,
                merged.collect(),
            ),
        ]
    }
}

fn key(labels: &[Label<'_>]) -> Key {
    labels.iter().map(|(name, value)| (*name, escape((*value).as_ref()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hist::MICROSECONDS;

    const OPENS: Family = Family::counter("opens", "Opens");

    fn exporter(limit: usize) -> Exporter {
        Exporter {
            tool: "test",
            limit,
            families: Vec::new(),
            listener: None,
            server: None,
            textfile: None,
            next_file: Instant::now(),
            file_error: None,
            has_started: false,
        }
    }

    fn values(exporter: &mut Exporter) -> Vec<(String, u64)> {
        exporter.families.iter_mut().for_each(|state| state.settle(exporter.limit));
        let series = exporter.families[0].rendered("test").series;
        series.into_iter().map(|(key, amount)| (key[0].1.clone(), amount.sum)).collect()
    }

    fn sum(values: &[(String, u64)]) -> u64 {
        values.iter().map(|(_, n)| n).sum()
    }

    #[test]
    fn places_go_to_the_biggest_and_stay_theirs() {
        let mut to = exporter(2);
        for (comm, n) in [("a", 1), ("b", 5), ("c", 3), ("d", 2)] {
            to.total(&OPENS, &[("comm", &comm)], n);
        }
        let expected = |a: &[(&str, u64)]| a.iter().map(|(c, n)| (c.to_string(), *n)).collect::<Vec<_>>();
        assert_eq!(values(&mut to), expected(&[("b", 5), ("c", 3), ("other", 3)]));
        assert_eq!(to.families[0].merged.len(), 2);
        // One without a place grows most, and one with a place has gone.
        for (comm, n) in [("a", 100), ("b", 6), ("d", 2)] {
            to.total(&OPENS, &[("comm", &comm)], n);
        }
        let values = values(&mut to);
        assert_eq!(values, expected(&[("b", 6), ("c", 3), ("other", 102)]));
        assert_eq!((sum(&values), to.families[0].merged.len()), (111, 2));
    }

    #[test]
    fn what_begins_anew_counts_on() {
        let mut to = exporter(5);
        for n in [10, 15, 4, 4] {
            to.total(&OPENS, &[("comm", &"a")], n);
            values(&mut to);
        }
        to.add(&OPENS, &[("comm", &"a")], 1);
        assert_eq!(values(&mut to), [("a".to_string(), 20)]);
    }

    #[test]
    fn histograms_are_cumulative_and_valid_in_both_forms() {
        const TIMES: Family = Family::histogram("times", "Times");
        let mut to = exporter(5);
        let mut slots = vec![0; 128];
        (slots[0], slots[1], slots[3], slots[127]) = (1, 2, 4, 8);
        let hist = Hist::new(&slots, 1_500_000_000);
        to.histogram(&TIMES, &[("disk", &"a\n\"\\")], &hist, MICROSECONDS);
        to.families[0].settle(5);
        let text = text::open_metrics(vec![to.families[0].rendered("test")]);
        let bucket = |le: &str, n: u64| {
            let line = format!(
                "kscope_test_times_seconds_bucket{{le=\"{le}\",disk=\"a\\\\x0a\\\"\\\\\\\\\"}} {n}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        };
        bucket("0.000001", 1);
        bucket("0.000002", 3);
        bucket("0.000004", 7);
        bucket("67.108864", 7);
        bucket("+Inf", 15);
        assert!(text.contains("_sum{disk=\"a\\\\x0a\\\"\\\\\\\\\"} 1.5\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let classic = text::classic(&text);
        assert!(!classic.contains("# UNIT") && !classic.contains("# EOF"), "{classic}");
        assert_eq!(classic.lines().count(), text.lines().count() - 2);
    }

    #[test]
    fn the_classic_form_has_its_own_names() {
        let mut to = exporter(5);
        to.total(&OPENS, &[], 1);
        to.families[0].settle(5);
        let own = to.own(&Account::default(), &BTreeMap::new());
        let all = [vec![to.families[0].rendered("test")], own].concat();
        let text = text::open_metrics(all);
        assert!(text.contains("# TYPE kscope_test_opens counter\nkscope_test_opens_total{} 1\n"), "{text}");
        let classic = text::classic(&text);
        for lines in [
            "# HELP kscope_test_opens_total Opens\n# TYPE kscope_test_opens_total counter\nkscope_test_opens_total{} 1\n",
            "# TYPE kscope_build_info gauge\nkscope_build_info{tool=\"test\",version=",
        ] {
            assert!(classic.contains(lines), "{lines}{classic}");
        }
    }
}
