// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The runbooks as they stand: a scripted culprit does what the symptom says, a bystander something else, and the
//! runbook's own commands must lead to the one and not to the other.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
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
        self.script_by(0, name, text)
    }

    /// The same, by another user.
    fn script_by(&self, user: u32, name: &str, text: &str) -> Script {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Script::start(name, Command::new(&path).uid(user).gid(user))
    }

    /// Start a program by this name; dropping it ends it.
    fn program(&self, name: &str, program: &str, args: &[&str]) -> Script {
        let path = self.dir.path().join(name);
        // It may have been started before.
        if !path.exists() {
            symlink(program, &path).unwrap();
        }
        Script::start(name, Command::new(&path).args(args).current_dir(self.dir.path()))
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
    fn start(name: &str, command: &mut Command) -> Self {
        // Cargo's, which makes each program look for its libraries in many folders.
        command.env_remove("LD_LIBRARY_PATH");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let script = Self(child);
        let comm = format!("/proc/{}/comm", script.pid());
        wait_until(&format!("{name} to run"), || {
            fs::read_to_string(&comm).is_ok_and(|comm| comm.trim() == name).then_some(())
        });
        script
    }

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
    "a-service-is-denied-permission": a_service_is_denied_permission
    "connections-fail-or-are-slow": connections_fail_or_are_slow
    "load-is-high-and-the-cpus-are-busy": load_is_high_and_the_cpus_are_busy
    "load-is-high-and-the-cpus-are-idle": load_is_high_and_the_cpus_are_idle
    "requests-stall-at-random": requests_stall_at_random
    "something-keeps-starting-processes": something_keeps_starting_processes
    "something-reads-or-misses-files": something_reads_or_misses_files
    "the-disk-is-slow": the_disk_is_slow
}

mod the {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::{Runbook, Script};

    const BYSTANDER: &str = "batch-job";

    /// It sleeps most of the time.
    fn bystander(runbook: &Runbook) -> Script {
        runbook.script(BYSTANDER, "while :; do /bin/sleep 1; done")
    }

    /// Check that an output names the one and not the other.
    fn assert_names(text: &str, culprit: &str) {
        assert!(text.contains(culprit) && !text.contains(BYSTANDER), "not {culprit}: {text}");
    }

    /// Check that a list names the one before the other.
    fn assert_names_first(text: &str, culprit: &str) {
        let at = |name| text.find(name).unwrap_or(usize::MAX);
        assert!(at(culprit) < at(BYSTANDER), "not {culprit}: {text}");
    }

