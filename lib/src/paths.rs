// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Paths, of the names that the programs read of the kernel's directory entries (bpf/path.bpf.h).

/// There are more names above ([`path`]).
pub const PATH_CUT: u8 = 1;
/// The names do not begin at the root.
pub const PATH_UNREACHABLE: u8 = 2;
/// What they are of has been removed from its directory.
pub const PATH_DELETED: u8 = 4;
/// The marks of all names of a record, where its low half has those of the names below the task's root.
pub const PATH_ALL_SHIFT: u8 = 4;

/// The path that names stand for, which come from the innermost outwards, each ended by a NUL, with the marks that
/// `enum path_mark` of bpf/path.bpf.h has. It shows those as the kernel does: `(unreachable)` before it, ` (deleted)`
/// behind it; and `...` for names above, where some are missing.
pub fn path(names: &[u8], marks: u8) -> Vec<u8> {
    // A file system's own root may be among them.
    let is_name = |name: &&[u8]| !name.is_empty() && *name != b"/";
    let names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(is_name).collect();
    let mut path = match marks {
        _ if marks & PATH_CUT != 0 => b"...".to_vec(),
        _ if marks & PATH_UNREACHABLE != 0 => b"(unreachable)".to_vec(),
        _ => Vec::new(),
    };
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend(*name);
    }
    if names.is_empty() {
        path.push(b'/');
    }
    if marks & PATH_DELETED != 0 {
        path.extend(b" (deleted)");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_root_or_where_they_are_cut() {
        assert_eq!(path(b"c\0b\0a\0", 0), b"/a/b/c");
        assert_eq!(path(b"c\0", PATH_CUT), b".../c");
        assert_eq!(path(b"", 0), b"/");
    }

    #[test]
    fn paths_that_lead_nowhere_are_marked() {
        assert_eq!(path(b"b\0a\0", PATH_DELETED), b"/a/b (deleted)");
        assert_eq!(path(b"b\0", PATH_UNREACHABLE), b"(unreachable)/b");
        assert_eq!(path(b"", PATH_UNREACHABLE), b"(unreachable)/");
        assert_eq!(path(b"b\0/\0", PATH_UNREACHABLE), b"(unreachable)/b");
        assert_eq!(path(b"b\0", PATH_UNREACHABLE | PATH_DELETED), b"(unreachable)/b (deleted)");
        assert_eq!(path(b"b\0", PATH_CUT | PATH_DELETED), b".../b (deleted)");
    }
}
