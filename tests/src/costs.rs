// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a tool costs, counted rather than timed, against what is recorded in its costs.tsv.
//!
//! With `KSCOPE_RECORD_COSTS=1`, what is found is recorded; and by `make check` of a tool of which nothing is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{programs, say_untested};

/// Where a tool's costs are recorded. Each line: of which kind, what, how much.
fn file(tool: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools").join(tool).join("costs.tsv")
}

/// By how much a number may grow: as a part of it, and at least.
pub struct Growth(f64, f64);

/// Instructions of programs: compilers differ a little.
pub const PROGRAM: Growth = Growth(0.05, 8.0);
/// Bytes of events: paths and names differ a little.
pub const EVENT: Growth = Growth(0.1, 4.0);
/// System calls: some are made every so often, and on a busy machine more often for the same events; one for each event
/// is 1000.
pub const CALLS: Growth = Growth(0.25, 50.0);

/// Check a tool's numbers of this kind, by what they are of.
///
/// # Panics
/// If one has grown, or none is recorded.
pub fn check(tool: &str, kind: &str, found: &BTreeMap<String, f64>, Growth(part, least): Growth) {
    let text = fs::read_to_string(file(tool)).unwrap_or_default();
    let is_new = programs::alone().is_some() && !file(tool).exists();
    if is_new || std::env::var_os("KSCOPE_RECORD_COSTS").is_some() {
        return record(tool, kind, &text, found);
    }
    let mut recorded = BTreeMap::new();
    for line in text.lines() {
        let [of, what, number] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{tool}: {line}") };
        if of == kind {
            recorded.insert(what, number.parse::<f64>().expect("a number"));
        }
    }
    assert!(!recorded.is_empty(), "{tool}: no {kind} are recorded");
    let mut dearer = String::new();
    for (what, number) in found {
        match recorded.get(what.as_str()) {
            Some(then) if *number > then + (then * part).max(least) => {
                _ = writeln!(dearer, "{tool}: {what}: {number} {kind}, and {then} were recorded");
            }
            Some(_) => {}
            // Other kernels take other programs of a tool.
            None => {
                say_untested(&format!("costs of {tool}"), &format!("nothing is recorded of {what}"));
            }
        }
    }
    assert!(dearer.is_empty(), "{dearer}if that has to be: KSCOPE_RECORD_COSTS=1 make check TOOL={tool}");
}

fn record(tool: &str, kind: &str, before: &str, found: &BTreeMap<String, f64>) {
    let others = before.lines().filter(|line| line.split('\t').next() != Some(kind)).map(String::from);
    let new = found.iter().map(|(what, number)| format!("{kind}\t{what}\t{number:.0}"));
    let mut lines: Vec<String> = others.chain(new).collect();
    lines.sort();
    fs::write(file(tool), lines.join("\n") + "\n").expect("costs.tsv");
}
