// SPDX-License-Identifier: Apache-2.0 OR MIT
//! File systems of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use crate::block::Loop;

/// A file system that is mounted; dropping it unmounts it.
pub struct Mounted {
    kind: &'static str,
    point: TempDir,
    _device: Option<Loop>,
}

impl Mounted {
    /// In memory, of the type tmpfs.
    ///
    /// # Panics
    /// If it can't be mounted.
    pub fn tmpfs() -> Self {
        Self::at("kscope-test", "tmpfs", None, None)
    }

    /// The same, with room for so many bytes.
    ///
    /// # Panics
    /// If it can't be mounted.
    pub fn tmpfs_of(bytes: u64) -> Self {
        Self::at("kscope-test", "tmpfs", None, Some(&format!("size={bytes}")))
    }

    /// For pinned BPF objects, of the type bpf.
    ///
    /// # Panics
    /// If it can't be mounted.
    pub fn bpf() -> Self {
        Self::at("bpf", "bpf", None, None)
    }

    /// On a loop device of so many bytes, of the type ext4; or why there is none.
    ///
    /// # Errors
    /// This host can't make or mount such.
    ///
    /// # Panics
    /// If there is no loop driver.
    pub fn ext4(bytes: u64) -> Result<Self, String> {
        let device = Loop::new(bytes);
        let path = device.disk().device();
        Self::ext4_on(&path, Some(device))
    }

    /// On a device, whose content is lost, of the type ext4; or why there is none.
    ///
    /// # Errors
    /// This host can't make or mount such.
    pub fn ext4_on(path: &str, device: Option<Loop>) -> Result<Self, String> {
        // Busybox has one too, of an older format that the same driver serves.
        let made = Command::new("mke2fs")
            .args(["-F", path])
            .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
            .output()
            .map_err(|error| format!("mke2fs: {error}"))?;
        if !made.status.success() {
            return Err(format!("mke2fs {path}: {}", String::from_utf8_lossy(&made.stderr)));
        }
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.lines().any(|line| line.trim() == "ext4") {
            return Err("this kernel has no ext4, or its module is not loaded".into());
        }
        Ok(Self::at(path, "ext4", device, None))
    }

    fn at(what: &str, kind: &'static str, device: Option<Loop>, options: Option<&str>) -> Self {
        let point = TempDir::new().expect("a folder");
        mount(Some(what), point.path(), Some(kind), MsFlags::empty(), options)
            .unwrap_or_else(|error| panic!("mounting {what} as {kind}: {error}"));
        Self { kind, point, _device: device }
    }

    /// Where.
    ///
    /// # Panics
    /// If the folder has gone.
    pub fn path(&self) -> PathBuf {
        self.point.path().canonicalize().expect("the mount point")
    }

    /// Its type.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Unmount it, as soon as nobody holds it.
    ///
    /// # Panics
    /// If somebody does.
    pub fn unmount(self) {
        crate::wait_until("nobody to hold the mount", || umount2(self.point.path(), MntFlags::empty()).ok());
    }

    /// A new folder in it.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn folder(&self) -> String {
        let path: &Path = &self.path();
        let folder = tempfile::Builder::new().prefix("kscope").tempdir_in(path).expect("a folder").keep();
        folder.to_str().expect("a path in UTF-8").into()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until then.
        _ = umount2(self.point.path(), MntFlags::MNT_DETACH);
    }
}
