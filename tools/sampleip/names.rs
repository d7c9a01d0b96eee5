// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The functions that were sampled.

use std::collections::BTreeMap;
use std::collections::HashMap;

use kscope::escape::c_bytes;
use kscope::intervals::Growing;
use kscope::metrics::Exporter;
use kscope::metrics::Family;
use kscope::namer::Namer;
use kscope::prelude::*;
use kscope::symbols::Symbols;

use super::Entry;
use super::Key;
use super::row::Address;
use super::row::Outside;
use super::row::Sampled;

const SAMPLES: Family = Family::counter("samples", "Samples by where the processor was");
const FUNCTION: Family = Family::counter("function_samples", "Samples by function");

/// Process, where its first stack begins, and address; the former are 0 for the kernel's.
pub type At = (u32, u64, u64);

/// How often an address was sampled, first in a thread of this name.
#[derive(Clone)]
pub struct Samples {
    /// How often.
    pub count: u64,
    comm: [u8; 16],
}

impl Samples {
    /// Of an entry.
    pub fn of(entry: &Entry) -> Self {
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

/// Function and module of what metrics were exported of last.
#[derive(Default)]
pub struct Exported(HashMap<At, (String, String)>);

impl Exported {
    /// Add samples to the metrics. An address that is sampled on and on keeps the function that it had first, also when its
    /// process has gone.
    pub fn export(
        &mut self,
        to: &mut Exporter,
        namer: &mut Namer,
        entries: &[(Key, Entry)],
        totals: [u64; 3],
    ) {
        for (mode, samples) in ["idle", "user", "kernel"].into_iter().zip(totals) {
            to.total(&SAMPLES, &[("mode", &mode)], samples);
        }
        let mut known = std::mem::take(&mut self.0);
        let mut new = BTreeMap::new();
        for (key, entry) in entries {
            let at = address_of(key);
            match known.remove(&at) {
                Some(name) => _ = self.0.insert(at, name),
                None => _ = new.insert(at, Samples::of(entry)),
            }
        }
        for row in rows_of(namer, new, false) {
            let text = |text: Option<Outside>| text.map(|Outside(text)| text).unwrap_or_default();
            let name = (text(row.symbol), text(row.module));
            self.0.insert((row.pid.map_or(0, |Pid(pid)| pid), row.stack_start, row.address.0), name);
        }
        for (key, entry) in entries {
            if let Some((function, module)) = self.0.get(&address_of(key)) {
                to.add(&FUNCTION, &[("function", function), ("module", module)], entry.samples);
            }
        }
    }
}

/// The rows, most samples first.
pub fn rows_of(namer: &mut Namer, sampled: BTreeMap<At, Samples>, by_symbol: bool) -> Vec<Sampled> {
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
            let (name, reason) = match symbol.name {
                Ok(name) => (Some(Outside(name)), None),
                Err(reason) => (None, Some(reason)),
            };
            rows.push(Sampled {
                address: Address(address),
                pid: process.map(Pid),
                comm: process.map(|_| c_bytes(&samples.comm).to_vec()),
                samples: samples.count,
                share_percent: samples.count as f64 * 100.0 / total as f64,
                symbol: name,
                offset_bytes: symbol.offset,
                module: symbol.module.map(Outside),
                unknown_reason: reason,
                stack_start,
                by_symbol,
            });
        }
    }
    *namer = symbols.into_namer();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.samples), row.address));
    rows
}

pub fn address_of(key: &Key) -> At {
    (key.tgid, key.stack_start, key.ip)
}

/// Whose address it is; nobody's, if it is the kernel's, which has the upper half of the address space.
fn process((tgid, _, ip): At) -> Option<u32> {
    (ip.cast_signed() >= 0).then_some(tgid)
}

/// One row for each function of each process; what has no name is one row a file, or by itself.
pub fn fold(rows: Vec<Sampled>) -> Vec<Sampled> {
    let mut folded: BTreeMap<_, Sampled> = BTreeMap::new();
    for row in rows {
        let function = (
            row.pid.map(|Pid(pid)| pid),
            row.module.clone(),
            row.symbol.clone(),
            (row.symbol.is_none() && row.module.is_none()).then_some(row.address),
        );
        match folded.get_mut(&function) {
            Some(first) => {
                first.samples += row.samples;
                first.share_percent += row.share_percent;
            }
            None => _ = folded.insert(function, row),
        }
    }
    let mut rows: Vec<Sampled> = folded.into_values().collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.samples), row.address));
    rows
}
