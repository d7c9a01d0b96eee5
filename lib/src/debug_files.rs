// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where files with the symbols and the debug information of others are: by build id and by `.gnu_debuglink`, as gdb
//! looks for them (section "Separate Debug Files" of its manual). Whether one belongs to a file, `elf_names` sees.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::door::Links;
use crate::door::Root;

const DEBUG: &str = "/usr/lib/debug";

/// What a file says of another that it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The build id that the other has; empty if none is known.
    pub build_id: Vec<u8>,
    /// Its name, and for one that many files share, its path.
    pub name: Option<Vec<u8>>,
}

/// Files that may be the one that is wanted, the most likely first. `path` is that of the file that wants it, as
/// process `pid` has it.
pub(crate) fn candidates(file: &fs::File, pid: u32, path: &[u8], wanted: &Wanted) -> Vec<fs::File> {
    let mut found = Vec::new();
    // The process's own root, as long as it lives: nobody but those within can have put something there.
    if let Ok(root) = Root::of_process(pid) {
        let paths = paths(Path::new(OsStr::from_bytes(path)), wanted);
        found.extend(paths.iter().filter_map(|(path, _)| root.open(path, Links::Follow).ok()));
    }
    if let (Ok(root), Ok(path)) = (Root::ours(), fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())))
    {
        let open = |(path, beside): &(PathBuf, bool)| match beside {
            true => root.open(path, Links::Refuse).ok(),
            false => root.open_trusted(path).ok(),
        };
        found.extend(paths(&path, wanted).iter().filter_map(open));
    }
    found
}

/// Where to look, and whether that is beside the file itself.
fn paths(file: &Path, wanted: &Wanted) -> Vec<(PathBuf, bool)> {
    let mut paths = Vec::new();
    // Less tells nothing apart.
    if let [first, rest @ ..] = wanted.build_id.as_slice()
        && rest.len() >= 7
    {
        let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        paths.push((format!("{DEBUG}/.build-id/{first:02x}/{rest}.debug").into(), false));
    }
    let (Some(name), Some(folder)) = (&wanted.name, file.parent().filter(|folder| folder.is_absolute()))
    else {
        return paths;
    };
    let name = Path::new(OsStr::from_bytes(name));
    if name.is_absolute() && name.starts_with(DEBUG) {
        paths.push((name.into(), false));
    } else if file.starts_with(DEBUG) {
        // That which many share: `../../.dwz/NAME`.
        paths.push((folder.join(name), false));
    } else if name.components().count() == 1 && name.file_name().is_some() {
        paths.push((folder.join(name), true));
        paths.push((folder.join(".debug").join(name), true));
        let below = folder.strip_prefix("/").unwrap_or(folder);
        paths.push((Path::new(DEBUG).join(below).join(name), false));
        // Packages from before /lib was a link to /usr/lib.
        if let Ok(below) = below.strip_prefix("usr") {
            paths.push((Path::new(DEBUG).join(below).join(name), false));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_at(build_id: &[u8], name: Option<&[u8]>) -> Vec<String> {
        let wanted = Wanted { build_id: build_id.into(), name: name.map(Into::into) };
        let paths = paths(Path::new("/usr/lib/libx.so"), &wanted);
        paths.into_iter().map(|(path, _)| path.display().to_string()).collect()
    }

    #[test]
    fn places_are_those_of_gdb() {
        let id = [0xab, 0xcd, 1, 2, 3, 4, 5, 6];
        assert_eq!(looked_at(&id, None), ["/usr/lib/debug/.build-id/ab/cd010203040506.debug"]);
        let by_name = [
            "/usr/lib/x.debug",
            "/usr/lib/.debug/x.debug",
            "/usr/lib/debug/usr/lib/x.debug",
            "/usr/lib/debug/lib/x.debug",
        ];
        assert_eq!(looked_at(&[], Some(b"x.debug")), by_name);
        assert_eq!(looked_at(&[], Some(b"/usr/lib/debug/.dwz/x")), ["/usr/lib/debug/.dwz/x"]);
        for bad in [&b""[..], b".", b"..", b"../x", b"a/b", b"/etc/shadow"] {
            assert!(looked_at(&id[..3], Some(bad)).is_empty());
        }
    }
}
