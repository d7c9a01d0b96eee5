// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The arguments of an exec, which come in parts, and what it found missing.

use std::collections::HashMap;

use kscope::missing::Exec as MissingOf;
use kscope::paths;

use super::Event;

/// The parts of arguments that came ahead of their exec, by process and time.
#[derive(Default)]
pub struct Parts(HashMap<(u32, u64), Vec<u8>>);

impl Parts {
    /// Add a part; what does not follow on the last one shows a gap, and is of no use.
    pub fn add(&mut self, event: &Event, bytes: &[u8]) {
        // Of an exec that was lost itself, the parts stay: a process has one exec at a time.
        if event.args_offset == 0 {
            self.0.retain(|(tgid, _), _| *tgid != event.task.tgid);
        }
        let parts = self.0.entry((event.task.tgid, event.task.time_ns)).or_default();
        if parts.len() == event.args_offset as usize {
            parts.extend(bytes);
        }
    }

    /// All arguments of an exec, of which the last part came with it, and whether some are missing.
    pub fn finish(&mut self, event: &Event, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut parts = self.0.remove(&(event.task.tgid, event.task.time_ns)).unwrap_or_default();
        let gap = parts.len() != event.args_offset as usize;
        if !gap {
            parts.extend(bytes);
        }
        (parts, gap)
    }
}

/// Each argument: they are ended by a NUL, and behind the last one there is nothing, or one that was cut.
pub fn split(args: &[u8]) -> Vec<&[u8]> {
    let mut list: Vec<&[u8]> = args.split(|byte| *byte == 0).collect();
    list.pop_if(|last| last.is_empty());
    list
}

/// Whether one of the arguments, printed or not, has this in it.
pub fn has(args: &[u8], text: &str) -> bool {
    args.split(|byte| *byte == 0).any(|arg| contains(arg, text.as_bytes()))
}

/// Where to look for what an exec found missing.
pub fn missing_of(event: &Event, filename: &[u8], names: &[u8]) -> Option<MissingOf> {
    let marks = event.dir_marks & ((1 << paths::PATH_ALL_SHIFT) - 1);
    if event.root_mnt_id == 0 || marks & (paths::PATH_CUT | paths::PATH_UNREACHABLE) != 0 {
        return None;
    }
    let (below, above) = names.split_at(usize::from(event.dir_below).min(names.len()));
    let dir = (marks & paths::PATH_DELETED == 0).then(|| paths::path(below, 0));
    let file =
        if filename.starts_with(b"/") { filename.to_vec() } else { [dir.as_deref()?, filename].join(&b'/') };
    Some(MissingOf {
        pids: [event.task.tgid, event.ppid],
        mount: event.root_mnt_id,
        root: paths::path(above, 0),
        file,
        cwd: dir.filter(|_| event.dir_is_cwd != 0),
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}
