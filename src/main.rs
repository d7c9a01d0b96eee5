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
use clap::Parser;
use kscope::Tool;
use kscope::out::plain_table;
use serde_json::Value;

// One module a tool, and TOOLS, all of them: build.rs made it of the folders in tools/.
include!(concat!(env!("OUT_DIR"), "/tools.rs"));

/// Small eBPF tools that show what a Linux kernel is doing
#[derive(Parser)]
#[command(name = "kscope", version, arg_required_else_help = true, disable_help_subcommand = true)]
enum Kscope {
    /// Name every tool, by the part of the kernel that it looks at
    List {
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Try each tool on this kernel: what works, by which hooks, and why something does not
    Doctor {
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
        /// The tools to try; all, if none is named
        tools: Vec<String>,
    },
    /// Run a tool: kscope <TOOL> [OPTIONS]
    #[command(external_subcommand)]
    Run(Vec<OsString>),
}

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
        Kscope::List { json } => list(json),
        Kscope::Doctor { json, tools } => doctor(json, &tools),
        Kscope::Run(args) => {
            let name = args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let Some(tool) = find(&name) else {
                kscope::say(&format!("kscope: there is no tool {name}: see kscope list"));
                return ExitCode::from(2);
            };
            return tool.main_with(args);
        }
    };
    match done {
        Ok(status) => status,
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            _ => {
                kscope::say(&format!("kscope: {error:#}"));
                ExitCode::FAILURE
            }
        },
    }
}

fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().copied().find(|tool| tool.name == name)
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    if json {
        for tool in TOOLS {
            let row = serde_json::json!({
                "type": "tool", "tool": tool.name, "subsystem": tool.subsystem, "question": tool.question(),
            });
            writeln!(stdout, "{row}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut subsystems: BTreeMap<&str, Vec<&Tool>> = BTreeMap::new();
    TOOLS.iter().for_each(|tool| subsystems.entry(tool.subsystem).or_default().push(tool));
    let mut rows = vec![vec!["SUBSYSTEM".to_string(), "TOOL".into(), "QUESTION".into()]];
    for (subsystem, tools) in subsystems {
        for (i, tool) in tools.into_iter().enumerate() {
            let first = if i == 0 { subsystem } else { "" };
            rows.push(vec![first.into(), tool.name.into(), tool.question()]);
        }
    }
    write!(stdout, "{}", plain_table(rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Each tool is run as a process of its own, up to the point where it would trace.
fn doctor(json: bool, names: &[String]) -> anyhow::Result<ExitCode> {
    let mut tools = Vec::new();
    for name in names {
        let Some(tool) = find(name) else {
            kscope::say(&format!("kscope: there is no tool {name}: see kscope list"));
            return Ok(ExitCode::from(2));
        };
        tools.push(tool);
    }
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
fn try_tool(tool: &Tool) -> anyhow::Result<Result<(Value, Value), String>> {
    let output = Command::new("/proc/self/exe")
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
