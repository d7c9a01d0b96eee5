// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs under test, and what they say about themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

use crate::{Ended, Run};

/// The `kscope` program: `$KSCOPE`, or beside the test, or the release build of Cargo's target directory.
///
/// # Panics
/// If there is none.
pub fn kscope() -> PathBuf {
    find("KSCOPE", &["kscope", "../../release/kscope"])
}

/// `$KSCOPE_ALONE`: the program of one tool, which is tested without the others.
pub fn alone() -> Option<PathBuf> {
    std::env::var_os("KSCOPE_ALONE").map(PathBuf::from)
}

/// How a shell runs a tool.
pub fn command(tool: &str) -> String {
    match alone() {
        Some(path) => path.display().to_string(),
        None => format!("{} {tool}", kscope().display()),
    }
}

/// The `workload` program: `$KSCOPE_WORKLOAD`, or beside the test, or where Cargo puts it.
///
/// # Panics
/// If there is none.
pub fn workload() -> PathBuf {
    find("KSCOPE_WORKLOAD", &["workload", "../workload"])
}

fn find(variable: &str, beside: &[&str]) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let test = std::env::current_exe().expect("the test's own path");
    let dir = test.parent().expect("the test's folder");
    beside.iter().map(|path| dir.join(path)).find(|path| path.is_file()).unwrap_or_else(|| {
        panic!(
            "neither ${variable} nor any of {beside:?} in {}: build it first \
             (cargo build --release --features multicall --bin kscope)",
            dir.display()
        )
    })
}

/// Every tool, as `kscope list` names them.
///
/// # Panics
/// If `kscope list --json` is anything but a list of tools.
pub fn tools() -> &'static [String] {
    static TOOLS: OnceLock<Vec<String>> = OnceLock::new();
    TOOLS.get_or_init(|| {
        if let Some(tool) = alone().and_then(|path| path.file_name()?.to_str().map(String::from)) {
            return vec![tool];
        }
        let ended = Run::kscope(["list", "--json"]).output();
        assert!(ended.status.success(), "kscope list --json: {ended:?}");
        let name = |line: &str| {
            let tool: Value = serde_json::from_str(line).expect("kscope list --json");
            assert_eq!(tool["type"], "tool", "{line}");
            tool["tool"].as_str().unwrap_or_else(|| panic!("a tool without a name: {line}")).to_string()
        };
        let mut tools: Vec<String> = ended.stdout().lines().map(name).collect();
        // The matrix tests one tool at a time, for a cell of its own.
        if let Ok(wanted) = std::env::var("KSCOPE_TOOLS") {
            tools.retain(|tool| wanted.split(' ').any(|name| name == tool));
        }
        assert!(!tools.is_empty(), "kscope list --json names no tool");
        tools
    })
}

/// Whether the tool's help lists this option, as in `--buffer`.
///
/// # Panics
/// If the tool has no help.
pub fn has_option(tool: &str, option: &str) -> bool {
    help(tool).split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).any(|word| word == option)
}

/// What `--help` prints.
///
/// # Panics
/// If the tool has no help.
pub fn help(tool: &str) -> String {
    static HELP: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let known = || HELP.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(help) = known().get(tool) {
        return help.clone();
    }
    let ended: Ended = Run::new(tool).args(["--help"]).output();
    assert!(ended.status.success(), "{tool} --help: {ended:?}");
    known().insert(tool.into(), ended.stdout().into());
    ended.stdout().into()
}
