// SPDX-License-Identifier: Apache-2.0 OR MIT
//! sampleip: count where the instruction pointer is, as the kernel's samples/bpf/sampleip does.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::time::Duration;

use clap::Parser;
use kscope::Columns;
use kscope::Hooks;
use kscope::Kernel;
use kscope::Session;
use kscope::Trace;
use kscope::cli;
use kscope::cli::Common;
use kscope::cli::Filter;
use kscope::cli::Interval;
use kscope::cli::Metrics;
use kscope::command;
use kscope::escape::c_bytes;
use kscope::intervals::Growing;
use kscope::intervals::Tables;
use kscope::maps::Turns;
use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::namer::Namer;
use kscope::perf;
use kscope::perf::CpuList;
use kscope::perf::Sampler;
use kscope::perf::Summary;
use kscope::row::RowInfo;
use kscope::session;
use kscope::symbols;
use kscope::symbols::Symbols;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;
use row::Sampled;

mod row;

kscope::skeleton!("sampleip");
use types::sampleip_key as Key;
use types::sampleip_totals as Totals;
use types::sampleip_value as Entry;

kscope::records!(Key: 24, Entry: 24);

kscope::tool!(Sampleip);

const DEFAULT_DURATION: Duration = Duration::from_secs(5);

const SAMPLES: Family = Family::counter("samples", "Samples by where the processor was");
const FUNCTION: Family = Family::counter("function_samples", "Samples by function");

/// Which instructions are the processors executing?
#[derive(Parser, Debug)]
struct Sampleip {
    /// Samples a second on each CPU
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u64).range(1..))]
    frequency: u64,
    /// Sample these CPUs only: a list as in 0-3,5
    #[arg(short = 'C', long = "cpu", value_name = "CPUS")]
    cpu: Option<CpuList>,
    /// List addresses of user space, rather than of the kernel
    #[arg(short = 'U', long)]
    user: bool,
    /// List addresses of the idle task too
    #[arg(short = 'I', long = "include-idle")]
    idle: bool,
    /// List each function once, with the samples of all its addresses
    #[arg(short = 's', long)]
    by_symbol: bool,
    /// How many different addresses can be counted
    #[arg(long, value_name = "COUNT", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    entries: u32,
    /// How long to sample: seconds, or with a unit as in 500ms, 10s [default: 5; with
    /// --metrics-listen until Ctrl-C, with a command until it ends]
    #[arg(value_name = "DURATION", value_parser = cli::duration, conflicts_with = "duration")]
    time: Option<Duration>,
    #[command(flatten)]
    metrics: Metrics,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    common: Common,
}

/// Process, where its first stack begins, and address; the former are 0 for the kernel's.
type Address = (u32, u64, u64);
/// Function and module.
type Names = HashMap<Address, (String, String)>;

/// How often an address was sampled, first in a thread of this name.
#[derive(Clone)]
struct Samples {
    count: u64,
    comm: [u8; 16],
}

impl Samples {
    fn of(entry: &Entry) -> Self {
        Self { count: entry.samples, comm: entry.comm }
    }
}

impl Growing for Samples {
    fn since(&self, earlier: &Self) -> Self {
        Self { count: self.count.saturating_sub(earlier.count), comm: self.comm }
    }

    fn add(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
    }
}

impl Trace for Sampleip {
    const NAME: &'static str = "sampleip";
    const SUBSYSTEM: &'static str = "CPU";

    fn common(&self) -> &Common {
        &self.common
    }

    fn rows() -> Vec<RowInfo> {
        vec![RowInfo::of::<Sampled>(), RowInfo::of::<Summary>()]
    }

    fn run(mut self) -> anyhow::Result<()> {
        let is_endless = self.metrics.is_listening() || command::is_given();
        let default = (!is_endless).then_some(DEFAULT_DURATION);
        self.common.duration = self.time.or(self.common.duration).or(default);
        let exporter = self.metrics.open(Self::NAME)?;
        let cpus = perf::chosen_cpus(self.cpu.as_ref())?;
        let mut namer = if self.user { Namer::fork()? } else { Namer::none() };
        let mut storage = MaybeUninit::uninit();
        let mut open = session::open(SampleipSkelBuilder::default(), &mut storage, &self.common)?;
        if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
            kscope::set_filter!(rodata, &self.filter);
            rodata.list_kernel = !self.user;
            rodata.list_user = self.user;
            rodata.list_idle = self.idle;
            // The tool's own samples are a part of the truth about a CPU.
            rodata.filter.own_tgid = u32::MAX;
        }
        session::set_turns_entries(open.open_object_mut(), self.entries)?;
        let taken = Hooks::new().choose(open.open_object_mut(), &Kernel::new()?)?;
        let skeleton = session::load(open)?;
        let sampler = Sampler::open(self.frequency, &cpus)?;
        let keep = &symbols::capabilities(!self.user, self.user);
        let attach = |object: &_| sampler.attach(object);
        let mut session =
            Session::start_with(Self::NAME, &self.common, skeleton.object(), &taken, keep, attach)?;
        session.export(exporter)?;
        let time = self.common.duration.map(|time| format!(" for {time:?}, or")).unwrap_or_default();
        session.banner(&format!("Sampling at {} Hz{time} until Ctrl-C.", self.frequency));

