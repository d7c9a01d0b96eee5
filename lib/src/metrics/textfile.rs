// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file that node_exporter's textfile collector reads: whole at any time, and readable for its user.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::Error;

const MODE: u32 = 0o644;

/// Replace the file by one with this text.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    replace(path, text)
        .map_err(|error| Error::System { what: format!("--textfile {}", path.display()), error })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    // The collector takes what ends in .prom, and must not take this.
    let new = path.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let result = write_new(&new, text).and_then(|()| fs::rename(&new, path));
    if result.is_err() {
        // The first error tells what is wrong.
        _ = fs::remove_file(&new);
    }
    result
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // Left by a process of the same number that was killed while it wrote.
    _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())
}
