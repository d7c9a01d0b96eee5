// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The runbooks as they stand: a scripted culprit does what the symptom says, a bystander something else, and the
//! runbook's own commands must lead to the one and not to the other.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, Command, Stdio};

use kscope_tests::programs::{kscope, tools};
use kscope_tests::{Run, wait_until};
use serde_json::Value;
use tempfile::TempDir;

/// A runbook at work.
struct Runbook {
    commands: Vec<String>,
    /// The tools by their plain names, and the scripts.
    dir: TempDir,
    variables: BTreeMap<&'static str, String>,
    next: usize,
}

impl Runbook {
    fn new(name: &str) -> Self {
        let text = Run::kscope(["runbook", name]).output();
        assert_eq!(text.code(), 0, "{text:?}");
        let mut code = false;
        let commands = text.stdout().lines().filter_map(|line| {
            code ^= line.starts_with("```");
            line.strip_prefix("# ").filter(|_| code).map(String::from)
        });
        let dir = TempDir::new().unwrap();
        for tool in tools() {
            symlink(kscope(), dir.path().join(tool)).unwrap();
        }
        Self { commands: commands.collect(), dir, variables: BTreeMap::new(), next: 0 }
    }

    /// Start a script by this name; dropping it ends it.
    fn script(&self, name: &str, text: &str) -> Script {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let child = Command::new(&path).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        wait_until(&format!("{name} to run"), || {
            fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() == name).then_some(())
        });
        Script(child)
    }

    /// What the reader is told to remember.
    fn set(&mut self, name: &'static str, value: impl ToString) {
        self.variables.insert(name, value.to_string());
    }

    /// Run the next command as it stands: what it prints.
    fn step(&mut self) -> String {
        let command = &self.commands[self.next];
        self.next += 1;
        let path = format!("{}:{}", self.dir.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-c", command])
            .env("PATH", path)
            .envs(&self.variables)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        println!("# {command}\n{text}");
        text
    }

    /// No command is left over.
    fn end(self) {
        assert_eq!(self.next, self.commands.len(), "{:?}", self.commands);
    }
}

/// A script at work.
struct Script(Child);

impl Script {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A test for each runbook, and a test that there are no others.
macro_rules! runbooks {
    ($($name:literal: $function:ident)*) => {
        $(#[test] fn $function() { the::$function(Runbook::new($name)); })*

        #[test]
        fn every_runbook_is_tested() {
            let list = Run::kscope(["list", "--json"]).output();
            let named = list.stdout().lines().flat_map(|line| {
                let tool: Value = serde_json::from_str(line).unwrap();
                let runbooks = tool["runbooks"].as_array().unwrap().clone();
                runbooks.into_iter().map(|name| name.as_str().unwrap().to_string())
            });
            let mut named: Vec<String> = named.collect();
            named.sort();
            named.dedup();
            assert_eq!(named, [$($name),*]);
        }
    };
}

runbooks! {
    "something-keeps-starting-processes": something_keeps_starting_processes
}

mod the {
    use super::Runbook;

    pub(super) fn something_keeps_starting_processes(mut runbook: Runbook) {
        let culprit = runbook.script("health-check", "while :; do /bin/false; done");
        let bystander = runbook.script("batch-job", "while :; do /bin/sleep 1; done");
        let most = runbook.step();
        let first: Vec<&str> = most.lines().next().unwrap().split_whitespace().collect();
        let parent = culprit.pid().to_string();
        assert_eq!(first[1..], ["false", &parent], "{most}");
        assert_ne!(parent, bystander.pid().to_string());
        runbook.set("PARENT", parent);
        let parent = runbook.step();
        assert!(parent.contains("health-check") && !parent.contains("batch-job"), "{parent}");
        runbook.end();
    }
}
