// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tools for block I/O share: the names of operations, how this kernel hands requests over, and which hooks
//! the disks of this host need.

use std::fs;
use std::path::PathBuf;

use libbpf_rs::OpenObject;

use crate::Error;
use crate::Kernel;
use crate::names;
use crate::names::Disk;
use crate::session;

/// The kernel's names for the bits of an operation's flags: they move from release to release.
#[derive(Debug)]
pub struct FlagNames {
    ops: Vec<(String, i64)>,
    bits: Vec<(String, i64)>,
}

impl FlagNames {
    /// Those of this kernel.
    pub fn new(kernel: &Kernel) -> Self {
        // 6.1 renamed req_opf.
        let ops = kernel.enumerators("req_op").or_else(|| kernel.enumerators("req_opf"));
        let bits = kernel.enumerators("req_flag_bits");
        Self { ops: ops.unwrap_or_default(), bits: bits.unwrap_or_default() }
    }

    /// The operation alone, as in `write`.
    pub fn op(&self, flags: u32) -> String {
        let op = i64::from(flags & 0xff);
        match self.ops.iter().find(|(_, value)| *value == op) {
            Some((name, _)) => name.trim_start_matches("REQ_OP_").to_lowercase(),
            None => format!("op {op}"),
        }
    }

    /// The operation and its flags, as in `write|sync|idle`.
    pub fn text(&self, flags: u32) -> String {
        let mut text = self.op(flags);
        for bit in 8..32 {
            if flags & 1 << bit == 0 {
                continue;
            }
            let name = self.bits.iter().find(|(_, value)| *value == i64::from(bit));
            let name = name
                .map_or_else(|| format!("bit {bit}"), |(name, _)| name.replace("__REQ_", "").to_lowercase());
            text.push('|');
            text.push_str(&name);
        }
        text
    }
}

/// The error of an I/O that ended with this status: a `blk_status_t`, or minus an errno.
pub fn error(status: i32) -> Option<String> {
    // blk_errors[] in block/blk-core.c; those behind it have moved from release to release.
    const ERRORS: [&str; 13] = [
        "EOPNOTSUPP",
        "ETIMEDOUT",
        "ENOSPC",
        "ENOLINK",
        "EREMOTEIO",
        "EBADE",
        "ENODATA",
        "EILSEQ",
        "ENOMEM",
        "EIO",
        "EREMCHG",
        "EAGAIN",
        "EBUSY",
    ];
    match status {
        0 => None,
        ..0 => Some(names::errno(status.saturating_neg())),
        1.. => Some(
            ERRORS
                .get(status.unsigned_abs() as usize - 1)
                .map_or_else(|| format!("status {status}"), |name| (*name).into()),
        ),
    }
}

/// What programs must know of this kernel: `struct kscope_block` of bpf/block.bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Layout {
    pub rqf_flush_seq: u32,
    pub rqf_io_stat: u32,
    pub issue_has_queue: bool,
    pub bio_queue_has_queue: bool,
    pub getrq_has_queue: bool,
    pub merge_has_queue: bool,
}

impl Layout {
    /// Of this kernel.
    pub fn of(kernel: &Kernel) -> Self {
        // Before 6.11 the bits are no enumerators.
        let bit = |name, before| 1 << kernel.enumerator(name).unwrap_or(before);
        let has_queue = |tracepoint: &str, args: usize| kernel.tracepoint_args(tracepoint) == Some(args);
        Self {
            rqf_flush_seq: bit("__RQF_FLUSH_SEQ", 4),
            rqf_io_stat: bit("__RQF_IO_STAT", 13),
            issue_has_queue: has_queue("block_rq_issue", 2),
            bio_queue_has_queue: has_queue("block_bio_queue", 2),
            getrq_has_queue: has_queue("block_getrq", 3),
            merge_has_queue: has_queue("block_bio_backmerge", 3),
        }
    }
}

/// Put a [`Layout`] and the disk that is asked for into the `block` constant of a skeleton's `.rodata`
/// (bpf/block.bpf.h).
#[macro_export]
macro_rules! set_block {
    ($rodata:expr, $layout:expr, $disk:expr) => {{
        let (to, from): (_, &$crate::block::Layout) = (&mut $rodata.block, $layout);
        let disk: &Option<$crate::names::Disk> = $disk;
        to.target_dev = disk.as_ref().map_or(0, |disk| disk.dev);
        to.rqf_flush_seq = from.rqf_flush_seq;
        to.rqf_io_stat = from.rqf_io_stat;
        to.issue_has_queue = from.issue_has_queue.into();
        to.bio_queue_has_queue = from.bio_queue_has_queue.into();
        to.getrq_has_queue = from.getrq_has_queue.into();
        to.merge_has_queue = from.merge_has_queue.into();
    }};
}

/// What the disks of this host, or the one that is asked for, do not keep of their I/O: each needs a hook, which costs
/// something at each I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// When a request is issued to the device. The kernel notes it for queues that gather statistics, which they
    /// surely do for their writeback throttling.
    pub issue: bool,
    /// When a request was made. The kernel notes it for queues whose I/O is accounted.
    pub start: bool,
    /// Bios: the driver makes no requests of them (dm, md, zram).
    pub bios: bool,
}

impl Needs {
    /// Of every disk that has a size, or of this one.
    pub fn of(disk: Option<&Disk>) -> Self {
        let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let positive = |path: PathBuf| read(path).is_some_and(|number| number > 0);
        let mut needs = Self::default();
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let path = entry.path();
            let is_asked_for = disk.is_none_or(|disk| entry.file_name().to_str() == Some(&disk.name));
            if !is_asked_for || !positive(path.join("size")) {
                continue;
            }
            if path.join("mq").is_dir() {
                needs.issue |= !positive(path.join("queue/wbt_lat_usec"));
                needs.start |= !positive(path.join("queue/iostats"));
            } else {
                needs.bios = true;
            }
        }
        needs
    }

    /// Give no room to bios in the maps of bpf/block_io.bpf.h where there are none.
    ///
    /// # Errors
    /// libbpf's.
    pub fn size_maps(&self, object: &mut OpenObject) -> Result<(), Error> {
        if self.bios { Ok(()) } else { session::set_max_entries(object, "bios", 1) }
    }

    /// The hooks of bpf/block_io.bpf.h that nothing needs; with `disk`, no other one is of concern. I/O of a disk that
    /// comes later and needs them is counted as dropped.
    pub fn unwanted(&self, disk: Option<&Disk>) -> Vec<&'static str> {
        let mut unwanted = Vec::new();
        unwanted.extend((!self.issue).then_some("issue"));
        if !self.bios {
            unwanted.push("bio_queue");
            // It costs nothing but tells of disks that come later.
            unwanted.extend(disk.is_some().then_some("bio_complete"));
        }
        unwanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names_in_both_forms() {
        assert_eq!(error(0), None);
        assert_eq!((error(10).as_deref(), error(-5).as_deref()), (Some("EIO"), Some("EIO")));
        assert_eq!((error(1).as_deref(), error(13).as_deref()), (Some("EOPNOTSUPP"), Some("EBUSY")));
        assert_eq!(error(14).as_deref(), Some("status 14"));
        assert!(error(i32::MIN).is_some());
    }
}
