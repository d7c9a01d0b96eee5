// SPDX-License-Identifier: Apache-2.0 OR MIT
//! kscope: every tool in one file. Called by a tool's name through a link, it is that tool.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap::Parser;
use clap_complete::Shell;
use kscope::out::plain_table;
use kscope::tool::Entry;
use runbooks::Runbook;
use serde_json::Value;

mod man;
mod runbooks;

// One module a tool, and TOOLS and READMES, those of all, and RUNBOOKS: build.rs made it of tools/ and docs/runbooks.
include!(concat!(env!("OUT_DIR"), "/tools.rs"));

/// Small eBPF tools that show what a Linux kernel is doing
#[derive(Parser)]
#[command(name = "kscope", version, arg_required_else_help = true, disable_help_subcommand = true)]
enum Kscope {
    /// Name every tool, by the part of the kernel that it looks at, and by symptom
    List {
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
        /// Print the names alone, one a line, also those that stand for a tool with some arguments
        #[arg(long, conflicts_with = "json")]
        names: bool,
    },
    /// Try each tool on this kernel: what works, by which hooks, and why something does not
    Doctor {
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
        /// The tools to try; all, if none is named
        tools: Vec<String>,
    },
    /// Print what to do about a symptom, step by step: see kscope list
    Runbook {
        /// Its name
        name: String,
    },
    /// Print a manual page: kscope man opensnoop | man -l -
    Man {
        /// The tool; kscope itself, if none is named
        tool: Option<String>,
    },
    /// Print what a shell completes, to be sourced or installed
    Completions {
        /// The shell
        shell: Shell,
        /// For a tool that is called by its own name; for kscope, if none is named
        tool: Option<String>,
    },
    /// Run a tool: kscope <TOOL> [OPTIONS]
    #[command(external_subcommand)]
    Run(Vec<OsString>),
}

const OWN_PROGRAM: &str = "/proc/self/exe";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    if let Some(tool) = find(&name.to_string_lossy()) {
        return tool.main();
    }
    let kscope = match Kscope::try_parse() {
        Ok(kscope) => kscope,
        Err(error) => return kscope::clap_exit("kscope", &error),
    };
    let done = match kscope {
        Kscope::List { json, names } => list(json, names),
        Kscope::Doctor { json, tools } => doctor(json, &tools),
        Kscope::Runbook { name } => runbook(&name),
        Kscope::Man { tool } => print_man(tool.as_deref()),
        Kscope::Completions { shell, tool } => completions(shell, tool.as_deref()),
        Kscope::Run(args) => {
            let name = args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            match named(&name) {
                Ok(tool) => return tool.main_with(args),
                Err(error) => Err(error),
            }
        }
    };
    match done {
        Ok(status) => status,
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => {
                kscope::say(&format!("kscope: {error:#}"));
                let usage = matches!(error.downcast_ref(), Some(kscope::Error::Usage(_)));
                ExitCode::from(if usage { 2 } else { 1 })
            }
        },
    }
}

fn find(name: &str) -> Option<&'static Entry> {
    TOOLS.iter().copied().find(|tool| tool.is_called(name))
}

fn named(name: &str) -> anyhow::Result<&'static Entry> {
    let error = || kscope::Error::Usage(format!("there is no tool {name}: see kscope list"));
    Ok(find(name).ok_or_else(error)?)
}

