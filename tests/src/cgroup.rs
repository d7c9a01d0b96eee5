// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cgroups of version 2.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use procfs::process::Process;

/// Where the hierarchy is mounted, as a whole.
///
/// # Panics
/// If it is not.
pub fn root() -> PathBuf {
    let mounts = Process::myself().and_then(|me| me.mountinfo()).expect("the mounts of this process");
    let mount = mounts.into_iter().find(|mount| mount.fs_type == "cgroup2" && mount.root == "/");
    mount.expect("a mounted cgroup2 file system: the tests need one").mount_point
}

/// A new cgroup; dropping it removes it.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Below the root.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        Self::at(root().join(name.as_ref()))
    }

    /// Below this one.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn child(&self, name: impl AsRef<OsStr>) -> Self {
        Self::at(self.path.join(name.as_ref()))
    }

    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path below the root, as the tools print it.
    ///
    /// # Panics
    /// If it is not below the root.
    pub fn name(&self) -> PathBuf {
        Path::new("/").join(self.path.strip_prefix(root()).expect("a cgroup below the root"))
    }

    /// Move a process here.
    ///
    /// # Panics
    /// If it can't be moved.
    pub fn add(&self, pid: u32) {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy for a moment after its last process has ended; a failing test may leave one in it.
        for _ in 0..1000 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