    pub(super) fn a_service_is_denied_permission(mut runbook: Runbook) {
        fs::write(runbook.dir.path().join("secret"), "").unwrap();
        let mode = |path: &str, mode: u32| {
            fs::set_permissions(runbook.dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        mode("", 0o755);
        mode("secret", 0o600);
        let work = "cd \"${0%/*}\"; while :; do read x <secret; sleep 0.05; done";
        let _culprit = runbook.script_by(65534, "mail-filter", work);
        let _bystander = bystander(&runbook);
        let files = runbook.step();
        assert_names(&files, "mail-filter");
        assert!(files.contains("secret"), "{files}");
        let capabilities = runbook.step();
        assert!(
            !capabilities.contains(BYSTANDER) || capabilities.contains("CAP_SYS_ADMIN"),
            "{capabilities}"
        );
        let asked = capabilities.lines().filter(|line| line.contains("mail-filter")).collect::<String>();
        assert!(asked.contains("CAP_DAC_OVERRIDE"), "{capabilities}");
        runbook.end();
    }

    pub(super) fn connections_fail_or_are_slow(mut runbook: Runbook) {
        // Port 1 of this host: nobody listens there.
        let work = "while :; do (echo >/dev/tcp/127.0.0.1/1); getent hosts db.shop.invalid; sleep 0.05; done";
        let _culprit = runbook.program("shop-frontend", "/bin/bash", &["-c", work]);
        let _bystander = bystander(&runbook);
        let connects = runbook.step();
        assert_names(&connects, "shop-frontend");
        assert!(connects.contains("ECONNREFUSED"), "{connects}");
        assert_names(&runbook.step(), "db.shop.invalid");
        let lives = runbook.step();
        assert!(!lives.contains(BYSTANDER), "{lives}");
        runbook.end();
    }

    pub(super) fn load_is_high_and_the_cpus_are_busy(mut runbook: Runbook) {
        let culprit = runbook.script("report-gen", "while :; do :; done");
        let _bystander = bystander(&runbook);
        let waits = runbook.step();
        assert!(waits.contains("distribution"), "{waits}");
        assert_names_first(&runbook.step(), "report-gen");
        runbook.set("PID", culprit.pid());
        assert_names(&runbook.step(), "report-gen");
        runbook.end();
    }

    /// Small synchronous writes past the page cache, without end.
    fn db_writer(runbook: &Runbook) -> Script {
        let args = [
            "if=/dev/zero",
            "of=data",
            "bs=4k",
            "count=100000000",
            "oflag=direct,dsync",
            "conv=notrunc",
            "seek=0",
        ];
        runbook.program("db-writer", "/bin/dd", &args)
    }

    pub(super) fn load_is_high_and_the_cpus_are_idle(mut runbook: Runbook) {
        let _culprit = db_writer(&runbook);
        let _bystander = bystander(&runbook);
        for _ in 0..3 {
            assert_names_first(&runbook.step(), "db-writer");
        }
        runbook.end();
    }

    pub(super) fn requests_stall_at_random(mut runbook: Runbook) {
        let lock = runbook.dir.path().join("lock");
        let lock = lock.to_str().unwrap();
        let holder = runbook.program("log-rotate", "/usr/bin/flock", &[lock, "sleep", "3600"]);
        let work = format!("while :; do \"${{0%/*}}/api-server\" -w 0.5 {lock} true; done");
        let server = runbook.program("api-server", "/usr/bin/flock", &["-w", "0.5", lock, "true"]);
        let _culprit = runbook.script("unit", &work);
        let _bystander = bystander(&runbook);
        let waits = runbook.step();
        assert_names(&waits, "api-server");
        assert!(waits.contains("locks_lock_inode_wait"), "{waits}");
        let holders = runbook.step();
        assert!(
            holders.lines().any(|line| line.split(' ').next() == Some(&holder.pid().to_string())),
            "{holders}"
        );
        let waits = runbook.step();
        assert!(waits.contains("distribution"), "{waits}");
        drop(server);
        runbook.end();
    }

    pub(super) fn something_reads_or_misses_files(mut runbook: Runbook) {
        let work = "while :; do read x </etc/web-app/site.conf; sleep 0.05; done 2>/dev/null";
        let _culprit = runbook.script("web-app", work);
        let _bystander = bystander(&runbook);
        let missed = runbook.step();
        assert_names(&missed, "web-app 2 /etc/web-app/site.conf");
        assert_names(&runbook.step(), "/etc/web-app/site.conf");
        runbook.end();
    }

    pub(super) fn the_disk_is_slow(mut runbook: Runbook) {
        let culprit = db_writer(&runbook);
        let _bystander = bystander(&runbook);
        let latency = runbook.step();
        assert!(latency.contains("disk = "), "{latency}");
        assert_names_first(&runbook.step(), "db-writer");
        runbook.set("PID", culprit.pid());
        assert_names(&runbook.step(), "db-writer");
        runbook.end();
    }

    pub(super) fn something_keeps_starting_processes(mut runbook: Runbook) {
        let culprit = runbook.script("health-check", "while :; do /bin/false; done");
        let _bystander = bystander(&runbook);
        let most = runbook.step();
        let first: Vec<&str> = most.lines().next().unwrap().split_whitespace().collect();
        let parent = culprit.pid().to_string();
        assert_eq!(first[1..], ["false", &parent], "{most}");
        runbook.set("PARENT", parent);
        let parent = runbook.step();
        assert_names(&parent, "health-check");
        runbook.end();
    }
}
