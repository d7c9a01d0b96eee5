// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The files that pictures and profiles are written to.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use crate::Error;
use crate::say;

/// The files that were asked for.
#[derive(Debug, Default)]
pub struct Files {
    pub(super) svg: Option<NewFile>,
    pub(super) pprof: Option<NewFile>,
}

/// A file of our own; it goes again if it can't be written whole.
#[derive(Debug)]
pub(super) struct NewFile {
    path: PathBuf,
    file: Option<fs::File>,
}

impl NewFile {
    pub(super) fn create(path: &PathBuf) -> Result<Self, Error> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Error::System { what: path.display().to_string(), error })?;
        Ok(Self { path: path.clone(), file: Some(file) })
    }

    pub(super) fn write(mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(file) = &mut self.file {
            let written = file.write_all(bytes).and_then(|()| file.flush());
            written.map_err(|error| Error::System { what: self.path.display().to_string(), error })?;
        }
        self.file = None;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            say(&format!("{}: {error}", self.path.display()));
        }
    }
}