fn runbook(name: &str) -> anyhow::Result<ExitCode> {
    let error = || kscope::Error::Usage(format!("there is no runbook {name}: see kscope list"));
    let runbook = Runbook::all().find(|runbook| runbook.name == name).ok_or_else(error)?;
    io::stdout().write_all(runbook.text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn print_man(name: Option<&str>) -> anyhow::Result<ExitCode> {
    // Whole or not at all.
    let mut page = Vec::new();
    match name.map(named).transpose()? {
        None => man::kscope(&mut page, Kscope::command(), TOOLS)?,
        Some(tool) => {
            let mut all = TOOLS.iter().zip(READMES);
            let readme = all.find(|(other, _)| other.name == tool.name).map_or("", |(_, readme)| *readme);
            man::tool(&mut page, tool, readme)?;
        }
    }
    io::stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: Shell, name: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut command = match name.map(named).transpose()? {
        Some(tool) => tool.command(),
        None => {
            let tool = |tool: &&Entry| tool.command().bin_name(format!("kscope {}", tool.name));
            Kscope::command().subcommands(TOOLS.iter().map(tool))
        }
    };
    let name = name.unwrap_or("kscope");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

fn list(json: bool, names: bool) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    if names {
        for tool in TOOLS {
            let aliases = tool.aliases.iter().map(|(alias, _)| *alias);
            std::iter::once(tool.name).chain(aliases).try_for_each(|name| writeln!(stdout, "{name}"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if json {
        for tool in TOOLS {
            let runbooks = Runbook::all().filter(|runbook| runbook.tools().contains(&tool.name));
            let runbooks: Vec<_> = runbooks.map(|runbook| runbook.name).collect();
            let row = serde_json::json!({
                "type": "tool", "tool": tool.name, "subsystem": tool.subsystem, "question": tool.question(),
                "runbooks": runbooks,
                "aliases": tool.aliases.iter().map(|(alias, _)| *alias).collect::<Vec<_>>(),
            });
            writeln!(stdout, "{row}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut subsystems: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    TOOLS.iter().for_each(|tool| subsystems.entry(tool.subsystem).or_default().push(tool));
    let mut rows = vec![vec!["SUBSYSTEM".to_string(), "TOOL".into(), "QUESTION".into()]];
    for (subsystem, tools) in subsystems {
        for (i, tool) in tools.into_iter().enumerate() {
            let first = if i == 0 { subsystem } else { "" };
            rows.push(vec![first.into(), tool.name.into(), tool.question()]);
            for (alias, meant) in tool.aliases {
                let meaning = format!("{} {}", tool.name, meant.join(" "));
                rows.push(vec![String::new(), (*alias).into(), meaning]);
            }
        }
    }
    write!(stdout, "{}", plain_table(rows))?;
    let mut rows = vec![vec!["SYMPTOM".to_string(), "TOOLS".into(), "KSCOPE RUNBOOK".into()]];
    for runbook in Runbook::all() {
        rows.push(vec![runbook.symptom().into(), runbook.tools().join(", "), runbook.name.into()]);
    }
    write!(stdout, "\n{}", plain_table(rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Each tool is run as a process of its own, up to the point where it would trace.
fn doctor(json: bool, names: &[String]) -> anyhow::Result<ExitCode> {
    let tools = names.iter().map(|name| named(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let tools = if tools.is_empty() { TOOLS.to_vec() } else { tools };
    let mut stdout = io::stdout().lock();
    let mut rows = vec![vec!["TOOL".to_string(), "WORKS".into(), "HOOKS, OR WHY NOT".into()]];
    let mut all = true;
    for tool in tools {
        let verdict = try_tool(tool)?;
        all &= verdict.is_ok();
        if json {
            let row = match &verdict {
                Ok((hooks, notes)) => serde_json::json!({
                    "type": "verdict", "tool": tool.name, "works": true, "hooks": hooks, "notes": notes,
                }),
                Err(why) => serde_json::json!({
                    "type": "verdict", "tool": tool.name, "works": false, "reason": why,
                }),
            };
            writeln!(stdout, "{row}")?;
            continue;
        }
        let (works, text) = match &verdict {
            Ok((hooks, notes)) => ("yes", [hooks_text(hooks), notes_text(notes)].concat()),
            Err(why) => ("no", why.clone()),
        };
        rows.push(vec![tool.name.into(), works.into(), text]);
    }
    if !json {
        write!(stdout, "{}", plain_table(rows))?;
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hooks_text(hooks: &Value) -> String {
    let hooks = hooks.as_object().into_iter().flatten();
    let mut sections: Vec<&str> = hooks.filter_map(|(_, section)| section.as_str()).collect();
    sections.sort_unstable();
    sections.dedup();
    sections.join(", ")
}

fn notes_text(notes: &Value) -> String {
    notes.as_array().into_iter().flatten().filter_map(Value::as_str).map(|note| format!("; {note}")).collect()
}

/// The hooks and notes in the header that the tool prints once attached, or the sentence that it ends with.
fn try_tool(tool: &Entry) -> anyhow::Result<Result<(Value, Value), String>> {
    if !Path::new(OWN_PROGRAM).exists() {
        return Ok(Err(kscope::Error::NoProc.to_string()));
    }
    let output = Command::new(OWN_PROGRAM)
        .args([tool.name, "--json", "--dry-run"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", tool.name))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let sentence = stderr.lines().last().unwrap_or("it ended without a word");
        let sentence = sentence.strip_prefix(&format!("{}: ", tool.name)).unwrap_or(sentence);
        return Ok(Err(sentence.to_string()));
    }
    let header = output.stdout.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let header: Value =
        serde_json::from_slice(header).with_context(|| format!("the header of {}", tool.name))?;
    Ok(Ok((header["hooks"].clone(), header["notes"].clone())))
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;
    use std::hash::RandomState;
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    /// Command lines of each tool.
    const LINES: u32 = 200;
    const WORDS: [&[u8]; 16] = [
        b"",
        b"-",
        b"--",
        b"0",
        b"1",
        b"-1",
        b"1,",
        b",",
        b"1us",
        b"nan",
        b"18446744073709551616",
        b"9E",
        b"\\,",
        b"\xff\xfe",
        b"\xe2\x82",
        b"localhost:",
    ];

    /// Numbers by chance.
    struct Chance(RandomState, u64);

    impl Chance {
        fn below(&mut self, end: usize) -> usize {
            self.1 += 1;
            (self.0.hash_one(self.1) % end.max(1) as u64) as usize
        }

        fn word(&mut self, options: &[String]) -> OsString {
            match self.below(4) {
                0 => OsString::from_vec(WORDS[self.below(WORDS.len())].to_vec()),
                1 => OsString::from_vec((0..self.below(24)).map(|_| self.below(256) as u8).collect()),
                2 => self.below(1 << 33).to_string().into(),
                _ => {
                    let option = &options[self.below(options.len())];
                    let value =
                        if self.below(2) == 0 { OsString::new() } else { self.word(&[String::new()]) };
                    let between = if value.is_empty() || self.below(2) == 0 { "" } else { "=" };
                    let mut word = OsString::from(format!("{option}{between}"));
                    word.push(value);
                    word
                }
            }
        }
    }

    #[test]
    fn any_arguments_are_taken_or_refused_with_a_sentence() {
        let mut chance = Chance(RandomState::new(), 0);
        for tool in TOOLS {
            let command = tool.command();
            let long = command
                .get_arguments()
                .filter_map(|option| option.get_long())
                .map(|name| format!("--{name}"));
            let short = command
                .get_arguments()
                .filter_map(|option| option.get_short())
                .map(|name| format!("-{name}"));
            let options: Vec<String> = long.chain(short).collect();
            for _ in 0..LINES {
                let mut words = vec![OsString::from(tool.name)];
                words.extend((0..chance.below(6)).map(|_| chance.word(&options)).collect::<Vec<_>>());
                // Whoever panics in between is told from these.
                println!("{words:?}");
                let taken = command.clone().try_get_matches_from(words);
                assert!(taken.is_ok() || taken.is_err_and(|error| !error.to_string().trim().is_empty()));
            }
        }
    }
}