        let mut sampled = None;
        let mut names = Names::new();
        let maps = &skeleton.maps;
        let mut turns = Turns::new(&maps.turn, &maps.turn_a, &maps.turn_b);
        let mut tables = Tables::new(self.entries);
        session.intervals(&Interval { interval: None, count: None }, |out| {
            let entries = turns.take::<Key, Entry>()?;
            let totals = maps.bss_data.as_deref().map(|bss| bss.totals).unwrap_or_default();
            out.export(|to| self.export(to, &mut names, &mut namer, &entries, &totals));
            let samples = |(key, entry): &(Key, Entry)| (address_of(key), Samples::of(entry));
            tables.add(out, entries.iter().map(samples), |samples| samples.count);
            if !out.is_due() {
                return Ok(());
            }
            sampled = Some((tables.take().1, totals, sampler.expected()?));
            Ok(())
        })?;
        if let Some((entries, totals, expected)) = sampled {
            let seconds = session.elapsed().as_secs_f64();
            let uncounted = session.account()?.total_lost();
            let mut summary = Summary::of(&sampler, totals.idle, totals.user, totals.kernel);
            summary.seconds = seconds;
            summary.missed =
                expected.filter(|_| self.filter.is_empty()).map(|n| n.saturating_sub(summary.total));
            summary.uncounted = uncounted;
            let rows = rows_of(&mut namer, entries, self.by_symbol);
            let rows = if self.by_symbol { fold(rows) } else { rows };
            let out = session.out();
            out.table(&self.columns(), &rows)?;
            if out.is_json() {
                out.json_row(&summary)?;
            } else {
                out.text(&format!("\n{}", summary.text("--entries")))?;
            }
        }
        Ok(session.finish()?)
    }
}

impl Sampleip {
    /// An address that is sampled on and on keeps the function that it had first, also when its process has gone.
    fn export(
        &self,
        to: &mut Exporter,
        names: &mut Names,
        namer: &mut Namer,
        entries: &[(Key, Entry)],
        totals: &Totals,
    ) {
        for (mode, samples) in [("idle", totals.idle), ("user", totals.user), ("kernel", totals.kernel)] {
            to.total(&SAMPLES, &[("mode", &mode)], samples);
        }
        let mut known = std::mem::take(names);
        let mut new = BTreeMap::new();
        for (key, entry) in entries {
            let address = address_of(key);
            match known.remove(&address) {
                Some(name) => _ = names.insert(address, name),
                None => _ = new.insert(address, Samples::of(entry)),
            }
        }
        for row in rows_of(namer, new, false) {
            let name = (row.name.unwrap_or_default(), row.module.unwrap_or_default());
            names.insert((row.process.map_or(0, |(pid, _)| pid), row.stack_start, row.address), name);
        }
        for (key, entry) in entries {
            if let Some((function, module)) = names.get(&address_of(key)) {
                to.add(&FUNCTION, &[("function", function), ("module", module)], entry.samples);
            }
        }
    }

    fn columns(&self) -> Columns<Sampled> {
        let mut titles = vec!["COUNT", "%", "SYMBOL"];
        titles.extend((!self.by_symbol).then_some("ADDR"));
        titles.extend(self.user.then_some(["PID", "COMM"]).into_iter().flatten());
        Columns::new(&titles)
    }
}

/// The rows, most samples first.
fn rows_of(namer: &mut Namer, sampled: BTreeMap<Address, Samples>, by_symbol: bool) -> Vec<Sampled> {
    let total: u64 = sampled.values().map(|samples| samples.count).sum();
    let mut symbols = Symbols::new(std::mem::replace(namer, Namer::none()));
    let mut rows = Vec::with_capacity(sampled.len());
    // One question to the symboliser for each process: it reads a process's maps once for all.
    let mut spaces: BTreeMap<_, Vec<(u64, Samples)>> = BTreeMap::new();
    for (address, samples) in sampled {
        spaces.entry((process(address), address.1)).or_default().push((address.2, samples));
    }
    for ((process, stack_start), sampled) in spaces {
        let addresses: Vec<u64> = sampled.iter().map(|(ip, _)| *ip).collect();
        let found = match process {
            None => symbols.kernel(&addresses),
            Some(pid) => symbols.process(pid, stack_start, &addresses),
        };
        for ((address, samples), symbol) in sampled.into_iter().zip(found) {
            rows.push(Sampled {
                address,
                stack_start,
                name: symbol.name,
                module: symbol.module,
                offset: symbol.offset,
                process: process.map(|pid| (pid, c_bytes(&samples.comm).to_vec())),
                samples: samples.count,
                percent: samples.count as f64 * 100.0 / total as f64,
                by_symbol,
            });
        }
    }
    *namer = symbols.into_namer();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.samples), row.address));
    rows
}

fn address_of(key: &Key) -> Address {
    (key.tgid, key.stack_start, key.ip)
}

/// Whose address it is; nobody's, if it is the kernel's, which has the upper half of the address space.
fn process((tgid, _, ip): Address) -> Option<u32> {
    (ip.cast_signed() >= 0).then_some(tgid)
}

/// One row for each function of each process; what has no name is one row a file, or by itself.
fn fold(rows: Vec<Sampled>) -> Vec<Sampled> {
    let mut folded: BTreeMap<_, Sampled> = BTreeMap::new();
    for row in rows {
        let function = (
            row.process.as_ref().map(|(pid, _)| *pid),
            row.module.clone(),
            row.name.clone().ok(),
            (row.name.is_err() && row.module.is_none()).then_some(row.address),
        );
        match folded.get_mut(&function) {
            Some(first) => {
                first.samples += row.samples;
                first.percent += row.percent;
            }
            None => _ = folded.insert(function, row),
        }
    }
    let mut rows: Vec<Sampled> = folded.into_values().collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.samples), row.address));
    rows
}
