// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stacks in the form that was asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Error;
use crate::Out;
use crate::stack::files::Files;
use crate::stack::frames::Meaning;
use crate::stack::frames::Stack;
use crate::stack::options::StackOutput;
use crate::stack::pprof;

/// Print stacks in the form that was asked for, and write the files. A file that can't be written fails at the end.
///
/// # Errors
/// Those of the output.
pub fn print(
    out: &mut Out,
    stacks: &[Stack],
    options: &StackOutput,
    files: Files,
    meaning: &Meaning,
    duration: Duration,
) -> Result<(), Error> {
    let mut folded: BTreeMap<String, u64> = BTreeMap::new();
    for stack in stacks {
        *folded.entry(stack.folded(options)).or_default() += stack.value();
    }
    let lines: Vec<String> = folded.iter().map(|(stack, value)| format!("{stack} {value}")).collect();
    if out.is_json() {
        stacks.iter().try_for_each(|stack| out.row(stack))?;
    } else if options.folded {
        lines.iter().try_for_each(|line| out.text(line))?;
    } else {
        // Those that look alike are one, as a reader can't tell them apart; the greatest last, where a terminal
        // shows it.
        let mut merged: BTreeMap<String, u64> = BTreeMap::new();
        for stack in stacks {
            *merged.entry(stack.text(options)).or_default() += stack.value();
        }
        let mut merged: Vec<_> = merged.into_iter().collect();
        merged.sort_by_key(|(_, value)| *value);
        for (text, value) in merged {
            out.text(&format!("{text}\n        {value}\n"))?;
        }
    }
    out.flush()?;
    if let Some(file) = files.svg {
        let drawn = flame_graph(&lines, meaning);
        out.fail_at_end(drawn.and_then(|svg| file.write(&svg)));
    }
    if let Some(file) = files.pprof {
        let encoded = pprof::encode(stacks, meaning, duration);
        out.fail_at_end(encoded.and_then(|bytes| file.write(&bytes)));
    }
    Ok(())
}

/// A flame graph of folded lines, as SVG.
fn flame_graph(lines: &[String], meaning: &Meaning) -> Result<Vec<u8>, Error> {
    let error = |error| Error::System { what: "drawing a flame graph".into(), error };
    let mut options = inferno::flamegraph::Options::default();
    options.title = meaning.title.into();
    options.count_name = if meaning.timed.is_some() { "us".into() } else { meaning.counted.into() };
    let mut svg = Vec::new();
    match inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg) {
        Ok(()) => Ok(svg),
        // It has then drawn a sentence instead.
        Err(_) if lines.is_empty() && !svg.is_empty() => Ok(svg),
        Err(e) => Err(error(e)),
    }
}
