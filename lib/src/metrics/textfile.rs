// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file that node_exporter's textfile collector reads: whole at any time, and readable for its user.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::unistd::geteuid;

const MODE: u32 = 0o644;

/// An error with the option and the file before it.
pub(super) fn named(path: &Path, error: &io::Error) -> String {
    format!("--textfile {}: {error}", path.display())
}

/// Whether what is there may be replaced: nothing, or a regular file of the tool's own user.
pub(super) fn check(path: &Path) -> io::Result<()> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    match fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => refuse("what is there is no regular file, and is not replaced"),
        Ok(there) if there.uid() != geteuid().as_raw() => {
            refuse("the file that is there is another user's, and is not replaced")
        }
        // What else is wrong is seen when it is written.
        _ => Ok(()),
    }
}

/// Replace the file by one with this text.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    // The collector takes what ends in .prom, and must not take this.
    let new = path.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    // Left by a process of the same number that was killed while it wrote.
    check(&new)?;
    _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
    let result = fill(&mut file, text).and_then(|()| check(path)).and_then(|()| fs::rename(&new, path));
    if result.is_err() {
        // The first error tells what is wrong.
        _ = fs::remove_file(&new);
    }
    result
}

fn fill(file: &mut fs::File, text: &str) -> io::Result<()> {
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.write_all(text.as_bytes())
}
