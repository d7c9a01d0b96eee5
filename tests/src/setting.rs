// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Settings of the kernel: files in /proc/sys and /sys.

use std::fs;
use std::path::{Path, PathBuf};

/// A setting that was changed; dropping it sets it back.
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Change it.
    ///
    /// # Panics
    /// If there is no such setting, or the kernel refuses the value.
    pub fn new(path: impl AsRef<Path>, value: &str) -> Self {
        Self::try_new(path.as_ref(), value)
            .unwrap_or_else(|error| panic!("{} to {value:?}: {error}", path.as_ref().display()))
    }

    /// [`Setting::new`], for what a kernel may not have, or not allow.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_new(path: impl AsRef<Path>, value: &str) -> std::io::Result<Self> {
        let path = path.as_ref().to_path_buf();
        let text = fs::read_to_string(&path)?;
        // A choice is shown as `none [this] that`.
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let before = chosen.map_or(text.trim(), |(chosen, _)| chosen).to_string();
        fs::write(&path, value)?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        _ = fs::write(&self.path, &self.before);
    }
}
