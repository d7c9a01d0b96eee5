// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A place of a test's own, which a tool is asked to look at alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::getpid;
use tempfile::TempDir;

use crate::cgroup::Cgroup;
use crate::{Run, Workload};

/// A cgroup and a folder: what happens there is all that the tool is asked to report.
pub struct Home {
    /// The cgroup.
    pub cgroup: Cgroup,
    /// The folder, which anybody may use.
    pub dir: TempDir,
    tool: &'static str,
    workload: &'static str,
}

impl Home {
    /// For this tool and this workload.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(tool: &'static str, workload: &'static str) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let dir = TempDir::new().expect("a folder");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("permissions of a new folder");
        Self { cgroup: Cgroup::new(format!("kscope-{tool}-{}-{number}", getpid())), dir, tool, workload }
    }

    /// The workload's arguments, to act here in these ways.
    ///
    /// # Panics
    /// If the folder's path is no text.
    pub fn args(&self, ways: &[&str]) -> Vec<String> {
        let dir = self.dir.path().to_str().expect("a path of text");
        [self.workload, "--dir", dir].iter().chain(ways).map(ToString::to_string).collect()
    }

    /// Take a workload into the cgroup.
    pub fn adopt(&self, workload: Workload) -> Workload {
        self.cgroup.add(workload.pid());
        workload
    }

    /// A workload that acts here in these ways.
    pub fn workload(&self, ways: &[&str]) -> Workload {
        self.adopt(Workload::start(self.args(ways)))
    }

    /// The tool, which looks at this place only.
    ///
    /// # Panics
    /// If the cgroup's path is no text.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::new(self.tool)
            .args(["--cgroup", self.cgroup.path().to_str().expect("a path of text")])
            .args(args)
    }
}
